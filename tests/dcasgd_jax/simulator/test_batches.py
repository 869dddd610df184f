"""Batches as arrays, as a function of the step, and as an iterable: one run, to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import (
    BatchesEndedError,
    Engine,
    gamma_times,
    round_robin,
    simulate,
    slot_simulator,
    wavefront_simulator,
)
from dcasgd_jax.actors import reorder_batches
from tests.dcasgd_jax.networks import assert_same_bits, gradient, weights_of

SIZES, STEPS, WORKERS = (4, 3), 20, 4
KEY = jax.random.key(0)


def drawn(step):
    """Step t's batch, from a key of its own."""
    inputs, labels = jax.random.split(jax.random.fold_in(KEY, step))
    return jax.random.normal(inputs, (3, 4)), jax.random.randint(labels, (3,), 0, 3)


def arrays():
    return jax.vmap(drawn)(jnp.arange(STEPS))


def one_by_one(batches, taken):
    for i in range(STEPS):
        taken.append(i)
        yield jax.tree.map(lambda x, i=i: np.asarray(x[i]), batches)


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("engine", ["slots", "wavefront"])
def test_three_forms_of_the_same_data_make_the_same_run(engine):
    params = weights_of(SIZES, np.random.default_rng(0))
    schedule = gamma_times(WORKERS, STEPS, seed=1, variation=0.5)
    batches, taken = arrays(), []

    def run(given):
        tx = optax.sgd(0.2, momentum=0.9)
        return simulate(gradient, params, tx, schedule, given, engine=Engine(engine, "driven"))[0]

    expected = run(batches)
    assert_same_bits(run(drawn), expected)
    assert_same_bits(run(one_by_one(batches, taken)), expected)
    assert taken == list(range(STEPS))


@pytest.mark.usefixtures("optimised")
def test_a_stretch_draws_the_batches_of_its_own_steps():
    params = weights_of(SIZES, np.random.default_rng(0))
    schedule = round_robin(WORKERS, STEPS)
    simulator = slot_simulator(gradient, optax.sgd(0.2), WORKERS, loop="driven")
    whole, _ = simulator.run(simulator.init(params), schedule, arrays())
    state = simulator.init(params)
    for part in (slice(0, 7), slice(7, STEPS)):
        state, _ = simulator.run(state, jax.tree.map(lambda x, p=part: x[p], schedule), drawn)
    assert_same_bits(state, whole)


def test_a_stretch_takes_no_more_than_its_steps_from_an_iterator():
    params = weights_of(SIZES, np.random.default_rng(0))
    schedule = round_robin(WORKERS, STEPS)
    simulator = slot_simulator(gradient, optax.sgd(0.2), WORKERS, loop="driven")
    taken = []
    iterator = one_by_one(arrays(), taken)
    head = jax.tree.map(lambda x: x[:7], schedule)
    simulator.run(simulator.init(params), head, iterator)
    assert taken == list(range(7))


def test_errors_name_the_step_and_the_remedy():
    params = weights_of(SIZES, np.random.default_rng(0))
    schedule = round_robin(WORKERS, STEPS)
    short = [jax.tree.map(lambda x, i=i: x[i], arrays()) for i in range(5)]
    for engine in ("slots", "wavefront"):
        with pytest.raises(ValueError, match="ended before step 5 of this stretch") as caught:
            simulate(gradient, params, optax.sgd(0.1), schedule, iter(short), engine=engine)
        # What was done is kept: all but what was waiting to be computed together.
        done = int(caught.value.state.step)
        assert done + len(caught.value.unused) == 5
        assert done == {"slots": 5, "wavefront": WORKERS}[engine]
        np.testing.assert_array_equal(caught.value.log.staleness, schedule.staleness[:done])
        assert caught.value.log.distance is None
        with pytest.raises(ValueError, match="ended before step 0") as caught:
            simulate(gradient, params, optax.sgd(0.1), schedule, iter(()), engine=engine)
        assert int(caught.value.state.step) == 0
        assert caught.value.log.staleness.shape == (0,)
    with pytest.raises(ValueError, match="iterated over cannot be scanned"):
        simulate(
            gradient, params, optax.sgd(0.1), schedule, iter(short), engine=Engine(loop="scan")
        )

    def inside(params):
        return simulate(gradient, params, optax.sgd(0.1), schedule, iter(short))[0]

    with pytest.raises(ValueError, match="inside jit, vmap or scan cannot be driven"):
        jax.jit(inside)(params)


@pytest.mark.parametrize("given", [0, 2, 5])
def test_the_log_of_the_steps_that_were_taken_is_kept(given):
    """Its distances, and with a schedule for each leaf its staleness in the user's tree."""
    params = weights_of(SIZES, np.random.default_rng(0))
    each = [jax.tree.map(lambda x, i=i: x[i], arrays()) for i in range(STEPS)]
    plan = [round_robin(1 + i % 3, STEPS) for i in range(len(params))]
    for schedule in (plan, round_robin(WORKERS, STEPS)):
        _, info = simulate(
            gradient, params, optax.sgd(0.1), schedule, iter(each), log_distance=True
        )
        with pytest.raises(BatchesEndedError) as caught:
            simulate(
                gradient, params, optax.sgd(0.1), schedule, iter(each[:given]), log_distance=True
            )
        log = caught.value.log
        whole = info.staleness, info.distance
        jax.tree.map(
            lambda part, column: np.testing.assert_array_equal(part, column[: part.size]),
            (log.staleness, log.distance),
            whole,
        )
        assert log.distance.size == given - len(caught.value.unused)


@pytest.mark.parametrize("make", [slot_simulator, wavefront_simulator])
def test_batches_that_end_between_two_stretches_leave_the_state_of_the_first(make):
    params = weights_of(SIZES, np.random.default_rng(0))
    schedule = round_robin(WORKERS, STEPS)
    head, tail = (jax.tree.map(lambda x, s=s: x[s], schedule) for s in (slice(7), slice(7, None)))
    simulator = make(gradient, optax.sgd(0.2), WORKERS, loop="driven")
    batches = (jax.tree.map(lambda x, i=i: x[i], arrays()) for i in range(7))
    state, _ = simulator.run(simulator.init(params), head, batches)
    with pytest.raises(BatchesEndedError, match="before step 0") as caught:
        simulator.run(state, tail, batches)
    assert_same_bits(caught.value.state, state)


def test_the_order_of_a_recorded_run_needs_its_batches():
    np.testing.assert_array_equal(reorder_batches(jnp.arange(3.0), [2, 0]), [2.0, 0.0])
    with pytest.raises(ValueError, match=r"step 1 was recorded on batch 5, but there are 3 at"):
        reorder_batches({"x": jnp.arange(3.0)}, [0, 5])


@pytest.mark.parametrize("engine", ["slots", "wavefront"])
def test_random_keys_are_batches_in_any_form(engine):
    """A gradient with noise of its own: keys in an array, or one after another."""
    keys = jax.random.split(jax.random.key(3), 6)

    def noisy(w, key):
        return w + jax.random.normal(key, w.shape)

    def run(batches):
        plan = round_robin(2, 6)
        return simulate(noisy, jnp.ones(3), optax.sgd(0.1), plan, batches, engine=engine)[0]

    np.testing.assert_allclose(run(iter(list(keys))), run(keys), rtol=1e-6)

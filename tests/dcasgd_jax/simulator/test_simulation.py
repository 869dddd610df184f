"""The simulator: its exact limits, its independent twin, dtypes and errors."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcasgd_jax import (
    dcasgd,
    delay_compensation,
    from_arrivals,
    round_robin,
    simulate,
    slot_simulator,
)
from tests.dcasgd_jax.networks import assert_same_bits, batches_of, gradient, weights_of
from tests.dcasgd_jax.simulator.small_problem import RULES, STEPS, draw
from tests.oracles import parameter_server

pytestmark = pytest.mark.usefixtures("optimised")


@pytest.fixture
def problem():
    return draw()


def sequential_sgd(params, tx, batches):
    def step(carry, batch):
        params, state = carry
        updates, state = tx.update(gradient(params, batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), batches)[0][0]


@pytest.mark.parametrize(("num_workers", "decay"), [(1, None), (2, 0.95), (7, None), (7, 0.95)])
def test_lambda_zero_is_asgd_to_the_bit(problem, num_workers, decay):
    """Closed form 1."""
    params, batches = problem
    schedule = round_robin(num_workers, STEPS)
    asgd, _ = simulate(gradient, params, optax.sgd(0.3), schedule, batches)
    tx = dcasgd(0.3, 0.0, mean_square_decay=decay)
    assert_same_bits(simulate(gradient, params, tx, schedule, batches)[0], asgd)


@pytest.mark.parametrize("rule", RULES)
def test_one_worker_is_sgd_to_the_bit(problem, rule):
    """Closed form 1: without staleness there is nothing to compensate."""
    params, batches = problem
    plain = {
        "dcasgd-a, momentum, decay": optax.chain(
            optax.add_decayed_weights(1e-2), optax.sgd(0.1, momentum=0.8)
        )
    }.get(rule, optax.sgd(0.3))
    one, info = simulate(
        gradient, params, RULES[rule](), round_robin(1, STEPS), batches, log_distance=True
    )
    assert_same_bits(one, sequential_sgd(params, plain, batches))
    assert not info.staleness.any()
    assert not info.distance.any()


NETWORKS, WORKERS, ARRIVALS, BATCH = ((3, 3), (4, 3, 5, 3)), 5, 20, 2


@functools.cache
def jitted_simulation(adaptive):
    """Everything drawn below is an argument, so that a few compiled programs serve all draws."""

    @jax.jit
    def run(params, schedule, batches, learning_rate, lambda_, momentum, weight_decay):
        tx = dcasgd(
            learning_rate,
            lambda_,
            mean_square_decay=0.95 if adaptive else None,
            momentum=momentum,
            weight_decay=weight_decay,
        )
        return simulate(gradient, params, tx, schedule, batches, log_distance=True)

    return run


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    sizes=st.sampled_from(NETWORKS),
    worker=st.lists(st.integers(0, WORKERS - 1), min_size=ARRIVALS, max_size=ARRIVALS),
    rule=st.sampled_from(["asgd", "dcasgd-c", "dcasgd-a"]),
    learning_rate=st.sampled_from([0.05, 0.4]),
    lambda_=st.sampled_from([0.04, 2.0]),
    momentum=st.sampled_from([0.0, 0.7]),
    weight_decay=st.sampled_from([0.0, 1e-2]),
    seed=st.integers(0, 99),
)
def test_the_plain_parameter_server_gives_the_same_weights(
    sizes, worker, rule, learning_rate, lambda_, momentum, weight_decay, seed
):
    """Random arrivals, networks and rules, against a server written independently in NumPy."""
    rng = np.random.default_rng(seed)
    schedule = from_arrivals(worker, np.arange(ARRIVALS), num_workers=WORKERS)
    with jax.enable_x64(True):
        params = weights_of(sizes, rng, np.float64)
        batches = batches_of(ARRIVALS, BATCH, sizes, rng, np.float64)
        strength = 0.0 if rule == "asgd" else lambda_
        got, info = jitted_simulation(rule == "dcasgd-a")(
            params, schedule, batches, learning_rate, strength, momentum, weight_decay
        )

    server = parameter_server.ParameterServer(
        params,
        WORKERS,
        learning_rate=learning_rate,
        rule=rule,
        lambda_=lambda_,
        momentum=momentum,
        weight_decay=weight_decay,
    )
    listed = [(np.asarray(x), np.asarray(y)) for x, y in zip(*batches, strict=True)]
    distances = parameter_server.train(server, worker, listed)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)
    for ours, theirs in zip(got, server.weights, strict=True):
        close(np.asarray(ours), theirs)
    close(np.asarray(info.distance), distances)
    for m, backup in enumerate(server.backups):
        for ours, theirs in zip(info.state.snapshots, backup, strict=True):
            close(np.asarray(ours)[m], theirs)


def test_the_log_is_the_schedules_staleness(problem):
    params, batches = problem
    worker = np.random.default_rng(1).integers(0, 4, STEPS)
    schedule = from_arrivals(worker, np.linspace(0.1, 9, STEPS), num_workers=6)
    _, info = simulate(gradient, params, optax.sgd(0.1), schedule, batches)
    np.testing.assert_array_equal(info.staleness, schedule.staleness)
    assert info.clock is schedule.clock
    # Closed form 2, from the simulator's own books: workers 4 and 5 never report.
    ages = info.state.step - info.state.pulled
    assert int(info.staleness.sum() + ages.sum()) == (6 - 1) * STEPS


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_parameters_keep_their_dtype_and_the_log_is_float32(problem, dtype):
    params, batches = jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, problem
    )
    got, info = simulate(
        gradient, params, RULES["dcasgd-a"](), round_robin(3, STEPS), batches, log_distance=True
    )
    assert {w.dtype for w in jax.tree.leaves((got, info.state.snapshots))} == {jnp.dtype(dtype)}
    assert info.distance.dtype == jnp.float32
    assert all(jnp.isfinite(w).all() for w in got)


def test_a_state_has_the_same_types_before_and_after_a_run():
    simulator = slot_simulator(lambda w, x: w - x, RULES["dcasgd-a, momentum, decay"](), 2)
    before = simulator.init(jnp.asarray(1.0))  # weakly typed
    after, _ = simulator.run(before, round_robin(2, 3), jnp.ones(3))
    assert jax.tree.map(jax.typeof, before) == jax.tree.map(jax.typeof, after)


def test_the_state_owns_its_weights(problem):
    params, batches = problem
    simulator = slot_simulator(gradient, optax.sgd(0.1), 3)
    state = simulator.init(params)
    jax.jit(simulator.run, donate_argnums=0)(state, round_robin(3, STEPS), batches)
    assert not any(w.is_deleted() for w in params)


def test_extra_arguments_reach_the_rule(problem):
    params, batches = problem
    schedule = round_robin(4, STEPS)

    def update(updates, state, params=None, *, stale_params, staleness, **extra_args):
        del params, extra_args
        moved = optax.tree.norm(stale_params)
        return jax.tree.map(lambda g: -0.1 * g / (1 + staleness).astype(g.dtype), updates), (
            staleness,
            moved,
        )

    tx = optax.GradientTransformationExtraArgs(
        lambda params: (jnp.zeros([], jnp.int32), jnp.zeros([])), update
    )
    _, info = simulate(gradient, params, optax.chain(optax.identity(), tx), schedule, batches)
    (_, (staleness, moved)) = info.state.opt_state
    assert int(staleness) == 3
    assert moved > 0


@pytest.mark.usefixtures("unchecked")
def test_errors_name_what_came(problem):
    params, batches = problem
    schedule = round_robin(4, STEPS)
    sim = functools.partial(simulate, gradient, params, optax.sgd(0.1))
    with pytest.raises(ValueError, match="'slot'; did you mean 'slots'"):
        sim(schedule, batches, engine="slot")
    with pytest.raises(ValueError, match=r"40 of them, got shape \(39, 4, 6\) at batches\[0\]"):
        sim(schedule, (batches[0][:39], batches[1]))
    with pytest.raises(ValueError, match=r"got shape \(\) at batches\['a'\]"):
        sim(schedule, {"a": jnp.ones(())})
    with pytest.raises(ValueError, match="an array at least"):
        sim(schedule, ())
    with pytest.raises(ValueError, match=r"workers must be in \[0, 2\), got worker 2 at step 2"):
        sim(dataclasses.replace(schedule, num_workers=2), batches)
    rounds = round_robin(4, STEPS, wait_for=4)
    for column, bad in (("reads", 4), ("writes", 5), ("writes", -1)):
        with pytest.raises(ValueError, match=rf"schedule.{column} must be None, or hold slots"):
            sim(dataclasses.replace(rounds, **{column: np.full(STEPS, bad)}), batches)
    with pytest.raises(ValueError, match="for 4 workers, the simulator for 3"):
        slot_simulator(gradient, optax.sgd(0.1), 3).run(
            slot_simulator(gradient, optax.sgd(0.1), 3).init(params), schedule, batches
        )
    with pytest.raises(ValueError, match=r"whole numbers, shape \[num_steps\], got float32"):
        sim(jax.tree.map(lambda c: c.astype(np.float32), schedule), batches)
    with pytest.raises(ValueError, match=r"use jax\.grad, not jax\.value_and_grad"):
        simulate(
            lambda p, b: (jnp.zeros([]), gradient(p, b)),
            params,
            optax.sgd(0.1),
            schedule,
            batches,
        )


def test_a_compensator_alone_is_a_server_rule(problem):
    """delay_compensation in a user's chain, snapshots handed on by the simulator."""
    params, batches = problem
    tx = optax.chain(delay_compensation(0.5), optax.scale(-0.3))
    got, _ = simulate(gradient, params, tx, round_robin(5, STEPS), batches)
    same, _ = simulate(gradient, params, dcasgd(0.3, 0.5), round_robin(5, STEPS), batches)
    assert_same_bits(got, same)


@pytest.mark.parametrize("wait_for", [1, 3, 4])
def test_rounds_are_synchronous_sgd(problem, wait_for):
    """m gradients of one snapshot, a step of learning_rate / m each: SGD on the joined batches."""
    params, batches = problem
    rounds = STEPS // wait_for
    used = jax.tree.map(lambda x: x[: rounds * wait_for], batches)
    schedule = round_robin(4, rounds * wait_for, wait_for=wait_for)
    tx = optax.sgd(0.3 / wait_for)
    got, info = simulate(gradient, params, tx, schedule, used)
    joined = jax.tree.map(lambda x: x.reshape(rounds, -1, *x.shape[2:]), used)
    chex.assert_trees_all_close(
        got, sequential_sgd(params, optax.sgd(0.3), joined), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_array_equal(info.staleness, schedule.staleness)


def test_a_traces_own_staleness_is_simulated(problem):
    """Workers that pull later than their last arrival, against a server that keeps every w."""
    params, batches = problem
    worker, pulled = np.tile([0, 1, 2, 1], STEPS // 4), np.zeros(3, np.int64)
    rng, staleness = np.random.default_rng(5), []
    for step, m in enumerate(worker):
        staleness.append(step - pulled[m])
        pulled = np.where(np.arange(3) == m, step + 1, pulled)
        # Sometimes everyone pulls again, having thrown a computation away.
        pulled = np.full(3, step + 1) if rng.random() < 0.3 else pulled
    schedule = from_arrivals(worker, np.arange(STEPS), num_workers=3, staleness=staleness)
    got, info = simulate(gradient, params, optax.sgd(0.3), schedule, batches)
    history = [params]
    for step, late in enumerate(staleness):
        g = gradient(history[step - late], jax.tree.map(lambda x, t=step: x[t], batches))
        history.append(jax.tree.map(lambda w, d: w - 0.3 * d, history[-1], g))
    chex.assert_trees_all_close(got, history[-1], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(info.staleness, staleness)

"""What "auto" does with larger networks on CPU: separate snapshots, the run of the slot engine."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import (
    dcasgd,
    failure_times,
    gamma_times,
    round_robin,
    running_average,
    simulate,
    wavefront_simulator,
)
from dcasgd_jax.simulator import plan, separate_snapshots
from tests.dcasgd_jax.networks import assert_same_bits, batches_of, gradient, weights_of

SIZES, STEPS, WORKERS = (4, 3), 24, 4


@pytest.fixture(autouse=True)
def every_network_is_large(monkeypatch):
    monkeypatch.setattr(plan, "CACHED_PARAMETERS", 0)
    monkeypatch.setattr(plan, "STEPS_WORTH_A_CALL", 1)


@pytest.fixture
def driven(monkeypatch):
    """Counts the runs that were driven with separate snapshots."""
    calls, runner = [], separate_snapshots.chunk_runner

    def counting(*args):
        calls.append(args)
        return runner(*args)

    monkeypatch.setattr(separate_snapshots, "chunk_runner", counting)
    return calls


def problem(dtype=np.float32):
    rng = np.random.default_rng(0)
    return weights_of(SIZES, rng, dtype), batches_of(STEPS, 3, SIZES, rng, dtype)


def rule():
    return dcasgd(0.2, 2.0, mean_square_decay=0.9, momentum=0.5, weight_decay=1e-2)


SCHEDULES = {
    "round-robin": round_robin(WORKERS, STEPS),
    "gamma": gamma_times(WORKERS, STEPS, seed=3, variation=0.5),
    "rounds": gamma_times(WORKERS, STEPS, seed=3, variation=0.5, wait_for=3),
    "failures": failure_times(WORKERS, STEPS, seed=4, time_to_failure=3.0, time_away=2.0),
}


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("protocol", SCHEDULES)
def test_it_is_the_run_of_the_slot_engine(x64, protocol, driven):
    params, batches = problem(np.float64)
    schedule = SCHEDULES[protocol]
    run = functools.partial(
        simulate, gradient, params, rule(), schedule, batches, log_distance=True
    )
    (_, log), (found, own) = run(engine="slots"), run(engine="wavefront")
    assert driven
    for name in ("params", "opt_state", "snapshots", "pulled", "step"):
        for a, b in zip(
            *(jax.tree.leaves(getattr(info.state, name)) for info in (own, log)), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
            assert a.dtype == b.dtype
    np.testing.assert_array_equal(own.staleness, log.staleness)
    np.testing.assert_allclose(own.distance, log.distance, rtol=1e-9)
    assert_same_bits(found, own.state.params)


@pytest.mark.usefixtures("optimised")
def test_a_run_in_two_stretches_is_one_run_to_the_bit(driven):
    params, batches = problem()
    schedule = round_robin(WORKERS, STEPS)
    simulator = wavefront_simulator(gradient, rule(), WORKERS)
    start = simulator.init(params)
    whole, log = simulator.run(start, schedule, batches)
    state, logs = simulator.init(params), []
    for part in (slice(0, 2 * WORKERS), slice(2 * WORKERS, STEPS)):
        cut = jax.tree.map(lambda x, p=part: x[p], (schedule, batches))
        state, own = simulator.run(state, *cut)
        logs.append(own)
    assert len(driven) == 3
    assert_same_bits(state, whole)
    assert_same_bits(jax.tree.map(lambda *x: jnp.concatenate(x), *logs), log)
    # The state that was handed in is still the caller's, unchanged.
    assert_same_bits(start, simulator.init(params))


@pytest.mark.usefixtures("optimised")
def test_batches_may_be_drawn_or_iterated_over():
    params, batches = problem()
    simulator = wavefront_simulator(gradient, rule(), WORKERS)

    def run(given):
        return simulator.run(simulator.init(params), round_robin(WORKERS, STEPS), given)[0]

    expected = run(batches)
    assert_same_bits(run(lambda step: jax.tree.map(lambda x: x[step], batches)), expected)
    one_by_one = (jax.tree.map(lambda x, i=i: x[i], batches) for i in range(STEPS))
    assert_same_bits(run(one_by_one), expected)
    short = (jax.tree.map(lambda x, i=i: x[i], batches) for i in range(STEPS - 1))
    with pytest.raises(ValueError, match=f"ended before step {STEPS - 1}") as caught:
        run(short)
    before = simulator.run(
        simulator.init(params),
        round_robin(WORKERS, STEPS - WORKERS),
        jax.tree.map(lambda x: x[: STEPS - WORKERS], batches),
    )[0]
    assert_same_bits(caught.value.state, before)


def test_model_states_and_narrow_snapshots_are_kept(driven):
    params, batches = problem()

    def grad_fn(w, mean, batch):
        return gradient(w, batch), mean + batch[0].mean()

    found = [
        simulate(
            grad_fn, params, optax.sgd(0.1), SCHEDULES["gamma"], batches, engine=engine,
            model_state=jnp.zeros([]), merge=running_average(0.5), snapshot_dtype=jnp.bfloat16,
            log_distance=False,
        )
        for engine in ("slots", "wavefront")
    ]  # fmt: skip
    assert driven
    (expected, log), (params_found, own) = found
    for a, b in zip(jax.tree.leaves(params_found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(own.state.model_state, log.state.model_state, rtol=1e-5)
    assert {leaf.dtype for leaf in jax.tree.leaves(own.state.snapshots)} == {jnp.bfloat16.dtype}
    assert own.distance is None


def test_narrow_waves_and_traced_runs_are_left_to_the_loop(driven, monkeypatch):
    params, batches = problem()
    simulator = wavefront_simulator(gradient, optax.sgd(0.1), WORKERS)
    state, schedule = simulator.init(params), round_robin(WORKERS, STEPS)
    traced, _ = jax.jit(lambda s: simulator.run(s, schedule, batches))(state)
    monkeypatch.setattr(plan, "STEPS_WORTH_A_CALL", WORKERS + 1)
    narrow, _ = simulator.run(state, schedule, batches)
    assert not driven
    for a, b in zip(jax.tree.leaves(traced.params), jax.tree.leaves(narrow.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)

"""Memory grows with the versions of the weights that are in use, not with the workers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import (
    Quorum,
    cluster_times,
    failure_times,
    gamma_times,
    round_robin,
    simulate,
    slot_simulator,
)
from dcasgd_jax.simulator.state import slots_needed
from tests.dcasgd_jax.networks import assert_same_bits

STEPS = 48
gradient = jax.grad(lambda w, x: 0.5 * jnp.sum((w - x) ** 2))
BATCHES = jax.random.normal(jax.random.key(0), (STEPS, 3))
W = jnp.array([1.0, -2.0, 0.5])


def quorum(late):
    return cluster_times(16, STEPS, seed=1, variation=0.8, wait_for=Quorum(6, grace=0.1, late=late))


@pytest.mark.parametrize("engine", ["slots", "wavefront"])
@pytest.mark.parametrize(
    ("schedule", "slots"),
    [
        (round_robin(1000, STEPS, wait_for=8), 1),
        (gamma_times(6, STEPS, seed=0, wait_for=4), 1),
        (quorum("dropped"), 1),
        (quorum("stale"), 8),
        (gamma_times(6, STEPS, seed=0, variation=0.6), 6),
    ],
)
def test_as_many_versions_are_kept_as_are_held(engine, schedule, slots):
    """And the run is that of a simulator with a slot for each worker, to the bit."""
    w, info = simulate(gradient, W, optax.sgd(0.1), schedule, BATCHES, engine=engine)
    assert slots_needed(schedule) == slots
    assert info.state.snapshots.shape == (slots, 3)
    if schedule.num_workers > 100:
        return
    simulator = slot_simulator(gradient, optax.sgd(0.1), schedule.num_workers)
    state, log = jax.jit(simulator.run)(simulator.init(W), schedule, BATCHES)
    np.testing.assert_array_equal(info.staleness, log.staleness)
    if engine == "slots":
        assert_same_bits(w, state.params)
        assert_same_bits(info.state.snapshots, state.snapshots[:slots])
    else:
        np.testing.assert_allclose(w, state.params, rtol=1e-5)


def test_versions_in_use_are_never_more_than_the_slots_count():
    """What a plain count of who holds what says: those of the failing cluster share versions."""
    for schedule in (quorum("stale"), failure_times(8, STEPS, seed=0, time_to_failure=3.0)):
        version = np.arange(STEPS) - schedule.staleness
        live = max(
            len({v for v, step in zip(version, range(STEPS), strict=True) if v <= at <= step})
            for at in range(STEPS)
        )
        assert live <= slots_needed(schedule) <= schedule.num_workers


def test_a_stretch_that_needs_more_slots_is_refused():
    rounds = round_robin(4, STEPS, wait_for=4)
    _, info = simulate(gradient, W, optax.sgd(0.1), rounds, BATCHES)
    again = slot_simulator(gradient, optax.sgd(0.1), 4).run
    state, _ = again(info.state, rounds, BATCHES)
    assert int(state.step) == 2 * STEPS
    with pytest.raises(ValueError, match=r"stretch needs 4 slots .* the state has 1,"):
        again(info.state, round_robin(4, STEPS), BATCHES)

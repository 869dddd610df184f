"""FedAvg and DiLoCo on clusters as they are: the weights of a plain loop in float64."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import (
    Quorum,
    cluster_times,
    gamma_times,
    local_steps,
    merge_ends,
    peers,
    recorded_availability,
    simulate,
)
from tests.oracles import federation
from tests.oracles.peer_servers import ROOT, START, gradient

STEPS, K, WORKERS = 60, 3, 5
RNG = np.random.default_rng(7)
TARGETS = RNG.normal(size=(STEPS + WORKERS, K, 3))
TOKENS = RNG.integers(1, 9, STEPS + WORKERS).astype(np.float64)
PERIODS = [[(0.0, math.inf)]] * 3 + [[(0.0, 6.0), (11.0, math.inf)], [(2.5, 30.0)]]


def traced_gradient(w, target):
    return jnp.asarray(ROOT).T @ (jnp.asarray(ROOT) @ (w - target))


def on_targets(w, batch):
    return traced_gradient(w, batch)


def with_tokens(worker):
    """Hands a worker its targets, and leaves the tokens to the server."""
    return lambda w, batch: worker(w, batch["targets"])


INNER, FEDAVG, DILOCO = (0.05, 0.0), (1.0, 0.0), (0.7, 0.9)


@pytest.mark.parametrize("outer", [FEDAVG, DILOCO])
@pytest.mark.parametrize("protocol", [(3, 0.0, "dropped"), (2, 0.4, "dropped"), (2, 0.4, "stale")])
def test_rounds_end_in_the_weights_of_a_plain_loop(x64, outer, protocol):
    size, grace, late = protocol
    schedule = cluster_times(
        WORKERS,
        STEPS,
        seed=3,
        variation=0.5,
        availability=recorded_availability(PERIODS),
        wait_for=Quorum(size, grace, late),
    )
    # The loop ends with a merge: it takes the same steps up to the last one.
    ends = merge_ends(schedule)
    steps = int(np.flatnonzero(ends)[-1]) + 1
    schedule, ends = jax.tree.map(lambda column: column[:steps], (schedule, ends))
    inner = (0.05, 0.5)
    server = peers.weighted_aggregation(
        optax.sgd(outer[0], momentum=outer[1], nesterov=True), ends, weigh=lambda b: b["tokens"]
    )
    w, info = simulate(
        with_tokens(local_steps(on_targets, optax.sgd(inner[0], momentum=inner[1]))),
        jnp.asarray(START),
        server,
        schedule,
        {"targets": jnp.asarray(TARGETS[:steps]), "tokens": jnp.asarray(TOKENS[:steps])},
    )
    loop = federation.LocalSteps(START, gradient, TARGETS, TOKENS, inner=inner, outer=outer)
    times = [itertools.cycle(times) for times in computed(schedule.num_workers)]
    run = federation.run(times, PERIODS, steps, loop, quorum=size, grace=grace, late=late)
    np.testing.assert_array_equal(run.worker, schedule.worker)
    np.testing.assert_array_equal(np.arange(steps) - run.version, info.staleness)
    np.testing.assert_allclose(w, loop.w, rtol=1e-9)
    assert set(np.diff(np.flatnonzero(ends))) != {size} or grace == 0


def computed(num_workers):
    """Each worker's times, told from the arrivals of workers that always stay."""
    there = gamma_times(num_workers, 3000, seed=3, variation=0.5)
    for worker in range(num_workers):
        yield np.diff(there.clock[there.worker == worker], prepend=0.0).tolist()


def test_asynchronous_local_steps_are_those_of_a_plain_loop(x64):
    schedule = gamma_times(WORKERS, STEPS, seed=1, variation=0.5)
    w, _ = simulate(
        local_steps(on_targets, optax.sgd(0.05)),
        jnp.asarray(START),
        optax.sgd(0.7, momentum=0.9, nesterov=True),
        schedule,
        jnp.asarray(TARGETS[:STEPS]),
    )
    loop = federation.LocalSteps(
        START, gradient, TARGETS, np.ones(STEPS), inner=INNER, outer=DILOCO
    )
    held = [loop.pull() for _ in range(WORKERS)]
    for step, worker in enumerate(schedule.worker):
        loop.push(held[worker], step)
        loop.merge()
        held[worker] = loop.pull()
    np.testing.assert_allclose(w, loop.w, rtol=1e-9)


def test_each_worker_goes_on_with_its_own_state(x64):
    """Momentum inside, which asynchronously nobody else touches."""
    schedule = gamma_times(WORKERS, STEPS, seed=1, variation=0.5)
    inner = optax.sgd(0.05, momentum=0.8)
    w, _ = simulate(
        local_steps(on_targets, inner, keep_state=True),
        jnp.asarray(START),
        optax.sgd(0.5),
        schedule,
        jnp.asarray(TARGETS[:STEPS]),
        model_state=inner.init(jnp.asarray(START)),
    )
    now, held = START.copy(), [START.copy()] * WORKERS
    velocity = np.zeros((WORKERS, 3))
    for step, worker in enumerate(schedule.worker):
        local = held[worker].copy()
        for target in TARGETS[step]:
            velocity[worker] = 0.8 * velocity[worker] + gradient(local, target)
            local = local - 0.05 * velocity[worker]
        now = now - 0.5 * (held[worker] - local)
        held[worker] = now.copy()
    np.testing.assert_allclose(w, now, rtol=1e-9)


def test_one_plain_step_is_a_gradient_and_steps_may_be_unrolled(x64):
    one = local_steps(on_targets, optax.sgd(1.0))(jnp.asarray(START), jnp.asarray(TARGETS[0, :1]))
    np.testing.assert_allclose(one, gradient(START, TARGETS[0, 0]), rtol=1e-12)
    looped, unrolled = (
        local_steps(on_targets, optax.sgd(0.1, momentum=0.5), unroll=unroll)(
            jnp.asarray(START), jnp.asarray(TARGETS[0])
        )
        for unroll in (False, True)
    )
    np.testing.assert_allclose(looped, unrolled, rtol=1e-12)


def test_a_batch_without_an_axis_of_steps_is_refused():
    with pytest.raises(ValueError, match="got a scalar; for one step give it an axis"):
        local_steps(on_targets, optax.sgd(1.0))(jnp.zeros(3), jnp.zeros(()))

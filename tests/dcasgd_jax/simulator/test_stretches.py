"""Runs in stretches, resumed from a checkpoint, scanned over, and many at once."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dcasgd_jax import dcasgd, from_arrivals, round_robin, simulate, slot_simulator
from tests.dcasgd_jax.networks import assert_same_bits, gradient, weights_of
from tests.dcasgd_jax.simulator.small_problem import RULES, SIZES, STEPS, draw

pytestmark = pytest.mark.usefixtures("optimised")


@pytest.fixture
def problem():
    return draw()


@pytest.mark.parametrize(
    ("rule", "jit"),
    [("asgd", True), ("dcasgd-c", True), ("dcasgd-a", False), ("dcasgd-a, momentum, decay", True)],
)
def test_stretches_make_the_same_run_to_the_bit(problem, rule, jit):
    params, batches = problem
    schedule = round_robin(4, STEPS)
    simulator = slot_simulator(gradient, RULES[rule](), 4)
    run = jax.jit(simulator.run) if jit else simulator.run
    whole, whole_log = run(simulator.init(params), schedule, batches)
    for cuts in ([0, 13, 26, STEPS], [0, 1, 14, STEPS]):
        state, logs = simulator.init(params), []
        for start, stop in itertools.pairwise(cuts):
            part = functools.partial(jax.tree.map, lambda x, a=start, b=stop: x[a:b])
            state, log = run(state, part(schedule), part(batches))
            logs.append(log)
        assert_same_bits(state, whole)
        assert_same_bits(jax.tree.map(lambda *x: jnp.concatenate(x), *logs), whole_log)


def test_resuming_from_a_checkpoint_is_exact(problem, tmp_path):
    params, batches = problem
    schedule = round_robin(3, STEPS)
    simulator = slot_simulator(gradient, RULES["dcasgd-a, momentum, decay"](), 3)
    run = jax.jit(simulator.run)
    whole, _ = run(simulator.init(params), schedule, batches)
    head, tail = (
        jax.tree.map(lambda x, s=s: x[s], (schedule, batches))
        for s in (slice(0, 17), slice(17, STEPS))
    )
    state, _ = run(simulator.init(params), *head)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", simulator.init(params))
    assert_same_bits(run(restored, *tail)[0], whole)


def test_stretches_can_be_scanned_over(problem):
    params, batches = problem
    schedule = round_robin(4, STEPS)
    simulator = slot_simulator(gradient, RULES["dcasgd-a"](), 4, log_distance=True)
    whole, _ = simulator.run(simulator.init(params), schedule, batches)

    @jax.jit
    def evaluated(params, schedule, batches):
        def stretch(state, part):
            state, log = simulator.run(state, *part)
            return state, (state.params[0][0, 0], log.distance.max())

        parts = jax.tree.map(lambda x: x.reshape(5, STEPS // 5, *x.shape[1:]), (schedule, batches))
        return jax.lax.scan(stretch, simulator.init(params), parts)

    state, (trace, _) = evaluated(params, schedule, batches)
    assert trace.shape == (5,)
    chex.assert_trees_all_close(state, whole, rtol=1e-5, atol=1e-6)


def test_vmap_over_seeds_and_hyperparameters_is_many_runs(problem):
    _, batches = problem
    schedule = round_robin(4, STEPS)
    seeds = [weights_of(SIZES, np.random.default_rng(s)) for s in range(2)]
    stacked = jax.tree.map(lambda *w: jnp.stack(w), *seeds)
    rates, lambdas = jnp.array([0.05, 0.2, 0.4]), jnp.array([0.0, 1.0, 3.0])

    def train(params, rate, lambda_):
        tx = dcasgd(rate, lambda_, mean_square_decay=0.95)
        return simulate(gradient, params, tx, schedule, batches)[0]

    many = jax.jit(jax.vmap(jax.vmap(train, in_axes=(None, 0, 0)), in_axes=(0, None, None)))(
        stacked, rates, lambdas
    )
    for s, seed in enumerate(seeds):
        for i in range(3):
            one = train(seed, float(rates[i]), float(lambdas[i]))
            chex.assert_trees_all_close(
                jax.tree.map(lambda w, s=s, i=i: w[s, i], many), one, rtol=2e-4, atol=1e-5
            )


def test_delays_can_be_vmapped_over(problem):
    params, batches = problem
    traces = np.random.default_rng(2).integers(0, 3, size=(4, STEPS)).astype(np.int32)
    schedules = [from_arrivals(t, np.arange(STEPS), num_workers=3) for t in traces]
    simulator = slot_simulator(gradient, RULES["dcasgd-c"](), 3)
    stacked = jax.tree.map(lambda *column: np.stack(column), *schedules)
    many, _ = jax.jit(jax.vmap(simulator.run, in_axes=(None, 0, None)))(
        simulator.init(params), stacked, batches
    )
    for i, schedule in enumerate(schedules):
        one, _ = simulate(gradient, params, RULES["dcasgd-c"](), schedule, batches)
        chex.assert_trees_all_close(
            jax.tree.map(lambda w, i=i: w[i], many.params), one, rtol=2e-4, atol=1e-5
        )

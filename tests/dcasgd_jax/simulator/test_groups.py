"""Parts of a network with schedules of their own: snapshots put together leaf by leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import dcasgd, gamma_times, peers, pipeline_delays, round_robin, simulate
from tests.compiled import counting_compilations
from tests.dcasgd_jax.networks import assert_same_bits, batches_of, gradient, weights_of

SIZES, STEPS = (5, 4, 4, 3), 16
DELAYS = [2, 2, 1, 1, 0, 0]  # of three layers, kernel and bias each


def problem(dtype=np.float32):
    rng = np.random.default_rng(0)
    return weights_of(SIZES, rng, dtype), batches_of(STEPS, 4, SIZES, rng, dtype)


def schedules(delays=DELAYS):
    return jax.tree.map(lambda tau: round_robin(tau + 1, STEPS), delays)


RULES = {
    "asgd": lambda: optax.sgd(0.3),
    "momentum": lambda: optax.sgd(0.1, momentum=0.8),
    "dcasgd-c": lambda: dcasgd(0.3, 0.5),
}


def adaptive():
    return dcasgd(0.3, 2.0, mean_square_decay=0.9)


def plain_loop(tx, params, batches, version_of):
    """Keeps every version there ever was; leaf i of step t is read at version_of(i, t)."""

    @jax.jit
    def step(params, state, stale, batch):
        updates, state = optax.with_extra_args_support(tx).update(
            gradient(stale, batch), state, params, stale_params=stale
        )
        return optax.apply_updates(params, updates), state

    versions, state = [params], tx.init(params)
    for t in range(STEPS):
        stale = [versions[version_of(i, t)][i] for i in range(len(params))]
        batch = jax.tree.map(lambda x, t=t: x[t], batches)
        new, state = step(versions[-1], state, stale, batch)
        versions.append(new)
    return versions[-1]


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("rule", RULES)
def test_stages_of_a_pipeline_are_a_plain_loop_to_the_bit(rule):
    params, batches = problem()
    got, info = simulate(gradient, params, RULES[rule](), schedules(), batches)
    expected = plain_loop(RULES[rule](), params, batches, lambda i, t: max(t - DELAYS[i], 0))
    assert_same_bits(got, expected)
    # A leaf of delay d keeps d + 1 versions.
    assert [s.shape[0] for s in info.state.snapshots] == [tau + 1 for tau in DELAYS]
    for tau, staleness, clock in zip(DELAYS, info.staleness, info.clock, strict=True):
        np.testing.assert_array_equal(staleness, np.minimum(np.arange(STEPS), tau))
        assert clock.shape == (STEPS,)


@pytest.mark.parametrize("wait_for", [3])
def test_any_schedules_can_be_mixed(x64, wait_for):
    """The first layer as slow machines have it, the others in turns or rounds."""
    params, batches = problem(np.float64)
    slow = gamma_times(4, STEPS, seed=1, variation=0.5)
    turns = round_robin(3, STEPS, wait_for=wait_for)
    plan = [slow, slow, turns, turns, turns, turns]
    got, info = simulate(gradient, params, adaptive(), plan, batches, log_distance=True)

    def version_of(i, t):
        return t - plan[i].staleness[t]

    expected = plain_loop(adaptive(), params, batches, version_of)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    for each, staleness in zip(plan, info.staleness, strict=True):
        np.testing.assert_array_equal(staleness, each.staleness)


@pytest.mark.usefixtures("optimised")
def test_one_schedule_for_every_part_is_that_schedule_to_the_bit():
    params, batches = problem()
    one = gamma_times(3, STEPS, seed=2, variation=0.5)
    expected, whole = simulate(gradient, params, adaptive(), one, batches)
    got, info = simulate(gradient, params, adaptive(), [one] * 6, batches)
    assert_same_bits(got, expected)
    assert_same_bits(info.state.snapshots, whole.state.snapshots)


def test_rules_see_the_staleness_of_each_leaf():
    params, batches = problem()
    tx = optax.chain(peers.staleness_aware(), optax.sgd(0.3))
    got, _ = simulate(gradient, params, tx, schedules(), batches)
    versions = [params]
    for t in range(STEPS):
        stale = [versions[max(t - tau, 0)][i] for i, tau in enumerate(DELAYS)]
        g = gradient(stale, jax.tree.map(lambda x, t=t: x[t], batches))
        ages = [max(min(t, tau), 1) for tau in DELAYS]
        versions.append([w - 0.3 / a * d for w, d, a in zip(versions[-1], g, ages, strict=True)])
    for ours, theirs in zip(got, versions[-1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="rennala decides on a whole gradient by its staleness"):
        simulate(gradient, params, peers.rennala(optax.sgd(0.1), 2), schedules(), batches)
    with pytest.raises(ValueError, match=r"dana_slim needs the number .* got no `worker`"):
        simulate(gradient, params, peers.dana_slim(num_workers=3), schedules(), batches)


def test_profiles_of_one_depth_are_compiled_once():
    params, batches = problem()

    def run(rate, seed):
        machines = gamma_times(3, STEPS, seed=seed, variation=0.5)
        plan = [*schedules([0, 0]), *[machines] * 4]
        return jax.block_until_ready(simulate(gradient, params, optax.sgd(rate), plan, batches)[0])

    first = run(0.1, 0)
    with counting_compilations() as counts:
        second = run(0.2, 1)
    assert not counts
    assert np.abs(first[0] - second[0]).max() > 1e-4


def test_prefixes_dictionaries_and_a_split_by_the_user():
    params = {"embed": jnp.ones(3), "blocks": [{"w": jnp.ones(2)}, {"w": jnp.ones(2)}]}
    delays = pipeline_delays(params, {"embed": 0, "blocks": [0, 1]})
    assert delays == {"embed": 1, "blocks": [{"w": 1}, {"w": 0}]}
    plan = {"embed": round_robin(3, 4), "blocks": round_robin(1, 4)}
    _, info = simulate(lambda w, _: w, params, optax.sgd(0.1), plan, jnp.zeros(4))
    assert info.staleness["embed"].tolist() == [0, 1, 2, 2]
    assert info.staleness["blocks"].tolist() == [0, 0, 0, 0]


def test_errors_name_what_came():
    params, batches = problem()
    sgd = optax.sgd(0.1)
    with pytest.raises(ValueError, match="a tree of schedules is simulated by slots"):
        simulate(gradient, params, sgd, schedules(), batches, engine="wavefront")
    with pytest.raises(ValueError, match="must be a tree prefix of the parameters"):
        simulate(gradient, params, sgd, schedules([0, 1]), batches)
    with pytest.raises(ValueError, match="a tree prefix of the parameters with a Schedule"):
        simulate(gradient, params, sgd, [7] * 6, batches)
    with pytest.raises(ValueError, match="have 16 to 17 steps"):
        simulate(gradient, params, sgd, [*schedules()[:5], round_robin(1, 17)], batches)
    with pytest.raises(ValueError, match="leave model_state out"):
        simulate(gradient, params, sgd, schedules(), batches, model_state=jnp.ones(2))
    with pytest.raises(ValueError, match=r"no part is in 1 of 0, \.\.\., 2"):
        pipeline_delays({"a": jnp.ones(1), "b": jnp.ones(1)}, {"a": 0, "b": 2})
    with pytest.raises(ValueError, match="stages must be a tree of ints >= 0"):
        pipeline_delays({"a": jnp.ones(1)}, {"a": -1})
    with pytest.raises(ValueError, match="or a tree prefix of the parameters with an int"):
        pipeline_delays({"a": jnp.ones(1)}, {"b": 0})

"""The policy that balances a pole: every run recorded, a loss that is the published one."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.harness.registry import Context
from benchmarks.path_space import control as gsgd_control
from benchmarks.path_space.actor_critic import ActorCritic, actor_critic_loss, targets
from common.data.generated.environments import Experience, Moved
from common.networks import MLP
from common.progress import Silent
from common.results.records import RecordWriter, read_records
from tests.compiled import compiled_quickly

TINY = gsgd_control.Settings(
    methods=("G-SGD, skeleton init",), max_steps=12, widths=(5,), episodes=3,
    rollout=4, updates=4, evaluations=2, scored=4, learning_rates=(0.1, 1e30),
)  # fmt: skip
CONTEXT = Context(seeds=(0, 1), data_dir=None, progress=Silent())


@pytest.fixture(scope="module")
def records():
    with jax.default_prng_impl("rbg"):  # compiles faster
        return list(gsgd_control.run(TINY, CONTEXT))


def test_there_is_one_record_for_every_run(records):
    found = [(r.method, r.setting["learning_rate"], r.seed) for r in records]
    assert sorted(found) == sorted(itertools.product(TINY.methods, (0.1, 1e30), (0, 1)))
    for record in records:
        assert record.curve["environment_steps"] == [2 * 3 * 4, 4 * 3 * 4]
        for name in ("loss", "validation_return", "test_return"):
            assert len(record.curve[name]) == 2
            np.testing.assert_equal(record.metrics[name], record.curve[name][-1])
        mean = np.mean(record.curve["test_return"])
        np.testing.assert_equal(record.metrics["mean_test_return"], mean)


def test_diverged_runs_have_no_return_and_the_others_one_of_whole_episodes(records):
    for record in records:
        finite = record.setting["learning_rate"] == 0.1
        assert all(math.isfinite(value) == finite for value in record.metrics.values())
        if finite:
            assert 1 < record.metrics["test_return"] <= 12
    assert len({r.metrics["loss"] for r in records if math.isfinite(r.metrics["loss"])}) == 2


def test_tables_and_figures_are_made_of_records_read_back(records, tmp_path):
    writer = RecordWriter(tmp_path / "records.jsonl", origin={"run": "1"})
    for record in (
        dataclasses.replace(r, method=name) for name in ("SGD", "G-SGD", "Adam") for r in records
    ):
        writer.write(record)
    found = read_records(tmp_path / "records.jsonl")
    table = gsgd_control.tables(found)
    assert table.count("| G-SGD - SGD ") == 2
    assert table.count("2 of 4") == 2 * 3
    written = gsgd_control.plots(found, tmp_path)
    assert [path.name for path in written] == ["learning_rates.png", "returns.png"]
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_evaluations_come_at_even_distances():
    settings = dataclasses.replace(TINY, updates=5)
    with pytest.raises(ValueError, match="multiple of evaluations, got 5 updates and 2"):
        next(gsgd_control.run(settings, CONTEXT))


def experience(rng, time=7, episodes=3):
    """Steps that need not come from any task; some end, in either way."""
    draws = rng.integers(0, 6, (time, episodes))
    return Experience(
        jnp.asarray(rng.normal(size=(time, episodes, 4))),
        jnp.asarray(rng.integers(0, 2, (time, episodes))),
        Moved(
            jnp.asarray(rng.normal(size=(time, episodes, 4))),
            jnp.asarray(rng.normal(size=(time, episodes))),
            jnp.asarray(draws == 0),
            jnp.asarray(draws == 1),
        ),
    )


def advantages_by_definition(rewards, values, next_values, terminated, truncated, discount, trace):
    """The sum of discounted errors up to the end of the episode, each for itself."""
    advantages = np.zeros_like(rewards)
    for t, episode in np.ndindex(rewards.shape):
        for k in range(t, len(rewards)):
            worth = 0.0 if terminated[k, episode] else next_values[k, episode]
            error = rewards[k, episode] + discount * worth - values[k, episode]
            advantages[t, episode] += (discount * trace) ** (k - t) * error
            if terminated[k, episode] or truncated[k, episode]:
                break
    return advantages


def test_advantages_are_sums_of_discounted_errors(x64):
    rng = np.random.default_rng(0)
    moved = experience(rng).moved
    assert moved.terminated.any()
    assert moved.truncated.any()
    values, next_values = rng.normal(size=(2, 7, 3))
    given = (np.asarray(moved.reward), values, next_values)
    ends = (np.asarray(moved.terminated), np.asarray(moved.truncated))
    wanted = advantages_by_definition(*given, *ends, 0.9, 0.8)
    found = targets(*map(jnp.asarray, (*given, *ends)), discount=0.9, trace=0.8)
    np.testing.assert_allclose(found.advantages, wanted, rtol=1e-12)
    np.testing.assert_allclose(found.returns, wanted + values, rtol=1e-12)


def test_the_losss_gradient_is_the_policy_gradient(x64):
    """Against differences of the loss with advantages and returns held where they are."""
    seen = experience(np.random.default_rng(1))
    settings = ActorCritic(discount=0.9, trace=0.8, value_weight=0.7, entropy_weight=0.3)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(4, 3)))

    def network(weights):
        return lambda seen: ((seen @ weights)[..., :-1], (seen @ weights)[..., -1])

    moved = jax.tree.map(np.asarray, seen.moved)

    def outputs(w, seen):
        both = np.asarray(seen) @ w
        logits = both[..., :-1] - np.log(np.exp(both[..., :-1]).sum(-1, keepdims=True))
        return logits, both[..., -1]

    first = np.asarray(weights)
    values, next_values = (outputs(first, o)[1] for o in (seen.observation, moved.observation))
    fixed = advantages_by_definition(
        0.1 * moved.reward, values, next_values, moved.terminated, moved.truncated, 0.9, 0.8
    )
    returns = fixed + values
    normal = (fixed - fixed.mean()) / (fixed.std() + 1e-8)

    def by_hand(w):
        log_policy, values = outputs(w, seen.observation)
        taken = np.where(np.asarray(seen.action) == 1, log_policy[..., 1], log_policy[..., 0])
        entropy = -(np.exp(log_policy) * log_policy).sum(-1)
        squares = (values - returns) ** 2
        return -(normal * taken).mean() + 0.7 * squares.mean() - 0.3 * entropy.mean()

    loss, grads = compiled_quickly(
        jax.value_and_grad(lambda w: actor_critic_loss(network(w), seen, settings))
    )(weights)
    np.testing.assert_allclose(loss, by_hand(first), rtol=1e-12)
    for index in np.ndindex(first.shape):
        shift = np.zeros_like(first)
        shift[index] = 1e-5
        slope = (by_hand(first + shift) - by_hand(first - shift)) / 2e-5
        np.testing.assert_allclose(grads[index], slope, rtol=1e-6, atol=1e-9)


def test_the_last_output_is_the_value():
    module = MLP((5, 3))
    seen = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 4)), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), seen[0])["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape), jnp.float32), shapes)
    logits, values = gsgd_control.actor_and_critic(module, params)(seen)
    for t in range(2):
        outputs = module.apply({"params": params}, seen[t])
        np.testing.assert_allclose(logits[t], outputs[:, :2], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(values[t], outputs[:, 2], rtol=1e-5, atol=1e-6)

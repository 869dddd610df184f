"""Diagnostics against closed forms, and on runs whose delays are known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import gamma_times, round_robin, simulate
from dcasgd_jax.diagnostics import (
    StalenessError,
    best_strength,
    distance_by_staleness,
    error_left,
    stable_step,
    staleness_error,
    staleness_histogram,
    time_to,
)
from dcasgd_jax.rules.curvature import curvature_compensation
from dcasgd_jax.rules.hessian import hessian


def test_the_histogram_counts_every_gradient():
    schedule = gamma_times(5, 400, seed=0, variation=0.5)
    found = staleness_histogram(schedule.staleness)
    assert found.sum() == 400
    assert (found @ np.arange(found.size)) == schedule.staleness.sum()
    np.testing.assert_array_equal(staleness_histogram(np.array([], np.int32)), [0])
    with pytest.raises(ValueError, match="at least 0, got -1"):
        staleness_histogram([0, -1])


@pytest.mark.usefixtures("x64")
def test_distances_of_a_steady_drift_grow_with_the_staleness():
    """With a constant gradient every server step moves the weights by the same."""
    w, info = simulate(
        lambda w, batch: jnp.array([3.0, 4.0]), jnp.zeros(2), optax.sgd(0.1),
        gamma_times(4, 200, seed=1, variation=0.5), jnp.zeros(200), log_distance=True,
    )  # fmt: skip
    np.testing.assert_allclose(jnp.linalg.norm(w), 100.0)
    assert info.distance is not None
    found = distance_by_staleness(info.staleness, info.distance)
    seen = np.isfinite(found)
    np.testing.assert_array_equal(seen, staleness_histogram(info.staleness) > 0)
    np.testing.assert_allclose(found[seen], 0.5 * np.flatnonzero(seen), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=r"one shape, got \(2,\) and \(3,\)"):
        distance_by_staleness([0, 1], [0.0, 1.0, 2.0])


@pytest.mark.usefixtures("x64")
def test_shares_are_those_of_the_gradients_themselves():
    rng = np.random.default_rng(0)
    pieces = [
        [{"a": jnp.asarray(rng.normal(size=3)), "b": jnp.asarray(rng.normal())} for _ in range(3)]
        for _ in range(4)
    ]
    sums = [staleness_error(*piece) for piece in pieces]
    total = StalenessError(*(jnp.stack(column).sum() for column in zip(*sums, strict=True)))

    def flat(tree):
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])

    for k in (0.0, 0.3, 1.0):
        left, stale = 0.0, 0.0
        for g, u, f in pieces:
            error = flat(g) + k * (flat(u) - flat(g)) - flat(f)
            left, stale = left + error @ error, stale + ((flat(g) - flat(f)) ** 2).sum()
        np.testing.assert_allclose(error_left(total, k), np.sqrt(left / stale), rtol=1e-12)
    best = float(best_strength(total))
    for other in (best - 0.01, best + 0.01):
        assert error_left(total, best) <= error_left(total, other)


@pytest.mark.usefixtures("x64")
def test_the_exact_hessian_leaves_nothing_of_a_quadratic():
    rng = np.random.default_rng(1)
    root = jnp.asarray(rng.normal(size=(4, 4)))
    gradient = jax.grad(lambda w, batch: 0.5 * jnp.sum((batch * (root @ w)) ** 2))
    w, stale, batch = (jnp.asarray(rng.normal(size=4)) for _ in range(3))
    tx = curvature_compensation(hessian(gradient))
    g = gradient(stale, batch)
    u, _ = tx.update(g, tx.init(w), w, stale_params=stale, batch=batch)
    sums = staleness_error(g, u, gradient(w, batch))
    assert error_left(sums) < 1e-7
    np.testing.assert_allclose(best_strength(sums), 1.0, rtol=1e-9)
    np.testing.assert_allclose(error_left(sums, 0.25), 0.75, rtol=1e-9)


def test_without_a_correction_nothing_is_removed():
    sums = StalenessError(jnp.array(2.0), jnp.array(0.0), jnp.array(0.0))
    assert error_left(sums) == 1
    assert best_strength(sums) == 0
    harmful = StalenessError(jnp.array(2.0), jnp.array(1.0), jnp.array(1.0))
    assert best_strength(harmful) == 0  # never backwards
    assert error_left(harmful) > 1


def test_times_are_the_first_at_which_the_loss_is_reached():
    losses, clock = [3.0, math.nan, 1.0, 2.0, 0.5], np.arange(5.0)
    assert time_to(losses, clock, 1.0) == 2
    assert time_to(losses, clock, 0.5) == 4
    assert time_to(losses, clock, 0.1) == math.inf
    with pytest.raises(ValueError, match=r"got \(5,\) and \(4,\)"):
        time_to(losses, clock[:4], 1.0)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_the_stable_step_is_the_recursions_own(workers):
    """Spectral radius of w_{t+1} = w_t - x w_{t-tau}, on both sides of the limit."""
    delay = int(round_robin(workers, 40).staleness.max())

    def radius(x):
        companion = np.eye(delay + 1, k=-1)
        companion[0, 0] += 1
        companion[0, delay] -= x
        return np.abs(np.linalg.eigvals(companion)).max()

    assert radius(0.999 * stable_step(delay)) < 1
    assert radius(1.001 * stable_step(delay)) > 1
    with pytest.raises(ValueError, match="at least 0, got -1"):
        stable_step(-1)

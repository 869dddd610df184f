"""What workers hold: rounded weights, or what a rule sends instead of the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import SendingRule, dcasgd, round_robin, simulate
from tests.dcasgd_jax.networks import batches_of, gradient, weights_of

pytestmark = pytest.mark.usefixtures("optimised")

SIZES, STEPS, WORKERS = (4, 3), 12, 3


def by_hand(params, batches, rate, lambda_, seen):
    """DC-ASGD in turns, with whatever `seen` makes of the weights that workers pull."""
    held, w = [seen(params)] * WORKERS, params
    for t in range(STEPS):
        snapshot = held[t % WORKERS]
        g = gradient(snapshot, jax.tree.map(lambda x, t=t: x[t], batches))
        w = [
            a - rate * (b + lambda_ * b * b * (a - s))
            for a, b, s in zip(w, g, snapshot, strict=True)
        ]
        held[t % WORKERS] = seen(w)
    return w


@pytest.mark.parametrize("engine", ["slots", "wavefront"])
def test_gradients_are_taken_at_and_compensated_for_rounded_snapshots(engine):
    rng = np.random.default_rng(0)
    params, batches = weights_of(SIZES, rng), batches_of(STEPS, 3, SIZES, rng)
    got, info = simulate(
        gradient,
        params,
        dcasgd(0.3, 1.0),
        round_robin(WORKERS, STEPS),
        batches,
        engine=engine,
        snapshot_dtype=jnp.bfloat16,
    )
    assert {s.dtype for s in info.state.snapshots} == {jnp.dtype(jnp.bfloat16)}
    assert {w.dtype for w in got} == {jnp.dtype(jnp.float32)}

    def rounded(weights):
        return [w.astype(jnp.bfloat16).astype(jnp.float32) for w in weights]

    expected = by_hand(params, batches, 0.3, 1.0, rounded)
    exact = by_hand(params, batches, 0.3, 1.0, list)
    error = max(float(jnp.abs(a - b).max()) for a, b in zip(got, expected, strict=True))
    apart = max(float(jnp.abs(a - b).max()) for a, b in zip(got, exact, strict=True))
    assert error < 1e-5 < 1e-4 < apart  # rounding is what the two references differ by


@pytest.mark.parametrize("engine", ["slots", "wavefront"])
def test_a_sending_rule_chooses_what_workers_hold(engine):
    rng = np.random.default_rng(1)
    params, batches = weights_of(SIZES, rng), batches_of(STEPS, 3, SIZES, rng)

    def halved(weights):
        return [0.5 * w for w in weights]

    rule = SendingRule(
        tx=optax.with_extra_args_support(dcasgd(0.3, 1.0)), send=lambda w, state: halved(w)
    )
    schedule = round_robin(WORKERS, STEPS)
    got, info = simulate(gradient, params, rule, schedule, batches, engine=engine)
    for ours, theirs in zip(got, by_hand(params, batches, 0.3, 1.0, halved), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    last = (STEPS - 1) % WORKERS
    for snapshot, w in zip(info.state.snapshots, got, strict=True):
        np.testing.assert_array_equal(snapshot[last], 0.5 * w)


@pytest.mark.parametrize("engine", ["slots", "wavefront"])
def test_the_rule_is_told_the_worker_and_the_batch(engine):
    """A rule whose step is the sum of its batch times (1 + worker)."""

    def update(updates, state, params=None, *, worker, batch, **extra_args):
        del params, extra_args
        step = batch.sum() * (1 + worker).astype(batch.dtype)
        return jax.tree.map(lambda g: jnp.full_like(g, step), updates), state

    tx = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    batches = jnp.arange(STEPS * 2, dtype=jnp.float32).reshape(STEPS, 2)
    schedule = round_robin(WORKERS, STEPS)
    got, _ = simulate(lambda w, _: w, jnp.zeros(2), tx, schedule, batches, engine=engine)
    expected = (np.asarray(batches).sum(axis=1) * (1 + schedule.worker)).sum()
    np.testing.assert_allclose(got, [expected] * 2, rtol=1e-6)

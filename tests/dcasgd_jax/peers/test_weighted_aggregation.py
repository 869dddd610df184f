"""Means by round and by tokens; with equal weights and rounds, optax's own accumulation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import peers

GRADIENTS = np.random.default_rng(0).normal(size=(6, 4))


def updates_of(tx, gradients, batches=None):
    w, made = jnp.zeros(4, gradients.dtype), []
    state = tx.init(w)
    for step, g in enumerate(gradients):
        extra = {} if batches is None else {"batch": batches[step]}
        u, state = tx.update(jnp.asarray(g), state, w, **extra)
        w, made = optax.apply_updates(w, u), [*made, np.asarray(u)]
    return np.array(made)


def test_equal_weights_and_rounds_are_optaxs_accumulation():
    gradients = GRADIENTS.astype(np.float32)
    ours = updates_of(peers.weighted_aggregation(optax.sgd(0.1, momentum=0.5), 3), gradients)
    with jax.numpy_dtype_promotion("standard"):  # which optax's needs
        theirs = updates_of(optax.MultiSteps(optax.sgd(0.1, momentum=0.5), 3), gradients)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert np.abs(ours).max(axis=1).nonzero()[0].tolist() == [2, 5]


def test_each_round_is_a_mean_by_tokens_of_what_it_has(x64):
    tokens = np.array([3.0, 1.0, 0.0, 0.0, 2.0, 5.0])
    ends = [False, True, True, False, False, True]
    tx = peers.weighted_aggregation(optax.sgd(1.0), ends, weigh=lambda batch: batch["n"])
    made = updates_of(tx, GRADIENTS, [{"n": n} for n in tokens])
    due = np.zeros((6, 4))
    due[1] = -(3 * GRADIENTS[0] + GRADIENTS[1]) / 4
    due[5] = -(2 * GRADIENTS[4] + 5 * GRADIENTS[5]) / 7  # of no tokens, no step
    np.testing.assert_allclose(made, due, rtol=1e-12)


def test_a_dropped_update_may_be_anything():
    tx = peers.weighted_aggregation(optax.sgd(1.0), 2, weigh=lambda batch: batch)
    gradients = np.array([[np.nan] * 4, [1.0] * 4], np.float32)
    np.testing.assert_array_equal(updates_of(tx, gradients, [0.0, 2.0])[1], -np.ones(4))


@pytest.mark.parametrize("ends", [[False, True], [True], []])
def test_past_the_last_end_nothing_is_made_up(ends):
    """Whether a later update ends a round is not known."""
    tx = peers.weighted_aggregation(optax.sgd(1.0), np.array(ends, bool))
    w = jnp.zeros(2)
    state = tx.init(w)
    for _ in ends:
        update, state = tx.update(jnp.ones(2), state, w)
        assert np.isfinite(update).all()
    with pytest.raises(ValueError, match=rf"of {len(ends)} server steps .* got one more; give"):
        tx.update(jnp.ones(2), state, w)
    # Within a program, where no step is known before it runs, the update is no number.
    assert np.isnan(jax.jit(tx.update)(jnp.ones(2), state, w)[0]).all()
    made, _ = jax.jit(tx.update)({"a": jnp.ones(2), "b": None}, tx.init({"a": w, "b": None}))
    assert np.isfinite(made["a"]).all() == bool(ends)
    assert made["b"] is None


@pytest.mark.parametrize("ends", [0, 1.5, np.arange(2), np.zeros((2, 2), bool)])
def test_ends_that_are_none_are_refused(ends):
    with pytest.raises(ValueError, match="ends must be an int >= 1"):
        peers.weighted_aggregation(optax.sgd(1.0), ends)


def test_a_missing_batch_is_named():
    tx = peers.weighted_aggregation(optax.sgd(1.0), 2, weigh=jnp.size)
    with pytest.raises(ValueError, match=r"needs the batch .* got no `batch`"):
        jax.eval_shape(tx.update, jnp.zeros(2), tx.init(jnp.zeros(2)))

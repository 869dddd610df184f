"""Bad input to compensation and simulation is one clear error, or left out where it is traced."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import (
    curvature_compensation,
    dcasgd,
    delay_compensation,
    low_rank_compensation,
    outer_product,
    rotated_compensation,
    round_robin,
    simulate,
)
from dcasgd_jax.peers import dana_zero, gap_aware

W = {"a": jnp.ones(2), "b": [jnp.ones(3)]}
RULES = {
    "constant": lambda: delay_compensation(0.5),
    "curvature": lambda: curvature_compensation(outer_product),
    "low rank": lambda: low_rank_compensation(2),
    "rotated": lambda: rotated_compensation(),
    "gap-aware": lambda: gap_aware(patent_acknowledged=True),
}


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), jnp.float32(-1.0)])
@pytest.mark.parametrize("name", ["learning_rate", "lambda_", "momentum", "weight_decay"])
def test_hyperparameters_that_can_be_read_are_checked(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be .*a finite scalar >= 0|a scalar >= 0"):
        dcasgd(**({"learning_rate": 0.1, "lambda_": 0.04} | {name: value}))


def test_the_learning_rate_of_a_peer_is_checked():
    with pytest.raises(ValueError, match="learning_rate must be a schedule, or a finite scalar"):
        dana_zero(-0.1, num_workers=2)


def test_schedules_and_traced_numbers_are_let_through():
    negative = optax.constant_schedule(-1.0)
    dcasgd(negative, negative, weight_decay=negative)

    def moved(rate):
        tx = dcasgd(rate, rate, momentum=rate, weight_decay=rate)
        return tx.update(W, tx.init(W), W, stale_params=W)[0]["a"]

    assert jax.jit(moved)(-0.1).shape == (2,)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params": {"a": W["a"]}}, r"gradients and params .*got {'a', 'b'} and {'a'}; pass"),
        ({"stale_params": [W["a"]]}, r"gradients and stale_params .* and a list of 1; pass"),
        ({"stale_params": W["a"]}, r"gradients and stale_params .* an array of shape \(2,\); pass"),
        ({"updates": {"a": W["a"], "c": W["b"]}}, r"one structure, got {'a', 'c'} and {'a', 'b'}"),
    ],
)
def test_trees_that_do_not_belong_together_are_refused(rule, changes, message):
    tx = RULES[rule]()
    trees = {"updates": W, "params": W, "stale_params": W} | changes
    with pytest.raises(ValueError, match=message):
        tx.update(trees["updates"], tx.init(W), trees["params"], stale_params=trees["stale_params"])


def test_gradients_of_another_shape_are_not_broadcast():
    batches = jnp.ones((4, 2))
    with pytest.raises(
        ValueError, match=r"params\['a'\] has shape \(2,\) and its gradient \(\); take"
    ):
        simulate(
            lambda w, batch: {"a": jnp.ones([]), "b": [jnp.ones(3)]},
            W, optax.sgd(0.1), round_robin(2, 4), batches,
        )  # fmt: skip


def test_apply_if_finite_leaves_a_bad_gradient_out():
    """Compiled: nothing can be raised there, so optax's own wrapper is what users are told of."""
    rule = dcasgd(0.1, 2.0, mean_square_decay=0.9, momentum=0.9)
    tx = optax.apply_if_finite(rule, max_consecutive_errors=3)
    stale = jax.tree.map(lambda w: w - 0.5, W)
    update = jax.jit(lambda g, s: tx.update(g, s, W, stale_params=stale))
    updates, state = update(W | {"a": jnp.array([1.0, jnp.inf])}, tx.init(W))
    assert all(not leaf.any() for leaf in jax.tree.leaves(updates))
    assert int(state.total_notfinite) == 1
    updates, _ = update(W, state)
    wanted, _ = rule.update(W, rule.init(W), W, stale_params=stale)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, wanted)

"""Bad input to path-space transformations is one clear error, or left out where it is traced."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsgd_jax import choose_skeleton, gsgd, in_path_space, mlp_gauge
from gsgd_jax.family import path_sgd

PARAMS = {"in": jnp.array([[2.0, 3.0]]), "out": jnp.array([[5.0], [7.0]])}
SKELETON = choose_skeleton(mlp_gauge(PARAMS, layers=["in", "out"]), PARAMS, basis="paths")


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), jnp.float32(-1.0)])
def test_a_learning_rate_that_can_be_read_is_checked(value):
    with pytest.raises(ValueError, match="learning_rate must be a schedule, or a finite scalar >="):
        gsgd(value, SKELETON)
    with pytest.raises(ValueError, match="learning_rate must be a schedule, or a finite scalar >="):
        path_sgd(value, lambda params, x: x @ params["in"] @ params["out"], jnp.ones((1, 1)))
    if isinstance(value, float):
        with pytest.raises(ValueError, match="momentum must be a finite scalar >= 0 and < 1, got"):
            gsgd(0.1, SKELETON, momentum=value)


def test_schedules_and_traced_numbers_are_let_through():
    def moved(rate):
        tx = gsgd(rate, SKELETON)
        return tx.update(PARAMS, tx.init(PARAMS), PARAMS)[0]["out"]

    assert float(jax.jit(moved)(-0.1)[0, 0]) > 0
    gsgd(optax.linear_schedule(-1.0, 1.0, 3), SKELETON)


@pytest.mark.parametrize(
    ("gradients", "error", "message"),
    [
        (
            {"a": PARAMS["in"], "b": PARAMS["out"]},
            ValueError,
            "structure of the parameters, .*'in'",
        ),
        (tuple(PARAMS.values()), ValueError, "must have the structure of the parameters"),
        (PARAMS | {"in": jnp.ones((1, 3))}, ValueError, r"in \(1, 2\), got \(1, 3\)"),
        (PARAMS | {"in": jnp.ones((1, 2), int)}, TypeError, r"got int32 for float32\[1, 2\]"),
    ],
)
def test_gradients_of_other_parameters_are_refused(gradients, error, message):
    tx = gsgd(0.1, SKELETON)
    with pytest.raises(error, match=message):
        tx.update(gradients, tx.init(PARAMS), PARAMS)


def test_a_skeleton_is_of_floating_point_parameters():
    with pytest.raises(TypeError, match="real floating-point parameters, got int32"):
        choose_skeleton(SKELETON.gauge, PARAMS | {"in": jnp.ones((1, 2), int)}, basis="paths")


def test_apply_if_finite_leaves_a_bad_gradient_out():
    """Compiled: nothing can be raised there, so optax's own wrapper is what users are told of."""
    inner = optax.sgd(0.1, momentum=0.9)
    tx = optax.apply_if_finite(
        in_path_space(inner, SKELETON, stale_gradients=True), max_consecutive_errors=3
    )
    bare = in_path_space(inner, SKELETON, stale_gradients=True)
    update = jax.jit(lambda g, s: tx.update(g, s, PARAMS, stale_params=PARAMS))
    bad = PARAMS | {"out": jnp.array([[jnp.nan], [1.0]])}
    state = tx.init(PARAMS)
    updates, state = update(bad, state)
    assert all(not leaf.any() for leaf in jax.tree.leaves(updates))
    assert int(state.total_notfinite) == 1
    updates, _ = update(PARAMS, state)
    wanted, _ = bare.update(PARAMS, bare.init(PARAMS), PARAMS, stale_params=PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, wanted)


def test_a_state_of_another_transformation_is_refused():
    """As after a change of optimiser in the middle of a run."""
    tx, others = in_path_space(optax.sgd(0.1), SKELETON), optax.adam(0.1).init(PARAMS)
    with pytest.raises(TypeError, match=r"its own init has made, got tuple; call tx.init\(params"):
        tx.update(PARAMS, others, PARAMS)

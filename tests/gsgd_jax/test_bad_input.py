"""Bad input to path-space transformations is one clear error, or left out where it is traced."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gsgd_jax
from gsgd_jax import choose_skeleton, family, gsgd, in_path_space, mlp_gauge
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


# What is no group, no skeleton, no coordinates.

GAUGE = SKELETON.gauge
KEY = jax.random.key(0)


def loss(params):
    return jnp.sum((params["in"] @ params["out"]) ** 2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("given", [GAUGE, PARAMS], ids=["gauge", "parameters"])
@pytest.mark.parametrize(
    "name",
    [
        "skeleton_margin", "skeleton_init", "basis_paths", "psi_hessian_product", "psi_trace",
        "psi_sharpness", "basis_path_spread", "basis_path_norm", "basis_path_penalty",
        "skeleton_masks", "in_path_space_with_reference_norms",
    ],
)  # fmt: skip
def test_what_needs_a_skeleton_says_so(name, given):
    functions = {
        "basis_paths": lambda: gsgd_jax.structure.basis_paths(given),
        "psi_hessian_product": lambda: family.psi_hessian_product(loss, PARAMS, given, PARAMS),
        "psi_trace": lambda: family.psi_trace(loss, PARAMS, given, KEY),
        "psi_sharpness": lambda: family.psi_sharpness(loss, PARAMS, given, KEY),
        "in_path_space_with_reference_norms": lambda: gsgd_jax.in_path_space_with_reference_norms(
            optax.sgd(0.1), given
        ),
    }
    home = gsgd_jax if hasattr(gsgd_jax, name) else family
    call = functions.get(name, lambda: getattr(home, name)(PARAMS, given))
    with pytest.raises(
        TypeError, match=r"needs a skeleton, got .*; choose_skeleton\(gauge, params"
    ):
        call()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("given", [SKELETON, PARAMS], ids=["skeleton", "parameters"])
def test_what_needs_a_group_says_so(given):
    skeleton = given is SKELETON
    message = "needs a rescaling group, .* got " + (
        "Skeleton; a skel.* `whole`" if skeleton else "dict"
    )
    calls = [
        lambda: gsgd_jax.balance(PARAMS, given),
        lambda: gsgd_jax.canonical(PARAMS, given),
        lambda: gsgd_jax.distance(PARAMS, PARAMS, given),
        lambda: gsgd_jax.dead_nodes(given, PARAMS),
        lambda: gsgd_jax.Balanced(given),
        lambda: family.teleport(PARAMS, PARAMS, given),
        lambda: family.condition(PARAMS, given),
        lambda: family.equalise(PARAMS, given),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=message):
            call()


@pytest.mark.usefixtures("unchecked")
def test_a_class_is_no_choice_of_coordinates():
    with pytest.raises(TypeError, match=r"for one .*, got the class Balanced; the inner"):
        in_path_space(optax.sgd(0.1), gsgd_jax.Balanced)


# Numbers.


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("change", [gsgd_jax.balance, family.condition])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": float("nan")}, "tolerance must be a finite scalar >= 0, got nan"),
        ({"tolerance": -1e-3}, "tolerance must be a finite scalar >= 0, got -0.001"),
        ({"max_steps": 0}, "max_steps must be a whole number above 0, got 0"),
        ({"max_steps": 2.5}, "max_steps must be a whole number above 0, got 2.5"),
    ],
)
def test_balance_that_would_not_be_reached_is_refused(change, options, message):
    with pytest.raises(ValueError, match=message):
        change(PARAMS, GAUGE, **options)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("count", [0, -1, 1.5])
def test_a_mean_of_no_samples_is_refused(count):
    with pytest.raises(ValueError, match=f"num_samples must be a whole number .* got {count}"):
        family.psi_trace(loss, PARAMS, SKELETON, KEY, num_samples=count)
    with pytest.raises(ValueError, match=f"num_steps must be a whole number .* got {count}"):
        family.psi_sharpness(loss, PARAMS, SKELETON, KEY, num_steps=count)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["max_growth", "max_ratio"])
def test_a_bound_is_one_number(name):
    for bound in (jnp.array([2.0, 3.0]), np.array([2.0])):
        with pytest.raises(
            ValueError, match=rf"{name} must be above 1, got shape .*, not a scalar"
        ):
            in_path_space(optax.sgd(0.1), GAUGE, **{name: bound})
    jax.jit(lambda r: in_path_space(optax.sgd(0.1), GAUGE, **{name: r}).init(PARAMS).bounded)(2.0)


# The reference code's treatment of norms.


def test_the_references_norms_check_what_they_are_given():
    tx = gsgd_jax.in_path_space_with_reference_norms(optax.sgd(0.1), SKELETON)
    with pytest.raises(TypeError, match=r"its own init has made, got tuple; call tx.init\(params"):
        tx.update(PARAMS, optax.adam(0.1).init(PARAMS), PARAMS)
    state = tx.init(PARAMS)
    with pytest.raises(ValueError, match="must have the structure of the parameters"):
        tx.update(tuple(PARAMS.values()), state, PARAMS)
    with pytest.raises(ValueError, match=r"in \(1, 2\), got \(1, 3\)"):
        tx.update(PARAMS | {"in": jnp.ones((1, 3))}, state, PARAMS)
    for name, extra in {"grad": PARAMS, "value_fn": loss, "grad_fn": jax.grad(loss)}.items():
        with pytest.raises(ValueError, match=f"scales the steps, got {name}; take in_path_space"):
            tx.update(PARAMS, state, PARAMS, **{name: extra})
    tx.update(PARAMS, state, PARAMS, grad=None, value=jnp.ones([]))

"""Balancing: the canonical representative of a rescaling orbit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from gsgd_jax import balance, mlp_gauge, trivial_gauge
from tests.gsgd_jax.networks import apply, batch, furthest, perceptron, ravel

pytestmark = pytest.mark.usefixtures("x64")
WIDTHS = [4, 9, 3, 6, 2]


def norms(layers):
    """Squared norms coming into and going out of every hidden unit, written out for layers."""
    squares = [[np.square(leaf) for leaf in layer] for layer in layers]
    coming = [layer[0].sum(0) + sum(layer[1:]) for layer in squares[:-1]]
    going = [layer[0].sum(1) for layer in squares[1:]]
    return np.concatenate(coming), np.concatenate(going)


@pytest.mark.parametrize("bias", [False, True])
def test_norms_are_equal_and_the_function_is_kept(bias):
    params = perceptron(WIDTHS, bias)
    gauge = mlp_gauge(params)
    start = gauge.rescale(params, jax.random.key(0), spread=2.0)
    balanced = balance(start, gauge)
    coming, going = norms(balanced)
    np.testing.assert_allclose(coming, going, rtol=1e-12)
    x, _ = batch(WIDTHS)
    np.testing.assert_allclose(apply(balanced, x), apply(params, x), rtol=1e-9, atol=1e-12)


def test_result_is_the_same_for_all_representatives():
    params = perceptron(WIDTHS, True)
    gauge = mlp_gauge(params)
    moved = gauge.rescale(params, jax.random.key(1), spread=2.0)
    balanced = balance(params, gauge)
    assert furthest(balance(moved, gauge), balanced) < 1e-12
    assert furthest(balance(balanced, gauge), balanced) < 1e-13


def test_no_representative_has_a_smaller_norm():
    params = perceptron([3, 4, 2], True)
    gauge = mlp_gauge(params)
    least = np.square(ravel(balance(params, gauge))).sum()
    act = jax.jit(gauge.act)
    found = minimize(
        lambda x: np.square(ravel(act(params, np.exp(x)))).sum(), np.zeros(4), method="BFGS"
    )
    np.testing.assert_allclose(least, found.fun, rtol=1e-8)


def test_deep_and_narrow_networks_converge():
    params = perceptron([2] * 30, False)
    balanced = balance(params, mlp_gauge(params))
    coming, going = norms(balanced)
    np.testing.assert_allclose(coming, going, rtol=1e-11)


def test_dead_units_keep_their_scale():
    params = [jnp.array([[4.0, 3.0, 5.0]]), jnp.array([[1.0], [0.0], [2.0]])]
    balanced = balance(params, mlp_gauge(params))
    np.testing.assert_allclose(balanced[0], [[2.0, 3.0, np.sqrt(10)]], rtol=1e-12)
    np.testing.assert_allclose(balanced[1], [[2.0], [0.0], [np.sqrt(10)]], rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_dtypes_are_kept(dtype):
    params = perceptron([3, 5, 2], True, dtype=dtype)
    balanced = balance(params, mlp_gauge(params))
    assert {leaf.dtype for leaf in jax.tree.leaves(balanced)} == {jnp.dtype(dtype)}
    coming, going = norms(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), balanced))
    np.testing.assert_allclose(coming, going, rtol=0.03 if dtype == jnp.bfloat16 else 1e-5)


def test_tolerance_and_max_steps_are_the_effort():
    params = perceptron(WIDTHS, False)
    gauge = mlp_gauge(params)
    assert furthest(balance(params, gauge, max_steps=0), params) == 0
    coming, going = norms(balance(params, gauge, tolerance=1e-2))
    worst = np.abs(coming / going - 1).max()
    assert 1e-12 < worst < 2e-2


def test_traced_parameters_are_balanced_too():
    params = perceptron(WIDTHS, True)
    gauge = mlp_gauge(params)
    traced = jax.jit(lambda params: balance(params, gauge))(params)
    np.testing.assert_allclose(ravel(traced), ravel(balance(params, gauge)), rtol=1e-10)


def test_what_cannot_be_balanced_is_refused():
    params = [jnp.array([[4.0]]), jnp.array([[jnp.inf]])]
    gauge = mlp_gauge(params)
    with pytest.raises(ValueError, match="finite parameters, but 1 is not finite"):
        balance(params, gauge)


def test_nothing_to_balance():
    params = {"w": jnp.ones((2, 2))}
    assert furthest(balance(params, trivial_gauge(params)), params) == 0

"""Balancing: the canonical representative of a rescaling orbit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

from gsgd_jax import balance, find_gauge, in_path_space, mlp_gauge, trivial_gauge
from gsgd_jax.balance import balancing_scales
from gsgd_jax.coordinates.balanced import Balanced
from gsgd_jax.solver.usual_squares import usual_squares
from tests.gsgd_jax.networks import apply, batch, furthest, perceptron, ravel
from tests.gsgd_jax.tracing.models import MODELS

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


@pytest.mark.parametrize("name", MODELS)
def test_no_direction_of_any_group_makes_it_smaller(name):
    """The slope of the sum of squares along every node's log c, by the group's own action."""
    model = MODELS[name]
    params, x = model.draw(0)
    group = find_gauge(model.apply, params, x)

    @jax.jit
    @jax.grad
    def slope(logs, params):
        return sum(jnp.sum(w**2) for w in jax.tree.leaves(group.act(params, jnp.exp(logs))))

    start = jnp.zeros(group.num_nodes)
    # A node that normalisation absorbs has weights on one side alone, and keeps its scale.
    balanced = np.delete(slope(start, balance(params, group)), getattr(group, "absorbing", ()))
    before = np.delete(slope(start, params), getattr(group, "absorbing", ()))
    np.testing.assert_allclose(balanced, 0, atol=1e-9 * np.abs(before).max(initial=1))


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
    for effort, least, most in (({"max_steps": 1}, 1e-2, 10), ({"tolerance": 1e-2}, 1e-12, 2e-2)):
        coming, going = norms(balance(params, gauge, **effort))
        assert least < np.abs(coming / going - 1).max() < most


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


def residual_stream(params, x):
    """Two layers that read a stream through an RMS norm and write to it."""

    def norm(x, gain):
        return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True)) * gain[None]

    x = x @ params["in"]
    for layer in params["layers"]:
        x = x + jax.nn.relu(norm(x, layer["gain"]) @ layer["up"]) @ layer["down"]
    return norm(x, params["gain"]) @ params["out"]


def residual_stream_params(width=16, hidden=48, rng=None):
    """At the scale of usual initialisers: every output's weights have norm 1."""
    rng = np.random.default_rng(0) if rng is None else rng

    def kernel(*shape):
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]))

    def layer():
        return {"gain": jnp.ones(width), "up": kernel(width, hidden), "down": kernel(hidden, width)}

    ends = {"in": kernel(5, width), "gain": jnp.ones(width), "out": kernel(width, 3)}
    return ends | {"layers": [layer(), layer()]}


def test_what_nothing_balances_is_kept_at_the_scale_of_initialisers():
    """A stream that norms absorb: with a norm of 1, all it is chained to would shrink with it."""
    params = residual_stream_params()
    x = jax.random.normal(jax.random.key(0), (7, 5))
    group = find_gauge(residual_stream, params, x)
    moved = group.rescale(params, jax.random.key(1), spread=2.0)
    values = [
        Balanced(group).at(start, in_path_space(optax.sgd(0.1), group).init(start).frame).values()
        for start in (params, moved)
    ]
    assert furthest(*values) < 1e-9
    value = values[0]
    writers = [value["in"], *(layer["down"] for layer in value["layers"])]
    # Each of the three has 16 outputs.
    np.testing.assert_allclose(sum(jnp.sum(w**2) for w in writers), 3 * 16, rtol=1e-9)
    for new, old in zip(jax.tree.leaves(value), jax.tree.leaves(params), strict=True):
        assert 0.4 < jnp.linalg.norm(new) / jnp.linalg.norm(old) < 2.5


def test_usual_squares_count_the_outputs_that_a_node_scales():
    gauge = mlp_gauge(perceptron([3, 4, 2], True))
    entering, leaving = usual_squares(gauge)
    np.testing.assert_array_equal(entering, 1)  # one output of the first kernel; biases are zero
    np.testing.assert_array_equal(leaving, 1)  # one input of the second
    x = jnp.ones((2, 5))
    group = find_gauge(residual_stream, residual_stream_params(), x)
    stream = np.argmax(usual_squares(group)[0])
    assert usual_squares(group)[0][stream] == 3 * 16
    np.testing.assert_array_equal(np.delete(usual_squares(group)[0], stream), 1)


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ([[1e20, 2.0]], [[1e-20], [-1.0]]),
        ([[1e-24, 2.0]], [[1.0], [-1.0]]),
        ([[1e30, 2.0]], [[1e-30], [-1e20]]),
        ([[1e-30, 2.0]], [[0.0], [-1.0]]),
    ],
)
def test_under_jit_squares_may_leave_the_range_of_the_weights(first, last):
    """Float32 holds 1e20, but not its square: it once gave scales of 1, and no word."""
    params = [jnp.asarray(first, jnp.float32), jnp.asarray(last, jnp.float32)]
    gauge = mlp_gauge(params)
    concrete = balancing_scales(params, gauge)
    assert np.abs(np.log(concrete)).max() > 20
    traced = jax.jit(lambda params: balancing_scales(params, gauge))(params)
    np.testing.assert_allclose(traced, concrete, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("one_sided", [True, False])
def test_under_jit_weights_that_are_not_finite_give_scales_that_are_none(bad, one_sided):
    params = [jnp.array([[bad, 2.0]], jnp.float32), jnp.array([[1.0], [-1.0]], jnp.float32)]
    gauge = mlp_gauge(params)
    scales = jax.jit(lambda params: balancing_scales(params, gauge, one_sided=one_sided))(params)
    assert np.isnan(scales).all()
    with pytest.raises(ValueError, match="found from finite parameters, but 0 is not finite"):
        balancing_scales(params, gauge)

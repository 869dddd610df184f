"""Networks that feed themselves, with nothing but zeros before or behind them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsgd_jax import balance, find_gauge, in_path_space, mlp_gauge
from gsgd_jax.coordinates.balanced import Balanced
from gsgd_jax.solver.knots import knots_of
from gsgd_jax.solver.usual_squares import incidence_of, usual_squares
from tests.compiled import compiled_quickly
from tests.gsgd_jax.networks import furthest, perceptron
from tests.gsgd_jax.solver.chains import recurrent

pytestmark = pytest.mark.usefixtures("x64")


def residual(params, x):
    stream = x @ params["in"]
    stream = stream + jax.nn.relu(stream @ params["a"]) @ params["b"]
    return jax.nn.relu(stream) @ params["out"]


def gated_behind(params, x):
    """The residual network behind a gated layer, whose group is no graph."""
    x = jax.nn.relu(x @ params["gate"]) * (x @ params["up"])
    return residual(params, x)


SHAPES = {"in": (5, 4), "a": (4, 8), "b": (8, 4), "out": (4, 3)}
NETWORKS = {
    "residual": (residual, SHAPES),
    "recurrent": (recurrent, {"in": (5, 4), "a": (4, 4), "out": (4, 3)}),
    "gated": (gated_behind, {"gate": (5, 5), "up": (5, 5), **SHAPES}),
}


def problem(name, zero=()):
    """The network, its weights, some of them zeros, its group, and inputs."""
    apply, shapes = NETWORKS[name]
    rng = np.random.default_rng(0)
    params = {key: jnp.asarray(rng.normal(size=s) / np.sqrt(s[0])) for key, s in shapes.items()}
    x = jnp.asarray(rng.normal(size=(7, 5)))
    group = find_gauge(apply, params, x)
    return apply, params | {key: jnp.zeros(shapes[key]) for key in zero}, group, x


def test_knots_are_the_nodes_of_cycles():
    for name, size in (("residual", 12), ("recurrent", 4), ("gated", 12)):
        group = problem(name)[2]
        knots = knots_of(incidence_of(group), group.num_nodes)
        assert np.sort(np.bincount(knots[knots >= 0]))[-1] == size
        assert (knots >= 0).sum() == size
    gauge = mlp_gauge(perceptron([3, 4, 2], True))
    assert (knots_of(incidence_of(gauge), gauge.num_nodes) == -1).all()


@pytest.mark.parametrize("zero", ["out", "in"])
@pytest.mark.parametrize("name", NETWORKS)
def test_copies_of_a_knot_without_an_end_follow_one_trajectory(name, zero):
    apply, params, group, x = problem(name, [zero])
    moved = group.rescale(params, jax.random.key(0), spread=2.0)
    tx = in_path_space(optax.sgd(0.02), group)

    def step(carry, _):
        params, state = carry
        grads = jax.grad(lambda params: jnp.mean((apply(params, x) - 1) ** 2))(params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    @compiled_quickly
    def run(params, state):
        return apply(jax.lax.scan(step, (params, state), length=10)[0][0], x)

    states = [tx.init(start) for start in (params, moved)]
    values = [
        Balanced(group).at(start, state.frame).values()
        for start, state in zip((params, moved), states, strict=True)
    ]
    assert furthest(*values) < 1e-9
    # Each kernel keeps about the norm that its initialiser gives it: steps are as long as outside.
    for key in NETWORKS[name][1]:
        if key != zero:
            assert 0.5 < jnp.linalg.norm(values[0][key]) / jnp.linalg.norm(params[key]) < 2
    one, other = (run(start, state) for start, state in zip((params, moved), states, strict=True))
    np.testing.assert_allclose(one, other, rtol=1e-9)
    assert (jnp.abs(one).max() > 1e-2) == (zero == "out")  # zeros at the input have no gradient


@pytest.mark.parametrize("zero", [["out"], ["in"], ["in", "out"], ["b", "out"]])
def test_balance_keeps_the_common_scale(zero):
    _, params, group, _ = problem("residual", zero)
    moved = group.rescale(params, jax.random.key(0), spread=2.0)
    balanced = balance(moved, group)
    assert all(np.isfinite(leaf).all() for leaf in balanced.values())
    # The stream is still balanced against the branch, up to what pulls alike at all its nodes.
    squares = {key: np.square(leaf) for key, leaf in balanced.items()}
    coming = squares["in"].sum(0) + squares["b"].sum(0)
    going = squares["a"].sum(1) + squares["out"].sum(1)
    branch = squares["a"].sum(0) - squares["b"].sum(1)
    if "b" not in zero:
        excess = np.concatenate([coming - going, branch])
        np.testing.assert_allclose(excess, excess.mean(), atol=1e-9 * coming.max())
        assert np.linalg.norm(balanced["a"]) < np.linalg.norm(moved["a"])
    again = balance(balanced, group)
    assert furthest(again, balanced) < 1e-9


def test_what_is_due_to_a_knot_comes_from_outside_it():
    group = problem("residual")[2]
    for side in usual_squares(group, outside=True):
        np.testing.assert_array_equal(np.sort(side), [1 / 12] * 8 + [1] * 4)


def test_a_traced_start_has_the_same_frame():
    _, params, group, _ = problem("residual", ["out"])
    tx = in_path_space(optax.sgd(0.1), group)
    traced = jax.jit(tx.init)(params).frame.scales
    np.testing.assert_allclose(traced, tx.init(params).frame.scales, rtol=1e-9)

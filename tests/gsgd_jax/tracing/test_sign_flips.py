"""Flips of signs: what is found leaves outputs alone, and nothing known by hand is missed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsgd_jax import FoundGauge, canonical, distance, find_gauge, find_signs
from gsgd_jax._factors import factor_parts

pytestmark = pytest.mark.usefixtures("x64")


def tanh(p, x):
    return jnp.tanh(jnp.tanh(x @ p["a"] + p["b"][None]) @ p["c"]) @ p["d"]


def linear(p, x):
    return (x @ p["a"] + p["b"][None]) @ p["c"] @ p["d"]


def relu(p, x):
    return jax.nn.relu(x @ p["a"] + p["b"][None]) @ p["c"] @ p["d"]


def absolute(p, x):
    return jnp.abs(x @ p["a"] + p["b"][None]) @ p["c"] @ p["d"]


def gated(p, x):
    return (jnp.tanh(x @ p["a"]) * jnp.sin(x @ p["e"])) @ p["c"] @ p["d"]


def squared(p, x):
    return jnp.square(x @ p["a"]) @ p["c"] @ p["d"]


def recurrent(p, x):
    def step(h, _):
        return jnp.tanh(h @ p["f"] + x @ p["a"]), None

    return jax.lax.scan(step, jnp.zeros((len(x), 5)), length=3)[0] @ p["c"] @ p["d"]


def attention(p, x):
    scores = jax.nn.softmax((x @ p["a"]) @ (x @ p["e"]).T)
    return scores @ (x @ p["g"]) @ p["c"] @ p["d"]


def normalised(p, x):
    h = jnp.tanh(x @ p["a"])
    h = h / jnp.sqrt(jnp.mean(h**2, axis=-1, keepdims=True) + 1e-5)
    return (h * p["b"][None]) @ p["c"] @ p["d"]


def masked(p, x):
    """tanh(-inf) = -1 keeps its sign, so it cannot be flipped with the unit."""
    h = jnp.where(jnp.arange(5)[None] < 3, x @ p["a"], -jnp.inf)
    return jnp.tanh(h) @ p["c"] @ p["d"]


def clipped(p, x):
    return jax.lax.clamp(-1.0, x @ p["a"], 1.0) @ p["c"] @ p["d"]


def clipped_unevenly(p, x):
    return jax.lax.clamp(-1.0, x @ p["a"], 2.0) @ p["c"] @ p["d"]


def extremes(p, x):
    """The larger of the units of a segment: -max(x) is no max(-x)."""
    return jax.ops.segment_max((x @ p["a"]).T, jnp.zeros(5, int), 1).T * p["b"][None] @ p["f"]


def summed(p, x):
    return jax.ops.segment_sum((x @ p["a"]).T, jnp.zeros(5, int), 1).T @ p["b"][None]


SHAPES = {"a": (3, 5), "b": (5,), "c": (5, 4), "d": (4, 2), "e": (3, 5), "f": (5, 5), "g": (3, 5)}
# Hidden units whose sign may flip; the 4 between c and d, behind which no activation comes, always.
COUNTS = {
    tanh: 5 + 4,
    linear: 5 + 4,
    relu: 0 + 4,
    absolute: 5 + 4,  # no edge leaves
    gated: 5 + 5 + 4,
    squared: 5 + 4,
    recurrent: 5 + 4,
    attention: 5 + 5 + 4,  # of queries with keys, and values
    normalised: 5 + 5 + 4,  # into the norm with its gain, or gain with what follows: see below
    masked: 0 + 4,  # those not masked share an axis with -1: a safe miss
    clipped: 5 + 4,
    clipped_unevenly: 0 + 4,
    extremes: 0 + 5,  # b with f, behind the maximum
    summed: 1,  # units that are added share a sign
}


def drawn():
    """Parameters and inputs."""
    normal = np.random.default_rng(0).normal
    params = {name: jnp.asarray(normal(size=shape)) for name, shape in SHAPES.items()}
    return params, jnp.asarray(normal(size=(6, 3)))


def flipped(params, group, seed=None):
    """The parameters under a random element of the group, or with all nodes flipped."""
    signs = -np.ones(group.num_nodes)
    if seed is not None:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], group.num_nodes)
    leaves = jax.tree.leaves(params)
    for i, parts in enumerate(factor_parts(group, signs, np)):
        for part in parts:
            leaves[i] = leaves[i] * part
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


@pytest.mark.parametrize("model", COUNTS, ids=lambda model: model.__name__)
def test_flips_leave_outputs_alone_to_the_bit(model):
    params, x = drawn()
    signs = find_signs(model, params, x)
    outputs = jax.jit(model)
    for seed in (0, 1, None):
        moved = flipped(params, signs, seed)
        np.testing.assert_array_equal(outputs(moved, x), outputs(params, x))
    assert signs.num_nodes == COUNTS[model]
    changed = sum(int((a != b).any()) for a, b in zip(moved.values(), params.values(), strict=True))
    assert changed >= 2


@pytest.mark.parametrize("model", [tanh, linear, absolute, gated, recurrent, attention])
def test_copies_have_one_canonical_form(model):
    params, x = drawn()
    gauge, signs = find_gauge(model, params, x), find_signs(model, params, x)
    copy = flipped(gauge.rescale(params, jax.random.key(0)), signs, seed=3)
    assert distance(copy, params, gauge, signs) < 1e-12
    assert distance(copy, params, gauge) > 1
    one, other = (canonical(p, gauge, signs) for p in (params, copy))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(model(one, x), model(params, x), rtol=1e-9, atol=1e-11)


def test_a_graph_where_it_is_one():
    params, x = drawn()
    signs = find_signs(tanh, params, x)
    assert isinstance(signs, FoundGauge)
    assert not signs.pins
    assert "max" in {pin.primitive for pin in find_signs(relu, params, x).pins}

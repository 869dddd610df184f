"""The group found is the one counted by hand and by the null space, and leaves outputs alone."""

import dataclasses
import importlib
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsgd_jax import Gauge, choose_skeleton, in_path_space, mlp_gauge, path_values
from gsgd_jax.tracing import FoundGauge, RescalingGroup, find_gauge
from tests.gsgd_jax.tracing.models import MODELS
from tests.gsgd_jax.trajectories import assert_one_function
from tests.oracles.null_space import null_space_dimension

every_model = pytest.mark.parametrize("name", MODELS)


@every_model
def test_counts_the_nodes_and_leaves_the_outputs_alone(x64, name):
    model = MODELS[name]
    params, x = model.draw(0)
    found = find_gauge(model.apply, params, x)
    assert found.num_nodes == model.nodes
    assert isinstance(found, FoundGauge if model.graph else RescalingGroup)
    assert found.verify(model.apply, params, x, tolerance=1e-9) < 1e-9
    moved = found.rescale(params, jax.random.key(1))
    changed = [
        bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (params, moved)), strict=True)
    ]
    assert any(changed) == (model.nodes > 0)


@every_model
def test_agrees_with_the_null_space(x64, name):
    model = MODELS[name]
    seeds = range(model.seed, model.seed + (1 if model.linear else 8))
    draws = ((p, (x,)) for p, x in (model.draw(seed, batch=96) for seed in seeds))
    dimension = null_space_dimension(model.apply, draws, floor=model.nodes)
    if model.linear:
        assert model.nodes < dimension
    else:
        assert model.nodes == dimension


LAYERS = st.lists(
    st.tuples(st.sampled_from(["dense", "residual", "dense block", "leaky"]), st.integers(1, 4)),
    max_size=4,
)


@pytest.mark.usefixtures("x64")
@settings(derandomize=True, deadline=None, max_examples=4)
@given(first=st.integers(1, 4), layers=LAYERS, bias=st.booleans(), seed=st.integers(0, 99))
def test_any_architecture(first, layers, bias, seed):
    """A node for every hidden channel; outputs and path values do not see their scales."""
    rng, params, width = np.random.default_rng(seed), {}, 3

    def linear(name, fan_in, fan_out):
        params[f"{name} kernel"] = jnp.asarray(rng.normal(size=(fan_in, fan_out)))
        if bias:
            params[f"{name} bias"] = jnp.asarray(rng.normal(size=(1, fan_out)))

    nodes = 0
    for i, (kind, size) in enumerate([("dense", first), *layers]):
        linear(f"{i} in", width, size)
        if kind == "residual":
            linear(f"{i} out", size, width)
        width = {"residual": width, "dense block": width + size}.get(kind, size)
        nodes += size
    linear("last", width, 2)

    def model(params, x):
        def apply(name, h):
            h = h @ params[f"{name} kernel"]
            return h + params[f"{name} bias"] if bias else h

        for i, (kind, _) in enumerate([("dense", first), *layers]):
            activation = jax.nn.leaky_relu if kind == "leaky" else jax.nn.relu
            y = activation(apply(f"{i} in", x))
            if kind == "residual":
                y = jax.nn.relu(x + apply(f"{i} out", y))
            x = jnp.concatenate([x, y], axis=1) if kind == "dense block" else y
        return apply("last", x)

    x = jnp.asarray(rng.normal(size=(5, 3)))
    found = find_gauge(model, params, x)
    assert isinstance(found, FoundGauge)
    assert found.num_nodes == nodes
    assert found.verify(model, params, x, tolerance=1e-9) < 1e-9
    skeleton = choose_skeleton(found, params, rule="largest", basis="paths")
    moved = found.rescale(params, jax.random.key(seed), spread=0.5)
    off = np.setdiff1d(np.arange(found.num_entries), skeleton.in_edges)
    one, other = (
        np.concatenate([np.ravel(v) for v in jax.tree.leaves(path_values(p, skeleton))])[off]
        for p in (params, moved)
    )
    np.testing.assert_allclose(other, one, rtol=1e-9)


@pytest.mark.parametrize("widths", [(5, 1, 7), (5, 3, 1, 4), (1, 3, 1, 2), (5, 1, 1, 3)])
def test_the_diagonal_of_a_layer_of_one_unit_is_that_of_mlp_gauge(x64, widths):
    """A unit is entered from unit j mod n, and left to unit j mod n', however few there are."""
    kernels = [jnp.ones(shape) for shape in itertools.pairwise(widths)]

    def model(params, x):
        for i, kernel in enumerate(params):
            x = (jax.nn.relu(x) if i else x) @ kernel
        return x

    found, named = find_gauge(model, kernels, jnp.ones((2, widths[0]))), mlp_gauge(kernels)
    ours, theirs = (choose_skeleton(gauge, kernels, basis="paths") for gauge in (found, named))
    np.testing.assert_array_equal(ours.in_edges, theirs.in_edges)
    np.testing.assert_array_equal(ours.out_edges, theirs.out_edges)


def test_the_diagonal_of_a_convolution_of_one_channel(x64):
    shapes = {"k1": (3, 3, 2, 1), "k2": (3, 3, 1, 4), "v": (4, 3)}
    params = {name: jnp.ones(shape) for name, shape in shapes.items()}

    def model(params, x):
        for kernel in (params["k1"], params["k2"]):
            numbers = ("NHWC", "HWIO", "NHWC")
            x = jax.nn.relu(
                jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
            )
        return jnp.mean(x, axis=(1, 2)) @ params["v"]

    gauge = find_gauge(model, params, jnp.ones((1, 5, 5, 2)))
    skeleton = choose_skeleton(gauge, params, basis="paths")
    first, second, last = gauge.offsets[:-1]
    centre = [first + np.ravel_multi_index((1, 1, 0, 0), shapes["k1"])]
    taps = second + np.ravel_multi_index(([1], [1], [0], np.arange(4)), shapes["k2"])
    np.testing.assert_array_equal(skeleton.in_edges, [*centre, *taps])
    heads = last + np.ravel_multi_index((np.arange(4), np.arange(4) % 3), shapes["v"])
    np.testing.assert_array_equal(skeleton.out_edges, [taps[0], *heads])


@pytest.mark.parametrize(
    "name", [name for name, model in MODELS.items() if model.graph and model.nodes]
)
def test_trajectories_in_path_space_are_invariant(x64, name):
    model = MODELS[name]
    params, x = model.draw(0)
    gauge = find_gauge(model.apply, params, x)
    assert isinstance(gauge, Gauge)
    skeleton = choose_skeleton(gauge, params, rule="largest", basis="paths")
    tx = in_path_space(optax.sgd(1e-4, momentum=0.9), skeleton)
    assert_one_function(model, params, x, gauge, tx)


class Perceptron(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(6)(x))
        x = nn.leaky_relu(nn.remat(nn.Dense)(5)(x))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=True)(x))


def test_flax_from_shapes_alone():
    x = jax.ShapeDtypeStruct((8, 4), jnp.float32)
    model = Perceptron()
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    gauge = find_gauge(model.apply, params, x)
    assert gauge.num_nodes == 11
    params = model.init(jax.random.key(0), jnp.ones((8, 4)))
    assert gauge.verify(model.apply, params, jnp.ones((8, 4))) < 1e-5


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=6)(x, x)


def test_flax_attention_has_a_node_per_head_and_dimension():
    x = jax.random.normal(jax.random.key(0), (2, 5, 4))
    model = Attention()
    params = jax.jit(model.init)(jax.random.key(0), x)
    found = find_gauge(model.apply, params, x)
    assert found.num_nodes == 12
    assert found.verify(model.apply, params, x) < 1e-4


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    """A module that is a pytree of its arrays, as Equinox has them."""

    weight: jax.Array
    bias: jax.Array
    active: bool = dataclasses.field(metadata={"static": True})

    def __call__(self, x):
        y = jax.vmap(lambda row: self.weight @ row + self.bias)(x)
        return jax.nn.relu(y) if self.active else y


def test_modules_that_are_pytrees(x64):
    rng = np.random.default_rng(0)
    widths = ((4, 6), (6, 5), (5, 3))
    layers = [
        Layer(jnp.asarray(rng.normal(size=(n, m))), jnp.asarray(rng.normal(size=n)), n > 3)
        for m, n in widths
    ]

    def apply(layers, x):
        for layer in layers:
            x = layer(x)
        return x

    x = jnp.asarray(rng.normal(size=(8, 4)))
    gauge = find_gauge(apply, layers, x)
    assert gauge.num_nodes == 11
    assert gauge.names[:2] == ("0/weight", "0/bias")
    assert gauge.verify(apply, layers, x, tolerance=1e-9) < 1e-9


def test_functions_transformed_into_pure_ones(x64):
    """Parameters in a dictionary of dictionaries by module path, as Haiku has them."""

    def apply(params, key, x):
        del key
        for path in ("net/~/linear_0", "net/~/linear_1"):
            x = jax.nn.relu(
                jnp.dot(x, params[path]["w"]) + jnp.broadcast_to(params[path]["b"], (8, 5))
            )
        return jnp.dot(x, params["net/~/out"]["w"])

    rng = np.random.default_rng(0)
    shapes = {
        "net/~/linear_0": {"w": (4, 5), "b": (5,)},
        "net/~/linear_1": {"w": (5, 5), "b": (5,)},
        "net/~/out": {"w": (5, 2)},
    }
    params = jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s)), shapes, is_leaf=lambda s: isinstance(s, tuple)
    )
    x = jnp.asarray(rng.normal(size=(8, 4)))
    gauge = find_gauge(apply, params, jax.random.key(0), x)
    assert gauge.num_nodes == 10
    assert gauge.verify(apply, params, jax.random.key(0), x, tolerance=1e-9) < 1e-9


def test_parameters_that_reach_no_output_are_outside():
    def model(p, x):
        unused = x @ p["unused"]
        del unused
        return jax.nn.relu(x @ p["w"])[:, :2] @ p["v"]

    params = {"unused": jnp.ones((2, 2)), "w": jnp.ones((2, 3)), "v": jnp.ones((2, 1))}
    params["count"] = jnp.zeros([], jnp.int32)
    gauge = find_gauge(model, params, jnp.ones((1, 2)))
    assert gauge.num_nodes == 2
    assert not gauge.touches(gauge.names.index("unused"))
    assert gauge.verify(model, params, jnp.ones((1, 2))) < 1e-5


def test_a_model_without_parameters_has_a_trivial_group():
    assert find_gauge(lambda p, x: x, {}, jnp.ones(3)).num_nodes == 0


def test_documented_exports():
    module = importlib.import_module("gsgd_jax.tracing")
    assert all(hasattr(module, name) for name in module.__all__)

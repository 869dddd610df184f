"""Small layers of networks that are no chains: towers, streams, attention, convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsgd_jax import Gauge, balance, find_gauge, gsgd, mlp_gauge, path_values
from tests.gsgd_jax.networks import furthest, perceptron
from tests.gsgd_jax.solver.chains import INITIALIZERS, frames, layers, network, recurrent

pytestmark = pytest.mark.usefixtures("x64")


def test_of_two_towers_the_small_one_is_changed_alone():
    """A policy whose last layer begins small beside a value whose last one does not."""
    policy, value = layers([6, 32, 32, 4], last=1e-3), layers([6, 32, 32, 1], seed=1)

    def both(params, x):
        return network(params["policy"], x), network(params["value"], x)

    params, x = {"policy": policy, "value": value}, jnp.ones((2, 6))
    values = path_values(params, find_gauge(both, params, x))
    alone = path_values(policy, mlp_gauge(policy)), path_values(value, mlp_gauge(value))
    assert furthest(values["policy"], alone[0]) < 1e-9
    assert furthest(values["value"], alone[1]) < 1e-9
    assert furthest(values["value"], balance(value, mlp_gauge(value))) < 1e-9


def test_two_heads_of_one_trunk_are_measured_together():
    """The trunk is as large as the larger head makes it, and the smaller one stays small."""
    trunk = layers([6, 32, 32, 4])

    def both(params, x):
        hidden = jax.nn.relu(jax.nn.relu(x @ params["a"]) @ params["b"])
        return hidden @ params["policy"], hidden @ params["value"]

    value = jax.random.normal(jax.random.key(1), (32, 1)) / np.sqrt(32)
    params = {"a": trunk[0], "b": trunk[1], "policy": 1e-4 * trunk[2], "value": value}
    x = jnp.ones((2, 6))
    group = find_gauge(both, params, x)
    plain, ours = frames(params, group)
    np.testing.assert_array_equal(plain, ours)
    plain, ours = frames(params | {"value": 1e-4 * value}, group)
    assert np.abs(plain - ours).max() > 1
    zeros = params | {"policy": 0 * trunk[2], "value": 0 * value}
    np.testing.assert_allclose(ours, frames(zeros, group)[0], atol=1e-9)


def test_of_two_small_layers_in_a_row_the_last_one_is_named():
    params = layers([4, 32, 32, 1])
    shrunk = [params[0], 1e-3 * params[1], 1e-3 * params[2]]
    values = path_values(shrunk, mlp_gauge(params))
    for kernel in values[:-1]:
        np.testing.assert_allclose(jnp.sum(kernel**2) / kernel.shape[1], 1, rtol=0.3)
    assert jnp.abs(values[-1]).max() < 1e-4


def residual(params, x):
    stream = x @ params["in"]
    for a, b in (("a", "b"), ("c", "d")):
        stream = stream + jax.nn.relu(stream @ params[a]) @ params[b]
    return jax.nn.relu(stream) @ params["out"]


def adapted(params, x):
    return jax.nn.relu(x @ jnp.ones((16, 8))) @ jnp.ones((8, 3)) + (x @ params["A"]) @ params["B"]


def convolutional(params, x):
    """Kernels with outputs first, as PyTorch has them."""
    dims = jax.lax.conv_dimension_numbers(x.shape, params["one"].shape, ("NCHW", "OIHW", "NCHW"))
    for name in ("one", "two"):
        x = jax.nn.relu(
            jax.lax.conv_general_dilated(x, params[name], (1, 1), "SAME", dimension_numbers=dims)
        )
    return x.mean((2, 3)) @ params["out"].T


def outward(params, x):
    """Two convolutions, the second of which leads to the outputs, as PyTorch draws them."""
    dims = ("NHWC", "HWIO", "NHWC")
    for i, kernel in enumerate(params):
        x = jax.nn.relu(x) if i else x
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims)
    return x


def attention(params, x):
    scores = jax.nn.softmax((x @ params["q"]) @ (x @ params["k"]).T)
    return scores @ (x @ params["v"]) @ params["out"]


@pytest.mark.parametrize("taps", [3, 5, 9])
def test_convolutions_to_the_outputs_keep_the_balanced_copy(taps):
    draw = INITIALIZERS["torch"]
    keys = jax.random.split(jax.random.key(0), 2)
    params = [draw(keys[0], (taps, taps, 3, 32)), draw(keys[1], (taps, taps, 32, 3))]
    plain, ours = frames(params, find_gauge(outward, params, jnp.ones((1, 12, 12, 3))))
    np.testing.assert_array_equal(plain, ours)


@pytest.mark.parametrize("width", [128, 16, 8])
def test_narrow_queries_keep_the_balanced_copy(width):
    keys = iter(jax.random.split(jax.random.key(0), 4))
    shapes = {"q": (128, width), "k": (128, width), "v": (128, 128), "out": (128, 128)}
    params = {name: INITIALIZERS["torch"](next(keys), shape) for name, shape in shapes.items()}
    plain, ours = frames(params, find_gauge(attention, params, jnp.ones((4, 128))))
    np.testing.assert_array_equal(plain, ours)


def gated(params, x):
    return (jax.nn.relu(x @ params["gate"]) * (x @ params["up"])) @ params["down"]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_scales_stay_in_the_range_of_the_weights(dtype):
    """Thirty layers that are all small would leave a scale of 1e39 to the last one."""
    deep = [0.03 * kernel for kernel in layers([16] * 31, initializer="lecun")]
    tiny = [jnp.full((2, 2), size) for size in (1e-30, 1e-30, 1e-30)]
    for params in (deep, tiny):
        params = jax.tree.map(lambda w: w.astype(dtype), params)
        gauge = mlp_gauge(params)
        tx = gsgd(0.1, gauge)
        frame, traced = tx.init(params).frame, jax.jit(tx.init)(params).frame
        np.testing.assert_allclose(np.log(frame.scales), np.log(traced.scales), atol=1e-3)
        assert all(np.isfinite(part).all() for own in frame.parts for part in own)
        plain, ours = frames(params, gauge)
        assert (np.abs(plain - ours).max() < 1e-9) == (dtype == jnp.float32)


def test_large_biases_beside_small_kernels_keep_the_balanced_copy():
    """They would get the usual scale, and balance trains such a start better."""
    params = perceptron([8, 32, 32, 1], True)
    start = [(0.03 * kernel, jnp.ones_like(bias)) for kernel, bias in params]
    plain, ours = frames(start, mlp_gauge(start))
    np.testing.assert_array_equal(plain, ours)


def test_a_leaf_from_a_node_to_itself_is_no_obstacle():
    nodes, ground = np.arange(8), -1
    gauge = Gauge(
        names=("in", "d", "out"), shapes=((3, 8), (8,), (8, 3)), num_nodes=8,
        tails=(np.full((3, 1), ground), nodes, nodes[:, None]),
        heads=(nodes[None], nodes, np.full((1, 1), ground)),
    )  # fmt: skip
    kernels = layers([3, 8, 3])
    start = [kernels[0], jnp.ones(8), kernels[1]]
    plain, ours = frames(start, gauge)
    np.testing.assert_array_equal(plain, ours)


STREAM = {"in": (16, 16), "a": (16, 32), "b": (32, 16), "c": (16, 32), "d": (32, 16)}
CASES = {
    "stream, last": (residual, STREAM | {"out": (16, 3)}, "out"),
    "stream, branch": (residual, STREAM | {"out": (16, 3)}, "b"),
    "recurrent": (recurrent, {"in": (16, 16), "a": (16, 16), "out": (16, 3)}, "out"),
    "LoRA": (adapted, {"A": (16, 4), "B": (4, 3)}, "B"),
    "convolutions": (
        convolutional,
        {"one": (8, 16, 3, 3), "two": (8, 8, 3, 3), "out": (3, 8)},
        "out",
    ),
    "stream, wide last": (residual, STREAM | {"out": (16, 500)}, "b"),
    "gated": (gated, {"gate": (16, 16), "up": (16, 16), "down": (16, 3)}, "down"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_small_layer_of_any_network_is_taken_for_zero(name):
    apply, shapes, small = CASES[name]
    rng = np.random.default_rng(0)

    def kernel(shape):
        fan_in = np.prod(shape[1:]) if name == "convolutions" else shape[0]
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(fan_in))

    params = {key: kernel(shape) for key, shape in shapes.items()}
    x = jnp.asarray(rng.normal(size=(2, 16, 5, 5) if name == "convolutions" else (2, 16)))
    group = find_gauge(apply, params, x)
    plain, ours = frames(params, group)
    np.testing.assert_array_equal(plain, ours)
    plain, ours = frames(params | {small: 1e-5 * params[small]}, group)
    assert np.abs(plain - ours).max() > 1
    zero = frames(params | {small: jnp.zeros(shapes[small])}, group)[0]
    np.testing.assert_allclose(ours, zero, atol=1e-8)

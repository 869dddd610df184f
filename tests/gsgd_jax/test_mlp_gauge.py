"""Reading the layers of a perceptron off its parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsgd_jax import GROUND, mlp_gauge
from tests.gsgd_jax.networks import perceptron


def kernel(fan_in, fan_out):
    return jnp.ones((fan_in, fan_out))


def order_of(gauge):
    """Names of the kernels from input to output, by the nodes they meet."""
    kernels = [i for i, shape in enumerate(gauge.shapes) if len(shape) == 2]
    kernels = [i for i in kernels if gauge.touches(i)]
    return [gauge.names[i] for i in sorted(kernels, key=lambda i: int(gauge.tails[i].min()))]


def test_ends_of_kernels_and_biases():
    gauge = mlp_gauge(perceptron([2, 3, 4, 1], True, dtype=jnp.float32))
    assert gauge.num_nodes == 7
    np.testing.assert_array_equal(gauge.tails[0], np.full((2, 1), GROUND))
    np.testing.assert_array_equal(gauge.heads[0], [[0, 1, 2]])
    np.testing.assert_array_equal(gauge.tails[1], [GROUND])
    np.testing.assert_array_equal(gauge.heads[1], [0, 1, 2])
    np.testing.assert_array_equal(gauge.tails[2], [[0], [1], [2]])
    np.testing.assert_array_equal(gauge.heads[2], [[3, 4, 5, 6]])
    np.testing.assert_array_equal(gauge.tails[4], [[3], [4], [5], [6]])
    np.testing.assert_array_equal(gauge.heads[4], [[GROUND]])
    np.testing.assert_array_equal(gauge.heads[5], [GROUND])


class Flax(nn.Module):
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        for width in self.widths[:-1]:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.widths[-1])(x)


def test_flax_modules_with_more_than_ten_layers():
    network, x = Flax((4,) * 11 + (2,)), jnp.ones((1, 3))
    variables = network.init(jax.random.key(0), x)
    gauge = mlp_gauge(variables)
    assert order_of(gauge)[:3] == [f"params/Dense_{i}/kernel" for i in range(3)]
    assert order_of(gauge)[-1] == "params/Dense_11/kernel"
    assert gauge == mlp_gauge(jax.eval_shape(network.init, jax.random.key(0), x))
    x = jax.random.normal(jax.random.key(1), (8, 3))
    moved = gauge.rescale(variables, jax.random.key(2))
    np.testing.assert_allclose(network.apply(moved, x), network.apply(variables, x), rtol=2e-3)
    assert mlp_gauge(variables["params"]).num_nodes == gauge.num_nodes == 44


@pytest.mark.parametrize(
    ("params", "order"),
    [
        ([kernel(3, 4), kernel(4, 5), kernel(5, 2)], ["0", "1", "2"]),
        ([(kernel(3, 4), jnp.ones(4)), (kernel(4, 2), jnp.ones(2))], ["0/0", "1/0"]),
        ([(jnp.ones(4), kernel(3, 4)), (jnp.ones(2), kernel(4, 2))], ["0/1", "1/1"]),
        (
            {"w1": kernel(3, 4), "b1": jnp.ones(4), "w2": kernel(4, 2), "b2": jnp.ones(2)},
            ["w1", "w2"],
        ),
        # Natural order does not chain; the widths admit one order only.
        ({"head": {"k": kernel(9, 2)}, "zero": {"k": kernel(3, 9)}}, ["zero/k", "head/k"]),
        (
            {"a": kernel(6, 2), "b": kernel(5, 6), "c": kernel(3, 5)},
            ["c", "b", "a"],
        ),
        # Equal shapes keep their natural order among themselves.
        (
            {"a": kernel(4, 4), "b": kernel(4, 4), "c": kernel(3, 4), "d": kernel(4, 2)},
            ["c", "a", "b", "d"],
        ),
    ],
)
def test_forward_order_is_inferred(params, order):
    assert order_of(mlp_gauge(params)) == order


def test_a_single_layer_has_no_node():
    gauge = mlp_gauge({"Dense_0": {"kernel": kernel(3, 2), "bias": jnp.ones(2)}})
    assert (gauge.num_nodes, gauge.num_edges, gauge.num_free) == (0, 0, 8)


def test_named_layers_and_what_is_outside():
    params = {
        "params": {
            "encoder": {"norm": {"scale": jnp.ones(3)}},
            "second": {"kernel": kernel(4, 3), "bias": jnp.ones(3)},
            "first": {"kernel": kernel(3, 4)},
            "temperature": jnp.ones([]),
        }
    }
    gauge = mlp_gauge(params, layers=["first", "params/second"])
    assert order_of(gauge) == ["params/first/kernel", "params/second/kernel"]
    outside = [gauge.names[i] for i in range(len(gauge.names)) if not gauge.touches(i)]
    assert outside == ["params/encoder/norm/scale", "params/second/bias", "params/temperature"]
    flat = {"w0": kernel(3, 4), "shift": jnp.ones(4), "w1": kernel(4, 2)}
    gauge = mlp_gauge(flat, layers=[("w0", "shift"), "w1"])
    np.testing.assert_array_equal(gauge.heads[0], [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("params", "layers", "message"),
    [
        ([kernel(3, 4), kernel(5, 2)], None, r"0 \(3, 4\), 1 \(5, 2\), and no order does"),
        ([kernel(4, 3), kernel(4, 3)], None, "no order does; name the dense layers"),
        (
            {"a": kernel(2, 3), "b": kernel(2, 4), "c": kernel(3, 2), "d": kernel(4, 2)},
            None,
            "several others do; name the dense layers",
        ),
        ({"a": kernel(2, 3), "s": jnp.ones([])}, None, r"kernels .* got s \(\)"),
        ({"a": jnp.ones((3, 3, 1, 2))}, None, r"got a \(3, 3, 1, 2\)"),
        (
            {"Dense_0": {"kernel": kernel(2, 3)}, "LayerNorm_0": {"scale": jnp.ones(3)}},
            None,
            r"got LayerNorm_0/scale \(3,\) side by side",
        ),
        ({"a": {"kernel": kernel(2, 3), "bias": jnp.ones(2)}}, None, r"bias \(out,\), got"),
        ({"a": kernel(2, 3), "b": kernel(3, 1)}, ["a", "c"], "got 'c'; the leaves are a, b"),
        ({"a": kernel(2, 3), "b": kernel(3, 1)}, ["b", "a"], r"got b \(3, 1\) before a \(2, 3\)"),
        ({"a": kernel(3, 3), "b": kernel(3, 1)}, ["a", "a", "b"], "names a leaf twice"),
        ({"a": kernel(3, 3)}, [], "at least one dense layer"),
        ({}, None, "at least one dense layer"),
    ],
)
def test_what_is_unclear_is_refused(params, layers, message):
    with pytest.raises(ValueError, match=message):
        mlp_gauge(params, layers=layers)

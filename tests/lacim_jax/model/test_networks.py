"""Networks: sizes, and that no example of a batch sees another."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lacim_jax import MLP, ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from lacim_jax.model.networks import _Doubling
from tests.compiled import compiled_quickly

KEY = jax.random.key(0)


@pytest.mark.parametrize("size", [28, 32, 64])
@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [
        (MLPEncoder((12, 10)), lambda shape: MLPDecoder(shape, (9, 8))),
        (ConvEncoder((8, 16), 10), lambda shape: ConvDecoder(shape, (16, 8))),
    ],
    ids=["mlp", "conv"],
)
def test_pairs_fit_common_image_sizes(size, encoder, decoder):
    images = jax.ShapeDtypeStruct((3, size, size, 2), jnp.float32)
    features, _ = jax.eval_shape(encoder.init_with_output, KEY, images)
    assert features.shape == (3, 10)
    pixels, _ = jax.eval_shape(decoder((size, size, 2)).init_with_output, KEY, features)
    assert pixels.shape == images.shape


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (MLP((7, 3)), (4,)),
        (MLPEncoder((7,)), (8, 8, 2)),
        (ConvEncoder((8, 8), 5), (8, 8, 2)),
        (MLPDecoder((8, 8, 1), (7,)), (4,)),
        (ConvDecoder((8, 8, 1), (8, 8)), (4,)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_examples_are_treated_apart(network, shape):
    batch = jax.random.uniform(KEY, (5, *shape))
    variables = compiled_quickly(network.init)(KEY, batch)
    apply = compiled_quickly(network.apply)
    together, alone = apply(variables, batch), apply(variables, batch[2:3])
    np.testing.assert_allclose(together[2:3], alone, rtol=1e-5, atol=1e-6)
    assert np.ptp(np.asarray(together), axis=0).max() > 1e-3


def test_vectors_are_images_too():
    pixels, _ = compiled_quickly(MLPDecoder((5,)).init_with_output)(KEY, jnp.ones((2, 3)))
    assert pixels.shape == (2, 5)


@pytest.mark.usefixtures("x64", "standard_promotion")
@pytest.mark.parametrize("shape", [(1, 1), (2, 3)])
def test_doubling_is_flax_s_transposed_convolution(shape):
    layers = _Doubling(2), nn.ConvTranspose(2, (4, 4), strides=(2, 2))
    hidden = jax.random.normal(KEY, (3, *shape, 4), jnp.float64)
    (found, variables), (expected, same) = (
        compiled_quickly(layer.init_with_output)(KEY, hidden) for layer in layers
    )
    assert found.shape == (3, 2 * shape[0], 2 * shape[1], 2)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(*map(jax.tree.leaves, (variables, same)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_size_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match=r"divisible by 8, .* got 28x28; give fewer channels"):
        ConvDecoder((28, 28, 1), (16, 16, 16)).init(KEY, jnp.ones((1, 4)))


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (MLP((4,), jnp.bfloat16), (3, 5)),
        (MLPEncoder((4, 4), jnp.bfloat16), (3, 2, 2, 1)),
        (MLPDecoder((2, 2, 1), (4,), jnp.bfloat16), (3, 5)),
        (ConvEncoder((8,), 4, dtype=jnp.bfloat16), (3, 4, 4, 1)),
        (ConvDecoder((4, 4, 1), (8,), dtype=jnp.bfloat16), (3, 5)),
    ],
)
def test_in_bfloat16_parameters_and_outputs_stay_float32(network, shape):
    inputs = jax.random.normal(jax.random.key(0), shape)
    variables = jax.jit(network.init)(jax.random.key(1), inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    found = jax.jit(network.apply)(variables, inputs)
    whole = jax.jit(network.clone(dtype=None).apply)(variables, inputs)
    assert found.dtype == whole.dtype == jnp.float32
    difference = np.abs(found - whole).max()
    assert 0 < difference < 0.1 * np.abs(whole).max()


@pytest.mark.parametrize(
    ("listed", "same"),
    [
        (MLP([4, 2]), MLP((4, 2))),
        (MLPEncoder([4]), MLPEncoder((4,))),
        (MLPDecoder([2, 2], [4]), MLPDecoder((2, 2), (4,))),
        (ConvEncoder([8], 4), ConvEncoder((8,), 4)),
        (ConvDecoder([4, 4, 1], [8]), ConvDecoder((4, 4, 1), (8,))),
        (MLP((3,)).clone(widths=[4, 2]), MLP((4, 2))),
    ],
)
def test_sizes_may_be_lists(listed, same):
    """Compiled functions take models as static arguments, which must have a hash."""
    assert listed == same
    assert hash(listed) == hash(same)

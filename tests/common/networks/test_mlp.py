"""The MLP against NumPy, and the properties of its options."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.networks import MLP

KEY = jax.random.key(0)
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4, 3, 2)), jnp.float32)


def make(images=IMAGES, **options):
    network = MLP(**options)
    return network, jax.jit(network.init)(KEY, images)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(
    ("activation", "oracle"), [(nn.relu, lambda x: np.maximum(x, 0)), (jnp.tanh, np.tanh)]
)
def test_against_numpy(use_bias, activation, oracle):
    network, variables = make(widths=(7, 6, 3), use_bias=use_bias, activation=activation)
    hidden = np.asarray(IMAGES, np.float64).reshape(5, -1)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), variables["params"])
    for i in range(3):
        hidden = oracle(hidden) if i else hidden
        hidden = hidden @ params[f"layer_{i}"]["kernel"] + params[f"layer_{i}"].get("bias", 0.0)
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    for train in (False, True):
        got = network.apply({"params": single}, IMAGES, train=train)
        np.testing.assert_allclose(got, hidden, rtol=1e-4, atol=1e-4)


@settings(derandomize=True, deadline=None, max_examples=10)
@given(widths=st.lists(st.integers(1, 9), min_size=1, max_size=12), use_bias=st.booleans())
def test_any_widths(widths, use_bias):
    network = MLP(tuple(widths), use_bias=use_bias)
    variables = jax.eval_shape(network.init, KEY, IMAGES)
    params = variables["params"]
    assert list(variables) == ["params"]
    assert len(params) == len(widths)
    fan_ins = [4 * 3 * 2, *widths[:-1]]
    for i, (fan_in, width) in enumerate(zip(fan_ins, widths, strict=True)):
        expected = {"kernel": (fan_in, width)} | ({"bias": (width,)} if use_bias else {})
        assert jax.tree.map(lambda leaf: leaf.shape, params[f"layer_{i}"]) == expected
    assert jax.eval_shape(network.apply, variables, IMAGES).shape == (5, widths[-1])


def test_without_biases_relu_layers_are_positively_homogeneous():
    network, variables = make(widths=(8, 8, 4), use_bias=False)
    got = network.apply(variables, 4 * IMAGES)
    np.testing.assert_array_equal(got, 4 * network.apply(variables, IMAGES))


def test_initialisation_is_he_normal_and_follows_the_key():
    images = jnp.zeros((1, 400))
    network, variables = make(images, widths=(300, 10))
    kernel = np.asarray(variables["params"]["layer_0"]["kernel"], np.float64)
    # 120,000 entries: the standard deviation's own is 0.2 percent of it.
    np.testing.assert_allclose(kernel.std(), math.sqrt(2 / 400), rtol=0.01)
    assert np.abs(kernel).max() > 3.5 * math.sqrt(2 / 400)  # a Gaussian that is not truncated
    assert not np.asarray(variables["params"]["layer_0"]["bias"]).any()
    again = jax.jit(network.init)(KEY, images)
    jax.tree.map(np.testing.assert_array_equal, variables, again)
    other = jax.jit(network.init)(jax.random.key(1), images)
    assert not np.array_equal(kernel, other["params"]["layer_0"]["kernel"])


def test_an_initialiser_can_be_given():
    _, variables = make(widths=(3,), kernel_init=nn.initializers.constant(0.5))
    assert (np.asarray(variables["params"]["layer_0"]["kernel"]) == 0.5).all()


def test_bfloat16_computes_in_half_precision_and_keeps_parameters():
    network, variables = make(widths=(16, 4), dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    logits = network.apply(variables, IMAGES)
    exact = MLP(widths=(16, 4)).apply(variables, IMAGES)
    assert logits.dtype == jnp.float32
    assert not np.array_equal(logits, exact)
    np.testing.assert_allclose(logits, exact, atol=0.05)


def test_float64(x64):
    network = MLP(widths=(4, 2), dtype=jnp.float64, param_dtype=jnp.float64)
    variables = network.init(KEY, IMAGES)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float64)}
    assert network.apply(variables, IMAGES).dtype == jnp.float64


def test_gradient_reaches_every_parameter():
    network, variables = make(widths=(16, 16, 3))
    grads = jax.grad(lambda v: network.apply(v, IMAGES)[:, 0].sum())(variables)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("widths", [(), (4, 0, 2), (-1,)])
def test_refuses_widths_that_are_none(widths):
    with pytest.raises(ValueError, match="one or more positive numbers, got"):
        make(widths=widths)


def test_refuses_stored_pixels_and_single_numbers():
    with pytest.raises(TypeError, match=r"got uint8: scale stored pixels with common\.data"):
        make(images=jnp.zeros((2, 4), jnp.uint8), widths=(2,))
    with pytest.raises(ValueError, match=r"shape \[batch, \.\.\.\], got \(3,\)"):
        make(images=jnp.zeros(3), widths=(2,))

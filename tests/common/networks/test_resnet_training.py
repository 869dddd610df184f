"""Residual networks at the start of training: initialisation, gradients, precision."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.networks import ResNet, plain, resnet
from tests.common.networks.random_networks import (
    CIFAR,
    IMAGES,
    KEY,
    random_variables,
    shapes,
    single,
    with_features,
)


def one_stage(blocks, channels, **options):
    defaults = {"bottleneck": False, "shortcut": "zero_pad", "norm": "batch", "use_bias": False}
    return ResNet((blocks,), (channels,), 10, **(defaults | options))


def test_initialisation_is_he_normal_and_follows_the_key():
    network = one_stage(1, 64)
    init = jax.jit(network.init)
    images = jnp.zeros((1, 8, 8, 3))
    variables = init(KEY, images)
    kernel = np.asarray(variables["params"]["stage_0_block_0"]["layer_1"]["conv"]["kernel"])
    np.testing.assert_allclose(kernel.std(), math.sqrt(2 / (9 * 64)), rtol=0.02)  # 36,864 entries
    jax.tree.map(np.testing.assert_array_equal, variables, init(KEY, images))
    other = init(jax.random.key(1), images)["params"]
    assert not np.array_equal(kernel, other["stage_0_block_0"]["layer_1"]["conv"]["kernel"])
    statistics = variables["batch_stats"]["stem"]["norm"]
    np.testing.assert_array_equal(statistics["mean"], np.zeros(64))
    np.testing.assert_array_equal(statistics["var"], np.ones(64))


def test_without_norm_the_signal_keeps_its_scale_through_residual_blocks():
    network = one_stage(9, 32, norm=None)
    images = jnp.asarray(IMAGES, jnp.float32)
    variables = network.init(KEY, images)  # not jitted: nine equal blocks, compiled once
    block = variables["params"]["stage_0_block_5"]
    he = math.sqrt(2 / (9 * 32))
    np.testing.assert_allclose(np.std(block["layer_0"]["conv"]["kernel"]), he, rtol=0.03)
    np.testing.assert_allclose(np.std(block["layer_1"]["conv"]["kernel"]), he / 3, rtol=0.03)
    squares = [float((f**2).mean()) for f in with_features(network, variables, images)]
    # Doubling block by block would end at 2^8 = 256 times the first.
    assert 0.1 < squares[-1] / squares[0] < 10


@pytest.mark.parametrize(
    "network",
    [resnet(8, 5, width=0.25), plain(8, 5, width=0.25, norm=None)],
    ids=["resnet", "plain"],
)
def test_gradient_reaches_every_parameter(network):
    variables = single(random_variables(network, IMAGES))
    images = jnp.asarray(IMAGES, jnp.float32)

    def loss(params):
        logits, _ = network.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return (logits[:, 0] ** 3).sum()

    grads = jax.jit(jax.grad(loss))(variables["params"])
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all(), path
        assert np.abs(grad).max() > 0, path


@pytest.mark.parametrize("norm", ["batch", "group", None])
def test_bfloat16_convolves_in_half_precision_and_keeps_the_rest(norm):
    network = resnet(8, 10, width=0.25, norm=norm, dtype=jnp.bfloat16)
    variables = shapes(network)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    apply = partial(network.apply, train=True, mutable=["batch_stats"])
    logits, state = jax.eval_shape(apply, variables, CIFAR)
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, state))} == {jnp.dtype(jnp.float32)}
    convolutions = [
        e
        for e in jax.make_jaxpr(apply)(variables, CIFAR).eqns
        if e.primitive.name == "conv_general_dilated"
    ]
    assert len(convolutions) == 7
    assert {v.aval.dtype for e in convolutions for v in e.invars} == {jnp.dtype(jnp.bfloat16)}


def test_bfloat16_is_close_to_float32():
    half, full = (resnet(8, 5, width=0.25, dtype=d) for d in (jnp.bfloat16, jnp.float32))
    variables = single(random_variables(full, IMAGES))
    images = jnp.asarray(IMAGES, jnp.float32)
    one, two = (np.asarray(jax.jit(n.apply)(variables, images)) for n in (half, full))
    np.testing.assert_allclose(one, two, atol=0.03 * np.abs(two).max())
    assert not np.array_equal(one, two)


def test_float64_throughout(x64):
    network = resnet(8, 10, dtype=jnp.float64, param_dtype=jnp.float64)
    images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float64)
    variables = shapes(network, images)
    program = str(jax.make_jaxpr(network.apply)(variables, images))
    assert "f64" in program
    assert "f32" not in program

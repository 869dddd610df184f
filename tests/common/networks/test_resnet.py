"""Residual and plain networks: published sizes, halved resolutions, refused depths."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.networks import Block, ResNet, plain, resnet
from tests.common.networks.random_networks import (
    CIFAR,
    count,
    random_variables,
    shapes,
    single,
    with_features,
)
from tests.oracles import networks_float64 as oracle

# Sizes


@pytest.mark.parametrize(
    ("depth", "published"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_cifar_family_has_the_published_sizes(depth, published):
    params = shapes(resnet(depth, 10))["params"]
    assert count(params) == oracle.resnet_20_family_parameters((depth - 2) // 6)
    digits = 1 if depth == 110 else 2
    assert round(count(params) / 1e6, digits) == published  # He et al., table 6, millions
    assert count(shapes(plain(depth, 10))["params"]) == count(params)  # option A adds none


@pytest.mark.parametrize(
    ("depth", "torchvision"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_imagenet_family_has_the_published_sizes(depth, torchvision):
    # With 1,000 classes only the stem differs: 3x3 here, 7x7 there, 3 to 64 channels.
    expected = torchvision - (7 * 7 - 3 * 3) * 3 * 64
    assert count(shapes(resnet(depth, 1000))["params"]) == expected
    # And with 10 classes only the classifier of 512 or 2,048 features.
    features = 512 if depth < 50 else 2048
    got = count(shapes(resnet(depth, 10))["params"])
    assert got == expected - (features + 1) * 990


def test_a_large_stem_makes_the_network_of_imagenet():
    network = resnet(50, 1000, stem="7x7")
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables, seen = shapes(network, images), []

    def note(call, arguments, options, context):
        found = call(*arguments, **options)
        if isinstance(context.module, Block):
            seen.append(found.shape[1:])
        return found

    assert count(variables["params"]) == 25_557_032  # torchvision's, stem included
    with nn.intercept_methods(note):
        logits = jax.eval_shape(network.apply, variables, images)
    assert logits.shape == (1, 1000)
    # He et al., table 1: 56x56 after the stem, then halved by every stage.
    assert list(dict.fromkeys(seen)) == [
        (56, 56, 256), (28, 28, 512), (14, 14, 1024), (7, 7, 2048)
    ]  # fmt: skip


def test_the_large_stem_is_a_convolution_and_a_maximum_of_stride_two():
    network = ResNet((1,), (16,), 10, False, None, None, True, stem="7x7")
    images = np.random.default_rng(2).normal(size=(1, 9, 9, 3)).astype(np.float32)
    variables = single(random_variables(network, images))
    first = []

    def note(call, arguments, options, context):
        if not isinstance(context.module, Block):
            return call(*arguments, **options)
        first.append(arguments[0])
        return arguments[0]  # what follows the stem is not computed

    with nn.intercept_methods(note):
        network.apply(variables, jnp.asarray(images))
    kernel = np.asarray(variables["params"]["stem"]["conv"]["kernel"], np.float64)
    bias = np.asarray(variables["params"]["stem"]["conv"]["bias"], np.float64)
    padded = np.pad(np.asarray(images[0], np.float64), ((3, 3), (3, 3), (0, 0)))
    convolved = np.array(
        [
            [
                np.tensordot(padded[2 * i : 2 * i + 7, 2 * j : 2 * j + 7], kernel, 3)
                for j in range(5)
            ]
            for i in range(5)
        ]
    )
    rectified = np.pad(np.maximum(convolved + bias, 0), ((1, 1), (1, 1), (0, 0)))
    expected = [
        [rectified[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((0, 1)) for j in range(3)]
        for i in range(3)
    ]
    np.testing.assert_allclose(first[0][0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("depth", [18, 34])
def test_plain_imagenet_networks_lack_only_the_projections(depth):
    projections = sum(c * 2 * c + 2 * 2 * c for c in (64, 128, 256))
    difference = count(shapes(resnet(depth, 10))["params"]) - count(
        shapes(plain(depth, 10))["params"]
    )
    assert difference == projections


@pytest.mark.parametrize(
    ("make", "depth"),
    [(resnet, d) for d in (8, 14, 18, 20, 34, 50, 56, 101)]
    + [(plain, d) for d in (18, 20, 34, 44)],
)
def test_depth_counts_layers_with_weights(make, depth):
    params = shapes(make(depth, 10))["params"]
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    names = ["/".join(p.key for p in path) for path in paths]
    layers = [n for n in names if n.endswith("kernel") and "shortcut" not in n]
    assert len(layers) == depth


def test_width_multiplies_every_stage():
    params = shapes(resnet(8, 7, width=0.3))["params"]
    kernels = [params[f"stage_{i}_block_0"]["layer_1"]["conv"]["kernel"].shape for i in range(3)]
    assert kernels == [(3, 3, 5, 5), (3, 3, 10, 10), (3, 3, 19, 19)]
    assert params["classifier"]["kernel"].shape == (19, 7)
    assert shapes(resnet(8, 7, width=1e-9))["params"]["classifier"]["kernel"].shape == (1, 7)


@pytest.mark.parametrize("size", [32, 28, 15])
def test_logits_for_images_of_any_size(size):
    images = jax.ShapeDtypeStruct((2, size, size, 1), jnp.float32)
    for network in (resnet(20, 10), resnet(50, 10), plain(34, 10)):
        logits = jax.eval_shape(network.apply, shapes(network, images), images)
        assert (logits.shape, logits.dtype) == ((2, 10), jnp.float32)


def test_resolution_is_halved_at_the_first_block_of_later_stages():
    def features(network):
        blocks = jax.eval_shape(partial(with_features, network), shapes(network), CIFAR)
        return [block.shape[1:] for block in blocks]

    assert features(resnet(14, 10)) == [(32, 32, 16)] * 2 + [(16, 16, 32)] * 2 + [(8, 8, 64)] * 2
    bottlenecks = features(resnet(50, 10))
    assert bottlenecks[2:4] == [(32, 32, 256), (16, 16, 512)]
    assert bottlenecks[-1] == (4, 4, 2048)


def test_a_stem_of_stride_two_has_all_stages_at_half_the_resolution():
    network = plain(14, 10, width=2.0, stem="3x3, stride 2")
    blocks = jax.eval_shape(partial(with_features, network), shapes(network), CIFAR)
    found = [block.shape[1:] for block in blocks]
    assert found == [(16, 16, 32)] * 2 + [(8, 8, 64)] * 2 + [(4, 4, 128)] * 2
    usual = plain(14, 10, width=2.0)
    assert shapes(network)["params"] == shapes(usual)["params"]  # the same kernels


# Errors


def test_refuses_a_stem_that_does_not_exist():
    with pytest.raises(ValueError, match=r"stem is one of \['3x3', .* got '5x5'"):
        shapes(resnet(8, 10, stem="5x5"))


@pytest.mark.parametrize(
    ("make", "depth", "near"),
    [
        (resnet, 33, "32|34"),
        (resnet, 19, "18|20"),
        (resnet, 0, "8"),
        (resnet, -4, "8"),
        (resnet, 57, "56"),
        (plain, 50, "44|56"),
        (plain, 101, "98|104"),
        (plain, 152, "146|158"),
    ],
)
def test_refuses_depths_that_do_not_exist(make, depth, near):
    with pytest.raises(
        ValueError, match=rf"has depth {depth}: did you mean ({near})\?.*6n \+ 2 from 8"
    ):
        make(depth, 10)


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan, math.inf])
def test_refuses_widths_that_are_no_factor(width):
    with pytest.raises(ValueError, match="factor above 0"):
        resnet(20, 10, width=width)


def test_refuses_no_classes():
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        plain(20, 0)


def test_refuses_what_is_not_a_batch_of_float_images():
    network = resnet(8, 10)
    with pytest.raises(TypeError, match="got uint8"):
        shapes(network, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8))
    with pytest.raises(ValueError, match=r"got \(32, 32, 3\)"):
        shapes(network, jax.ShapeDtypeStruct((32, 32, 3), jnp.float32))

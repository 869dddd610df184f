"""Residual and plain networks: published sizes, a float64 re-derivation, what sets them apart."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from common.networks import Block, ResNet, plain, resnet
from tests.oracles import networks_float64 as oracle

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).normal(size=(3, 8, 8, 3))
CIFAR = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)


def shapes(network, images=CIFAR):
    return jax.eval_shape(network.init, KEY, images)


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def random_variables(network, images):
    """Parameters and statistics of ordinary size, none of them at a special value; float64."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return rng.normal(size=leaf.shape) * math.sqrt(2 / math.prod(leaf.shape[:-1]))
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.5, size=leaf.shape)
        return 0.3 * rng.normal(size=leaf.shape)

    return jax.tree_util.tree_map_with_path(draw, shapes(network, images))


def single(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


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


def is_block(module, method):
    return isinstance(module, Block)


def with_features(network, variables, images):
    """The output of every block, in order, as the network computes it."""
    _, state = network.apply(variables, images, capture_intermediates=is_block)
    return [value["__call__"][0] for value in state["intermediates"].values()]


def test_resolution_is_halved_at_the_first_block_of_later_stages():
    def features(network):
        blocks = jax.eval_shape(partial(with_features, network), shapes(network), CIFAR)
        return [block.shape[1:] for block in blocks]

    assert features(resnet(14, 10)) == [(32, 32, 16)] * 2 + [(16, 16, 32)] * 2 + [(8, 8, 64)] * 2
    bottlenecks = features(resnet(50, 10))
    assert bottlenecks[2:4] == [(32, 32, 256), (16, 16, 512)]
    assert bottlenecks[-1] == (4, 4, 2048)


# Values


def bottlenecks():
    options = {"bottleneck": True, "shortcut": "projection", "norm": "batch", "use_bias": False}
    return ResNet((1, 2), (4, 6), 5, **options)


ONES = (1, 1, 1)
SMALL = {
    "option A": (resnet(8, 5, width=0.25), {"stages": ONES, "shortcut": "zero_pad"}),
    "option B": (
        resnet(8, 5, width=0.25, shortcut="projection"),
        {"stages": ONES, "shortcut": "projection"},
    ),
    "plain": (plain(8, 5, width=0.25), {"stages": ONES, "shortcut": None}),
    "bottleneck": (
        bottlenecks(),
        {"stages": (1, 2), "shortcut": "projection", "bottleneck": True},
    ),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_batch_norm_networks_against_float64(name, train):
    network, described = SMALL[name]
    variables = random_variables(network, IMAGES)
    apply = jax.jit(lambda v, x: network.apply(v, x, train=train, mutable=["batch_stats"]))
    logits, state = apply(single(variables), jnp.asarray(IMAGES, jnp.float32))
    described = {"bottleneck": False, "norm": "batch", **described}
    expected, statistics = oracle.resnet(variables, IMAGES, train=train, **described)
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-4)
    assert len(statistics) * 2 == len(jax.tree.leaves(state["batch_stats"]))
    for path, pair in statistics.items():
        got = state["batch_stats"]
        for part in path.split("/"):
            got = got[part]
        np.testing.assert_allclose(got["mean"], pair["mean"], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(got["var"], pair["var"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["group", None])
def test_other_norms_against_float64(norm):
    network = resnet(8, 5, width=0.25, norm=norm)
    variables = random_variables(network, IMAGES)
    assert set(variables) == {"params"}  # nothing that training has to carry along
    logits = jax.jit(network.apply)(single(variables), jnp.asarray(IMAGES, jnp.float32))
    described = {"stages": ONES, "bottleneck": False, "shortcut": "zero_pad", "norm": norm}
    expected, _ = oracle.resnet(variables, IMAGES, group=16, **described)
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(("channels", "group"), [(32, 16), (24, 8), (64, 16), (6, 2), (7, 1)])
def test_group_norm_takes_groups_of_sixteen_or_the_common_divisor(channels, group):
    network = ResNet(
        (1,), (channels,), 2, bottleneck=False, shortcut=None, norm="group", use_bias=False
    )
    variables = random_variables(network, IMAGES[:1, :4, :4])
    logits = network.apply(single(variables), jnp.asarray(IMAGES[:1, :4, :4], jnp.float32))
    expected, _ = oracle.resnet(
        variables,
        IMAGES[:1, :4, :4],
        stages=(1,),
        bottleneck=False,
        shortcut=None,
        norm="group",
        group=group,
    )
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-4)


def test_evaluation_does_not_mix_images_and_training_does():
    network, _ = SMALL["option A"]
    variables = single(random_variables(network, IMAGES))
    images = jnp.asarray(IMAGES, jnp.float32)
    other = images.at[1:].multiply(3.0)
    evaluate = jax.jit(network.apply)
    one, two = (evaluate(variables, x)[0] for x in (images, other))
    np.testing.assert_allclose(one, two, rtol=1e-6)
    learn = jax.jit(lambda v, x: network.apply(v, x, train=True, mutable=["batch_stats"])[0])
    one, two = (learn(variables, x)[0] for x in (images, other))
    assert np.abs(one - two).max() > 0.1


# What sets residual and plain networks apart


def silenced(variables, block):
    """The variables with the block's convolutions at zero, and no shift after them."""
    params = dict(variables["params"])
    params[block] = jax.tree.map(np.zeros_like, params[block])
    return {**variables, "params": params}


def test_a_silent_block_ends_a_plain_network_and_not_a_residual_one():
    images = jnp.asarray(IMAGES, jnp.float32)
    for network, passes in (
        (plain(8, 5, width=0.25, norm=None), False),
        (resnet(8, 5, width=0.25, norm=None), True),
    ):
        variables = silenced(random_variables(network, IMAGES), "stage_1_block_0")
        logits = jax.jit(network.apply)(single(variables), images)
        spread = np.ptp(logits, axis=0).max()  # over images
        assert spread > 0.01 if passes else spread == 0


@pytest.mark.parametrize(("make", "adds"), [(resnet, 6), (plain, 0)])
def test_only_residual_networks_add_feature_maps(make, adds):
    network = make(14, 10, norm=None, use_bias=False)
    program = jax.make_jaxpr(network.apply)(shapes(network), CIFAR)

    def equations(jaxpr):
        for equation in jaxpr.eqns:
            yield equation
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                yield from equations(inner)

    found = [
        e
        for e in equations(program.jaxpr)
        if e.primitive.name in ("add", "add_any") and e.outvars[0].aval.ndim == 4
    ]
    assert len(found) == adds


def test_option_a_keeps_every_other_pixel_and_pads_channels_with_zeros():
    class Zero(nn.Module):
        """Stands for convolution and norm: shapes as theirs, values zero."""

        channels: int
        size: int
        stride: int
        gain: float

        def __call__(self, x, *, train):
            return jnp.zeros_like(x[:, :: self.stride, :: self.stride, :1]).repeat(
                self.channels, axis=-1
            )

    block = Block(8, stride=2, bottleneck=False, shortcut="zero_pad", conv_norm=Zero)
    images = jnp.abs(jnp.asarray(IMAGES, jnp.float32))
    out = np.asarray(block.apply({}, images, train=False))
    np.testing.assert_array_equal(out[..., :3], images[:, ::2, ::2])
    np.testing.assert_array_equal(out[..., 3:], np.zeros((3, 4, 4, 5)))


# Initialisation, gradients, precision


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


# Errors


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

"""Blocks of residual and plain networks: a float64 re-derivation, and what sets them apart."""

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from common.networks import Block, ResNet, plain, resnet
from tests.common.networks.random_networks import (
    CIFAR,
    IMAGES,
    random_variables,
    shapes,
    single,
)
from tests.oracles import networks_float64 as oracle

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

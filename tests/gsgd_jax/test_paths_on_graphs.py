"""Path values and their inverses on graphs that are no perceptron: section 1 of the derivation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsgd_jax import GROUND, Gauge, Skeleton, allocate, inverse_chain_rule, path_values
from tests.gsgd_jax.networks import (
    compiled_quickly,
    free_entries,
    furthest,
    ravel,
    relative,
    rescaled,
)

pytestmark = pytest.mark.usefixtures("x64")


def convolutional():
    """Convolution with bias, depthwise convolution, dense: 3x3x2 -> 3, 3x3 each, 3 -> 2."""
    units, chain = np.arange(3), np.arange(3, 6)
    gauge = Gauge(
        names=("conv", "bias", "depthwise", "head"),
        shapes=((3, 3, 2, 3), (3,), (3, 3, 1, 3), (3, 2)),
        tails=(
            np.full((1, 1, 2, 1), GROUND),
            np.full(1, GROUND),
            units.reshape(1, 1, 1, 3),
            chain[:, None],
        ),
        heads=(
            units.reshape(1, 1, 1, 3),
            units,
            chain.reshape(1, 1, 1, 3),
            np.full((1, 2), GROUND),
        ),
        num_nodes=6,
    )

    def network(params, x):
        dimensions = ("NHWC", "HWIO", "NHWC")
        conv = jax.lax.conv_general_dilated
        x = conv(x, params[0], (1, 1), "SAME", dimension_numbers=dimensions)
        x = jax.nn.relu(x + params[1].reshape(1, 1, 1, 3))
        x = conv(x, params[2], (1, 1), "SAME", dimension_numbers=dimensions, feature_group_count=3)
        return jax.nn.relu(x).mean((1, 2)) @ params[3]

    return gauge, network, (4, 5, 5, 2)


def residual():
    """A stream of 4 channels to which a block of 3 units adds: one node a channel."""
    stream, block = np.arange(4), np.arange(4, 7)
    gauge = Gauge(
        names=("in", "down", "up", "out"),
        shapes=((3, 4), (4, 3), (3, 4), (4, 2)),
        tails=(np.full((3, 1), GROUND), stream[:, None], block[:, None], stream[:, None]),
        heads=(stream[None], block[None], stream[None], np.full((1, 2), GROUND)),
        num_nodes=7,
    )

    def network(params, x):
        x = x @ params[0]
        x = x + jax.nn.relu(x @ params[1]) @ params[2]
        return jax.nn.relu(x) @ params[3]

    return gauge, network, (4, 3)


def recurrent():
    """A ReLU recurrence over three steps ties the hidden scale at all times."""
    units = np.arange(3)
    gauge = Gauge(
        names=("in", "recurrent", "out"),
        shapes=((2, 3), (3, 3), (3, 2)),
        tails=(np.full((2, 1), GROUND), units[:, None], units[:, None]),
        heads=(units[None], units[None], np.full((1, 2), GROUND)),
        num_nodes=3,
    )

    def network(params, x):
        hidden = jnp.zeros((len(x), 3))
        for t in range(3):
            hidden = jax.nn.relu(x[:, t] @ params[0] + hidden @ params[1])
        return hidden @ params[2]

    return gauge, network, (4, 3, 2)


@pytest.mark.parametrize("basis", ["paths", "cycles"])
@pytest.mark.parametrize("model", [convolutional, residual, recurrent])
def test_any_graph_will_do(model, basis):
    """Round trip, closed form and invariance, on skeletons given by hand."""
    gauge, network, shape = model()
    generator = np.random.default_rng(0)
    params = [jnp.asarray(generator.normal(size=s)) for s in gauge.shapes]
    x = jnp.asarray(generator.normal(size=shape))
    skeleton = by_hand(gauge, model, basis)

    @compiled_quickly
    def everything(params):
        outputs = network(params, x)
        grads = jax.grad(lambda params: jnp.sum(network(params, x) ** 2))(params)
        values = path_values(params, skeleton)
        back, pullback = jax.vjp(lambda values: allocate(values, params, skeleton), values)
        closed = inverse_chain_rule(grads, params, skeleton)
        return outputs, values, back, closed, pullback(grads)[0]

    moved = rescaled(gauge, params)
    outputs, values, back, closed, vjp = everything(params)
    moved_outputs, moved_values, _, moved_closed, _ = everything(moved)
    np.testing.assert_allclose(moved_outputs, outputs, rtol=1e-9)
    assert furthest(moved, params) > 0.1
    assert relative(back, params) < 1e-13
    assert relative(closed, vjp) < 1e-12
    assert relative(moved_closed, closed) < 1e-9
    free = free_entries(skeleton)
    np.testing.assert_allclose(ravel(moved_values)[free], ravel(values)[free], rtol=1e-11)


def by_hand(gauge, model, basis):
    if model is convolutional:
        first, depthwise, head = gauge.offsets[[0, 2, 3]]
        in_edges = [*(first + 24 + np.arange(3)), *(depthwise + 12 + np.arange(3))]
        out_edges = [*(depthwise + 9 + np.arange(3)), *(head + np.array([0, 3, 4]))]
    elif model is residual:
        down, up, out = gauge.offsets[[1, 2, 3]]
        in_edges = [*range(4), *(down + np.arange(3))]
        out_edges = [
            *(down + np.array([0, 4])),
            *(out + np.array([4, 7])),
            *(up + np.array([2, 6, 11])),
        ]
    else:
        feedback, out = gauge.offsets[[1, 2]]
        in_edges = [0, feedback + 1, feedback + 5]  # 0 from the input, 1 from 0, 2 from 1
        out_edges = [feedback + 2, out + 2, out + 5]
    return Skeleton(gauge, np.array(in_edges), np.array(out_edges), basis)

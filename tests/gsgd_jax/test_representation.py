"""The sum over all paths is the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsgd_jax import GROUND, Gauge, mlp_gauge
from gsgd_jax.representation import path_representation, sum_over_paths, unit_inputs
from tests.gsgd_jax.networks import VALLEY, apply, batch, perceptron

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize(("widths", "bias"), [([3, 4, 2], False), (VALLEY, True), ([4, 2], True)])
def test_sum_over_paths_is_the_networks_output(widths, bias):
    params, (x, _) = perceptron(widths, bias), batch(widths)
    gauge = mlp_gauge(params)
    parts = path_representation(params, gauge, x)
    np.testing.assert_allclose(sum_over_paths(parts), apply(params, x), rtol=1e-12, atol=1e-14)
    # Every unit and path is sometimes on and sometimes off, unless there are none.
    switched = np.asarray(parts.active)
    assert gauge.num_nodes == 0 or 0.05 < switched.mean() < 0.95


def test_rescaling_leaves_every_part_alone():
    params, (x, _) = perceptron(VALLEY, True), batch(VALLEY)
    gauge = mlp_gauge(params)
    moved = gauge.rescale(params, jax.random.key(0))
    one, two = (path_representation(p, gauge, x) for p in (params, moved))
    np.testing.assert_allclose(two.values, one.values, rtol=1e-11)
    np.testing.assert_array_equal(two.active, one.active)
    np.testing.assert_array_equal(two.features, one.features)


def test_gradient_of_the_output_with_respect_to_a_path_value_is_its_part():
    """While no unit switches, the output is linear in all path values."""
    params, (x, _) = perceptron([3, 4, 2], True), batch([3, 4, 2])
    parts = path_representation(params, mlp_gauge(params), x)

    def output(values):
        return sum_over_paths(parts._replace(values=values))[0, 1]

    slopes = jax.grad(output)(parts.values)
    expected = np.where(parts.active[0] & (parts.outputs == 1), parts.features[0], 0)
    np.testing.assert_allclose(slopes, expected, atol=1e-15)


def test_unit_inputs_are_those_of_the_layers():
    params, (x, _) = perceptron([3, 4, 5, 2], True), batch([3, 4, 5, 2])
    first = x @ params[0][0] + params[0][1][None]
    second = jax.nn.relu(first) @ params[1][0] + params[1][1][None]
    found = unit_inputs(params, mlp_gauge(params), x)
    np.testing.assert_allclose(found, jnp.concatenate([first, second], axis=1), rtol=1e-12)


def test_other_networks_are_refused():
    units = np.arange(2)
    ground = np.full((1, 1), GROUND)
    recurrent = Gauge(
        names=("in", "recurrent", "out"),
        shapes=((1, 2), (2, 2), (2, 1)),
        tails=(ground, units[:, None], units[:, None]),
        heads=(units[None], units[None], ground),
        num_nodes=2,
    )
    params = [jnp.ones(shape) for shape in recurrent.shapes]
    with pytest.raises(ValueError, match="nodes of this gauge feed themselves"):
        path_representation(params, recurrent, jnp.ones((1, 1)))
    conv = Gauge(("k",), ((3, 1, 1),), (np.full((1, 1, 1), -1),), (np.full((1, 1, 1), -1),), 0)
    with pytest.raises(ValueError, match="got k of shape"):
        path_representation([jnp.ones((3, 1, 1))], conv, jnp.ones((1, 1)))


def test_leaves_that_are_neither_kernel_nor_bias_are_refused():
    layers = perceptron([3, 4, 2], False)
    x = jnp.ones((1, 3))
    for extra in (jnp.ones([]), jnp.ones((1, 1, 1))):
        params = {"net": layers, "extra": extra}
        gauge = mlp_gauge(params, layers=["net/0", "net/1"])
        with pytest.raises(ValueError, match=r"got extra of shape .*; take `path_values`"):
            path_representation(params, gauge, x)

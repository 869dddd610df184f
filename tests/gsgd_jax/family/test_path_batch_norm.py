"""Path-BN: the trained part is normalised, the skeleton's passes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsgd_jax import choose_skeleton, find_gauge, mlp_gauge
from gsgd_jax.family import BatchStatistics, path_batch_norm, skeleton_masks

pytestmark = pytest.mark.usefixtures("x64")


def layer():
    draw = np.random.default_rng(0)
    h, weight = jnp.asarray(draw.normal(size=(32, 5))), jnp.asarray(draw.normal(size=(5, 4)))
    mask = np.zeros((5, 4), bool)
    mask[np.arange(4), np.arange(4)] = True
    return h, weight, mask, draw.normal(size=4), draw.normal(size=4)


def test_scale_of_the_trained_part_does_not_matter_and_the_skeleton_passes():
    """The defining property: scale and direction are decoupled, what is constant stays in place."""
    h, weight, mask, scale, shift = layer()
    options = {"scale": jnp.asarray(scale), "shift": jnp.asarray(shift), "epsilon": 0.0}
    y, _ = path_batch_norm(lambda w: h @ w, weight, mask, **options)
    larger, _ = path_batch_norm(
        lambda w: h @ w, jnp.where(mask, weight, 3 * weight), mask, **options
    )
    np.testing.assert_allclose(larger, y, rtol=1e-11, atol=1e-12)
    doubled, _ = path_batch_norm(
        lambda w: h @ w, jnp.where(mask, 2 * weight, weight), mask, **options
    )
    np.testing.assert_allclose(
        doubled - y, h @ jnp.where(mask, weight, 0.0), rtol=1e-10, atol=1e-12
    )
    # BatchNorm of the whole: a scaling of the trained part turns its output.
    none = np.zeros_like(mask)
    one, _ = path_batch_norm(lambda w: h @ w, weight, none, **options)
    two, _ = path_batch_norm(lambda w: h @ w, jnp.where(mask, weight, 3 * weight), none, **options)
    assert jnp.abs(one - two).max() > 0.1


def test_gradient_is_orthogonal_to_the_trained_part():
    h, weight, mask, *_ = layer()

    def output(weight):
        y, _ = path_batch_norm(lambda w: h @ w, weight, mask, epsilon=0.0)
        return jnp.sum(jnp.sin(3 * y))

    grads = jax.grad(output)(weight)
    along = jnp.sum(jnp.where(mask, 0.0, grads * weight), axis=0)
    np.testing.assert_allclose(along, 0, atol=1e-12)
    assert jnp.abs(grads).max() > 1e-2


@pytest.mark.usefixtures("standard_promotion")
def test_without_a_skeleton_it_is_batch_norm():
    h, weight, mask, scale, shift = layer()
    norm = nn.BatchNorm(use_running_average=False, epsilon=1e-3, dtype=jnp.float64)
    variables = {
        "params": {"scale": jnp.asarray(scale), "bias": jnp.asarray(shift)},
        "batch_stats": {"mean": jnp.zeros(4), "var": jnp.ones(4)},
    }
    expected, _ = norm.apply(variables, h @ weight, mutable=["batch_stats"])
    found, moments = path_batch_norm(
        lambda w: h @ w,
        weight,
        np.zeros_like(mask),
        scale=jnp.asarray(scale),
        shift=jnp.asarray(shift),
        epsilon=1e-3,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(moments.mean, (h @ weight).mean(0), rtol=1e-12)


def test_running_averages_are_used_when_given_and_dtypes_kept():
    h, weight, mask, *_ = layer()
    h, weight = h.astype(jnp.bfloat16), weight.astype(jnp.bfloat16)
    moments = BatchStatistics(jnp.ones(4, jnp.float32), jnp.full(4, 4.0, jnp.float32))
    y, used = path_batch_norm(lambda w: h @ w, weight, mask, statistics=moments, epsilon=0.0)
    zero, whole = jnp.zeros_like(weight), jnp.asarray(mask)
    trained = (h @ jnp.where(whole, zero, weight)).astype(jnp.float32)
    expected = (trained - 1) / 2 + (h @ jnp.where(whole, weight, zero)).astype(jnp.float32)
    np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=1e-2, atol=1e-2)
    assert (y.dtype, used) == (jnp.bfloat16, moments)


def test_convolutions_and_masks_of_a_skeleton():
    """A whole layer of a network, its skeleton found; every channel keeps one entry at least."""

    def network(params, x):
        for i, kernel in enumerate(params):
            x = convolve(jax.nn.relu(x) if i else x, kernel)
        return x

    draw = np.random.default_rng(1)
    params = [jnp.asarray(draw.normal(size=s)) for s in ((3, 3, 2, 3), (3, 3, 3, 3), (1, 1, 3, 2))]
    x = jnp.asarray(draw.normal(size=(4, 5, 5, 2)))
    skeleton = choose_skeleton(find_gauge(network, params, x), params, basis="paths")
    masks = skeleton_masks(params, skeleton)
    assert [int(mask.sum()) for mask in masks] == [3, 3, 3]
    y, moments = path_batch_norm(lambda w: convolve(x, w), params[0], masks[0], epsilon=0.0)
    rest = y - convolve(x, jnp.where(masks[0], params[0], 0.0))
    np.testing.assert_allclose(rest.mean((0, 1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(jnp.mean(rest**2, (0, 1, 2)), 1, rtol=1e-10)
    assert moments.mean.shape == (3,)
    with pytest.raises(ValueError, match="the tree must have the leaves"):
        skeleton_masks(
            params[:2],
            choose_skeleton(mlp_gauge([jnp.ones((2, 2))]), [jnp.ones((2, 2))], basis="paths"),
        )


def convolve(x, kernel):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions)

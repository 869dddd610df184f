"""Traversal, exchange and saliency against models whose latents are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lacim_jax import (
    MLP,
    DomainHeads,
    LaCIM,
    MLPDecoder,
    MLPEncoder,
    active_dims,
    exchange,
    gaussian_likelihood,
    saliency,
    saliency_of,
    traverse,
)
from tests.compiled import compiled_quickly

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def linear():
    """Two pixels of one channel: the encoder's s is the first, v the second; decoding undoes it."""
    model = LaCIM(
        MLPEncoder(()),
        MLPDecoder((2, 1), widths=()),
        MLP((2,)),
        num_domains=2,
        s_dim=1,
        v_dim=1,
        likelihood=gaussian_likelihood(1.0),
        posterior=DomainHeads(),
    )
    images = jax.random.uniform(KEY, (5, 2, 1)) + 0.5  # positive: ReLU passes them
    params = compiled_quickly(model.init)(KEY, images, jnp.zeros(5, jnp.int32))["params"]
    params = jax.tree.map(jnp.zeros_like, params)
    kernel = np.zeros((2, 2, 4), np.float32)
    kernel[0, :, 0] = 2.0  # s is twice the first pixel, in both domains
    kernel[1, 0, 1], kernel[1, 1, 1] = 1.0, 3.0  # v the second, twice on average
    params["posterior"]["heads"]["kernel"] = jnp.asarray(kernel)
    params["decoder"]["MLP_0"]["Dense_0"]["kernel"] = jnp.diag(jnp.asarray([0.5, 0.5]))
    return model, {"params": params}, images


def test_one_latent_moves_and_its_pixel_with_it(linear):
    model, variables, _ = linear
    values = jnp.asarray([[0.0, 1.0, 2.0], [4.0, 5.0, 6.0]])
    found = traverse(model, variables, jnp.asarray([8.0, 10.0]), jnp.asarray([0, 1]), values)
    assert found.shape == (2, 3, 2, 1)
    np.testing.assert_allclose(found[0, :, :, 0], [[0.0, 5.0], [0.5, 5.0], [1.0, 5.0]])
    np.testing.assert_allclose(found[1, :, :, 0], [[4.0, 2.0], [4.0, 2.5], [4.0, 3.0]])


def test_latents_that_there_are_not_are_refused(linear):
    model, variables, _ = linear
    values, latents = jnp.zeros((1, 3)), jnp.asarray([8.0, 10.0])
    for dim in (2, -1):
        with pytest.raises(ValueError, match=rf"v_dim - 1 = 1, got {dim} to {dim}; those of s"):
            traverse(model, variables, latents, jnp.asarray([dim]), values)
    with pytest.raises(ValueError, match=r"s_dim \+ v_dim = 2 of one image, got 3"):
        traverse(model, variables, jnp.zeros(3), jnp.asarray([0]), values)


def test_saliency_takes_images_of_the_model_and_two_at_least(linear):
    model, variables, images = linear
    with pytest.raises(ValueError, match=r"at least two images, .* got 1; .*saliency_of"):
        saliency(model, variables, images[:1])
    with pytest.raises(ValueError, match="must be finite"):
        saliency(model, variables, images.at[0].set(jnp.nan))
    traced = jax.jit(lambda x: saliency(model, variables, x).s)(images)
    np.testing.assert_allclose(traced, saliency(model, variables, images).s, rtol=1e-5)


def test_every_s_meets_every_v(linear):
    model, variables, _ = linear
    latents = jnp.asarray([[2.0, 20.0], [4.0, 40.0]])
    found = exchange(model, variables, latents)[..., 0]
    np.testing.assert_allclose(found[0], [[1.0, 10.0], [1.0, 20.0]])
    np.testing.assert_allclose(found[1], [[2.0, 10.0], [2.0, 20.0]])


def test_s_is_seen_in_its_pixel_and_v_in_its(linear):
    model, variables, images = linear
    maps = saliency(model, variables, images)
    spread = np.asarray(2 * images[..., 0]).std(axis=0)
    np.testing.assert_allclose(maps.s, np.tile([[2 / spread[0], 0.0]], (5, 1)), rtol=1e-4)
    np.testing.assert_allclose(maps.v, np.tile([[0.0, 2 / spread[1]]], (5, 1)), rtol=1e-4)


def test_the_map_is_the_jacobians():
    weights = jax.random.normal(KEY, (3 * 2 * 2, 4))
    images = jax.random.normal(jax.random.key(1), (2, 3, 2, 2))
    found = saliency_of(lambda x: jnp.tanh(x.reshape(len(x), -1) @ weights), images)
    inner = np.asarray(images).reshape(2, -1) @ np.asarray(weights)
    jacobian = np.asarray(weights)[None] * (1 - np.tanh(inner) ** 2)[:, None]
    due = np.sqrt((jacobian.reshape(2, 3, 2, 2, 4) ** 2).sum((-1, -2)))
    np.testing.assert_allclose(found, due, rtol=1e-5)


def test_the_most_active_come_first():
    kl = jnp.asarray([[0.1, 2.0, 1.0, 0.0, 5.0], [0.1, 2.0, 1.0, 0.0, 3.0]])
    s, v = active_dims(kl, s_dim=3, count=2)
    np.testing.assert_array_equal(s, [1, 2])
    np.testing.assert_array_equal(v, [4, 3])

"""Pixels: scaling and standardisation against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.data import PixelStatistics, as_float, pixel_statistics, pooled, standardise

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3), dtype=np.uint8)
IMAGES[..., 1] //= 3


def test_as_float():
    scaled = as_float(IMAGES)
    assert scaled.dtype == jnp.float32
    np.testing.assert_allclose(scaled, IMAGES / 255.0, rtol=1e-6)
    assert as_float(np.array([0, 255], np.uint8)).tolist() == [0.0, 1.0]
    assert as_float(IMAGES, dtype=jnp.bfloat16).dtype == jnp.bfloat16


def test_statistics_are_exact():
    scaled = IMAGES / 255.0
    statistics = pixel_statistics(IMAGES)
    np.testing.assert_allclose(statistics.mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-14)
    np.testing.assert_allclose(statistics.sd, scaled.std(axis=(0, 1, 2)), rtol=1e-14)


def test_standardised_images_have_mean_zero_and_deviation_one():
    images = np.asarray(standardise(IMAGES, pixel_statistics(IMAGES)), np.float64)
    np.testing.assert_allclose(images.mean(axis=(0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(images.std(axis=(0, 1, 2)), 1, rtol=1e-6)


def test_standardise_uses_the_statistics_given():
    statistics = PixelStatistics(np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 4.0]))
    expected = (IMAGES / 255.0 - statistics.mean) / statistics.sd
    np.testing.assert_allclose(standardise(IMAGES, statistics), expected, atol=1e-6)
    one = standardise(IMAGES[0, 0, 0], statistics)  # any number of leading axes
    np.testing.assert_allclose(one, expected[0, 0, 0], atol=1e-6)


def test_standardise_inside_jit():
    statistics = pixel_statistics(IMAGES)
    jitted = jax.jit(lambda images: standardise(images, statistics))(IMAGES)
    np.testing.assert_allclose(jitted, standardise(IMAGES, statistics), atol=1e-6)


def test_float64(x64):
    scaled = standardise(IMAGES, pixel_statistics(IMAGES), dtype=jnp.float64)
    assert scaled.dtype == jnp.float64
    np.testing.assert_allclose(np.asarray(scaled).std(axis=(0, 1, 2)), 1, rtol=1e-12)


def test_refuses_pixels_that_are_scaled_already():
    with pytest.raises(TypeError, match="uint8, 0 to 255, got float32"):
        as_float(np.ones(3, np.float32))
    with pytest.raises(TypeError, match="got float64"):
        pixel_statistics(IMAGES / 255)


def test_refuses_a_constant_channel():
    images = IMAGES.copy()
    images[..., 2] = 9
    with pytest.raises(ValueError, match="channel 2 is constant"):
        pixel_statistics(images)


def test_squares_are_averaged():
    images = as_float(IMAGES[:, :, :4])
    reduced = pooled(images, 2)
    assert reduced.shape == (7, 2, 2, 3)
    np.testing.assert_allclose(reduced[3, 1, 0, 2], images[3, 2:, :2, 2].mean(), rtol=1e-6)
    np.testing.assert_array_equal(pooled(images, 1), images)


@pytest.mark.parametrize("side", [0, 3])
def test_squares_that_do_not_fit_are_refused(side):
    with pytest.raises(ValueError, match=f"got {side} for images of 4x5"):
        pooled(as_float(IMAGES), side)

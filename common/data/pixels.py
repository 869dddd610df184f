"""From stored pixels to the input of a network."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.typing
import numpy as np


def as_float(
    images: jax.typing.ArrayLike, *, dtype: jax.typing.DTypeLike = jnp.float32
) -> jax.Array:
    """Pixels between 0 and 1.

    Args:
        images: uint8, any shape.
        dtype: a floating-point dtype.

    Returns:
        `images / 255` on the device, of the same shape.

    Raises:
        TypeError: if the images are not uint8: they may be scaled already.

    Example:
        >>> as_float(np.array([0, 255], np.uint8))
        Array([0., 1.], dtype=float32)
    """
    images = jnp.asarray(images)
    if images.dtype != jnp.uint8:
        raise TypeError(f"stored pixels are uint8, 0 to 255, got {images.dtype}.")
    return images.astype(dtype) / jnp.asarray(255, dtype)


def pooled(images: jax.Array, side: int) -> jax.Array:
    """Smaller images, each pixel the average over a square.

    Args:
        images: floating-point, [n, height, width, channels].
        side: of the squares; it divides height and width.

    Returns:
        [n, height / side, width / side, channels].

    Raises:
        ValueError: if it does not divide them.

    Example:
        >>> pooled(jnp.arange(4.0).reshape(1, 2, 2, 1), 2)
        Array([[[[1.5]]]], dtype=float32)
    """
    n, height, width, channels = images.shape
    if side < 1 or height % side or width % side:
        raise ValueError(
            f"the side of the squares must divide height and width, got {side} for images of "
            f"{height}x{width}."
        )
    squares = images.reshape(n, height // side, side, width // side, side, channels)
    return squares.mean(axis=(2, 4))


class PixelStatistics(NamedTuple):
    """Mean and standard deviation of each channel over all pixels of all images."""

    mean: np.ndarray
    """Of pixels between 0 and 1; float64, [channels]."""
    sd: np.ndarray
    """Of pixels between 0 and 1, with divisor n; float64, [channels]."""


def pixel_statistics(images: np.ndarray) -> PixelStatistics:
    """Exact channel statistics, to be taken from the train split and used on every split.

    Args:
        images: uint8, [n, height, width, channels].

    Returns:
        Mean and standard deviation of pixels scaled to lie between 0 and 1.

    Raises:
        TypeError: if the images are not uint8.
        ValueError: if a channel is constant, and so cannot be standardised.
    """
    if images.dtype != np.uint8:
        raise TypeError(f"stored pixels are uint8, 0 to 255, got {images.dtype}.")
    levels = np.arange(256)
    means, sds = [], []
    for channel in range(images.shape[-1]):
        # From whole-number counts: exact, and no copy of the data as floats.
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        mean = (counts * levels).sum() / counts.sum()
        means.append(mean)
        sds.append(np.sqrt((counts * (levels - mean) ** 2).sum() / counts.sum()))
    if min(sds) == 0:
        raise ValueError(
            f"channel {int(np.argmin(sds))} is constant and cannot be standardised: leave it out, "
            "or use as_float."
        )
    return PixelStatistics(np.array(means) / 255, np.array(sds) / 255)


def standardise(
    images: jax.typing.ArrayLike,
    statistics: PixelStatistics,
    *,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
    """Pixels with mean 0 and standard deviation 1 in each channel, where the statistics are theirs.

    Args:
        images: uint8, [..., channels].
        statistics: of the train split, whichever split the images are of.
        dtype: a floating-point dtype.

    Returns:
        `(images / 255 - mean) / sd` on the device, of the same shape.
    """
    scaled = as_float(images, dtype=dtype)
    shape = (1,) * (scaled.ndim - 1) + (-1,)
    mean, sd = (jnp.asarray(s, dtype).reshape(shape) for s in statistics)
    return (scaled - mean) / sd

"""Digits turned by several angles: domains that differ in style and not in the label's meaning."""

from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image

from common.data import Dataset, DomainDataset, from_domains
from common.seeds import host_generator


def rotated_digits(
    key: jax.Array, dataset: Dataset, *, angles: Sequence[float] = (0.0, 30.0, 60.0, 90.0)
) -> DomainDataset:
    """Turns every image by one of several angles, as many images by each.

    Unlike colour in `colored_domains`, the angle says nothing about the label: the shift is one of
    diversity and not of correlation.

    Args:
        key: which image gets which angle; a typed PRNG key, scalar.
        dataset: images uint8 [n, height, width, channels].
        angles: in degrees, anticlockwise; one per domain, which is named after it.

    Returns:
        The images in their old order, turned with bilinear interpolation: what leaves the frame is
        cut off, and empty corners are black.

    Raises:
        ValueError: if there are fewer images than angles, or no angle.

    Example:
        >>> from common.data import load
        >>> rotated_digits(jax.random.key(0), load("digits8x8", "test")).domain_names
        ('0 degrees', '30 degrees', '60 degrees', '90 degrees')

    References:
        Ghifary et al., *Domain generalization for object recognition with multi-task autoencoders*,
        2015, for Rotated MNIST.
    """
    size = len(dataset.labels)
    if not 1 <= len(angles) <= size:
        raise ValueError(
            f"angles must be at least one and at most one per image, {size}, got {len(angles)}."
        )
    domains = host_generator(key).permutation(np.arange(size) % len(angles))
    turned = [
        _turned(image, angles[domain])
        for image, domain in zip(dataset.images, domains, strict=True)
    ]
    return from_domains(
        np.stack(turned),
        dataset.labels,
        domains,
        class_names=[str(label) for label in range(dataset.num_classes)],
        domain_names=[f"{angle:g} degrees" for angle in angles],
        name=f"{dataset.name}, rotated",
    )


def _turned(image: np.ndarray, angle: float) -> np.ndarray:
    """One image [height, width, channels], channel by channel."""
    channels = [
        Image.fromarray(channel).rotate(angle, Image.Resampling.BILINEAR)
        for channel in np.moveaxis(image, -1, 0)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)

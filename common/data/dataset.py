"""A data set in memory: all images and labels of one split."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Dataset(NamedTuple):
    """Images with one label each."""

    images: np.ndarray
    """uint8, [n, height, width, channels], 0 to 255."""
    labels: np.ndarray
    """int32, [n], 0 to num_classes - 1."""
    num_classes: int
    name: str
    """Where it came from, as "mnist5k/train": for messages and records."""


def from_arrays(
    images: np.ndarray, labels: np.ndarray, *, num_classes: int, name: str = "arrays"
) -> Dataset:
    """A data set made of arrays, after checking that they fit together.

    Args:
        images: uint8, [n, height, width] or [n, height, width, channels], n at least 1.
        labels: any integers, [n], from 0 to num_classes - 1.
        num_classes: how many classes there are; at least 1, whether or not each has an image.
        name: for messages and records.

    Returns:
        The data set, its images [n, height, width, channels] and its labels int32.

    Raises:
        TypeError: if the images are not uint8 or the labels are not integers.
        ValueError: if shapes do not fit, there is no image, or a label is out of range.

    Example:
        >>> from_arrays(np.zeros((2, 8, 8), np.uint8), np.array([0, 1]), num_classes=2).images.shape
        (2, 8, 8, 1)
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8:
        raise TypeError(
            f"images of {name} must be uint8 (0 to 255), got {images.dtype}: scale them to whole "
            "numbers first, or keep floating-point images beside the labels as plain arrays."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels of {name} must be integers, got {labels.dtype}.")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise ValueError(
            f"images of {name} must have shape [n, height, width, channels], got {images.shape}."
        )
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"{name} must have one label per image, [n] = [{len(images)}], got {labels.shape}: "
            "pass those of these images."
        )
    if images.size == 0:
        raise ValueError(
            f"{name} must hold at least one pixel, got shape {images.shape}: "
            "ask for another part of the data."
        )
    if num_classes < 1:
        raise ValueError(f"num_classes of {name} must be at least 1, got {num_classes}.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        unlabelled = " A label of -1 marks a split without labels." if low == -1 else ""
        raise ValueError(
            f"labels of {name} must lie between 0 and num_classes - 1 = {num_classes - 1}, "
            f"got {low} to {high}: renumber the classes, or name more of them.{unlabelled}"
        )
    return Dataset(images, labels.astype(np.int32), int(num_classes), name)


def check_finite(data: Any) -> None:
    """Refuses data with NaN or infinity in them; to be called once, before training.

    Args:
        data: a pytree of arrays [n, ...]; floating-point ones are checked where they are, on the
            device or on the host.

    Raises:
        ValueError: if a number is not finite; it names the array and the first such example.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        # On an accelerator the data are not copied to the host; on CPU NumPy needs no compilation.
        here = isinstance(leaf, np.ndarray) or jax.default_backend() == "cpu"
        numpy: Any = np if here else jnp
        finite = numpy.isfinite(np.asarray(leaf) if here else leaf)
        if not finite.all():
            faults = ~np.asarray(finite).reshape(len(leaf), -1).all(axis=1)
            raise ValueError(
                f"data must be finite, got NaN or infinity in {int(faults.sum())} of {len(leaf)} "
                f"examples, number {int(faults.argmax())} the first, of the array "
                f"data{jax.tree_util.keystr(path)}; leave such examples out."
            )

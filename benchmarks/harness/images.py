"""Images of a data set on the device: split, standardised and reduced, the same for all runs."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.data import (
    Dataset,
    PixelStatistics,
    epoch_order,
    load,
    pixel_statistics,
    pooled,
    standardise,
    take,
    train_validation_split,
)
from common.seeds import streams

Part = tuple[jax.Array, jax.Array]
"""Standardised images and their labels, on the device."""


class Images(NamedTuple):
    """The three parts of a data set."""

    train: Part
    validation: Part
    test: Part
    num_classes: int
    statistics: PixelStatistics


def load_images(
    data: str, data_dir: Path | None, *, validation: float, train_size: int | None = None,
    test_size: int | None = None, pool: int = 1, test_split: str = "test",
) -> Images:  # fmt: skip
    """Loads a data set; splits and choices of images are the same for all seeds and methods.

    Args:
        data: its name.
        data_dir: where prepared data sets lie.
        validation: share of the training images that is held out.
        train_size: images trained on; None for all that are not held out.
        test_size: images tested on, and at most so many validated on; None for all.
        pool: images are reduced by averaging over squares of this side.
        test_split: what is tested on.
    """
    key = streams(0).data
    whole = load(data, "train", data_dir=data_dir)
    train, held_out = train_validation_split(whole, key, fraction=validation)
    test = load(data, test_split, data_dir=data_dir)
    if train_size is not None:
        train = take(train, train_size, key=key)
    if test_size is not None:
        held_out, test = (
            take(part, min(test_size, len(part.labels)), key=key) for part in (held_out, test)
        )
    statistics = pixel_statistics(train.images)

    def prepared(part: Dataset) -> Part:
        images = standardise(part.images, statistics)
        return pooled(images, pool) if pool > 1 else images, jnp.asarray(part.labels)

    parts = [prepared(part) for part in (train, held_out, test)]
    return Images(parts[0], parts[1], parts[2], whole.num_classes, statistics)


def rows_in_order(key: jax.Array, num_images: int, count: int) -> np.ndarray:
    """The first `count` rows that training reads, epoch after epoch, each in its own order."""
    epochs = range(-(-count // num_images))
    return np.concatenate([epoch_order(key, num_images, epoch=e) for e in epochs])[:count]

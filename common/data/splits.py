"""Stratified parts of a data set, drawn from a key."""

import jax
import numpy as np

from common.data.dataset import Dataset
from common.seeds import host_generator


def train_validation_split(
    dataset: Dataset, key: jax.Array, *, fraction: float = 0.1
) -> tuple[Dataset, Dataset]:
    """Two disjoint parts that together are the whole, with the same shares of the classes.

    The validation part has `round(fraction * n)` images. Of a class with n_c images it gets
    `fraction * n_c`, rounded down or up.

    Args:
        dataset: what to split.
        key: a typed PRNG key, scalar, for instance the stream `data` of `common.seeds`.
        fraction: share of the validation part, above 0 and below 1.

    Returns:
        (train, validation), each in the order of `dataset`.

    Raises:
        ValueError: if either part would be empty.

    Example:
        >>> from common.data import load
        >>> whole = load("digits8x8", "train")
        >>> train, validation = train_validation_split(whole, jax.random.key(0), fraction=0.25)
        >>> len(train.images), len(validation.images)
        (1082, 360)
    """
    size = len(dataset.images)
    wanted = round(fraction * size) if 0 < fraction < 1 else 0
    if not 0 < wanted < size:
        raise ValueError(
            "fraction must lie between 0 and 1 and leave both parts an image, got "
            f"{fraction} of {size} images."
        )
    chosen = _stratified_choice(dataset, wanted, key)
    return _part(dataset, ~chosen, "train part"), _part(dataset, chosen, "validation part")


def take(dataset: Dataset, size: int, *, key: jax.Array) -> Dataset:
    """A random part of `size` images with the same shares of the classes.

    Args:
        dataset: what to take from.
        size: images to take, from 1 to all. Of a class with n_c of n images it takes
            `size * n_c / n`, rounded down or up.
        key: a typed PRNG key, scalar.

    Returns:
        The part, in the order of `dataset`.

    Raises:
        ValueError: if there are not so many images.
    """
    if not 1 <= size <= len(dataset.images):
        raise ValueError(
            f"size must lie between 1 and the {len(dataset.images)} images of {dataset.name}, "
            f"got {size}."
        )
    return _part(dataset, _stratified_choice(dataset, size, key), f"{size} images")


def _part(dataset: Dataset, chosen: np.ndarray, name: str) -> Dataset:
    """The chosen examples, bool [n], in their old order."""
    return dataset._replace(
        images=dataset.images[chosen],
        labels=dataset.labels[chosen],
        name=f"{dataset.name} ({name})",
    )


def _stratified_choice(dataset: Dataset, size: int, key: jax.Array) -> np.ndarray:
    """Which images to choose; bool, [n]."""
    counts = np.bincount(dataset.labels, minlength=dataset.num_classes)
    quotas = size * counts
    shares = quotas // counts.sum()
    # The largest remainder method: images left over go to the classes whose quota was rounded down
    # most; of equal ones, to the class that comes first.
    by_remainder = np.argsort(-(quotas % counts.sum()), kind="stable")
    shares[by_remainder[: size - shares.sum()]] += 1

    generator = host_generator(key)
    chosen = np.zeros(len(dataset.labels), bool)
    for label, share in enumerate(shares):
        members = generator.permutation(np.flatnonzero(dataset.labels == label))
        chosen[members[:share]] = True
    return chosen

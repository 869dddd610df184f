"""Data sets of several domains: which image is of which domain, and splits that leave one out."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from common.data.stored import read_arrays
from common.seeds import host_generator


class DomainDataset(NamedTuple):
    """Images with a label and a domain each."""

    images: np.ndarray
    """[n, ...]: uint8 [n, height, width, channels], or floating-point of any shape."""
    labels: np.ndarray
    """int32, [n], 0 to len(class_names) - 1."""
    domains: np.ndarray
    """int32, [n], 0 to len(domain_names) - 1."""
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...]
    name: str
    """Where it came from: for messages and records."""


class DomainSplit(NamedTuple):
    """Training domains, with validation images of their own, and the domain that was left out."""

    train: DomainDataset
    """Domains renumbered from 0 without the one left out, in the old order."""
    validation: DomainDataset
    """Other images of the same domains."""
    test: DomainDataset
    """One domain, its index that after the last training domain's."""


def from_domains(
    images: np.ndarray,
    labels: np.ndarray,
    domains: np.ndarray,
    *,
    class_names: Sequence[str],
    domain_names: Sequence[str],
    name: str = "arrays",
) -> DomainDataset:
    """A data set made of arrays, after checking that they fit together.

    Args:
        images: [n, ...], n at least 1; uint8 or floating-point and finite.
        labels: any integers, [n], from 0 to len(class_names) - 1.
        domains: any integers, [n], from 0 to len(domain_names) - 1.
        class_names: one per class.
        domain_names: one per domain.
        name: for messages and records.

    Raises:
        TypeError: if a dtype does not suit.
        ValueError: if lengths differ, there is no image, a pixel is not finite, or a label or a
            domain has no name.

    Example:
        >>> from_domains(
        ...     np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 1]), np.array([1, 0]),
        ...     class_names=["cat", "dog"], domain_names=["photo", "sketch"],
        ... ).labels.dtype
        dtype('int32')
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise TypeError(
            f"images of {name} must be uint8 or floating-point, got {images.dtype}; convert them."
        )
    if images.ndim < 2 or images.size == 0:
        raise ValueError(f"{name} must hold at least one pixel, got shape {images.shape}.")
    if images.dtype != np.uint8 and not np.isfinite(images).all():
        raise ValueError(f"images of {name} hold NaN or infinity; leave such images out.")
    columns = []
    for kind, column, names in (
        ("labels", labels, class_names),
        ("domains", domains, domain_names),
    ):
        column = np.asarray(column)
        if not np.issubdtype(column.dtype, np.integer):
            raise TypeError(f"{kind} of {name} must be integers, got {column.dtype}.")
        if column.shape != images.shape[:1]:
            raise ValueError(
                f"{kind} of {name} must be one per image, [{len(images)}], got {column.shape}."
            )
        low, high = int(column.min()), int(column.max())
        if low < 0 or high >= len(names):
            raise ValueError(
                f"{kind} of {name} must lie between 0 and {len(names) - 1}, one for each of the "
                f"{len(names)} names, got {low} to {high}."
            )
        columns.append(column.astype(np.int32))
    return DomainDataset(
        images, columns[0], columns[1], tuple(class_names), tuple(domain_names), name
    )


def read_npz(path: Path | str) -> DomainDataset:
    """Reads a data set from one NumPy file.

    Args:
        path: an .npz with the arrays images, labels, domains, class_names and domain_names, as
            `from_domains` takes them. Nothing in it is executed: pickled objects are refused.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or holds pickled objects, an array is missing, or the arrays do
            not fit together.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"no data set at {path}; make one with numpy.savez(path, images=..., labels=..., "
            "domains=..., class_names=..., domain_names=...)."
        )
    arrays = read_arrays(path)
    wanted = ("images", "labels", "domains", "class_names", "domain_names")
    missing = [key for key in wanted if key not in arrays]
    if missing:
        raise ValueError(f"{path} lacks the arrays {', '.join(missing)}; it has {sorted(arrays)}.")
    images, labels, domains, classes, names = (arrays[key] for key in wanted)
    return from_domains(
        images,
        labels,
        domains,
        class_names=classes.tolist(),
        domain_names=names.tolist(),
        name=path.stem,
    )


def leave_one_out(
    dataset: DomainDataset, held_out: str, key: jax.Array, *, validation_fraction: float = 0.1
) -> DomainSplit:
    """All domains but one for training and validation, and that one for testing.

    Args:
        dataset: of two domains at least.
        held_out: the name of the domain to leave out.
        key: a typed PRNG key, scalar, for instance the stream `data` of `common.seeds`.
        validation_fraction: share of each training domain's images of each class that is held out,
            rounded down; at least 0 and below 1.

    Returns:
        The three parts, each in the order of `dataset`.

    Raises:
        ValueError: if there is no such domain, it is the only one, it or all others have no image,
            or the fraction is out of range.

    Example:
        >>> data = from_domains(
        ...     np.zeros((6, 2, 2, 1), np.uint8),
        ...     labels=np.array([0, 1, 0, 1, 0, 1]),
        ...     domains=np.array([0, 0, 1, 1, 2, 2]),
        ...     class_names=["cat", "dog"], domain_names=["art", "photo", "sketch"],
        ... )
        >>> parts = leave_one_out(data, "photo", jax.random.key(0))
        >>> parts.train.domains, parts.test.domains, parts.train.domain_names
        (array([0, 0, 1, 1], dtype=int32), array([2, 2], dtype=int32), ('art', 'sketch', 'photo'))
    """
    names = dataset.domain_names
    if held_out not in names:
        raise ValueError(f"{dataset.name} has no domain {held_out!r}; it has {', '.join(names)}.")
    if len(names) < 2:
        raise ValueError(f"{dataset.name} has one domain only: nothing is left to train on.")
    if not 0 <= validation_fraction < 1:
        raise ValueError(
            f"validation_fraction must be at least 0 and below 1, got {validation_fraction}."
        )
    others = [name for name in names if name != held_out]
    order = np.asarray([[*others, held_out].index(name) for name in names], np.int32)
    renumbered = dataset._replace(domains=order[dataset.domains], domain_names=(*others, held_out))
    test = renumbered.domains == len(others)
    if test.all() or not test.any():
        where = "only" if test.all() else "none"
        raise ValueError(
            f"both the domain left out and the others need images, but of {dataset.name} {where} "
            f"are of {held_out!r}; leave another domain out, or add images."
        )
    # The same share of each class in each training domain: both parts have one distribution.
    generator = host_generator(key)
    validation = np.zeros(len(test), bool)
    for domain in range(len(others)):
        for label in range(len(dataset.class_names)):
            members = np.flatnonzero((renumbered.domains == domain) & (dataset.labels == label))
            # A product that is whole but for rounding is whole.
            share = math.floor(validation_fraction * len(members) + 1e-9)
            validation[generator.permutation(members)[:share]] = True
    return DomainSplit(
        train=_part(renumbered, ~test & ~validation, f"without {held_out}"),
        validation=_part(renumbered, validation, f"without {held_out}, validation"),
        test=_part(renumbered, test, held_out),
    )


def _part(dataset: DomainDataset, chosen: np.ndarray, name: str) -> DomainDataset:
    """The chosen examples, bool [n], in their old order."""
    return dataset._replace(
        images=dataset.images[chosen],
        labels=dataset.labels[chosen],
        domains=dataset.domains[chosen],
        name=f"{dataset.name} ({name})",
    )

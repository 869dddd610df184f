"""Minibatches as permutations of indices: the same key gives the same order, whatever the data."""

from collections.abc import Iterator
from typing import TypeVar

import chex
import jax
import numpy as np

Data = TypeVar("Data", bound=chex.ArrayTree)


def epoch_order(key: jax.Array, size: int, *, epoch: int) -> np.ndarray:
    """The order in which one epoch visits the examples.

    It is the order of `common.training.fit`, so that a loop written by hand can follow it.

    Args:
        key: a typed PRNG key, scalar: the stream `order` of `common.seeds`.
        size: how many examples there are.
        epoch: counted from 0.

    Returns:
        A permutation of 0 to size - 1; int32, [size].
    """
    return np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), size))


def batches(
    data: Data,
    batch_size: int,
    *,
    key: jax.Array | None,
    epochs: int = 1,
    drop_remainder: bool = True,
) -> Iterator[Data]:
    """Iterates over minibatches of any pytree of arrays.

    Args:
        data: NumPy or JAX arrays that share their leading axis, [n, ...]: for a `Dataset` pass
            `(dataset.images, dataset.labels)`.
        batch_size: examples per batch.
        key: a typed PRNG key, scalar; each epoch is a fresh permutation, `epoch_order`. None
            for the stored order, in every epoch.
        epochs: passes over the data.
        drop_remainder: whether to leave out an epoch's last batch where it is short.

    Returns:
        An iterator over pytrees like `data`, with leading axis [batch_size].

    Raises:
        ValueError: if the leading axes differ, or the batch size does not fit the data.

    Example:
        >>> [b.tolist() for b in batches(np.arange(5), 2, key=None, drop_remainder=False)]
        [[0, 1], [2, 3], [4]]
    """
    size = leading_axis(data)
    if not 1 <= batch_size <= size:
        raise ValueError(
            f"batch_size must lie between 1 and the {size} examples there are, got {batch_size}: "
            "take smaller batches."
        )
    stop = size - size % batch_size if drop_remainder else size

    def iterate() -> Iterator[Data]:
        for epoch in range(epochs):
            order = np.arange(size) if key is None else epoch_order(key, size, epoch=epoch)
            for start in range(0, stop, batch_size):
                rows = order[start : start + batch_size]  # of every array alike
                yield jax.tree.map(lambda leaf, rows=rows: leaf[rows], data)

    return iterate()


def leading_axis(data: chex.ArrayTree) -> int:
    """How many examples there are.

    Args:
        data: a pytree of arrays [n, ...].

    Returns:
        n.

    Raises:
        ValueError: if there is no array, one is a scalar, or the leading axes differ.
    """
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(data)]
    sizes = {shape[0] for shape in shapes if shape}
    if len(sizes) != 1 or () in shapes:
        raise ValueError(
            "all arrays of the data must share their leading axis, one entry per example, got "
            f"shapes {shapes}."
        )
    (size,) = sizes
    return size

"""Vectors over nodes, kept as one array a block: the channels of a layer, as its leaves meet them.

One array over all nodes would be cut into slices by every leaf, each at another place, and so no
two layers would ask for the same operations. By blocks they do, and a compiler that knows a program
again, as XLA on CPU does, makes it once for all layers of one shape. Ground is in no block; who
reads a vector says what stands there.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gsgd_jax.gauge import GROUND, Gauge
from gsgd_jax.nodes import entries, take

Nodes = list[jax.Array]
"""A number for every node: shape [nodes of the block] each."""


def block_bounds(gauge: Gauge) -> np.ndarray:
    """Where blocks begin, and the last ends: wherever the consecutive nodes of some leaf do.

    Args:
        gauge: the graph.

    Returns:
        Integer [num_blocks + 1], from 0 to num_nodes.
    """
    cuts = [0, gauge.num_nodes]
    for ids in (*gauge.tails, *gauge.heads):
        flat = ids.ravel()
        if flat.size and flat[0] != GROUND and (np.diff(flat) == 1).all():
            cuts += [int(flat[0]), int(flat[-1]) + 1]
    return np.unique(cuts)


def each(function: Callable[..., jax.Array], *vectors: Nodes) -> Nodes:
    """A function of every block.

    Args:
        function: of one block of each vector.
        *vectors: with the same blocks.
    """
    return [function(*blocks) for blocks in zip(*vectors, strict=True)]


def product(one: jax.Array, other: jax.Array) -> jax.Array:
    """For `each`.

    Args:
        one: a block.
        other: a block.
    """
    return one * other


def inverse(block: jax.Array) -> jax.Array:
    """For `each`.

    Args:
        block: without zeros.
    """
    return 1 / block


def gather(
    leaves: Sequence[jax.Array],
    edges: np.ndarray,
    gauge: Gauge,
    bounds: np.ndarray,
    dtype: np.dtype,
) -> Nodes:
    """The entries of the given numbers, one a node.

    Args:
        leaves: of the parameter tree, or of one like it.
        edges: for every node the number of an entry, integer [num_nodes].
        gauge: numbers the entries.
        bounds: of the blocks.
        dtype: of the result.
    """
    owners = np.searchsorted(gauge.offsets, edges, side="right") - 1
    found = []
    for low, high in itertools.pairwise(bounds):
        parts, places = [], []
        for i in np.unique(owners[low:high]).tolist():
            nodes = np.flatnonzero(owners[low:high] == i)
            local = edges[low:high][nodes] - gauge.offsets[i]
            parts.append(entries(leaves[i], local).astype(dtype))
            places.append(nodes)
        joined = parts[0] if len(parts) == 1 else jnp.concatenate(parts)
        found.append(take(joined, np.argsort(np.concatenate(places))))
    return found


def pick(vectors: Nodes, ids: np.ndarray, bounds: np.ndarray, *, ground: float) -> jax.Array:
    """The numbers of the given nodes.

    Args:
        vectors: by blocks.
        ids: integers in 0 ... num_nodes, the last being ground, shape [*s].
        bounds: of the blocks.
        ground: what stands at ground.

    Returns:
        Shape [*s].
    """
    flat = ids.ravel()
    owners = np.searchsorted(bounds, flat, side="right") - 1
    needed = np.unique(owners)
    filler = jnp.full(1, ground, vectors[0].dtype)
    parts = [vectors[b] if b < len(vectors) else filler for b in needed.tolist()]
    starts = np.zeros(len(vectors) + 1, np.int64)
    starts[needed] = np.cumsum([0, *(part.size for part in parts[:-1])])
    joined = parts[0] if len(parts) == 1 else jnp.concatenate(parts)
    return take(joined, (flat - bounds[owners] + starts[owners]).reshape(ids.shape))


def spread(
    vectors: Nodes, ids: np.ndarray | None, bounds: np.ndarray, array: jax.Array
) -> jax.Array:
    """`array` times the numbers of its nodes; 1 at ground, which ids None has everywhere.

    Args:
        vectors: by blocks.
        ids: as in `pick`, of a shape that broadcasts to that of the array; or None.
        bounds: of the blocks.
        array: shape [*s].
    """
    return array if ids is None else array * pick(vectors, ids, bounds, ground=1.0)


def collect(
    array: jax.Array, ids: np.ndarray, bounds: np.ndarray
) -> Iterator[tuple[int, jax.Array]]:
    """Sums the entries of a leaf by node: the blocks that it meets, by number.

    Args:
        array: shape [*s].
        ids: as in `pick`, of a shape that broadcasts to [*s].
        bounds: of the blocks.
    """
    axes = tuple(i for i in range(array.ndim) if array.shape[i] != ids.shape[i])
    sums = jnp.sum(array, axis=axes, keepdims=True).ravel() if axes else array.ravel()
    flat, first = ids.ravel(), 0
    if (np.diff(flat) == 1).all() and np.isin([flat[0], flat[-1] + 1], bounds).all():
        first = int(flat[0])
    else:
        zeros = jnp.zeros(int(bounds[-1]) + 1, array.dtype)
        sums = zeros.at[flat].add(sums, mode="promise_in_bounds")
    for b in np.unique(np.searchsorted(bounds, flat, side="right") - 1).tolist():
        if b < len(bounds) - 1:
            yield b, take(sums, np.arange(int(bounds[b]), int(bounds[b + 1])) - first)


def joined(vectors: Nodes, *, ground: float, dtype: np.dtype) -> jax.Array:
    """A vector in one piece, ground at its end; shape [num_nodes + 1].

    Args:
        vectors: by blocks.
        ground: what stands at ground.
        dtype: of the result.
    """
    return jnp.concatenate([*vectors, jnp.full(1, ground, dtype)])

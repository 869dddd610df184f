"""Numbers on their way between the entries of leaves and the nodes of a gauge.

A vector over nodes has length num_nodes + 1; its last element stands for ground. Node ids are
static, so a run of consecutive ones becomes a slice, and no dense mask is ever stored.
"""

import jax
import jax.numpy as jnp
import numpy as np


def entries(leaf: jax.Array, flat_index: np.ndarray) -> jax.Array:
    """`leaf.ravel()[flat_index]`, without laying out the leaf anew: a sharded one is not gathered.

    Args:
        leaf: shape [*s].
        flat_index: integers, shape [n].

    Returns:
        Shape [n].
    """
    return _gather(leaf, np.stack(np.unravel_index(flat_index, leaf.shape), axis=-1))


def take(vector: jax.Array, ids: np.ndarray) -> jax.Array:
    """`vector[ids]`, as a slice where the ids are consecutive.

    Args:
        vector: shape [n].
        ids: integers in 0 ... n - 1, shape [*s].

    Returns:
        Shape [*s].
    """
    flat = ids.ravel()
    if flat.size == vector.size and (flat == np.arange(flat.size)).all():
        return vector.reshape(ids.shape)
    if flat.size and (np.diff(flat) == 1).all():
        return jax.lax.slice(vector, (int(flat[0]),), (int(flat[-1]) + 1,)).reshape(ids.shape)
    return _gather(vector, ids[..., None])


def _gather(array: jax.Array, index: np.ndarray) -> jax.Array:
    """Single entries by static, valid index [*s, rank]: one operation, where indexing makes ten."""
    axes = tuple(range(array.ndim))
    numbers = jax.lax.GatherDimensionNumbers(
        offset_dims=(), collapsed_slice_dims=axes, start_index_map=axes
    )
    return jax.lax.gather(
        array,
        index.astype(np.int32),
        numbers,
        slice_sizes=(1,) * array.ndim,
        mode=jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS,
    )


def spread(vector: jax.Array, ids: np.ndarray | None, array: jax.Array) -> jax.Array:
    """`array * vector[ids]`; ids None, which is ground everywhere, stands for the factor 1.

    Args:
        vector: shape [n].
        ids: integers whose shape broadcasts to that of the array, or None.
        array: shape [*s].
    """
    return array if ids is None else array * take(vector, ids)


def collect(array: jax.Array, ids: np.ndarray, num_nodes: int) -> jax.Array:
    """Sums the entries of a leaf by node.

    Args:
        array: shape [*s].
        ids: integers in -1 ... num_nodes, both of which are ground, of a shape that broadcasts to
            [*s].
        num_nodes: H.

    Returns:
        Shape [num_nodes + 1].
    """
    axes = tuple(i for i in range(array.ndim) if array.shape[i] != ids.shape[i])
    sums = jnp.sum(array, axis=axes, keepdims=True).ravel() if axes else array.ravel()
    flat = np.where(ids < 0, num_nodes, ids).ravel()
    if (np.diff(flat) == 1).all():
        return jnp.pad(sums, (int(flat[0]), num_nodes - int(flat[-1])))
    return jnp.zeros(num_nodes + 1, array.dtype).at[flat].add(sums, mode="promise_in_bounds")


def is_entry(flat_index: np.ndarray, shape: tuple[int, ...]) -> jax.Array:
    """Which entries of a leaf are the ones named.

    Comparing with a running index fuses into the arithmetic around it, where a scatter would write
    the whole leaf once more.

    Args:
        flat_index: flat indices into the leaf, or -1 for none, of a shape that broadcasts to it.
        shape: of the leaf.

    Returns:
        bool, of the leaf's shape.
    """
    size = int(np.prod(shape, dtype=np.int64))
    if flat_index.size == size and (flat_index.ravel() == np.arange(size)).all():
        return jnp.ones(shape, bool)
    running = jnp.zeros([], jnp.int32)
    for axis, size in enumerate(shape):
        if size > 1:
            stride = int(np.prod(shape[axis + 1 :], dtype=np.int64))
            term = stride * jax.lax.broadcasted_iota(jnp.int32, shape, axis)
            running = term if running.ndim == 0 else running + term
    return jnp.broadcast_to(running, shape) == jnp.broadcast_to(flat_index, shape)


def gather(
    leaves: list[jax.Array], edges: np.ndarray, offsets: np.ndarray, dtype: np.dtype
) -> jax.Array:
    """Of every node the entry of the given number, and 1 for ground; shape [num_nodes + 1].

    Args:
        leaves: of the parameter tree, or of one like it.
        edges: for every node the number of an entry, integer [num_nodes].
        offsets: where the numbers of each leaf's entries begin.
        dtype: of the result.
    """
    owners = np.searchsorted(offsets, edges, side="right") - 1
    parts, places = [], []
    for i in np.unique(owners).tolist():
        nodes = np.flatnonzero(owners == i)
        parts.append(entries(leaves[i], edges[nodes] - offsets[i]).astype(dtype))
        places.append(nodes)
    joined = jnp.concatenate([*parts, jnp.ones(1, dtype)])
    return take(
        joined, np.append(np.argsort(np.concatenate([*places, []])), len(edges)).astype(int)
    )


def products(factors: jax.Array, rounds: tuple[np.ndarray, ...]) -> jax.Array:
    """Products of the nodes' factors along ways to ground, by doubling.

    Args:
        factors: one a node, 1 for ground; shape [num_nodes + 1].
        rounds: ever longer jumps along the ways, as `Skeleton.in_rounds` gives them.
    """
    for jump in rounds:
        factors = factors * take(factors, jump)
    return factors

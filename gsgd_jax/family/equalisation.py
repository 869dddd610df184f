"""Cross-layer equalisation: a copy that loses little when each tensor is quantised."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax._factors import Group, Table, group_leaves, leaf_tables, log_parts
from gsgd_jax._precision import cast_like, working_dtype
from gsgd_jax.solver.incidence import Incidence


def equalise(params: optax.Params, gauge: Group, *, num_steps: int = 200) -> optax.Params:
    r"""Rescales a network so that every node's largest weights in and out are equal.

    A quantiser with one step for a whole tensor wastes its range on channels whose weights are
    small. Equalisation makes, for every node h,

        max_{head(e) = h} |w_e| = max_{tail(e) = h} |w_e|,

    by steps log c_h += (log max out - log max in) / 4 of all nodes at once. A full step, twice as
    long, brings no two points further apart in the largest coordinate, so half of it converges
    (Krasnoselskii and Mann); where n > 2 nodes scale one entry, steps are 2/n as long.

    Leaves with fewer than two axes, such as biases, count for no range, since they are kept in
    higher precision; they move with their node. A node with matrices on one side alone, or with
    zeros only, keeps its scale. Many copies are equalised; this one depends on the start.

    Args:
        params: a parameter tree, concrete or traced.
        gauge: their rescaling group.
        num_steps: how many steps; static.

    Returns:
        Weights of the same function, dtypes kept.

    Raises:
        TypeError: if a leaf in the group is not of real floating-point numbers.
        ValueError: if the tree is not the gauge's, or the number of steps is not positive.

    Example:
        >>> from gsgd_jax import mlp_gauge
        >>> params = [jnp.array([[8.0, 1.0]]), jnp.array([[2.0], [1.0]])]
        >>> jax.tree.map(jnp.round, equalise(params, mlp_gauge(params)))
        [Array([[4., 1.]], dtype=float32), Array([[4.],
               [1.]], dtype=float32)]

    References:
        Nagel et al., *Data-free quantization through weight equalization and bias correction*,
        ICCV 2019, section 4.1, equation 11; there one pair of layers after another.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be positive, got {num_steps}.")
    leaves = [jnp.asarray(leaf) for leaf in group_leaves(gauge, params)]
    tables = leaf_tables(gauge)
    inside = [i for i, parts in enumerate(tables) if parts]
    if not inside:
        return params
    dtype = working_dtype([leaves[i] for i in inside])
    kernels = [
        _Kernel(_largest(jnp.abs(leaves[i].astype(dtype)), tables[i]), tables[i])
        for i in inside
        if leaves[i].ndim > 1
    ]
    incidence = Incidence([tables[i] for i in inside], gauge.num_nodes)
    length = (2 * incidence.longest_steps()).astype(dtype)

    def step(logs: jax.Array, _: None) -> tuple[jax.Array, None]:
        coming, going = _log_ranges(kernels, logs)
        both = jnp.isfinite(coming) & jnp.isfinite(going)
        return logs + jnp.where(both, length * (going - coming), 0), None

    logs, _ = jax.lax.scan(step, jnp.zeros(gauge.num_nodes, dtype), length=num_steps)
    return gauge.act(params, jnp.exp(logs))


def quantised(params: optax.Params, *, bits: int = 8) -> optax.Params:
    """Weights rounded to the levels of a symmetric quantiser, one step size for each tensor.

    Entries become whole multiples of max |w| / (2^(bits - 1) - 1). Leaves with fewer than two axes,
    such as biases, and those of other numbers stay as they are.

    Args:
        params: a parameter tree.
        bits: of each weight, 2 to 16.

    Returns:
        The tree that a quantised network computes with, dtypes kept.

    Raises:
        ValueError: if the number of bits is out of range.

    Example:
        >>> quantised({"kernel": jnp.array([[1.0, 0.3]])}, bits=2)  # levels -1, 0 and 1
        {'kernel': Array([[1., 0.]], dtype=float32)}

    References:
        Nagel et al., *Data-free quantization through weight equalization and bias correction*,
        ICCV 2019, for per-tensor ranges.
    """
    if not 2 <= bits <= 16:
        raise ValueError(f"bits must lie between 2 and 16, got {bits}.")

    def rounded(leaf: jax.typing.ArrayLike) -> jax.Array:
        array = jnp.asarray(leaf)
        if array.ndim < 2 or not jnp.issubdtype(array.dtype, jnp.floating):
            return array
        values = array.astype(working_dtype([array]))
        level = jnp.max(jnp.abs(values)) / (2 ** (bits - 1) - 1)
        whole = jnp.round(values / jnp.where(level > 0, level, 1))
        return cast_like(whole * level, array)

    return jax.tree.map(rounded, params)


class _Kernel(NamedTuple):
    """A leaf whose weights are quantised."""

    sizes: jax.Array  # log of the largest |w| over axes along which no factor varies
    tables: tuple[Table, ...]


def _largest(sizes: jax.Array, tables: tuple[Table, ...]) -> jax.Array:
    varying = np.broadcast_shapes(*(table.nodes.shape[:-1] for table in tables))
    over = tuple(a for a, n in enumerate(varying) if n == 1)
    return jnp.log(jnp.max(sizes, axis=over, keepdims=True))


def _log_ranges(kernels: list[_Kernel], logs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log of the largest weight into, and out of, every node where scales are exp(logs)."""
    padded, count = jnp.append(logs, jnp.zeros_like(logs[:1])), len(logs)
    ranges = [jnp.full(count + 1, -jnp.inf, logs.dtype)] * 2
    for sizes, tables in kernels:
        moved = sizes
        for part in log_parts(tables, padded):
            moved = moved + part
        for table in tables:
            over = tuple(a for a, n in enumerate(table.nodes.shape[:-1]) if n == 1)
            most = jnp.max(moved, axis=over, keepdims=True)
            for slot in range(table.nodes.shape[-1]):
                powers = table.powers[..., slot]
                for side, there in enumerate((powers > 0, powers < 0)):
                    # Ground, the last, takes what is no node's on this side.
                    ids = np.where(there, table.nodes[..., slot], count).ravel()
                    values = jnp.broadcast_to(most, powers.shape).ravel()
                    ranges[side] = ranges[side].at[ids].max(values)
    return ranges[0][:-1], ranges[1][:-1]

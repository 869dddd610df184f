"""How one element of a rescaling group moves every leaf: by products of powers of its scales."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from gsgd_jax.gauge import GROUND, Gauge
from gsgd_jax.tracing.algebra.linear import Form
from gsgd_jax.tracing.result import RescalingGroup

Group: TypeAlias = Gauge | RescalingGroup


class Table(NamedTuple):
    """One part of a leaf's factor, prod_k c[nodes[..., k]] ** powers[..., k]."""

    nodes: np.ndarray  # int32 [*s, slots], s broadcasting to the leaf; num_nodes stands for ground
    powers: np.ndarray  # float64, likewise; the scale of ground is 1, whatever its power


@functools.lru_cache(maxsize=64)
def leaf_tables(group: Group) -> tuple[tuple[Table, ...], ...]:
    """For every leaf the parts whose product is the factor of its entries; none outside the group.

    A kernel of a graph has two, the scales at its heads and the inverse ones at its tails, so that
    no factor of its full size is ever stored.
    """
    if isinstance(group, Gauge):
        sides = zip(group.heads, group.tails, strict=True)
        return tuple(
            tuple(
                Table(
                    np.where(ids == GROUND, group.num_nodes, ids).astype(np.int32)[..., None],
                    np.full((*ids.shape, 1), power),
                )
                for ids, power in ((heads, 1.0), (tails, -1.0))
                if (ids != GROUND).any()
            )
            for heads, tails in sides
        )
    tables = []
    for leaf, shape in zip(group.leaves, group.shapes, strict=True):
        parts = [((), [leaf.overall]), *leaf.blocks]
        tables.append(
            tuple(
                _table(forms, [n if a in axes else 1 for a, n in enumerate(shape)], group.num_nodes)
                for axes, forms in parts
                if any(forms)
            )
        )
    return tuple(tables)


def _table(forms: Sequence[Form], shape: Sequence[int], ground: int) -> Table:
    """Forms in row-major order as one table."""
    width = max(map(len, forms))
    nodes = np.full((len(forms), width), ground, np.int32)
    powers = np.zeros((len(forms), width))
    for i, form in enumerate(forms):
        nodes[i, : len(form)] = list(form)
        powers[i, : len(form)] = [float(power) for power in form.values()]
    return Table(nodes.reshape(*shape, width), powers.reshape(*shape, width))


def check_group(group: Any) -> None:
    """Refuses what is no rescaling group.

    Raises:
        TypeError: naming what came.
    """
    if not isinstance(group, Gauge | RescalingGroup):
        chosen = "; a skeleton has the one that it was chosen for as `whole`, a section as `group`"
        raise TypeError(
            "this needs a rescaling group, as find_gauge or mlp_gauge gives it, got "
            f"{type(group).__name__}{chosen if hasattr(group, 'advised_growth') else ''}."
        )


def group_leaves(group: Group, tree: Any) -> list[Any]:
    """The leaves of a tree that must be the group's.

    Raises:
        TypeError: if the group is none.
        ValueError: if the tree is not the group's, or is masked.
    """
    check_group(group)
    return group.leaves(tree) if isinstance(group, Gauge) else group.checked_leaves(tree)


def factor_parts(group: Group, scales: Any, xp: Any = jnp) -> list[tuple[Any, ...]]:
    """Of every leaf the parts of its factor for the scales c, [num_nodes]; none outside the group.

    Only products and quotients are formed (but for fractional powers, which are rare), and these
    are exact for powers of two: scales that differ by powers of two give factors that do so too, to
    the bit.
    """
    padded = xp.append(scales, xp.ones(1, scales.dtype))
    parts = leaf_tables(group)
    return [tuple(power_part(table, padded, xp) for table in tables) for tables in parts]


def power_part(table: Table, scales: Any, xp: Any = jnp) -> Any:
    """The part of a leaf's factor that a table stands for.

    Args:
        table: the part.
        scales: c, and 1 for ground at the end; [num_nodes + 1].
        xp: numpy or jax.numpy.
    """
    slots = []
    for slot in range(table.nodes.shape[-1]):
        nodes, powers = table.nodes[..., slot], table.powers[..., slot]
        picked = take(scales, nodes, xp)
        # Few powers occur in one slot, nearly always 1 and -1: each is worked out, one is taken.
        met = np.unique(powers[nodes != len(scales) - 1]).tolist() or [1.0]
        raised = _raised(picked, met[0])
        for power in met[1:]:
            raised = xp.where(powers == power, _raised(picked, power), raised)
        slots.append(raised)
    return functools.reduce(xp.multiply, slots)


def _raised(scale: Any, power: float) -> Any:
    """A power of scales, by multiplication where it is whole."""
    if not power.is_integer():
        return scale**power
    raised = functools.reduce(lambda one, other: one * other, [scale] * abs(int(power)))
    return raised if power >= 0 else 1 / raised


def log_parts(tables: Sequence[Table], logs: Any, xp: Any = jnp) -> list[Any]:
    """The logarithms of one leaf's parts, sum_k powers[..., k] * logs[nodes[..., k]].

    Args:
        tables: of the leaf.
        logs: log c, and 0 for ground at the end; [num_nodes + 1].
        xp: numpy or jax.numpy.
    """
    return [
        xp.sum(table.powers.astype(logs.dtype) * take(logs, table.nodes, xp), axis=-1)
        for table in tables
    ]


def take(vector: Any, ids: np.ndarray, xp: Any = jnp) -> Any:
    """`vector[ids]` for static ids, as a slice where they are consecutive."""
    flat = ids.ravel()
    if flat.size and (np.diff(flat) == 1).all():
        return vector[int(flat[0]) : int(flat[-1]) + 1].reshape(ids.shape)
    return vector[ids] if xp is np else vector.at[ids].get(mode="promise_in_bounds")

"""Stacks of layers: arrays with an axis along which every entry has scales of its own."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gsgd_jax.tracing.algebra.scales import LARGEST_TABLE, Scales, Value

Partition = tuple[tuple[int, ...], ...]
"""Disjoint groups of axes; the scale of an entry is a product over groups. Others are constant."""


class Layout(NamedTuple):
    """Where the scales of a parameter may vary."""

    stacked: tuple[int, ...]  # axes of layers, outermost first: each layer has its own scales
    groups: Partition  # of the other axes


def fresh(scales: Scales, shape: tuple[int, ...], layout: Layout) -> Value:
    """A value with variables of its own for every layer.

    Args:
        scales: the algebra.
        shape: of the array.
        layout: the axes of layers, and the groups of axes that vary jointly in each layer.
    """
    if not layout.stacked:
        return scales.fresh(shape, layout.groups)
    along, *others = layout.stacked

    def below(axes: Sequence[int]) -> tuple[int, ...]:
        return tuple(a - (a > along) for a in axes)

    inner = Layout(below(others), tuple(map(below, layout.groups)))
    rest = shape[:along] + shape[along + 1 :]
    return stack([fresh(scales, rest, inner) for _ in range(shape[along])], along)


def stack(layers: Sequence[Value], along: int) -> Value:
    """One value of several, which stay what they are.

    Args:
        layers: of one shape.
        along: the new axis.
    """
    shape = layers[0].shape
    shape = (*shape[:along], len(layers), *shape[along:])
    return Value(
        shape,
        data=any(value.data for value in layers),
        size=all(value.size for value in layers),
        derived=all(value.derived for value in layers),
        layers=tuple(layers),
        along=along,
    )


def layers_of(scales: Scales, value: Value, axis: int) -> list[Value]:
    """The entries along an axis.

    Args:
        scales: the algebra.
        value: a value.
        axis: an axis of it.
    """
    if value.layers and value.along == axis:
        return list(value.layers)
    value = merged(scales, value)
    entries = []
    for i in range(value.shape[axis]):
        entry = scales.reduce(scales.take(value, axis, np.array([i])), (axis,))
        known = None if value.known is None else value.known.take(i, axis)
        entries.append(
            entry._replace(
                known=known,
                given=value.given,
                positive=value.positive,
                size=value.size,
                derived=value.derived,
                soft=value.soft,
            )
        )
    return entries


def merged(scales: Scales, value: Value) -> Value:
    """The same value with its layers as entries of one table, or, of too many, with equal scales.

    Args:
        scales: the algebra.
        value: a value.
    """
    if not value.layers:
        return value
    axis, parts = value.along, [merged(scales, layer) for layer in value.layers]
    shape = tuple(1 if a == axis else n for a, n in enumerate(value.shape))
    dims = [a for a in range(len(shape)) if a != axis]
    varying = {a for part in parts for axes, _ in part.blocks for a in axes}
    size = len(parts) * int(np.prod([parts[0].shape[a] for a in varying], dtype=np.int64))
    placed = [scales.place(part, shape, dims) for part in parts]
    if size <= LARGEST_TABLE:
        total, _ = scales.concatenate(placed, axis)
    else:
        total = placed[0]
        for part in placed[1:]:
            total, _ = scales.equate(total, part)
    return total._replace(
        shape=value.shape, data=value.data, size=value.size, derived=value.derived
    )


def single(value: Value) -> list[Value]:
    """The layers of a value, of a stack of stacks too; itself, if it has none.

    Args:
        value: a value.
    """
    if not value.layers:
        return [value]
    return [part for layer in value.layers for part in single(layer)]

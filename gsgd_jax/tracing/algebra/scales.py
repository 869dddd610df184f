"""Symbolic log-scales of arrays: which factor every entry of an intermediate value carries."""

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from gsgd_jax.tracing.algebra.axes import factor, merge
from gsgd_jax.tracing.algebra.codes import distinct
from gsgd_jax.tracing.algebra.forms import ZERO
from gsgd_jax.tracing.algebra.solver import System

Block = tuple[tuple[int, ...], np.ndarray]
"""Axes, ascending, and a table of form numbers over them whose first entry is zero."""

LARGEST_TABLE = 2**20
"""Tables beyond it are not made: their axes are required to be constant, which is always safe."""


class Epsilon(NamedTuple):
    """A small constant that was added to a value, and treated as nothing until it is used."""

    amount: float
    equation: Any  # where


class Value(NamedTuple):
    r"""An array whose entry i is multiplied by exp(overall + Σ_b table_b[i_b]) under the group.

    Axes in no block are constant; blocks share no axis. Tables are zero at their first entry, so
    that equal log-scales have equal descriptions.
    """

    shape: tuple[int, ...]
    overall: int = ZERO  # form number of the first entry
    blocks: tuple[Block, ...] = ()
    absorbing: bool = False  # every entry is 0 or infinite: no positive factor changes it
    known: np.ndarray | None = None  # the array itself, where it depends on no input
    fixed: bool = False  # whether it depends on no input and no parameter, known or not
    data: bool = False  # whether it depends on the model's inputs
    given: bool = False  # whether it depends on no parameter
    positive: bool = False  # whether it is given, and none of its entries is negative, as of a mask
    size: bool = False  # whether it is made of squares or absolute values, as a variance is
    derived: bool = False  # whether it depends on the inputs by way of sizes alone
    soft: Epsilon | None = None  # what was added to it, so far thought to be nothing
    layers: tuple["Value", ...] = ()  # of a stack, which has no scales but those of its layers
    along: int = 0  # the axis that they are stacked along
    table: int | None = None  # the number of the parameter that this is, as it is

    def numbers(self) -> list[int]:
        """The form numbers that describe it, those of its layers included."""
        parts = [self.overall, *(n for _, table in self.blocks for n in distinct(table).tolist())]
        return [*parts, *(number for layer in self.layers for number in layer.numbers())]


class Scales:
    """The algebra of values; each method may add equations to the system.

    Args:
        system: of equations.
    """

    def __init__(self, system: System):
        self.system = system

    def fresh(self, shape: tuple[int, ...], partition: Iterable[Sequence[int]]) -> Value:
        """A value with a variable of its own for every entry of the given groups of axes.

        Args:
            shape: of the array.
            partition: disjoint groups of axes that may vary jointly.
        """
        blocks = []
        for axes in partition if np.prod(shape) else ():  # without an entry there is no scale
            dims = tuple(shape[a] for a in axes)
            numbers = np.append(ZERO, self.system.fresh(int(np.prod(dims, dtype=np.int64)) - 1))
            blocks.append((tuple(axes), numbers.astype(np.int64).reshape(dims)))
        return self._make(shape, int(self.system.fresh(1)[0]), blocks)

    def varying(self, shape: tuple[int, ...], axes: tuple[int, ...], numbers: np.ndarray) -> Value:
        """A value with given scales.

        Args:
            shape: of the array.
            axes: along which they vary, ascending.
            numbers: of their forms, over these axes.
        """
        return self._make(shape, ZERO, [(axes, numbers)])

    def multiply(self, left: Value, right: Value, sign: int = 1) -> Value:
        """The product (sign 1) or quotient (-1); shapes of one rank that broadcast.

        Args:
            left: a value.
            right: another.
            sign: of the right's logarithm.
        """
        shape = np.broadcast_shapes(left.shape, right.shape)
        components = merge([axes for axes, _ in (*left.blocks, *right.blocks)])
        # log(ab) = log a + log b, entry by entry. Blocks that share an axis become one, whose table
        # has an entry for every combination; where that is too many, the axes must be constant.
        blocks = []
        for axes in components:
            if np.prod([shape[a] for a in axes], dtype=np.int64) > LARGEST_TABLE:
                left, right = self.constant(left, axes), self.constant(right, axes)
            else:
                tables = self._table(left, axes, shape), self._table(right, axes, shape)
                blocks.append((axes, self.system.combine(*tables, sign)))
        overall = self._plus(left.overall, right.overall, sign)
        absorbing, data = left.absorbing or right.absorbing, left.data or right.data
        return self._make(shape, overall, blocks)._replace(absorbing=absorbing, data=data)

    def equate(self, left: Value, right: Value) -> tuple[Value, int]:
        """Requires equal scales, except of what no factor changes; returns them, and their price.

        Args:
            left: a value.
            right: another, of a shape of the same rank that broadcasts with left's.
        """
        shape = np.broadcast_shapes(left.shape, right.shape)
        data, absorbing = left.data or right.data, left.absorbing and right.absorbing
        # c x + d y is a scaled x + y only if c = d: log(left/right) = 0 in every entry. Zeros and
        # infinities are themselves after any scaling, and follow the other side.
        count, result = 0, right if left.absorbing else left
        if not (left.absorbing or right.absorbing):
            count = self.ground(self.multiply(left, right, -1))
            result = min(left, right, key=lambda value: sum(t.size for _, t in value.blocks))
        return Value(shape, result.overall, result.blocks, absorbing, None, data), count

    def ground(self, value: Value) -> int:
        """Requires that the value is left alone; returns how many equations that took.

        Args:
            value: a value.
        """
        if value.absorbing:
            return 0
        # Tables start at zero, so overall = 0 and every table = 0 says that each entry is.
        if value.layers:
            return sum(map(self.ground, value.layers))
        tables = [table for _, table in value.blocks]
        return sum(self.system.vanish(numbers) for numbers in (value.overall, *tables))

    def constant(self, value: Value, axes: Iterable[int]) -> Value:
        """Requires that the scales do not vary along some axes.

        Args:
            value: a value.
            axes: numbers of axes.
        """
        blocks, among = [], set(axes)
        for block, table in value.blocks:
            if among & set(block) and not value.absorbing:
                # table[.., a, ..] = table[.., 0, ..] for every a along these axes.
                first = table[tuple(slice(0, 1) if a in among else slice(None) for a in block)]
                self.system.vanish(self.system.combine(table, first, -1))
            blocks.append((block, table))
        rest = [
            (
                tuple(a for a in block if a not in among),
                np.asarray(table[tuple(0 if a in among else slice(None) for a in block)]),
            )
            for block, table in blocks
        ]
        return self._remake(value, value.shape, value.overall, rest)

    def reduce(self, value: Value, axes: Iterable[int]) -> Value:
        """Sums, or takes the greatest, along axes, which must then be constant.

        Args:
            value: a value.
            axes: numbers of axes.
        """
        among = set(axes)
        value = self.constant(value, among)
        rest = [a for a in range(len(value.shape)) if a not in among]
        shape = tuple(value.shape[a] for a in rest)
        return self._relabel(value, shape, {a: i for i, a in enumerate(rest)})

    def place(self, value: Value, shape: tuple[int, ...], dims: Sequence[int]) -> Value:
        """Puts axis i where axis dims[i] of the shape is; other axes, and those of size 1, repeat.

        Args:
            value: a value.
            shape: of the result.
            dims: for every axis of the value an axis of the result.
        """
        return self._relabel(value, shape, dict(enumerate(dims)))

    def reshape(self, value: Value, shape: tuple[int, ...]) -> Value:
        """Splits and merges axes in row-major order.

        Args:
            value: a value.
            shape: of the result, of as many entries.
        """
        if 0 in shape:
            return self._remake(value, shape, value.overall, [])
        blocks = []
        groups = factor(value.shape, shape)
        touched = [
            old for old, _ in groups if any(set(old) & set(axes) for axes, _ in value.blocks)
        ]
        for axes in merge([*touched, *(axes for axes, _ in value.blocks)]):
            target = [b for old, new in groups if set(old) & set(axes) for b in new]
            dims = tuple(shape[b] for b in target)
            if np.prod(dims, dtype=np.int64) > LARGEST_TABLE:
                value = self.constant(value, axes)
            else:
                blocks.append((tuple(target), self._table(value, axes, value.shape).reshape(dims)))
        return self._remake(value, shape, value.overall, blocks)

    def take(self, value: Value, axis: int, index: np.ndarray) -> Value:
        """The entries at known places along an axis.

        Args:
            value: a value.
            axis: along which.
            index: integers in range, [n].
        """
        blocks = [
            (axes, table.take(index, axes.index(axis)) if axis in axes else table)
            for axes, table in value.blocks
        ]
        shape = tuple(len(index) if a == axis else n for a, n in enumerate(value.shape))
        return self._remake(value, shape, value.overall, blocks if len(index) else [])

    def concatenate(self, values: Sequence[Value], axis: int) -> tuple[Value, int]:
        """Joins values along an axis; other axes must agree. Absorbing parts may scale anyhow.

        Args:
            values: of shapes that agree but for the axis.
            axis: along which.

        Returns:
            The joined value, and the number of equations it took.
        """
        # Only blocks that hold the axis may differ between the parts. Zeros take whatever scale
        # they later meet, hence fresh variables.
        live = [v for v in values if not v.absorbing]
        size = sum(int(v.shape[axis]) for v in values)
        shape = tuple(size if a == axis else n for a, n in enumerate(values[0].shape))
        data = any(v.data for v in values)
        if not live:
            return Value(shape, absorbing=True, data=data), 0
        joint = next(
            axes
            for axes in merge([(axis,), *(axes for v in live for axes, _ in v.blocks)])
            if axis in axes
        )
        outside, count = live[0], 0
        for v in live[1:]:
            for axes in merge([a for a, _ in (*outside.blocks, *v.blocks) if axis not in a]):
                if not set(axes) & set(joint):
                    one, other = self._table(outside, axes, shape), self._table(v, axes, shape)
                    count += self.system.vanish(self.system.combine(one, other, -1))
        parts = []
        for v in values:
            dims = tuple(v.shape[a] for a in joint)
            if v.absorbing:
                lone = [v.shape[axis] if a == axis else 1 for a in joint]
                part = np.broadcast_to(self.system.fresh(v.shape[axis]).reshape(lone), dims)
            else:
                part = self.system.combine(self._table(v, joint, v.shape), v.overall)
            parts.append(part)
        rest = [(axes, table) for axes, table in outside.blocks if not set(axes) & set(joint)]
        joined = joint, np.concatenate(parts, axis=joint.index(axis))
        return self._make(shape, ZERO, [*rest, joined])._replace(data=data), count

    def power(self, value: Value, exponent: int | Fraction) -> Value:
        """The value to a power.

        Args:
            value: a value.
            exponent: not zero.
        """
        blocks = [(axes, self.system.times(table, exponent)) for axes, table in value.blocks]
        overall = int(self.system.times(value.overall, exponent))
        return self._remake(value, value.shape, overall, blocks)

    def simplified(self, value: Value) -> Value:
        """The same scales, by all equations so far.

        Args:
            value: a value that is no stack.
        """
        overall = int(self.system.simplified(value.overall))
        return self._remake(value, value.shape, overall, value.blocks)

    def num_entries(self, value: Value) -> int:
        """How many scales there are of entries, along the axes that they vary along.

        Args:
            value: a value.
        """
        return math.prod(table.size for _, table in value.blocks)

    def entries(self, value: Value) -> np.ndarray:
        """The form numbers of these, [n], in row-major order of the blocks.

        Args:
            value: a value.
        """
        numbers = np.array([value.overall], np.int64)
        for _, table in value.blocks:
            numbers = self.system.combine(numbers[:, None], table.reshape(1, -1)).ravel()
        return numbers

    def _table(self, value: Value, axes: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
        """The blocks within some axes as one table."""
        total = np.zeros([shape[a] for a in axes], np.int64)
        for block, table in value.blocks:
            if set(block) <= set(axes):
                dims = [shape[a] if a in block else 1 for a in axes]
                total = self.system.combine(total, table.reshape(dims))
        return total

    def _plus(self, one: int, other: int, sign: int = 1) -> int:
        return int(self.system.combine(one, other, sign))

    def _relabel(self, value: Value, shape: tuple[int, ...], label: dict[int, int]) -> Value:
        blocks = []
        for axes, table in value.blocks:
            order = np.argsort([label[a] for a in axes])
            blocks.append((tuple(sorted(label[a] for a in axes)), table.transpose(order)))
        return self._remake(value, shape, value.overall, blocks)

    def _remake(
        self, old: Value, shape: tuple[int, ...], overall: int, blocks: Iterable[Block]
    ) -> Value:
        value = self._make(shape, overall, blocks)
        return value._replace(absorbing=old.absorbing, data=old.data)

    def _make(self, shape: tuple[int, ...], overall: int, blocks: Iterable[Block]) -> Value:
        """A value in canonical form: tables start at zero, and those that are zero are left out."""
        canonical = []
        for axes, table in blocks:
            if not table.size:
                continue
            axes = tuple(a for a, n in zip(axes, table.shape, strict=True) if n > 1)
            numbers = self.system.simplified(table).reshape([n for n in table.shape if n > 1])
            first = numbers.flat[0]
            if first:  # overall + table = (overall + first) + (table - first)
                numbers = self.system.combine(numbers, int(first), -1)
                overall = self._plus(overall, int(first))
            if numbers.any():
                canonical.append((axes, numbers))
        return Value(tuple(shape), overall, tuple(canonical))

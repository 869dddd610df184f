"""Sums over the weights at every node, for balancing: which node scales which entry, and how."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gsgd_jax._factors import Table


class Arrays(NamedTuple):
    """Arithmetic on the host, which compiles nothing, or under a trace."""

    xp: Any  # numpy or jax.numpy
    add_at: Callable[[np.ndarray, Any, int], Any]  # ids [n], values [n, k], length: sums by id
    matmul: Callable[[Any, Any], Any]
    einsum: Callable[..., Any]
    loop: Callable[[Callable[[Any], Any], Callable[[Any], Any], Any], Any]  # while_loop


def _host_sums(ids: np.ndarray, values: np.ndarray, length: int) -> np.ndarray:
    return np.stack([np.bincount(ids, column, length) for column in values.T], axis=1)


def _device_sums(ids: np.ndarray, values: jax.Array, length: int) -> jax.Array:
    return jnp.zeros((length, values.shape[1]), values.dtype).at[ids].add(values)


def _device_matmul(one: jax.Array, other: jax.Array) -> jax.Array:
    return (
        jnp.sum(one * other[None], axis=1)
        if one.ndim == 2
        else jnp.sum(one[:, None] * other, axis=0)
    )


def _host_loop(condition: Callable[[Any], Any], body: Callable[[Any], Any], state: Any) -> Any:
    while condition(state):
        state = body(state)
    return state


ON_HOST = Arrays(np, _host_sums, np.matmul, functools.partial(np.einsum, optimize=True), _host_loop)
ON_DEVICE = Arrays(
    jnp,
    _device_sums,
    _device_matmul,
    functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST),
    jax.lax.while_loop,
)


def varying_like(leaves: Sequence[Any], arrays: Arrays) -> Arrays:
    """The same arithmetic under a trace, with loops whose first states depend on the leaves.

    Inside of `jax.shard_map` a loop's state must vary over the axes of the mesh from the start as
    it does later on. What is added is 0, whatever the leaves hold, and compiles to nothing.
    """
    if arrays.xp is np:
        return arrays
    zero = sum(
        (0 * (leaf[(0,) * leaf.ndim] != 0).astype(np.int32) for leaf in leaves if leaf.size),
        start=jnp.zeros([], np.int32),
    )

    def loop(condition: Callable[[Any], Any], body: Callable[[Any], Any], state: Any) -> Any:
        def begun(leaf: Any) -> jax.Array:
            array = jnp.asarray(leaf)
            if array.dtype == bool:
                return array | (zero != 0)
            return array + zero.astype(array.dtype)

        return arrays.loop(condition, body, jax.tree.map(begun, state))

    return arrays._replace(loop=loop)


def reduced(array: Any, tables: Sequence[Table], xp: Any) -> Any:
    """A leaf summed over axes along which no factor varies, such as a convolution's taps."""
    varying = np.broadcast_shapes(*(table.nodes.shape[:-1] for table in tables))
    axes = tuple(a for a, n in enumerate(varying) if n == 1 and array.shape[a] > 1)
    return xp.sum(array, axis=axes, keepdims=True)


class _Leaf(NamedTuple):
    """The wide parts of a leaf: each of its other parts varies along fewer axes than one of them.

    A part is a factor of the entries that depends on some axes of the leaf alone.
    """

    axes: list[tuple[int, ...]]  # along which each wide part varies
    shapes: list[tuple[int, ...]]  # which broadcast to the leaf
    places: list[slice]  # of `Incidence.nodes`


class Incidence:
    """Which nodes scale which entries, k_eh, without an array of the leaves' size.

    An entry's factor is a product of parts, exp(Σ_h k_eh x_h) = Π_p a_p, and each part varies along
    few axes: for a kernel, one scale a row and one a column. So every sum over a leaf's entries is
    a product of the array of their squares with vectors, which costs one pass over it. Parts inside
    a wide one are counted in with it. What is worked out for every factor is worked out for those
    of all leaves at once, since a program of many small loops takes long to compile.
    """

    def __init__(self, tables: Sequence[tuple[Table, ...]], count: int):
        """Of the leaves' parts and `count` nodes, after which ground comes."""
        self.count, self.leaves = count, []
        begin, rows = 0, []
        for parts in tables:
            shapes = [table.nodes.shape[:-1] for table in parts]
            axes = [tuple(a for a, n in enumerate(shape) if n > 1) for shape in shapes]
            wide = [own for own in dict.fromkeys(axes) if not any(set(own) < set(o) for o in axes)]
            leaf = _Leaf(wide, [shapes[axes.index(own)] for own in wide], [])
            rows += _wide_parts(parts, axes, leaf, count)
            for shape in leaf.shapes:
                leaf.places.append(slice(begin, begin + math.prod(shape)))
                begin += math.prod(shape)
            self.leaves.append(leaf)
        width = max(nodes.shape[1] for nodes, _ in rows)
        fill = [((0, 0), (0, width - nodes.shape[1])) for nodes, _ in rows]
        # Of every factor of all leaves, [factors, slots]; ground fills up.
        self.nodes = np.concatenate(
            [np.pad(n, by, constant_values=count) for (n, _), by in zip(rows, fill, strict=True)]
        )
        self.powers = np.concatenate([np.pad(k, by) for (_, k), by in zip(rows, fill, strict=True)])
        # The first factor of the same part, and of every part of the same leaf.
        self._anchors = np.zeros(begin, np.int32)
        self._firsts = np.full((begin, self.most_parts), begin, np.int32)  # stands for log 1
        for leaf in self.leaves:
            firsts = [places.start for places in leaf.places]
            for first, places in zip(firsts, leaf.places, strict=True):
                self._anchors[places] = first
                self._firsts[places, : len(firsts)] = firsts

    @property
    def most_parts(self) -> int:
        """How many wide parts a leaf has at most."""
        return max(len(leaf.axes) for leaf in self.leaves)

    def longest_steps(self) -> np.ndarray:
        """1 / (4 n k) of every node: n nodes at most scale an entry of its, by powers up to k."""
        sharing, strongest = np.ones(self.count + 1), np.ones(self.count + 1)
        for leaf in self.leaves:
            scaling = sum((self.powers[places] != 0).sum(axis=1).max() for places in leaf.places)
            for places in leaf.places:
                # Slots that fill up have power 0 and may name any node, which does no harm.
                np.maximum.at(sharing, self.nodes[places], scaling)
        np.maximum.at(strongest, self.nodes, np.abs(self.powers))
        return 1 / (4 * sharing * strongest)[:-1]

    def logs(self, vector: Any, xp: Any) -> Any:
        """Log a = Σ_h k_h x_h of every factor."""
        padded = xp.append(vector, xp.zeros_like(vector[:1]))
        return xp.sum(padded[self.nodes] * self.powers.astype(vector.dtype), axis=-1)

    def totals(self, leaves: Sequence[Any], logs: Any, arrays: Arrays) -> Any:
        """Of every factor Σ_e w_e² Π_q a_q² over the entries that share it."""
        factors, whole = self._centred(logs, arrays.xp)
        return whole * factors * self._across(leaves, factors, None, arrays)

    def slopes(
        self, leaves: Sequence[Any], logs: Any, totals: Any, along: Any, arrays: Arrays
    ) -> Any:
        """The derivatives of the totals, as the factors' logarithms move along a direction.

        That of T_p = a_p² Σ w² Π_q≠p a_q² is 2 (d_p T_p + a_p² Σ w² Π_q≠p a_q² Σ_q≠p d_q).
        """
        factors, whole = self._centred(logs, arrays.xp)
        across = whole * factors * self._across(leaves, factors, along, arrays)
        return 2 * (along * totals + across)

    def ways(self, live: Sequence[Any], passed: Any, side: int, arrays: Arrays) -> Any:
        """Which nodes a live entry enters (side 1) from passed nodes only, or leaves (-1) for them.

        Args:
            live: 1 or 0 for every entry, of sizes as for `totals`.
            passed: 1 or 0 for every node; ground is passed.
            side: 1 or -1, the sign of the power with which the nodes asked for scale the entry.
            arrays: where this is worked out.
        """
        xp = arrays.xp
        padded = xp.append(passed, xp.ones_like(passed[:1]))
        factors = xp.min(xp.where(self.powers * side < 0, padded[self.nodes], 1), axis=-1)
        totals = factors * self._across(live, factors, None, arrays)
        return self.sums(totals, (lambda k: k * side > 0,), arrays)[0] > 0.5

    def sums(
        self, totals: Any, weighings: Sequence[Callable[[np.ndarray], np.ndarray]], arrays: Arrays
    ) -> list[Any]:
        """For each weighing Σ_e weighing(k_eh) size_e of every node h, from the totals."""
        weights = np.stack([weigh(self.powers) for weigh in weighings], axis=-1)
        weighed = totals[:, None, None] * weights.astype(totals.dtype)
        weighed = weighed.reshape(-1, len(weighings))
        sums = arrays.add_at(self.nodes.ravel(), weighed, self.count + 1)
        return [sums[:-1, i] for i in range(len(weighings))]

    def _centred(self, logs: Any, xp: Any) -> tuple[Any, Any]:
        """The squared factors over the first one of their part; the product of a leaf's firsts.

        So no factor overflows where their product does not.
        """
        padded = xp.append(logs, xp.zeros_like(logs[:1]))
        return xp.exp(2 * (logs - logs[self._anchors])), xp.exp(
            2 * xp.sum(padded[self._firsts], axis=-1)
        )

    def _across(
        self, leaves: Sequence[Any], factors: Any, along: Any | None, arrays: Arrays
    ) -> Any:
        """Of every factor Σ w² Π_q a_q² over its entries and the other parts q, times Σ_q d_q."""
        columns = []
        for squares, leaf in zip(leaves, self.leaves, strict=True):
            cuts = list(zip(leaf.places, leaf.shapes, strict=True))
            plain = [factors[places].reshape(shape) for places, shape in cuts]
            if along is None:
                sums = [
                    _contracted(squares, leaf.axes, plain, p, arrays) for p in range(len(plain))
                ]
            else:
                moves = [along[places].reshape(shape) for places, shape in cuts]
                sums = [arrays.xp.zeros_like(factor) for factor in plain]
                for p, q in itertools.permutations(range(len(plain)), 2):
                    turned = [f * moves[q] if i == q else f for i, f in enumerate(plain)]
                    sums[p] = sums[p] + _contracted(squares, leaf.axes, turned, p, arrays)
            columns += [column.ravel() for column in sums]
        return arrays.xp.concatenate(columns)


def _wide_parts(
    parts: Sequence[Table], axes: Sequence[tuple[int, ...]], leaf: _Leaf, ground: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Nodes and powers of every factor of a leaf's wide parts, [factors, slots].

    A tracer's forms may hold one node in two parts with opposite powers, which cancel: each slot
    goes to a wide part with that node, and powers of one node are added up.
    """
    slots: list[list[tuple[Any, Any]]] = [[] for _ in leaf.axes]
    homes = [np.unique(parts[axes.index(wide)].nodes) for wide in leaf.axes]
    for table, own in zip(parts, axes, strict=True):
        fitting = [i for i, wide in enumerate(leaf.axes) if set(own) <= set(wide)]
        for slot in range(table.nodes.shape[-1]):
            nodes = table.nodes[..., slot]
            powers = np.where(nodes == ground, 0, table.powers[..., slot])
            at_home = [i for i in fitting if np.isin(nodes, homes[i]).all()]
            inside = (at_home or fitting)[0]
            shape = leaf.shapes[inside]
            slots[inside].append(
                (np.broadcast_to(nodes, shape).ravel(), np.broadcast_to(powers, shape).ravel())
            )
    return [
        _added_up(*(np.stack(arrays, axis=1) for arrays in zip(*own, strict=True))) for own in slots
    ]


def _added_up(nodes: np.ndarray, powers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows in which no node has two powers that are not 0, but their sum."""
    order = np.argsort(nodes, axis=1, kind="stable")
    nodes, powers = (np.take_along_axis(array, order, axis=1) for array in (nodes, powers))
    for slot in range(nodes.shape[1] - 1, 0, -1):
        same = nodes[:, slot] == nodes[:, slot - 1]
        powers[:, slot - 1] += np.where(same, powers[:, slot], 0)
        powers[:, slot] = np.where(same, 0, powers[:, slot])
    order = np.argsort(powers == 0, axis=1, kind="stable")
    width = max(1, int((powers != 0).sum(axis=1).max(initial=0)))
    order = order[:, :width]
    return np.take_along_axis(nodes, order, axis=1), np.take_along_axis(powers, order, axis=1)


def _contracted(
    squares: Any, axes: list[tuple[int, ...]], factors: list[Any], kept: int, arrays: Arrays
) -> Any:
    """The squares times all factors but one's, summed over the axes along which that is constant.

    Args:
        squares: w_e² of a leaf.
        axes: along which its wide parts vary.
        factors: of the wide parts, which broadcast to the squares.
        kept: the part that is left out and whose shape is returned.
        arrays: where this is worked out.
    """
    shape = [n if a in axes[kept] else 1 for a, n in enumerate(squares.shape)]
    if len(factors) == 1:
        over = tuple(a for a, n in enumerate(shape) if n < squares.shape[a])
        return arrays.xp.sum(squares, axis=over, keepdims=True) if over else squares
    rows = axes.index(min(axes))
    columns = len(axes) - 1 - rows
    if len(axes) == 2 and axes[rows][-1] < axes[columns][0]:
        # One part varies along earlier axes than the other; along all others there is one entry.
        matrix = squares.reshape(factors[rows].size, factors[columns].size)
        vector = factors[1 - kept].ravel()
        pair = (matrix, vector) if kept == rows else (vector, matrix)
        return arrays.matmul(*pair).reshape(shape)
    operands: list[Any] = [squares, list(range(squares.ndim))]
    for q, factor in enumerate(factors):
        if q != kept:
            operands += [factor.reshape([factor.shape[a] for a in axes[q]]), list(axes[q])]
    return arrays.einsum(*operands, list(axes[kept])).reshape(shape)

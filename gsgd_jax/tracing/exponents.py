"""The exponents of a leaf's entries: sums of tables over blocks of its axes."""

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gsgd_jax.tracing.algebra.forms import Form


class Exponents(NamedTuple):
    """The factor of a leaf's entries: that of the first times those of blocks of axes.

    Blocks share no axis, but for those of layers: there the channels of every layer have nodes of
    their own.
    """

    overall: Form  # node -> exponent
    blocks: tuple[tuple[tuple[int, ...], list[Form]], ...]  # axes, exponents in row-major order


def log_factors(leaf: Exponents, shape: tuple[int, ...], logs: jax.Array) -> jax.Array:
    """The logarithm of every entry's factor, Σ_h k_eh log c_h.

    Args:
        leaf: the exponents of its entries.
        shape: of the leaf.
        logs: log c, [num_nodes].

    Returns:
        A shape that broadcasts to the leaf's.
    """
    total = jnp.zeros((1,) * len(shape), logs.dtype)
    for axes, table in [((), [leaf.overall]), *leaf.blocks]:
        places = [i for i, form in enumerate(table) for _ in form]
        nodes = [node for form in table for node in form]
        powers = jnp.array([float(c) for form in table for c in form.values()], logs.dtype)
        moved = powers * logs[jnp.array(nodes, jnp.int32)]
        sums = jnp.zeros(len(table), logs.dtype).at[jnp.array(places, jnp.int32)].add(moved)
        total = total + sums.reshape([n if a in axes else 1 for a, n in enumerate(shape)])
    return total


def separated(leaf: Exponents) -> Exponents:
    """The same factors, each node in one part alone: a kernel's heads here, its tails there.

    What works on one part at a time then sees a node's own exponents, none that cancel.

    Args:
        leaf: its factors; no two blocks share an axis.
    """
    overall = dict(leaf.overall)
    blocks = [(axes, list(table)) for axes, table in leaf.blocks]
    for node, power in leaf.overall.items():
        for place, (axes, table) in enumerate(blocks):
            # overall + table = (overall - c) + (table + c), for any c: here where most entries of
            # the table have -c, to say that all but a few do not move with the node.
            before = sum(node in form for form in table)
            after = sum(form.get(node, 0) != -power for form in table)
            if after <= before:
                blocks[place] = (axes, [_plus(form, node, power) for form in table])
                del overall[node]
                break
    return Exponents(overall, tuple(blocks))


def _plus(form: Form, node: int, power: int | Fraction) -> Form:
    """The form with more of a node."""
    total = form.get(node, 0) + power
    rest = {v: c for v, c in form.items() if v != node}
    return {**rest, node: total} if total else rest


def stacked(layers: Sequence[Exponents], shape: tuple[int, ...], along: int) -> Exponents:
    """The factors of a leaf from those of its layers.

    Args:
        layers: of one shape.
        shape: of a layer.
        along: the axis of layers.
    """

    def outer(axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(a + (a >= along) for a in axes)

    overall = layers[0].overall
    # Layer l: overall_l + sum of its tables, as overall_0 + (overall_l - overall_0) + the tables.
    shifts = [combined(layer.overall, overall, sign=-1) for layer in layers]
    blocks: list[tuple[tuple[int, ...], list[Form]]] = []
    if any(shifts):
        blocks.append(((along,), shifts))
    for axes in dict.fromkeys(axes for layer in layers for axes, _ in layer.blocks):
        size = int(np.prod([shape[a] for a in axes], dtype=np.int64))
        rows = [dict(layer.blocks).get(axes, [{}] * size) for layer in layers]
        table = [form for row in rows for form in row]
        joined = tuple(sorted((along, *outer(axes))))
        places = np.arange(len(table)).reshape(len(layers), *(shape[a] for a in axes))
        order = np.moveaxis(places, 0, joined.index(along)).ravel()
        blocks.append((joined, [table[place] for place in order.tolist()]))
    return Exponents(overall, tuple(blocks))


def shared_axis(leaf: Exponents) -> int | None:
    """An axis that several blocks have: one of layers.

    Args:
        leaf: its factors.
    """
    axes = [a for block, _ in leaf.blocks for a in block]
    return next((a for a in axes if axes.count(a) > 1), None)


def unstacked(
    leaf: Exponents, shape: tuple[int, ...], along: int
) -> list[tuple[Exponents, tuple[int, ...]]]:
    """The factors of a leaf's layers, and their shape.

    Args:
        leaf: its factors.
        shape: its shape.
        along: the axis of layers.
    """
    rest = shape[:along] + shape[along + 1 :]
    layers = []
    for i in range(shape[along]):
        overall, blocks = leaf.overall, []
        for axes, table in leaf.blocks:
            here = table
            if along in axes:
                places = np.arange(len(table)).reshape([shape[a] for a in axes])
                here = [table[p] for p in places.take(i, axes.index(along)).ravel().tolist()]
            inner = tuple(a - (a > along) for a in axes if a != along)
            if inner:
                blocks.append((inner, here))
            else:
                overall = combined(overall, here[0])
        layers.append((Exponents(overall, tuple(blocks)), rest))
    return layers


def disjoint(
    leaf: Exponents, shape: tuple[int, ...]
) -> Iterator[tuple[Exponents, tuple[int, ...]]]:
    """The leaf, or its layers, and their shapes: parts of which no two blocks share an axis.

    Args:
        leaf: its factors.
        shape: its shape.
    """
    along = shared_axis(leaf)
    if along is None:
        yield leaf, shape
    else:
        parts = (disjoint(*layer) for layer in unstacked(leaf, shape, along))
        yield from itertools.chain.from_iterable(parts)


def combined(first: Form, *others: Form, sign: int = 1) -> Form:
    """The sum of forms.

    Args:
        first: a form.
        *others: more of them.
        sign: their coefficient.
    """
    total = dict(first)
    for form in others:
        for v, c in form.items():
            total[v] = total.get(v, 0) + sign * c
    return {v: c for v, c in total.items() if c}

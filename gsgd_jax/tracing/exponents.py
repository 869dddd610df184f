"""The exponents of a leaf's entries: sums of tables over blocks of its axes."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gsgd_jax.tracing.algebra.linear import Form


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

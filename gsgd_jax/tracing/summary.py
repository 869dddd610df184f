"""What a found group says of itself when it is printed."""

import collections
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from gsgd_jax.tracing.exponents import Exponents, disjoint
from gsgd_jax.tracing.interpreter import Pin

_SHOWN = 12


def nodes_of(leaf: Exponents) -> set[int]:
    """The nodes that a leaf moves with.

    Args:
        leaf: its factors.
    """
    forms = [leaf.overall, *(form for _, table in leaf.blocks for form in table)]
    return {node for form in forms for node in form}


def per_leaf(moved: Sequence[set[int]], counts: Sequence[int], sizes: Sequence[int]) -> list[str]:
    """For every leaf its edges, and its free dimensions: each node takes one, where it is first.

    Args:
        moved: the nodes that each leaf moves with.
        counts: how many of its entries move.
        sizes: how many there are.
    """
    ends, counted = [], set()
    for nodes, count, size in zip(moved, counts, sizes, strict=True):
        new = len(nodes - counted)
        counted |= nodes
        ends.append(f"{count} edges, {size - new} free")
    return ends


def num_moved(leaf: Exponents, shape: tuple[int, ...]) -> int:
    """How many entries have an exponent that is not zero.

    Args:
        leaf: its factors.
        shape: its shape.
    """
    return sum(_num_moved(*part) for part in disjoint(leaf, shape))


def _num_moved(leaf: Exponents, shape: tuple[int, ...]) -> int:
    """The same, of a leaf whose blocks share no axis."""
    # An entry stands still if overall + sum of its parts = 0: for each combination of the shorter
    # tables, count in the longest the forms that cancel it. Other axes repeat each combination.
    *shorter, longest = sorted([[{}], *(table for _, table in leaf.blocks)], key=len)
    occurrences = collections.Counter(frozenset(form.items()) for form in longest)
    still, combinations = 0, len(longest) * int(np.prod([len(table) for table in shorter]))
    for forms in itertools.product(*shorter):
        opposite: dict[int, Any] = {}
        for form in (leaf.overall, *forms):
            for node, c in form.items():
                opposite[node] = opposite.get(node, 0) - c
        still += occurrences[frozenset((node, c) for node, c in opposite.items() if c)]
    size = int(np.prod(shape, dtype=np.int64))
    return size - still * (size // combinations)


def pin_lines(pins: tuple[Pin, ...]) -> list[str]:
    """What pinned scales, a line a place.

    Args:
        pins: in the order of the model.
    """
    return shortened([f"  pinned by {p.primitive} at {p.source}: {p.scales} scales" for p in pins])


def shortened(lines: list[str]) -> list[str]:
    """The first lines of many.

    Args:
        lines: all of them.
    """
    hidden = len(lines) - _SHOWN
    return [*lines[:_SHOWN], f"  and {hidden} more places"] if hidden > 0 else lines

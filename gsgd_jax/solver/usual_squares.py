"""The sums of squares that initialisers give to what enters and leaves the nodes of a group."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from gsgd_jax._factors import Group, leaf_tables
from gsgd_jax.solver.incidence import Incidence
from gsgd_jax.solver.knots import knots_of
from gsgd_jax.solver.least_squares import Due


@functools.lru_cache(maxsize=64)
def incidence_of(group: Group) -> Incidence:
    """Which nodes scale which entries of the leaves in the group."""
    return Incidence([parts for parts in leaf_tables(group) if parts], group.num_nodes)


@functools.lru_cache(maxsize=64)
def knots_in(group: Group) -> np.ndarray | None:
    """See `knots_of`; None where there is none."""
    knots = knots_of(incidence_of(group), group.num_nodes)
    return knots if (knots >= 0).any() else None


@functools.lru_cache(maxsize=64)
def usual_squares(group: Group, *, outside: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Sums of squares as initialisers make them, of all that enters and all that leaves each node.

    Balance says nothing about a node with weights on one side alone, such as the residual stream of
    a network with RMS norms, which all layers write to. Kernels have their outputs on the last axis
    (or, of a node that is one input or output of theirs, on the first), and initialisers give the
    weights into each output a sum of squares of about 1. So a node is due the number of outputs
    that it scales, over all leaves. Vectors, such as biases, which usually begin at zero, count
    for nothing where there are others. Much less or more would be passed on to all nodes near by:
    a chain of n balanced layers turns a factor here into its n-th power in its last one.

    Args:
        group: the rescaling group.
        outside: whether of the nodes of a knot only those entries count that come from outside it,
            or lead out of it.

    Returns:
        Of what enters, and of what leaves: float64 [num_nodes] each, at least 1, or the node's
        share of 1 for its knot.
    """
    knots = knots_in(group) if outside else None
    shapes = [s for s, parts in zip(group.shapes, leaf_tables(group), strict=True) if parts]
    incidence, due = incidence_of(group), np.zeros((2, group.num_nodes + 1))
    for leaf, shape in zip(incidence.leaves, shapes, strict=True):
        if sum(n > 1 for n in shape) < 2:
            continue
        for own, places in zip(leaf.shapes, leaf.places, strict=True):
            powers = incidence.powers[places]
            for side, sign in enumerate((1, -1)):
                there = powers * sign > 0
                if knots is not None:
                    there &= ~inside_a_knot(incidence, leaf, places, -sign, knots)
                first, last = (
                    _extents(incidence.nodes[places], there, own, axis, group.num_nodes)
                    * (1 if own[axis] == shape[axis] else shape[axis])
                    for axis in (0, -1)
                )
                due[side] += np.where((first == 1) | (last == 1), 1, last)
    least = np.ones(group.num_nodes)
    if knots is not None:
        least[knots >= 0] /= np.bincount(knots[knots >= 0])[knots[knots >= 0]]
    entering, leaving = np.maximum(due[:, :-1], least)
    return entering, leaving


def inside_a_knot(
    incidence: Incidence, leaf: Any, places: slice, sign: int, knots: np.ndarray
) -> np.ndarray:
    """Which nodes of a part are of the one knot that all entries end in, on a side of the leaf."""
    padded = np.append(knots, -1)
    opposite = [incidence.nodes[p][incidence.powers[p] * sign > 0] for p in leaf.places]
    met = np.unique(padded[np.concatenate(opposite)])
    own = padded[incidence.nodes[places]]
    return (own == met[0]) & (own >= 0) if len(met) == 1 else np.zeros(own.shape, bool)


def _extents(
    nodes: np.ndarray, there: np.ndarray, shape: Sequence[int], axis: int, count: int
) -> np.ndarray:
    """At how many indices along an axis of a part each node occurs, [count + 1]."""
    indices = np.indices(tuple(shape))[axis].reshape(-1, 1)
    pairs = np.unique((nodes.astype(np.int64) * shape[axis] + indices)[there])
    return np.bincount(pairs // shape[axis], minlength=count + 1)


def due_in(group: Group) -> Due:
    """What is due to nodes and knots with weights on one side alone, see `least_squares`."""
    alone = usual_squares(group)
    return Due(alone, alone if knots_in(group) is None else usual_squares(group, outside=True))

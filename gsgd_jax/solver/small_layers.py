"""Layers that are small beside what initialisers make, so that balance would make others small."""

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from gsgd_jax._factors import Group, leaf_tables
from gsgd_jax.solver.incidence import ON_HOST, Arrays, Incidence
from gsgd_jax.solver.least_squares import least_squares
from gsgd_jax.solver.usual_squares import due_in, incidence_of, inside_a_knot, knots_in

SMALL = 0.4
"""Below this share of their usual size, as a norm in the balanced copy, weights are small.

Layers of uniform weights within 1 / sqrt(fan-in), as PyTorch makes them, have 0.58.
"""


def small_leaves(group: Group, totals: Any, arrays: Arrays) -> Any:
    r"""Which leaves behind nodes of a balanced copy are so small that these are small with them.

    Balance makes what enters a node as large as what leaves it, so a small last layer makes all
    layers before it small. Of the copy, no more can be told than that their product is small, and
    of all layers it is the last one that is named: a leaf is small where

        Σ_h q_h < SMALL² Σ_h r_h,    h over the nodes that it leads from,

    and the nodes that it leads to, if any, are not. q_h is the sum of the squares that enter h (or
    that leave it, where nothing enters), and r_h that of the balanced copy of a network whose
    kernels have a sum of squares of 1 into every output, and whose gains are 1. Where nodes feed
    one another, what enters all of them from outside is asked too: what they pass among themselves
    has its size whatever their common scale.

    Args:
        group: the rescaling group.
        totals: of the balanced copy, see `least_squares`.
        arrays: where this is worked out.

    Returns:
        Bool [leaves in the group]; none where the weights are not finite.
    """
    ends, usual = _ends(group), _usual_sizes(group)
    there = usual > 0
    ratios = _sizes(group, totals, arrays) / np.where(there, usual, 1).astype(totals.dtype)
    small = there & (ratios < SMALL**2)  # [alone or in their knot, tails or heads, leaves]
    before, behind = small[0] | small[1]
    return before & ~behind & ends.passing


class _Ends(NamedTuple):
    """Where leaves begin and end, as indices for sums."""

    weighings: np.ndarray  # of totals, [factors, slots, 2 of alone or outside * 2 sides]
    units: np.ndarray  # of every node its knot, or itself, [num_nodes]
    nodes: tuple[np.ndarray, np.ndarray]  # rows of [tails or heads, leaves], and the node of each
    knots: tuple[np.ndarray, np.ndarray]  # likewise with the unit of each
    passing: np.ndarray  # which leaves have tails, [leaves]


@functools.lru_cache(maxsize=64)
def _ends(group: Group) -> _Ends:
    incidence, knots = incidence_of(group), knots_in(group)
    count = group.num_nodes
    sides = [np.maximum(incidence.powers, 0), np.maximum(-incidence.powers, 0)]
    outside = [side.copy() for side in sides]
    units = np.arange(count)
    if knots is not None:
        first = {knot: node for node, knot in reversed(list(enumerate(knots.tolist())))}
        units = np.where(knots >= 0, [first[knot] for knot in knots.tolist()], units)
        for leaf in incidence.leaves:
            for places in leaf.places:
                for side, sign in zip(outside, (1, -1), strict=True):
                    side[places] *= ~inside_a_knot(incidence, leaf, places, -sign, knots)
    rows, ids = [], []
    for sign in (-1, 1):  # tails, heads
        for i in range(len(incidence.leaves)):
            _, met = _side(incidence, i, sign)
            ids.append(met)
            rows.append(np.full(len(met), len(rows)))
    pairs = np.concatenate(rows), np.concatenate(ids)
    joint = np.unique(np.stack([pairs[0], units[pairs[1]]]), axis=1)
    passing = np.array([len(met) > 0 for met in ids[: len(incidence.leaves)]])
    return _Ends(np.stack([*sides, *outside], -1), units, pairs, (joint[0], joint[1]), passing)


def _sizes(group: Group, totals: Any, arrays: Arrays) -> Any:
    """Sums of squares at the ends of leaves, [alone or in their knot, tails or heads, leaves]."""
    xp, incidence, ends = arrays.xp, incidence_of(group), _ends(group)
    leaves = len(incidence.leaves)
    weighed = totals[:, None, None] * ends.weighings.astype(totals.dtype)
    sums = arrays.add_at(incidence.nodes.ravel(), weighed.reshape(-1, 4), group.num_nodes + 1)
    alone = sums[:-1, :2]
    joint = arrays.add_at(ends.units, sums[:-1, 2:], group.num_nodes)
    sizes = [
        xp.max(arrays.add_at(rows, own[ids], 2 * leaves), axis=1).reshape(2, leaves)
        for own, (rows, ids) in ((alone, ends.nodes), (joint, ends.knots))
    ]
    return xp.stack(sizes)


@functools.lru_cache(maxsize=64)
def _usual_sizes(group: Group) -> np.ndarray:
    """`_sizes` of the balanced copy of a usual network, float64."""
    incidence, may_move = incidence_of(group), np.ones(group.num_nodes, bool)
    least = least_squares(
        incidence, may_move, due_in(group), _usual_entries(group),
        knots=knots_in(group), arrays=ON_HOST, tolerance=1e-6, max_steps=100,
    )  # fmt: skip
    return _sizes(group, least.totals, ON_HOST)


def _usual_entries(group: Group) -> list[np.ndarray]:
    """w_e² of every leaf as initialisers make it, of the sizes that the incidence takes, float64.

    Into every output 1 altogether. Outputs lie along the axes on which the nodes that a leaf leads
    to depend; where it leads to none, inputs do along those of the nodes that it leads from. What
    has one entry a node, and leads from none, is a gain, 1, where no kernel leads to the node, and
    otherwise a bias, 0.
    """
    tables = [parts for parts in leaf_tables(group) if parts]
    shapes = [s for s, parts in zip(group.shapes, leaf_tables(group), strict=True) if parts]
    incidence, passing = incidence_of(group), _ends(group).passing
    fans, heads = [], []
    for i, shape in enumerate(shapes):
        along, met = _side(incidence, i, 1)
        inputs, _ = _side(incidence, i, -1)
        heads.append(met)
        outputs = math.prod(shape[a] for a in along)
        fans.append(
            math.prod(shape) // outputs if met.size else math.prod(shape[a] for a in inputs)
        )
    kernels = (np.array(fans) > 1) | passing
    # How many kernels, and how many vectors, lead to each node.
    led = np.zeros((2, group.num_nodes), int)
    for kernel, met in zip(kernels, heads, strict=True):
        led[0 if kernel else 1, met] += 1
    entries = []
    for parts, shape, fan, kernel, met in zip(tables, shapes, fans, kernels, heads, strict=True):
        size = 1 / fan
        if not kernel:
            size = 0.0 if led[0, met].any() else 1 / led[1, met].max()
        varying = np.broadcast_shapes(*(table.nodes.shape[:-1] for table in parts))
        entries.append(np.full(varying, size * math.prod(shape) / math.prod(varying)))
    return entries


def _side(incidence: Incidence, place: int, sign: int) -> tuple[list[int], np.ndarray]:
    """Axes of a leaf along which the nodes on one side vary; and these nodes."""
    leaf, ground = incidence.leaves[place], incidence.count
    axes, met = set(), []
    for own, shape, places in zip(leaf.axes, leaf.shapes, leaf.places, strict=True):
        there = incidence.powers[places] * sign > 0
        nodes = np.where(there, incidence.nodes[places], ground)
        met.append(nodes[nodes < ground])
        nodes = np.sort(nodes, axis=1).reshape(*shape, -1)
        axes |= {a for a in own if (nodes != np.take(nodes, [0], axis=a)).any()}
    return sorted(axes), np.unique(np.concatenate(met))

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
    kernels have a sum of squares of 1 into every output, and whose gains are 1; or what is due to
    the nodes once the leaf is left out, if that is less. Where nodes feed one another, what enters
    all of them from outside is asked too: what they pass among themselves has its size whatever
    their common scale. Where more than half of Σ q_h is of biases, no leaf is small: these would
    get the usual scale, and the kernels beside them stay small.

    In a chain of L layers each gets the L-th part of the smallness, so a last layer is found from a
    factor of about SMALL^L down.

    Args:
        group: the rescaling group.
        totals: of the balanced copy, see `least_squares`.
        arrays: where this is worked out.

    Returns:
        Bool [leaves in the group]; none where the weights are not finite.
    """
    ends, usual = _ends(group), _usual_sizes(group)
    there = usual > 0
    sizes, of_kernels = _sizes(group, totals, arrays)
    ratios = sizes / np.where(there, usual, 1).astype(totals.dtype)
    small = there & (ratios < SMALL**2)  # [alone or in their knot, tails or heads, leaves]
    before, behind = small[0] | small[1]
    return before & ~behind & ends.passing & (2 * of_kernels >= sizes[0, 0])


class _Ends(NamedTuple):
    """Where leaves begin and end, as indices for sums."""

    weighings: np.ndarray  # [factors, slots, 5]: see `_ends`
    units: np.ndarray  # of every node its knot, or itself, [num_nodes]
    nodes: tuple[np.ndarray, np.ndarray]  # rows of [tails or heads, leaves], and the node of each
    knots: tuple[np.ndarray, np.ndarray]  # likewise with the unit of each
    passing: np.ndarray  # which leaves have tails, [leaves]


@functools.lru_cache(maxsize=64)
def _ends(group: Group) -> _Ends:
    """The ends of all leaves.

    Totals are weighed to give what enters every node and what leaves it, both again from and to
    outside its knot, and what enters but for biases.
    """
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
    kernels = sides[0].copy()
    for leaf, usual in zip(incidence.leaves, _usual_entries(group), strict=True):
        for places in leaf.places:
            kernels[places] *= usual > 0
    weighings = np.stack([*sides, *outside, kernels], -1)
    return _Ends(weighings, units, pairs, (joint[0], joint[1]), passing)


def _sizes(group: Group, totals: Any, arrays: Arrays) -> tuple[Any, Any]:
    """Sums of squares at the ends of leaves, and the part of kernels and gains at their tails.

    Returns:
        [alone or in their knot, tails or heads, leaves]; and of nodes alone, [leaves].
    """
    incidence, ends = incidence_of(group), _ends(group)
    weighed = totals[:, None, None] * ends.weighings.astype(totals.dtype)
    count = ends.weighings.shape[-1]
    sums = arrays.add_at(incidence.nodes.ravel(), weighed.reshape(-1, count), group.num_nodes + 1)
    return _at_ends(group, sums[:-1, [0, 1, 4]], sums[:-1, 2:4], arrays)


def _at_ends(group: Group, alone: Any, outside: Any, arrays: Arrays) -> tuple[Any, Any]:
    """See `_sizes`.

    Args:
        group: the rescaling group.
        alone: what enters and leaves every node, and the part of kernels if asked for, [nodes, 2
            or 3].
        outside: what enters and leaves it from outside its knot, [nodes, 2].
        arrays: where this is worked out.
    """
    xp, ends, leaves = arrays.xp, _ends(group), len(incidence_of(group).leaves)
    joint = arrays.add_at(ends.units, outside, group.num_nodes)
    of_nodes, of_units = (
        arrays.add_at(rows, own[ids], 2 * leaves).reshape(2, leaves, -1)
        for own, (rows, ids) in ((alone, ends.nodes), (joint, ends.knots))
    )
    sizes = [xp.max(of_nodes[..., :2], axis=-1), xp.max(of_units, axis=-1)]
    return xp.stack(sizes), of_nodes[0, :, -1]


@functools.lru_cache(maxsize=64)
def _usual_sizes(group: Group) -> np.ndarray:
    """`_sizes` of the balanced copy of a usual network, at most what is due; float64."""
    incidence, may_move, due = incidence_of(group), np.ones(group.num_nodes, bool), due_in(group)
    squares = []  # of the sizes that the incidence takes
    tables = zip(group.shapes, leaf_tables(group), strict=True)
    inside = [(shape, parts) for shape, parts in tables if parts]
    for size, (shape, parts) in zip(_usual_entries(group), inside, strict=True):
        varying = np.broadcast_shapes(*(table.nodes.shape[:-1] for table in parts))
        squares.append(np.full(varying, size * math.prod(shape) / math.prod(varying)))
    least = least_squares(
        incidence, may_move, due, squares,
        knots=knots_in(group), arrays=ON_HOST, tolerance=1e-6, max_steps=100,
    )  # fmt: skip
    entering, outside = (np.stack([own[0]] * 2, axis=1) for own in (due.alone, due.outside))
    dues = _at_ends(group, entering, outside, ON_HOST)[0]
    return np.minimum(_sizes(group, least.totals, ON_HOST)[0], dues)


def _usual_entries(group: Group) -> list[float]:
    """w_e² of the entries of every leaf as initialisers make them.

    Into every output 1 altogether. Outputs lie along the axes on which the nodes that a leaf leads
    to depend; where it leads to none, along the last axis, if the nodes that it leads from do not
    depend on it. If they do, they may be inputs in front of outputs, or the outputs of a query's
    kernel: the larger number counts as inputs, so that less is usual. What has one entry a node,
    and leads from none, is a gain, 1, where no kernel leads to the node, and otherwise a bias, 0.
    """
    shapes = [s for s, parts in zip(group.shapes, leaf_tables(group), strict=True) if parts]
    incidence = incidence_of(group)
    fans, heads, passing = [], [], []
    for i, shape in enumerate(shapes):
        (along, met), (inputs, tails) = (_side(incidence, i, sign) for sign in (1, -1))
        heads.append(met)
        passing.append(tails.size > 0)
        whole, outputs = math.prod(shape), math.prod(shape[a] for a in along)
        if not met.size:
            ins = math.prod(shape[a] for a in inputs)
            outputs = min(ins, whole // max(ins, 1)) if len(shape) - 1 in inputs else shape[-1]
        fans.append(whole // max(outputs, 1))
    kernels = (np.array(fans) > 1) | np.array(passing)
    # How many kernels, and how many vectors, lead to each node.
    led = np.zeros((2, group.num_nodes), int)
    for kernel, met in zip(kernels, heads, strict=True):
        led[0 if kernel else 1, met] += 1
    entries = []
    for fan, kernel, met in zip(fans, kernels, heads, strict=True):
        bias = not kernel and led[0, met].any()
        entries.append(0.0 if bias else 1 / (fan if kernel else led[1, met].max(initial=1)))
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

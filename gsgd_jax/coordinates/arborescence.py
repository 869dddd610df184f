"""Arborescences over a gauge: an edge for every node, along which all ways lead to ground."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from gsgd_jax.gauge import GROUND, Gauge


class _Leaf(NamedTuple):
    """A leaf as edges: from the side from which a node is chosen for, its own, to the other."""

    own: np.ndarray  # int, broadcasts to the leaf
    other: np.ndarray  # likewise
    usable: np.ndarray | None  # bool, like the leaf: preference above 0; None for all
    late: (
        bool  # a bias or the like: a way to ground that is taken for one only if there is no other
    )

    @property
    def apart(self) -> bool:
        """Whether every own end meets every other end, as in dense layers and convolutions."""
        pairs = zip(self.own.shape, self.other.shape, strict=True)
        return self.usable is None and not any(one > 1 and two > 1 for one, two in pairs)


def arborescence(
    gauge: Gauge, preferences: Sequence[np.ndarray], *, side: Literal["input", "output"]
) -> np.ndarray:
    """Every node's most preferred edge among those that cannot close a cycle.

    In a feed-forward graph none can, and a node's edge is simply its edge of largest preference,
    the first of equals. Where the group ties a node to nodes before and behind it, in residual
    streams and recurrent layers, largest edges may run in a circle, or wander through hundreds of
    nodes, along which products of weights vanish. There, between layers that lead to one another
    both ways, only edges count that lead nearer to ground, by the number of edges on the shortest
    way to it; a bias, which leads there at once, shortens no way unless it is the only one.

    Args:
        gauge: the graph.
        preferences: for every leaf an array of its shape, not negative; entries of preference 0 are
            taken only where a node has no other.
        side: "input" for edges into the nodes, followed back; "output" for edges out of them.

    Returns:
        The number of every node's edge, integer [num_nodes].

    Raises:
        ValueError: if no way leads to ground from some node, by entries of positive preference.
    """
    ends = (gauge.heads, gauge.tails) if side == "input" else (gauge.tails, gauge.heads)
    cycles = _cyclic_layers(gauge)
    if cycles.max(initial=-1) < 0:
        return _largest(gauge, preferences, ends[0])
    leaves = []
    for own, other, preference in zip(*ends, preferences, strict=True):
        usable = preference > 0
        late = preference.ndim < 2 and bool((other == GROUND).all())
        leaves.append(_Leaf(own, other, None if usable.all() else usable, late))
    depths = _depths(gauge, leaves)
    far = np.flatnonzero(depths[:-1] < 0)
    if far.size:
        raise ValueError(
            f"every node must reach ground at the {side} by entries that are not zero, but "
            f"{far.size} nodes do not, {far[:5].tolist()} among them; they are dead, and must be "
            "left out of the gauge."
        )
    allowed = []
    for leaf, preference in zip(leaves, preferences, strict=True):
        tied = (cycles[leaf.own] == cycles[leaf.other]) & (cycles[leaf.own] >= 0)
        back = tied & (depths[leaf.other] >= depths[leaf.own])
        allowed.append(np.where(back, -1.0, preference) if back.any() else preference)
    return _largest(gauge, allowed, ends[0])


def lost_nodes(
    gauge: Gauge, arrays: Sequence[np.ndarray], *, side: Literal["input", "output"]
) -> np.ndarray:
    """The nodes that no way of entries that are not zero joins to ground on one side; ascending.

    Args:
        gauge: the graph.
        arrays: the leaves of a parameter tree.
        side: "input" for nodes that nothing enters, which are dead; "output" for nodes that nothing
            leaves.
    """
    ends = (gauge.heads, gauge.tails) if side == "input" else (gauge.tails, gauge.heads)
    leaves = []
    for own, other, array in zip(*ends, arrays, strict=True):
        usable = array != 0
        leaves.append(_Leaf(own, other, None if usable.all() else usable, late=False))
    return np.flatnonzero(_depths(gauge, leaves)[:-1] < 0)


def _largest(
    gauge: Gauge, preferences: Sequence[np.ndarray], owns: Sequence[np.ndarray]
) -> np.ndarray:
    """Of every node the edge of largest preference, the first of equals; never a negative one."""
    edges, best = np.full(gauge.num_nodes, -1, np.int64), np.full(gauge.num_nodes, -1.0)
    for i, own in enumerate(owns):
        if (own == GROUND).all():
            continue
        preference = preferences[i].ravel()
        nodes = np.broadcast_to(own, gauge.shapes[i]).ravel()
        here = np.full(gauge.num_nodes + 1, -1.0)  # GROUND, -1, is the last
        np.maximum.at(here, nodes, preference)
        winners = np.flatnonzero(preference == here[nodes])
        present, first = np.unique(nodes[winners], return_index=True)
        better = (present != GROUND) & (here[present] > best[present])
        present, entries = present[better], winners[first[better]]
        edges[present], best[present] = gauge.offsets[i] + entries, here[present]
    return edges


def _cyclic_layers(gauge: Gauge) -> np.ndarray:
    """Of every node which set of layers it is in that lead to one another, -1 for none.

    Layers are nodes that the same leaves enter and leave; the last element, for ground, is -1.
    """
    met: list[list[int]] = [[] for _ in range(gauge.num_nodes)]
    for i in range(len(gauge.names)):
        for end, ids in enumerate((gauge.tails[i], gauge.heads[i])):
            for node in np.unique(ids[ids != GROUND]).tolist():
                met[node].append(2 * i + end)
    layers: dict[tuple[int, ...], int] = {}
    layer = np.array([layers.setdefault(tuple(m), len(layers)) for m in met] + [-1], np.int64)
    leads = np.zeros([len(layers)] * 2, np.float32)
    for tails, heads in zip(gauge.tails, gauge.heads, strict=True):
        if _Leaf(tails, heads, None, late=False).apart:
            pairs = np.meshgrid(np.unique(layer[tails]), np.unique(layer[heads]))
        else:
            pairs = np.broadcast_arrays(layer[tails], layer[heads])
        inside = (pairs[0] >= 0) & (pairs[1] >= 0)
        leads[pairs[0][inside], pairs[1][inside]] = 1
    for _ in range(len(layers).bit_length()):  # ways of twice as many edges
        leads = np.minimum(leads + leads @ leads, 1)
    mutual = (leads > 0) & (leads.T > 0)
    cycle = np.where(mutual.any(1), mutual.argmax(1), -1) if len(layers) else np.zeros(0, np.int64)
    return np.append(cycle, -1)[layer]


def _depths(gauge: Gauge, leaves: Sequence[_Leaf]) -> np.ndarray:
    """How many edges the shortest way to ground has; -1 for no way, 0 for ground, which is last."""
    depths = np.append(np.full(gauge.num_nodes, -1), 0)
    depth = 0
    while True:
        depth += 1
        reached = depths >= 0
        for use_late in (False, True):
            found = np.zeros(gauge.num_nodes + 1, bool)
            for leaf in leaves:
                if use_late or not leaf.late:
                    found[_reached_by(leaf, reached)] = True
            found &= ~reached
            if found.any():
                break
        if not found.any():
            return depths
        depths[found] = depth


def _reached_by(leaf: _Leaf, reached: np.ndarray) -> np.ndarray:
    """The own ends of a leaf's usable edges whose other ends have been reached."""
    if leaf.apart:
        return leaf.own.ravel() if reached[leaf.other].any() else np.zeros(0, np.int64)
    there = reached[leaf.other] if leaf.usable is None else reached[leaf.other] & leaf.usable
    own, there = np.broadcast_arrays(leaf.own, there)
    return own[there]

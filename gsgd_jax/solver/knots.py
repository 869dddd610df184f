"""Sets of nodes that rescaling ties in cycles, and whether non-zero ways join them to ground.

A residual stream without norms and its branches, or a recurrent layer, feed themselves: their
nodes have weights on both sides whatever enters or leaves the whole. If nothing does, say because
the last layer is zero, one common scale of them makes what joins them to the rest as small as one
likes, and the sum of squares of the rescaled weights has no minimum. So a node of such a *knot* is
asked not whether non-zero entries enter and leave it, but whether a chain of them leads to it from
outside the knot, and out of the knot from it. In a graph these are all sets without a minimum: any
direction in which no entry grows is the same along every cycle of non-zero entries. Where one way
is missing, a pull takes its place (see `least_squares`), and there is a minimum again. Which nodes
are pulled depends on which entries are zero, and no rescaling changes that: all copies of a network
get to the same minimum, and are trained from there alike. In a group that is no graph, other
exponents may hold the common scale already; a pull then moves the minimum, for all copies alike.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gsgd_jax.solver.incidence import Arrays, Incidence


def knots_of(incidence: Incidence, count: int) -> np.ndarray:
    """Of every node the number of the knot it is in, -1 for none: entries count as non-zero.

    A knot is a strongly connected part of the graph of nodes, without ground. All heads of a part
    of a leaf follow upon all tails of another, by way of one vertex that stands for the pair.

    Args:
        incidence: which nodes scale which entries.
        count: of nodes.

    Returns:
        Int [count].
    """
    follow: list[list[int]] = [[] for _ in range(count)]

    def lead(tails: np.ndarray, heads: np.ndarray) -> None:
        if tails.size and heads.size:
            for tail in tails.tolist():
                follow[tail].append(len(follow))
            follow.append(heads.tolist())

    def ends(places: slice, side: int) -> np.ndarray:
        nodes = incidence.nodes[places][incidence.powers[places] * side > 0]
        return np.unique(nodes[nodes < count])

    for leaf in incidence.leaves:
        for one, other in itertools.permutations(leaf.places, 2):
            lead(ends(one, -1), ends(other, 1))
    real = np.where(incidence.nodes < count, np.sign(incidence.powers), 0)
    for row in np.flatnonzero((real < 0).any(1) & (real > 0).any(1)).tolist():
        lead(ends(slice(row, row + 1), -1), ends(slice(row, row + 1), 1))
    parts = _strong_parts(follow)
    sizes = np.bincount(parts)
    # A part of one vertex is no cycle: a node that feeds itself has the pair's vertex with it.
    return np.where(sizes[parts] > 1, parts, -1)[:count]


def _strong_parts(follow: Sequence[Sequence[int]]) -> np.ndarray:
    """The strongly connected part of every vertex, by Tarjan's algorithm without recursion."""
    part, low = np.full(len(follow), -1), np.full(len(follow), -1)
    waiting: list[int] = []
    calls: list[tuple[int, Iterator[int], int]] = []  # a vertex, what is left behind it, its number
    found = parts = 0
    for root in range(len(follow)):
        news = root if low[root] < 0 else None
        while calls or news is not None:
            if news is not None:
                calls.append((news, iter(follow[news]), found))
                waiting.append(news)
                low[news], found = found, found + 1
            vertex, rest, number = calls[-1]
            news = None
            for following in rest:
                if low[following] < 0:
                    news = following
                    break
                if part[following] < 0:
                    low[vertex] = min(low[vertex], low[following])
            if news is not None:
                continue
            calls.pop()
            if calls:
                low[calls[-1][0]] = min(low[calls[-1][0]], low[vertex])
            if low[vertex] == number:
                while part[vertex] < 0:
                    part[waiting.pop()] = parts
                parts += 1
    return part


def adrift(
    incidence: Incidence,
    knots: np.ndarray,
    live: Sequence[Any],
    sides: tuple[Any, Any],
    arrays: Arrays,
) -> tuple[Any, Any]:
    """Which nodes of knots have weights on both sides, but nothing before the knot or behind it.

    A chain of non-zero entries may begin and end at a node of the knot with weights on one side
    alone too, since its own scale is decided for itself.

    Args:
        incidence: which nodes scale which entries.
        knots: of every node, see `knots_of`; at least one.
        live: 1 for each entry that is not zero, 0 for others, of sizes that the incidence takes.
        sides: whether non-zero entries enter every node, and leave it, bool [num_nodes] each.
        arrays: where this is worked out.

    Returns:
        Those to which no such chain leads, and those from which none leads on, likewise.
    """
    xp, dtype, numbers = arrays.xp, live[0].dtype, np.unique(knots[knots >= 0])
    entered, left = sides

    def spread(state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        """One entry further in the present knot; on to the next where nothing is new in it."""
        turn, *joined = state
        here = knots == xp.asarray(numbers)[turn]
        grown = [
            old | incidence.ways(live, (old | ~here).astype(dtype), side, arrays) & here
            for old, side in zip(joined, (1, -1), strict=True)
        ]
        more = xp.any(grown[0] & ~joined[0]) | xp.any(grown[1] & ~joined[1])
        rest = xp.any(here & ~(grown[0] & grown[1]))
        return xp.where(more & rest, turn, turn + 1), *grown

    start = (0, (knots < 0) | ~entered, (knots < 0) | ~left)
    _, before, behind = arrays.loop(lambda state: state[0] < len(numbers), spread, start)
    both = entered & left
    return both & ~before, both & ~behind

"""From the solved equations to nodes and edges."""

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from gsgd_jax.gauge import GROUND
from gsgd_jax.tracing.algebra.forms import Form
from gsgd_jax.tracing.algebra.scales import LARGEST_TABLE, Scales, Value
from gsgd_jax.tracing.algebra.solver import System
from gsgd_jax.tracing.algebra.stacks import Partition, single
from gsgd_jax.tracing.exponents import (
    Exponents,
    combined,
    disjoint,
    separated,
    shared_axis,
    stacked,
    unstacked,
)

_LARGEST_LEAF = 2**16


def choose_nodes(
    scales: Scales, candidates: Sequence[Value], leaves: Sequence[Value | None]
) -> None:
    """Makes scales of hidden channels the basis in which those of parameters are expressed.

    Args:
        scales: the algebra, all equations solved.
        candidates: scales of hidden channels, in the order of the model.
        leaves: of the parameters; None outside the group.
    """
    system = scales.system
    parameters = [numbers for leaf in leaves if leaf is not None for numbers in _numbers(leaf)]
    numbers = np.unique(system.simplified(np.concatenate(parameters)))
    spanned = system.variables(numbers)
    alone = system.variables(numbers[system.num_variables(numbers) == 1])
    # Channels are a basis only if the parameters' scales span all that there is.
    complete = len(alone) == len(spanned) or system.rank(parameters) == len(spanned)
    among = np.zeros(system.num_made + 1, bool)
    among[spanned] = True
    for value in candidates if complete else ():
        if scales.num_entries(value) <= LARGEST_TABLE:
            # The first entry comes first: all others have its scale in them, and are shorter then.
            system.adopt_each(np.array([value.overall]), among)
            system.adopt_each(scales.entries(value), among)
    for numbers in parameters:
        system.adopt_each(numbers, among)


def node_exponents(
    system: System, leaves: Sequence[Value | None]
) -> tuple[list[Exponents], list[int]]:
    """The leaves' factors by node, nodes numbered 0, 1, ..., and the nodes' variables.

    Args:
        system: of equations, with a basis.
        leaves: of the parameters; None outside the group.
    """
    raw = [Exponents({}, ()) if leaf is None else _forms_of(system, leaf) for leaf in leaves]
    variables = {v for leaf in raw for form in _forms(leaf) for v in form}
    basis = sorted(variables, reverse=True)
    place = {v: node for node, v in enumerate(basis)}

    shared: dict[tuple, Form] = {}  # forms that recur are kept once

    def renamed(form: Form) -> Form:
        named = {place[v]: c for v, c in form.items()}
        return shared.setdefault(tuple(named.items()), named)

    factors = [
        Exponents(renamed(x.overall), tuple((a, list(map(renamed, t))) for a, t in x.blocks))
        for x in raw
    ]
    return factors, basis


def _forms_of(system: System, leaf: Value) -> Exponents:
    """The factors of a leaf in the system's variables."""
    if leaf.layers:
        layers = [_forms_of(system, layer) for layer in leaf.layers]
        return stacked(layers, leaf.layers[0].shape, leaf.along)
    tables = tuple((axes, system.forms(t)) for axes, t in leaf.blocks)
    return separated(
        Exponents(system.form(leaf.overall), tuple((a, t) for a, t in tables if any(t)))
    )


def edges(leaf: Exponents, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray] | None:
    """Every entry's tail and head, or None if some entry has several of either.

    Args:
        leaf: its factors.
        shape: its shape.

    Returns:
        Node numbers of shapes that broadcast to the leaf's.
    """
    along = shared_axis(leaf)
    if along is not None:
        layers = [edges(*layer) for layer in unstacked(leaf, shape, along)]
        sides = [[end[side] for end in layers if end is not None] for side in (0, 1)]
        if len(sides[0]) < len(layers):
            return None
        tails, heads = (np.stack(np.broadcast_arrays(*side), axis=along) for side in sides)
        return tails, heads
    if len(leaf.blocks) > 1:
        separate = _separate_edges(leaf, shape)
        if separate is not None:
            return separate
    axes = tuple(itertools.chain.from_iterable(axes for axes, _ in leaf.blocks))
    if np.prod([shape[a] for a in axes], dtype=np.int64) > _LARGEST_LEAF and len(leaf.blocks) > 1:
        return None
    ends = []
    for terms in itertools.product(*(table for _, table in leaf.blocks)):
        end = _ends(combined(leaf.overall, *terms))
        if end is None:
            return None
        ends.append(end)
    dims, order = [shape[a] for a in axes], np.argsort(axes).astype(int)
    full = [n if a in axes else 1 for a, n in enumerate(shape)]
    # Tables come in the order of the blocks: laid out over (axes of block 1, of block 2, ...), then
    # brought into the order of the leaf's axes.
    tails, heads = (
        np.array(side).reshape(dims).transpose(order).reshape(full)
        for side in zip(*ends, strict=True)
    )
    return tails, heads


def fill_ground(
    tails: np.ndarray, heads: np.ndarray, shape: tuple[int, ...], partition: Partition
) -> tuple[np.ndarray, np.ndarray]:
    """Ground at one end of a kernel, laid out along the axes that the other end leaves.

    It says of the first and the last kernel which of their axes are inputs and which outputs.

    Args:
        tails: of a leaf.
        heads: of it.
        shape: of it.
        partition: its groups of axes; of two, the inputs come first.
    """
    ends = [_along_few_axes(tails), _along_few_axes(heads)]
    for side, other in ((0, 1), (1, 0)):
        if (ends[side] == GROUND).all() and not (ends[other] == GROUND).all():
            varying = {a for a, n in enumerate(ends[other].shape) if n > 1}
            if varying:
                groups = [group for group in partition if not varying & set(group)]
            else:  # a layer of one unit varies along no axis
                groups = [partition[side]] if len(partition) == 2 else []
            if groups:
                axes = set(itertools.chain.from_iterable(groups))
                dims = [n if a in axes else 1 for a, n in enumerate(shape)]
                ends[side] = np.full(dims, GROUND)
    return ends[0], ends[1]


def _along_few_axes(ids: np.ndarray) -> np.ndarray:
    """The same nodes, with size 1 along all axes that they do not vary along."""
    for axis, size in enumerate(ids.shape):
        first = ids.take([0], axis) if size > 1 else ids
        ids = first if (ids == first).all() else ids
    return ids


def one_sided(
    leaves: Sequence[Exponents], shapes: Sequence[tuple[int, ...]], count: int
) -> np.ndarray:
    """Nodes that no entry enters or none leaves: nothing makes up for their scale.

    Args:
        leaves: their factors.
        shapes: of the leaves.
        count: of nodes.

    Returns:
        Their numbers, ascending.
    """
    entered, left = np.zeros(count, bool), np.zeros(count, bool)
    apart = (layer for leaf, shape in zip(leaves, shapes, strict=True)
             for layer, _ in disjoint(leaf, shape))  # fmt: skip
    for leaf in apart:
        # Blocks vary independently, so the largest exponent of a leaf is the sum of the largest of
        # its parts; a form that lacks the node counts as exponent 0.
        least, most = dict(leaf.overall), dict(leaf.overall)
        for _, table in leaf.blocks:
            lows: dict[int, int | Fraction] = {}
            highs: dict[int, int | Fraction] = {}
            occurrences: dict[int, int] = {}
            for form in table:
                for node, c in form.items():
                    occurrences[node] = occurrences.get(node, 0) + 1
                    if c < lows.get(node, c + 1):
                        lows[node] = c
                    if c > highs.get(node, c - 1):
                        highs[node] = c
            for node, count_of_node in occurrences.items():
                everywhere = count_of_node == len(table)
                low, high = lows[node], highs[node]
                least[node] = least.get(node, 0) + (low if everywhere else min(low, 0))
                most[node] = most.get(node, 0) + (high if everywhere else max(high, 0))
        entered[[node for node, c in most.items() if c > 0]] = True
        left[[node for node, c in least.items() if c < 0]] = True
    return np.flatnonzero(~(entered & left))


def _separate_edges(
    leaf: Exponents, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Heads that vary along one block of axes and tails along another, as in a kernel."""
    if len(leaf.blocks) != 2:
        return None
    for into, out_of in (leaf.blocks, leaf.blocks[::-1]):
        for first_head, first_tail in itertools.product(_bases(leaf, 1), _bases(leaf, -1)):
            if combined(_unit(first_head), _unit(first_tail, -1)) != leaf.overall:
                continue
            heads = [_node(combined(_unit(first_head), form)) for form in into[1]]
            tails = [_node(combined(_unit(first_tail), form, sign=-1)) for form in out_of[1]]
            if None not in heads and None not in tails:
                return _laid_out(tails, out_of[0], shape), _laid_out(heads, into[0], shape)
    return None


def _bases(leaf: Exponents, side: int) -> Iterator[int]:
    """Nodes that can be the first head (side 1) or tail (side -1)."""
    nodes = dict.fromkeys(v for v, c in leaf.overall.items() if c == side)
    for _, table in leaf.blocks:
        nodes |= dict.fromkeys(v for v, c in table[1].items() if c == -side)
    return iter([*nodes, GROUND])


def _laid_out(nodes: Sequence[int | None], axes: tuple[int, ...], shape: tuple) -> np.ndarray:
    return np.array(nodes).reshape([n if a in axes else 1 for a, n in enumerate(shape)])


def _unit(node: int, coefficient: int = 1) -> Form:
    return {} if node == GROUND else {node: coefficient}


def _node(form: Form) -> int | None:
    """The node whose scale this is, ground for 1, None for anything else."""
    if not form:
        return GROUND
    if len(form) == 1:
        ((node, coefficient),) = form.items()
        return node if coefficient == 1 else None
    return None


def _ends(form: Form) -> tuple[int, int] | None:
    """(tail, head) of an entry with this factor."""
    tail = head = GROUND
    for node, power in form.items():
        if power == 1 and head == GROUND:
            head = node
        elif power == -1 and tail == GROUND:
            tail = node
        else:
            return None
    return tail, head


def _forms(leaf: Exponents) -> Iterator[Form]:
    yield leaf.overall
    for _, table in leaf.blocks:
        yield from table


def _numbers(leaf: Value) -> list[np.ndarray]:
    return [
        numbers
        for part in single(leaf)
        for numbers in (np.array([part.overall], np.int64), *(t.ravel() for _, t in part.blocks))
    ]

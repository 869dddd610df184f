"""From the solved equations to nodes and edges."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from gsgd_jax.gauge import GROUND
from gsgd_jax.tracing.algebra.codes import decode, distinct, term
from gsgd_jax.tracing.algebra.forms import ZERO
from gsgd_jax.tracing.algebra.scales import LARGEST_TABLE, Scales, Value
from gsgd_jax.tracing.algebra.solver import System
from gsgd_jax.tracing.algebra.stacks import Partition, single
from gsgd_jax.tracing.factors import Factors, node_numbers, shared_axis, unstacked

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
    numbers = distinct(system.simplified(np.concatenate(parameters)))
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


def edges(
    system: System, leaf: Factors, shape: tuple[int, ...], basis: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Every entry's tail and head, or None if some entry has several of either.

    Args:
        system: of equations.
        leaf: its factors.
        shape: its shape.
        basis: variables of the nodes, in order.

    Returns:
        Node numbers of shapes that broadcast to the leaf's.
    """
    ends = _variable_edges(system, leaf, shape)
    return None if ends is None else (node_numbers(ends[0], basis), node_numbers(ends[1], basis))


def _variable_edges(
    system: System, leaf: Factors, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray] | None:
    """The same by variable, ground being 0."""
    along = shared_axis(leaf)
    if along is not None:
        rest = shape[:along] + shape[along + 1 :]
        layers = [_variable_edges(system, x, rest) for x in unstacked(system, leaf, along)]
        sides = [[end[side] for end in layers if end is not None] for side in (0, 1)]
        if len(sides[0]) < len(layers):
            return None
        tails, heads = (np.stack(np.broadcast_arrays(*side), axis=along) for side in sides)
        return tails, heads
    if len(leaf.blocks) > 1:
        separate = _separate_edges(system, leaf, shape)
        if separate is not None:
            return separate
        if math.prod(table.size for _, table in leaf.blocks) > _LARGEST_LEAF:
            return None
    numbers = np.full((1,) * len(shape), leaf.overall)
    for axes, table in leaf.blocks:
        numbers = system.combine(numbers, _laid_out(table, axes, shape))
    return _ends(numbers)


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


def _separate_edges(
    system: System, leaf: Factors, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Heads that vary along one block of axes and tails along another, as in a kernel."""
    if len(leaf.blocks) != 2:
        return None
    for into, out_of in (leaf.blocks, leaf.blocks[::-1]):
        for head, tail in itertools.product(_bases(system, leaf, 1), _bases(system, leaf, -1)):
            if system.combine(head, tail, -1) != leaf.overall:
                continue
            heads = _single(system.combine(into[1], head))
            tails = _single(system.combine(tail, out_of[1], -1))
            if heads is not None and tails is not None:
                return _laid_out(tails, out_of[0], shape), _laid_out(heads, into[0], shape)
    return None


def _bases(system: System, leaf: Factors, side: int) -> list[int]:
    """What can be the first head (side 1) or tail (side -1): variables as forms, and ground."""
    nodes = [v for v, c in system.form(leaf.overall).items() if c == side]
    for _, table in leaf.blocks:
        nodes += [v for v, c in system.form(table.flat[1]).items() if c == -side]
    return [*(int(term(v, 1)) for v in dict.fromkeys(nodes)), ZERO]


def _laid_out(table: np.ndarray, axes: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    return table.reshape([n if a in axes else 1 for a, n in enumerate(shape)])


def _single(numbers: np.ndarray) -> np.ndarray | None:
    """The variables that forms are, 0 for the form 0; None if one is anything else."""
    ends = _ends(numbers)
    return None if ends is None or ends[0].any() else ends[1]


def _ends(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Variables at the tails and heads of entries with these factors."""
    if (numbers < 0).any():
        return None
    variables, powers = decode(numbers.ravel())
    if (np.abs(powers) > 1).any() or (np.abs(powers.sum(axis=0)) > 1).any():
        return None
    tails, heads = ((variables * (powers == sign)).sum(axis=0) for sign in (-1, 1))
    return tails.reshape(numbers.shape), heads.reshape(numbers.shape)


def _numbers(leaf: Value) -> list[np.ndarray]:
    return [
        numbers
        for part in single(leaf)
        for numbers in (np.array([part.overall], np.int64), *(t.ravel() for _, t in part.blocks))
    ]

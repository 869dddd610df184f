"""The factors of parameters' entries as numbers of forms: arrays, from which nodes are read."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gsgd_jax.tracing.algebra.codes import decode, distinct
from gsgd_jax.tracing.algebra.forms import ZERO
from gsgd_jax.tracing.algebra.linear import Form
from gsgd_jax.tracing.algebra.scales import Block, Value
from gsgd_jax.tracing.algebra.solver import System
from gsgd_jax.tracing.exponents import Exponents


class Factors(NamedTuple):
    """The factor of a leaf's entries: that of the first times those of blocks of axes.

    Blocks share no axis, but for those of layers: there the channels of every layer have nodes of
    their own.
    """

    overall: int  # number of a form
    blocks: tuple[Block, ...]


def leaf_factors(
    system: System, leaves: Sequence[Value | None]
) -> tuple[list[Factors], np.ndarray]:
    """The leaves' factors, and the variables of the nodes 0, 1, ... in which they are expressed.

    Args:
        system: of equations, with a basis.
        leaves: of the parameters; None outside the group.
    """
    factors = [Factors(ZERO, ()) if leaf is None else _factors(system, leaf) for leaf in leaves]
    numbers = [distinct(table) for leaf in factors for table in _tables(leaf)]
    empty = np.zeros(0, np.int64)
    return factors, system.variables(np.concatenate([empty, *numbers]))[::-1]


def exponents(system: System, leaves: Sequence[Factors], basis: np.ndarray) -> list[Exponents]:
    """The leaves' exponents by node.

    Args:
        system: of equations.
        leaves: their factors.
        basis: variables of the nodes, in order.
    """
    numbers = [np.array([ZERO]), *(distinct(table) for leaf in leaves for table in _tables(leaf))]
    known = distinct(np.concatenate(numbers))
    forms = _named(system, known, basis)  # those that recur are kept once

    def listed(table: np.ndarray) -> list[Form]:
        places = np.searchsorted(known, table.ravel()).tolist()
        return list(map(forms.__getitem__, places))

    return [
        Exponents(
            listed(np.array(leaf.overall))[0],
            tuple((axes, listed(table)) for axes, table in leaf.blocks),
        )
        for leaf in leaves
    ]


def one_sided(system: System, leaves: Sequence[Factors], basis: np.ndarray) -> np.ndarray:
    """Nodes that no entry enters or none leaves: nothing makes up for their scale.

    Args:
        system: of equations.
        leaves: their factors.
        basis: variables of the nodes, in order.

    Returns:
        Their numbers, ascending.
    """
    entered, left = np.zeros(len(basis) + 1, bool), np.zeros(len(basis) + 1, bool)
    for leaf in leaves:
        for part in _disjoint(system, leaf):
            variables, least, most = _extremes(system, part)
            nodes = node_numbers(variables, basis)
            entered[nodes[most > 0]] = True
            left[nodes[least < 0]] = True
    return np.flatnonzero(~(entered & left)[:-1])


def node_numbers(variables: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """The nodes that some variables are; -1, the ground, for 0.

    Args:
        variables: of the basis, or 0; any shape.
        basis: variables of the nodes, descending.
    """
    # From behind, so that the basis ascends.
    places = len(basis) - 1 - np.searchsorted(basis[::-1], variables)
    return np.where(variables == 0, -1, places)


def shared_axis(leaf: Factors) -> int | None:
    """An axis that several blocks have: one of layers.

    Args:
        leaf: its factors.
    """
    axes = [a for block, _ in leaf.blocks for a in block]
    return next((a for a in axes if axes.count(a) > 1), None)


def unstacked(system: System, leaf: Factors, along: int) -> list[Factors]:
    """The factors of a leaf's layers.

    Args:
        system: of equations.
        leaf: its factors.
        along: the axis of layers.
    """
    count = next(t.shape[axes.index(along)] for axes, t in leaf.blocks if along in axes)
    layers = []
    for i in range(count):
        overall, blocks = leaf.overall, []
        for axes, table in leaf.blocks:
            here = table.take(i, axes.index(along)) if along in axes else table
            inner = tuple(a - (a > along) for a in axes if a != along)
            if inner:
                blocks.append((inner, here))
            else:
                overall = int(system.combine(overall, here))
        layers.append(Factors(overall, tuple(blocks)))
    return layers


def _named(system: System, numbers: np.ndarray, basis: np.ndarray) -> list[Form]:
    """Forms by node."""
    place = {variable: node for node, variable in enumerate(basis.tolist())}
    longer = np.count_nonzero(numbers < 0)  # which ascend, so that these come first
    by_hand = [system.form(number) for number in numbers[:longer].tolist()]
    forms: list[Form] = [{place[v]: c for v, c in form.items()} for form in by_hand]
    variables, powers = decode(numbers[longer:])
    (one, other), (first, second) = node_numbers(variables, basis).tolist(), powers.tolist()
    for node, node_after, power, power_after in zip(one, other, first, second, strict=True):
        form = {node: power} if power else {}
        if power_after:
            form[node_after] = power_after
        forms.append(form)
    return forms


def _factors(system: System, leaf: Value) -> Factors:
    """The factors of a leaf in the system's variables."""
    if leaf.layers:
        return _stacked(system, [_factors(system, layer) for layer in leaf.layers], leaf.along)
    tables = [(axes, system.simplified(table)) for axes, table in leaf.blocks]
    overall = int(system.simplified(leaf.overall))
    return _separated(system, Factors(overall, tuple((a, t) for a, t in tables if t.any())))


def _separated(system: System, leaf: Factors) -> Factors:
    """The same factors, each node in one part alone: a kernel's heads here, its tails there.

    What works on one part at a time then sees a node's own exponents, none that cancel. No two
    blocks of the leaf share an axis.
    """
    overall, blocks = leaf.overall, list(leaf.blocks)
    for node, power in system.form(overall).items():
        for place, (axes, table) in enumerate(blocks):
            # overall + table = (overall - c) + (table + c), for any c: here where most entries of
            # the table have -c, to say that all but a few do not move with the node.
            variables, powers = system.terms(table.ravel())
            before = np.count_nonzero(variables == node)
            opposite = np.count_nonzero((variables == node) & (powers == -power))
            if table.size - opposite <= before:
                moved = system.number({node: power})
                blocks[place] = (axes, system.combine(table, moved))
                overall = int(system.combine(overall, moved, -1))
                break
    return Factors(overall, tuple(blocks))


def _stacked(system: System, layers: Sequence[Factors], along: int) -> Factors:
    """The factors of a leaf from those of its layers."""

    def outer(axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(a + (a >= along) for a in axes)

    overall = layers[0].overall
    # Layer l: overall_l + sum of its tables, as overall_0 + (overall_l - overall_0) + the tables.
    shifts = system.combine(np.array([layer.overall for layer in layers]), overall, -1)
    blocks: list[Block] = [((along,), shifts)] if shifts.any() else []
    shapes = {axes: table.shape for layer in layers for axes, table in layer.blocks}
    for axes, shape in shapes.items():
        rows = [dict(layer.blocks).get(axes, np.zeros(shape, np.int64)) for layer in layers]
        joined = tuple(sorted((along, *outer(axes))))
        blocks.append((joined, np.stack(rows, joined.index(along))))
    return Factors(overall, tuple(blocks))


def _disjoint(system: System, leaf: Factors) -> Iterator[Factors]:
    """The leaf, or its layers: parts of which no two blocks share an axis."""
    along = shared_axis(leaf)
    if along is None:
        yield leaf
    else:
        parts = (_disjoint(system, layer) for layer in unstacked(system, leaf, along))
        yield from itertools.chain.from_iterable(parts)


def _extremes(system: System, leaf: Factors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The variables of a leaf, and of each its least and its greatest exponent in any entry."""
    tables = [(table.size, *system.terms(table.ravel())) for table in _tables(leaf)]
    found = distinct(np.concatenate([variables for _, variables, _ in tables]))
    # Blocks vary independently, so the largest exponent of a leaf is the sum of the largest of its
    # parts; a form that lacks the variable counts as exponent 0.
    least, most = 0, 0
    for size, variables, powers in tables:
        places = np.searchsorted(found, variables)
        some = np.bincount(places, minlength=len(found)) < size
        bound = np.abs(powers).max(initial=0)
        lowest = np.where(some, 0, bound).astype(powers.dtype)
        highest = -lowest
        np.minimum.at(lowest, places, powers)
        np.maximum.at(highest, places, powers)
        least, most = least + lowest, most + highest
    return found, np.asarray(least), np.asarray(most)


def _tables(leaf: Factors) -> Iterator[np.ndarray]:
    yield np.array([leaf.overall], np.int64)
    for _, table in leaf.blocks:
        yield table

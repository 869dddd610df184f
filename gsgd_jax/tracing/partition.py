"""Which axes of a parameter may scale jointly, judged by what the model does with it first."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core

from gsgd_jax.tracing.calls import CALLS, called, scan_arguments

Partition = tuple[tuple[int, ...], ...]
"""Disjoint groups of axes; the scale of an entry is a product over groups. Others are constant."""

_SMALL = 2**14


def axis_partitions(jaxpr: Any, count: int) -> list[Partition]:
    """A partition for each of the first inputs of a model.

    It only says where scales are looked for: too coarse costs time, too fine finds too little, and
    neither can find a scaling that is none. A kernel of a matrix product splits into the axes that
    are summed over and the others, that of a convolution into input and output channels, which vary
    jointly if it is grouped. What is used otherwise varies freely if it is small, else by axis.

    Args:
        jaxpr: of the model.
        count: of inputs that are parameters.
    """
    partitions: dict[int, Partition] = {}
    tracked = {
        var: (leaf, tuple(range(len(var.aval.shape))))
        for leaf, var in enumerate(jaxpr.invars[:count])
    }
    _walk(jaxpr, tracked, partitions)
    result = []
    for leaf, var in enumerate(jaxpr.invars[:count]):
        shape = var.aval.shape
        small = np.prod(shape, dtype=np.int64) <= _SMALL
        free = (tuple(range(len(shape))),) if small else tuple((a,) for a in range(len(shape)))
        groups = partitions.get(leaf, free)
        result.append(tuple(tuple(sorted(group)) for group in groups if group))
    return result


_Tracked = dict[Any, tuple[int, tuple[int, ...]]]
"""Variable -> the parameter that it is, and which axis of it each of its axes is."""


def _walk(jaxpr: Any, tracked: _Tracked, partitions: dict[int, Partition]) -> None:
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        places = [None if isinstance(v, core.Literal) else tracked.get(v) for v in eqn.invars]
        if not any(places):
            continue
        if name in ("convert_element_type", "copy", "stop_gradient", "reduce_precision"):
            tracked[eqn.outvars[0]] = tracked[eqn.invars[0]]
        elif name == "transpose":
            leaf, axes = tracked[eqn.invars[0]]
            order = eqn.params["permutation"]
            tracked[eqn.outvars[0]] = (leaf, tuple(axes[a] for a in order))
        elif name in CALLS:
            inner, _ = called(eqn)
            if inner is not None:
                _enter(inner, places, partitions)
        elif name == "scan":
            body = eqn.params["jaxpr"].jaxpr
            split, carries = scan_arguments(eqn.params)
            stacked = split + carries
            steps = [None if m is None else (m[0], m[1][1:]) for m in places[stacked:]]
            unknown = [None] * (stacked - split)
            _enter(body, [*places[:split], *unknown, *steps], partitions)
        elif name == "cond":
            for branch in eqn.params["branches"]:
                _enter(branch.jaxpr, places[1:], partitions)
        elif name in ("dot_general", "conv_general_dilated"):
            for side, place in enumerate(places):
                if place is not None and place[0] not in partitions:
                    leaf, axes = place
                    groups = _groups(eqn, side, len(axes))
                    partitions[leaf] = tuple(tuple(axes[a] for a in group) for group in groups)


def _enter(inner: Any, places: Sequence[Any], partitions: dict[int, Partition]) -> None:
    pairs = zip(inner.invars, places, strict=True)
    _walk(inner, {var: place for var, place in pairs if place is not None}, partitions)


def _groups(eqn: Any, side: int, rank: int) -> list[tuple[int, ...]]:
    """The axes that are summed over, then the others; together where they vary jointly."""
    if eqn.primitive.name == "dot_general":
        summed, batch = (ends[side] for ends in eqn.params["dimension_numbers"])
        free = tuple(a for a in range(rank) if a not in (*summed, *batch))
        return [tuple(range(rank))] if batch else [tuple(summed), free]
    numbers = eqn.params["dimension_numbers"]
    first, second = (numbers.lhs_spec, numbers.rhs_spec)[side][:2]
    jointly = side == 1 and eqn.params["feature_group_count"] > 1
    return [(first, second)] if jointly else [(second,), (first,)]

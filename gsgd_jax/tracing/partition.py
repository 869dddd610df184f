"""Which axes of a parameter may scale jointly, judged by what the model does with it first."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core

from gsgd_jax.tracing.algebra.stacks import Layout, Partition
from gsgd_jax.tracing.calls import CALLS, called, in_layers, scan_arguments

_SMALL = 2**14


def layouts(jaxpr: Any, count: int) -> list[Layout]:
    """A layout for each of the first inputs of a model.

    It only says where scales are looked for: too coarse costs time, too fine finds too little, and
    neither can find a scaling that is none. A kernel of a matrix product splits into the axes that
    are summed over and the others, that of a convolution into input and output channels, which vary
    jointly if it is grouped. What is used otherwise varies freely if it is small, else by axis. An
    axis that is scanned over, or taken apart by index, is one of layers.

    Args:
        jaxpr: of the model.
        count: of inputs that are parameters.
    """
    tracked = {
        var: _Place(leaf, tuple(range(len(var.aval.shape))), ())
        for leaf, var in enumerate(jaxpr.invars[:count])
    }
    uses = _Uses({}, {}, set(jaxpr.invars[count:]))
    _walk(jaxpr, tracked, uses)
    result = []
    for leaf, var in enumerate(jaxpr.invars[:count]):
        shape, stacked = var.aval.shape, uses.stacked.get(leaf, ())
        groups = uses.groups.get(leaf)
        if groups is not None and set(stacked) & {a for group in groups for a in group}:
            stacked = ()  # used as a whole before
        rest = tuple(a for a in range(len(shape)) if a not in stacked)
        if groups is None:
            small = np.prod([shape[a] for a in rest], dtype=np.int64) <= _SMALL
            groups = (rest,) if small else tuple((a,) for a in rest)
        result.append(Layout(stacked, tuple(tuple(sorted(group)) for group in groups if group)))
    return result


class _Place(NamedTuple):
    """What a variable is of a parameter."""

    leaf: int
    axes: tuple[int, ...]  # which axis of the parameter each of its own is
    stacked: tuple[int, ...]  # axes of the parameter of which it is one entry
    parts: tuple[int, ...] = ()  # axes of the parameter of which it has some entries, or reordered

    def entry(self, *along: int) -> "_Place":
        """One entry along some of its own axes.

        Where an axis of the parameter became several, it is one entry of that when all are gone.
        """
        axes = tuple(axis for a, axis in enumerate(self.axes) if a not in along)
        gone = dict.fromkeys(
            self.axes[a] for a in along if self.axes[a] not in (*self.stacked, *axes)
        )
        return self._replace(axes=axes, stacked=(*self.stacked, *gone))

    @property
    def whole(self) -> bool:
        """Whether it has all of the parameter along all axes that are not layers'."""
        return set(self.parts) <= set(self.stacked)


class _Uses(NamedTuple):
    groups: dict[int, Partition]
    stacked: dict[int, tuple[int, ...]]
    data: set[Any]  # variables that depend on the inputs

    def note(self, place: _Place) -> None:
        """That one entry along some axes was met: layers within layers are longer."""
        if len(place.stacked) > len(self.stacked.get(place.leaf, ())):
            self.stacked[place.leaf] = place.stacked


_Tracked = dict[Any, _Place]


def _walk(jaxpr: Any, tracked: _Tracked, uses: _Uses) -> None:
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        places = [None if isinstance(v, core.Literal) else tracked.get(v) for v in eqn.invars]
        data = [not isinstance(v, core.Literal) and v in uses.data for v in eqn.invars]
        if any(data):
            uses.data.update(eqn.outvars)
        if not any(places):
            continue
        if name in CALLS:
            inner, _ = called(eqn)
            if inner is not None:
                _enter(inner, places, data, uses)
        elif name == "scan":
            _enter_scan(eqn, places, uses)
        elif name == "cond":
            for branch in eqn.params["branches"]:
                _enter(branch.jaxpr, places[1:], data[1:], uses)
        elif name in ("dot_general", "conv_general_dilated"):
            for side, place in enumerate(places):
                if place is not None and place.whole and place.leaf not in uses.groups:
                    groups = _groups(eqn, side, len(place.axes))
                    axes = tuple(tuple(place.axes[a] for a in group) for group in groups)
                    uses.groups[place.leaf] = axes
        elif name == "gather" and places[0] is not None and places[0].whole and data[1]:
            place, sizes = places[0], eqn.params["slice_sizes"]
            # An axis that is taken whole is not indexed, though its number may stand in the map.
            shape = eqn.invars[0].aval.shape
            indexed = [a for a, (n, m) in enumerate(zip(shape, sizes, strict=True)) if n != m]
            indexed += eqn.params["dimension_numbers"].collapsed_slice_dims
            free = tuple(axis for a, axis in enumerate(place.axes) if a not in indexed)
            uses.groups.setdefault(place.leaf, tuple((axis,) for axis in free))
        elif name == "unstack" and places[0] is not None:
            entry = places[0].entry(eqn.params["axis"])
            tracked |= dict.fromkeys(eqn.outvars, entry)
            uses.note(entry)
        elif places[0] is not None:
            moved = _moved(eqn, places[0])
            if moved is not None:
                tracked |= dict.fromkeys(eqn.outvars, moved)
                uses.note(moved)


def _moved(eqn: Any, place: _Place) -> _Place | None:
    """Which part of the parameter comes out of an equation, if that is one."""
    name, shape = eqn.primitive.name, eqn.invars[0].aval.shape
    if name in ("convert_element_type", "copy", "stop_gradient", "reduce_precision"):
        return place
    if name in ("mul", "div") and eqn.outvars[0].aval.shape == shape:
        return place if eqn.invars[1].aval.shape == () else None
    if name == "transpose":
        return place._replace(axes=tuple(place.axes[a] for a in eqn.params["permutation"]))
    if name in ("slice", "dynamic_slice"):
        kept = eqn.outvars[0].aval.shape
        return _some(place, shape, [a for a, n in enumerate(shape) if n != kept[a]])
    if name == "split":
        return _some(place, shape, [eqn.params["axis"]])
    if name == "rev":
        return _some(place, shape, eqn.params["dimensions"])
    if name == "reshape":
        return _in_groups(place, shape, eqn.outvars[0].aval.shape)
    if name == "squeeze":
        return place.entry(*eqn.params["dimensions"])
    return None


def _in_groups(place: _Place, shape: tuple[int, ...], new: tuple[int, ...]) -> _Place | None:
    """Where an axis becomes two, layers in groups, as for scans within a scan; or these one."""
    axes = place.axes
    for a in range(len(shape)):
        if new[:a] + new[a + 2 :] == shape[:a] + shape[a + 1 :] and len(new) > len(shape):
            return _some(place._replace(axes=axes[: a + 1] + axes[a:]), shape, [a])
        again = axes[a : a + 1] == axes[a + 1 : a + 2]
        if again and new[:a] + new[a + 1 :] == shape[:a] + shape[a + 2 :] and len(new) < len(shape):
            return place._replace(axes=axes[:a] + axes[a + 1 :])
    return None


def _some(place: _Place, shape: tuple[int, ...], along: Sequence[int]) -> _Place | None:
    """Some of the entries along one axis, or all in another order, where these may be layers."""
    if len(along) != 1 or not in_layers(shape[along[0]]):
        return None
    return place._replace(parts=(*place.parts, place.axes[along[0]]))


def _enter(inner: Any, places: Sequence[_Place | None], data: Sequence[bool], uses: _Uses) -> None:
    uses.data.update(var for var, is_data in zip(inner.invars, data, strict=True) if is_data)
    pairs = zip(inner.invars, places, strict=True)
    _walk(inner, {var: place for var, place in pairs if place is not None}, uses)


def _enter_scan(eqn: Any, places: Sequence[_Place | None], uses: _Uses) -> None:
    """Into the body of a scan, with one entry of each of its sequences."""
    split, carries = scan_arguments(eqn.params)
    slices = []
    for place in places[split + carries :]:
        if place is None:
            slices.append(None)
            continue
        if in_layers(eqn.params["length"]):
            slices.append(place.entry(0))
        else:
            slices.append(place._replace(axes=place.axes[1:]))
        uses.note(slices[-1])
    places = [*places[:split], *[None] * carries, *slices]
    data = [var in uses.data for var in eqn.invars if not isinstance(var, core.Literal)]
    _enter(eqn.params["jaxpr"].jaxpr, places, [any(data)] * len(places), uses)


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

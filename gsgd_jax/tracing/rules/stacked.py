"""How primitives pass stacks of layers on, layer by layer where they can."""

import itertools
from typing import Any

from gsgd_jax.tracing.algebra.scales import Value
from gsgd_jax.tracing.algebra.stacks import merged, stack
from gsgd_jax.tracing.interpreter import Rule, Trace, is_inexact


def by_layers(name: str, rule: Rule) -> Rule:
    """A rule that takes stacks of layers too: apart where it can, else as one table.

    Args:
        name: of the primitive.
        rule: for values that are no stacks.
    """
    stacked = _RULES.get(name)

    def chosen(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
        if not any(value.layers for value in values):
            return rule(trace, eqn, values)
        result = None if stacked is None else stacked(trace, eqn, values)
        if result is None:
            return rule(trace, eqn, [merged(trace.scales, value) for value in values])
        return result

    return chosen


def _kept(trace: Trace, eqn: Any, values: list[Value]) -> list[Value] | None:
    return values if is_inexact(eqn.outvars[0].aval) else None


def _times_constant(trace: Trace, eqn: Any, values: list[Value]) -> list[Value] | None:
    """A stack times a number, or divided by one."""
    for value, other in (values, values[::-1]):
        known = other.known
        number = known is not None and known.size == 1 and not other.absorbing
        if value.layers and number and (value is values[0] or eqn.primitive.name == "mul"):
            return [value]
    return None


def _transposed(trace: Trace, eqn: Any, values: list[Value]) -> list[Value] | None:
    (value,), order = values, list(eqn.params["permutation"])
    inner = [a for a in order if a != value.along]
    ranks = {a: i for i, a in enumerate(sorted(inner))}
    places = [0] * len(inner)  # axis i of a layer goes where its own axis stands in the order
    for place, axis in enumerate(inner):
        places[ranks[axis]] = place
    layers = []
    for layer in value.layers:
        if layer.layers:
            return None
        shape = tuple(layer.shape[ranks[a]] for a in inner)
        layers.append(trace.scales.place(layer, shape, places))
    return [stack(layers, order.index(value.along))]


def _sliced(trace: Trace, eqn: Any, values: list[Value]) -> list[Value] | None:
    (value,), p = values, eqn.params
    strides = p["strides"] or (1,) * len(value.shape)
    ranges = list(zip(p["start_indices"], p["limit_indices"], strides, strict=True))
    whole = all(
        a == value.along or ends == (0, n, 1)
        for a, (ends, n) in enumerate(zip(ranges, value.shape, strict=True))
    )
    layers = value.layers[slice(*ranges[value.along])]
    if whole and not layers:  # no entry, no scale
        return [Value(tuple(eqn.outvars[0].aval.shape))]
    return [stack(layers, value.along)] if whole else None


def _split(trace: Trace, eqn: Any, values: list[Value]) -> list[Value] | None:
    (value,), sizes = values, eqn.params["sizes"]
    if eqn.params["axis"] != value.along:
        return None
    ends = list(itertools.accumulate(sizes))
    return [
        # No entry, no scale.
        stack(value.layers[end - size : end], value.along) if size else Value(tuple(var.aval.shape))
        for size, end, var in zip(sizes, ends, eqn.outvars, strict=True)
    ]


def _reversed(trace: Trace, eqn: Any, values: list[Value]) -> list[Value] | None:
    (value,) = values
    alone = tuple(eqn.params["dimensions"]) == (value.along,)
    return [stack(value.layers[::-1], value.along)] if alone else None


def _in_groups(trace: Trace, eqn: Any, values: list[Value]) -> list[Value] | None:
    """A reshape that makes two axes of that of layers, or one of two."""
    (value,), along, new = values, values[0].along, tuple(eqn.outvars[0].aval.shape)
    before, after, layers = value.shape[:along], value.shape[along + 1 :], value.layers
    if len(new) == len(value.shape) + 1 and (new[:along], new[along + 2 :]) == (before, after):
        size = new[along + 1]
        groups = [layers[i : i + size] for i in range(0, len(layers), size)]
        return [stack([stack(group, along) for group in groups], along)]
    flat = [part for layer in layers for part in layer.layers if layer.along == along]
    if new == (*before, len(flat), *after[1:]) and flat:
        return [stack(flat, along)]
    return None


def _dynamically_sliced(trace: Trace, eqn: Any, values: list[Value]) -> list[Value] | None:
    """One layer, by its number: as in a loop that counts."""
    value, *starts = values
    sizes, start = eqn.params["slice_sizes"], starts[value.along].known
    whole = all(n == value.shape[a] or (a == value.along and n == 1) for a, n in enumerate(sizes))
    if start is None or not whole:
        return None
    place = min(max(int(start), 0), len(value.layers) - 1)
    return [stack([value.layers[place]], value.along)]


def _squeezed(trace: Trace, eqn: Any, values: list[Value]) -> list[Value] | None:
    (value,) = values
    alone = len(value.layers) == 1 and tuple(eqn.params["dimensions"]) == (value.along,)
    return [value.layers[0]] if alone else None


def _unstacked(trace: Trace, eqn: Any, values: list[Value]) -> list[Value] | None:
    return list(values[0].layers) if eqn.params["axis"] == values[0].along else None


_RULES = {
    "unstack": _unstacked,
    "mul": _times_constant,
    "div": _times_constant,
    "transpose": _transposed,
    "slice": _sliced,
    "split": _split,
    "rev": _reversed,
    "reshape": _in_groups,
    "dynamic_slice": _dynamically_sliced,
    "squeeze": _squeezed,
}
_RULES |= dict.fromkeys(
    (
        "convert_element_type",
        "reduce_precision",
        "stop_gradient",
        "copy",
        "copy_p",
        "device_put",
        "name",
        "sharding_constraint",
        "reshard",
    ),
    _kept,
)

"""How rearranging, reducing and selecting entries passes scales on."""

import itertools
from typing import Any

import numpy as np
from jax import lax

from gsgd_jax.tracing.algebra.scales import Value
from gsgd_jax.tracing.algebra.stacks import layers_of, merged, stack
from gsgd_jax.tracing.interpreter import Rule, Trace


def _shape(eqn: Any) -> tuple[int, ...]:
    return tuple(eqn.outvars[0].aval.shape)


def _broadcast(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    shape = _shape(eqn)
    dims = [int(d) for d in eqn.params["broadcast_dimensions"]]  # NumPy's, under vmap
    value = trace.scales.place(values[0], shape, dims)
    known = values[0].known
    if known is not None and known.size == 1:
        value = value._replace(known=np.broadcast_to(known.reshape(()), shape))
    return [value]


def _transpose(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    places = np.argsort(eqn.params["permutation"]).tolist()
    return [trace.scales.place(values[0], _shape(eqn), places)]


def _reshape(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    if eqn.primitive.name == "reshape" and eqn.params.get("dimensions") is not None:
        return trace.give_up(eqn, values)
    return [trace.scales.reshape(values[0], _shape(eqn))]


def _slice(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    value, p = values[0], eqn.params
    strides = p["strides"] or (1,) * len(value.shape)
    for axis, ends in enumerate(zip(p["start_indices"], p["limit_indices"], strides, strict=True)):
        value = trace.scales.take(value, axis, np.arange(*ends))
    return [value]


def _split(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    axis, places = eqn.params["axis"], np.cumsum((0, *eqn.params["sizes"]))
    return [
        trace.scales.take(values[0], axis, np.arange(low, high))
        for low, high in itertools.pairwise(places)
    ]


def _reverse(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    value = values[0]
    for axis in eqn.params["dimensions"]:
        value = trace.scales.take(value, axis, np.arange(value.shape[axis])[::-1])
    return [value]


def _tile(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    value, repeats = values[0], eqn.params["reps"]
    for axis, times in enumerate(repeats):
        value = trace.scales.take(value, axis, np.tile(np.arange(value.shape[axis]), times))
    return [value] if value.shape == _shape(eqn) else trace.give_up(eqn, values)


def _concatenate(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    axis = int(eqn.params["dimension"])
    parameters = not any(v.data or v.absorbing or v.known is not None for v in values)
    if parameters and len(values) > 1 and all(v.shape[axis] == 1 for v in values):
        return [stack([trace.scales.reduce(v, (axis,)) for v in values], axis)]
    value, _ = trace.scales.concatenate(values, axis)
    return [value]


def _stack(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    """Parameters stay apart, for a scan over them; entries of data are joined."""
    stacked = stack(values, int(eqn.params["axis"]))
    parameters = not any(v.data or v.absorbing or v.known is not None for v in values)
    return [stacked if parameters else merged(trace.scales, stacked)]


def _unstack(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    return layers_of(trace.scales, values[0], int(eqn.params["axis"]))


def _pad(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    """Zeros around an array may have any scale, which a sum with other channels then settles."""
    value, filler = values
    if any(inside for _, _, inside in eqn.params["padding_config"]):
        value = trace.scales.constant(
            value, [a for a, (_, _, n) in enumerate(eqn.params["padding_config"]) if n]
        )
        if not filler.absorbing:
            return trace.give_up(eqn, values)
    for axis, (low, high, inside) in enumerate(eqn.params["padding_config"]):
        size = value.shape[axis]
        if inside:
            size += max(size - 1, 0) * inside
            shape = tuple(size if a == axis else n for a, n in enumerate(value.shape))
            value = value._replace(shape=shape)
        index = np.arange(max(-low, 0), size - max(-high, 0))
        value = trace.scales.take(value, axis, index)
        parts = []
        for extra in (max(int(low), 0), max(int(high), 0)):
            shape = tuple(extra if a == axis else n for a, n in enumerate(value.shape))
            flat = trace.scales.place(filler, (1,) * len(shape), ())
            parts.append(flat._replace(shape=shape, known=None))
        parts = [part for part in (parts[0], value, parts[1]) if part.shape[axis]]
        value, count = trace.scales.concatenate(parts or [value], axis)
        if not filler.absorbing:
            trace.charge(eqn, count)
    return [value]


def _reduce(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    return [trace.scales.reduce(values[0], eqn.params["axes"])]


def _accumulate(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    return [trace.scales.constant(values[0], [eqn.params["axis"]])]


def _window(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    value, shape, p = values[0], _shape(eqn), eqn.params
    moved = [
        a
        for a, (window, old, new) in enumerate(
            zip(p["window_dimensions"], value.shape, shape, strict=True)
        )
        if window != 1 or old != new
    ]
    return [trace.scales.constant(value, moved)._replace(shape=shape)]


def _order(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    """Sorting, and the places of extrema: entries that are compared must scale alike."""
    p, rank = eqn.params, len(values[0].shape)
    if len(values) > 1:  # what is sorted along with the keys may end in any place
        sorted_values = [trace.scales.constant(value, [p["dimension"]]) for value in values]
        return [value._replace(known=None) for value in sorted_values]
    axes = p["axes"] if "axes" in p else [p.get("dimension", p.get("axis", rank - 1)) % rank]
    value = trace.scales.constant(values[0], [int(a) for a in axes])
    return [value._replace(shape=tuple(var.aval.shape), known=None) for var in eqn.outvars]


def _gather(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    """Entries by index. Along axes indexed by unknown numbers the scales must be constant."""
    value, index = values
    p, dims = eqn.params, eqn.params["dimension_numbers"]
    sizes, shape = p["slice_sizes"], _shape(eqn)
    filler = p.get("fill_value")
    # Beyond the table stand zeros or NaN, which no factor changes.
    fixed = filler is not None and filler != 0 and not np.isnan(filler)
    if fixed:
        trace.tables.tie(value)
        return trace.give_up(eqn, values)
    # Along batching axes every example has an index of its own, and they come out among the batch.
    batching = {int(a) for a in getattr(dims, "operand_batching_dims", ())}
    gone = batching | {int(a) for a in dims.collapsed_slice_dims}
    axes = [a for a in range(len(value.shape)) if a not in gone]
    offset = [int(a) for a in dims.offset_dims]
    batch = [a for a in range(len(shape)) if a not in offset]
    # An axis that is taken whole can only begin at 0, whatever its index says.
    indexed = batching | {a for a, n in enumerate(value.shape) if sizes[a] != n}
    indexed |= gone & {int(a) for a in dims.start_index_map}
    alone = len(dims.start_index_map) == 1 and not batching
    if index.known is not None and alone and indexed == set(dims.collapsed_slice_dims):
        (axis,) = indexed
        flat = index.known.reshape(-1)
        trace.tables.tie(value)
        inside = ((flat >= 0) & (flat < value.shape[axis])).all()
        if inside or p["mode"] == lax.GatherScatterMode.CLIP:
            known = trace.scales.take(value, axis, np.clip(flat, 0, value.shape[axis] - 1))
            spread = [known.shape[a] for a in axes]
            places = [len(spread) if a == axis else axes.index(a) for a in range(len(value.shape))]
            known = trace.scales.place(known, (*spread, len(flat)), places)
            lengths = tuple(shape[a] for a in batch)
            known = trace.scales.reshape(known, (*spread, *lengths))
            return [trace.scales.place(known, shape, [*offset, *batch])]
    tokens = None
    if indexed == {0} and not batching and not trace.alike:
        tokens = trace.tables.look_up(value, shape, batch)
    else:
        trace.tables.tie(value)
    value = trace.scales.constant(value, indexed)
    rest = trace.scales.reduce(value, tuple(sorted(gone)))
    rest = rest._replace(shape=tuple(sizes[a] for a in axes))
    rows = trace.scales.place(rest, shape, offset)
    return [rows if tokens is None else trace.scales.multiply(rows, tokens)]


def _dynamic_slice(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    value, shape = values[0], _shape(eqn)
    for axis, (size, start) in enumerate(zip(shape, values[1:], strict=True)):
        if start.known is not None:
            first = min(max(int(start.known), 0), value.shape[axis] - size)
            value = trace.scales.take(value, axis, np.arange(first, first + size))
    moved = [a for a, n in enumerate(value.shape) if n != shape[a]]
    return [trace.scales.constant(value, moved)._replace(shape=shape)]


def _dynamic_update_slice(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    value, update, *starts = values
    moved = [a for a, n in enumerate(value.shape) if n != update.shape[a]]
    first = starts[moved[0]].known if len(moved) == 1 else None
    if first is not None:
        (axis,) = moved
        start = min(max(int(first), 0), value.shape[axis] - update.shape[axis])
        return [_updated(trace, eqn, value, update, (axis, start))]
    value, update = trace.scales.constant(value, moved), trace.scales.constant(update, moved)
    total, _ = trace.scales.equate(value._replace(shape=update.shape), update)
    return [total._replace(shape=_shape(eqn))]


def _updated(trace: Trace, eqn: Any, value: Value, update: Value, place: tuple[int, int]) -> Value:
    """A value with a window, from a known (axis, start) on, replaced, added to or compared with."""
    axis, start = place
    end = start + update.shape[axis]
    ranges = ((0, start), (start, end), (end, value.shape[axis]))
    before, window, after = (trace.scales.take(value, axis, np.arange(*ends)) for ends in ranges)
    count = 0
    if eqn.primitive.name not in ("scatter", "dynamic_update_slice"):
        update, count = trace.scales.equate(window, update)
    parts = [part for part in (before, update, after) if part.shape[axis]]
    total, more = trace.scales.concatenate(parts, axis)
    if value.fixed:
        trace.charge(eqn, count + more)
    return total


def _scatter(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    """Entries put, added or compared where indices say: any of them may meet any other there."""
    operand, index, updates = values
    dims = eqn.params["dimension_numbers"]
    if dims.operand_batching_dims:
        return trace.give_up(eqn, values)
    # Windows of the updates lie along the operand's axes that no index replaces; along these, and
    # where a window is smaller than its axis, the places are unknown.
    kept = [a for a in range(len(operand.shape)) if a not in dims.inserted_window_dims]
    sizes = dict(zip(kept, (updates.shape[a] for a in dims.update_window_dims), strict=True))
    moved = {a for a, n in enumerate(operand.shape) if sizes.get(a) != n}
    moved |= set(dims.scatter_dims_to_operand_dims)
    apart = [a for a in range(len(updates.shape)) if a not in dims.update_window_dims]
    windows = trace.scales.reduce(updates, apart)
    shape = tuple(sizes.get(a, 1) if a in moved else n for a, n in enumerate(operand.shape))
    if index.known is not None and index.known.size == 1 and len(moved) == 1:
        (axis,) = moved
        start = int(index.known.item())
        if 0 <= start <= operand.shape[axis] - shape[axis]:
            window = trace.scales.place(windows, shape, kept)
            return [_updated(trace, eqn, operand, window, (axis, start))]
    operand = trace.scales.constant(operand, moved)
    windows = trace.scales.constant(windows, [i for i, a in enumerate(kept) if a in moved])
    shape = tuple(1 if a in moved else n for a, n in enumerate(operand.shape))
    windows = windows._replace(shape=tuple(shape[a] for a in kept))
    total, count = trace.scales.equate(operand, trace.scales.place(windows, shape, kept))
    if operand.fixed:
        trace.charge(eqn, count)
    return [total._replace(shape=_shape(eqn), known=None)]


RULES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "slice": _slice,
    "split": _split,
    "rev": _reverse,
    "tile": _tile,
    "concatenate": _concatenate,
    "stack": _stack,
    "unstack": _unstack,
    "pad": _pad,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
}
RULES |= dict.fromkeys(
    ("scatter", "scatter-add", "scatter-sub", "scatter-max", "scatter-min"), _scatter
)
RULES |= dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min"), _reduce)
RULES |= dict.fromkeys(("cumsum", "cummax", "cummin"), _accumulate)
RULES |= dict.fromkeys(("reduce_window_sum", "reduce_window_max", "reduce_window_min"), _window)
RULES |= dict.fromkeys(("sort", "top_k", "argmax", "argmin"), _order)

"""How calls, loops and branches pass scales on."""

from collections.abc import Sequence
from typing import Any

from gsgd_jax.tracing.algebra.codes import distinct
from gsgd_jax.tracing.algebra.scales import ZERO, Value
from gsgd_jax.tracing.algebra.stacks import layers_of, merged, stack
from gsgd_jax.tracing.calls import CALLS, called, in_layers, scan_arguments
from gsgd_jax.tracing.interpreter import Rule, Trace, is_inexact


def _call(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    inner, consts = called(eqn)
    return trace.give_up(eqn, values) if inner is None else trace.run(inner, consts, values)


def _fresh_carry(trace: Trace, avals: Sequence[Any]) -> list[Value]:
    """Unknown scales for what a loop hands from step to step."""
    carry = []
    for aval in avals:
        shape = tuple(getattr(aval, "shape", ()))
        if is_inexact(aval):
            carry.append(trace.scales.fresh(shape, [(a,) for a in range(len(shape))]))
        else:
            carry.append(Value(shape))
    return carry


def _close(trace: Trace, eqn: Any, carry: Sequence[Value], others: Sequence[Value]) -> None:
    """The scales of a carry are the same at all steps."""
    for one, other in zip(carry, others, strict=True):
        trace.tables.tie(other)
        _, count = trace.scales.equate(one, merged(trace.scales, other))
        if other.fixed:
            trace.charge(eqn, count)


def _leave_rows(trace: Trace, values: Sequence[Value]) -> None:
    """Ties tables that come out of a loop or a branch: beyond it none knows their rows."""
    for value in values:
        trace.tables.tie(value)


def _run_alike(trace: Trace, body: Any, operands: list[Value]) -> list[Value]:
    """The values that a body gives at every step."""
    before, trace.alike = trace.alike, True
    results = trace.run(body.jaxpr, body.consts, operands)
    trace.alike = before
    return results


def _scan(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    """Layers one by one, each with its own slice of the parameters; steps in time all alike."""
    consts, carries = scan_arguments(eqn.params)
    scanned = any(_moves(value) for value in values[consts + carries :])
    counted = any(value.layers for value in values[:consts])  # a loop over the number of the layer
    steps = eqn.params["length"]
    if not steps:  # the carry as it is, and no entry beside it
        for value in values:
            trace.tables.tie(value)
        empty = [Value(tuple(var.aval.shape)) for var in eqn.outvars[carries:]]
        return [*values[consts : consts + carries], *empty]
    if (scanned or counted) and in_layers(steps):
        return _layer_by_layer(trace, eqn, values)
    return _steps_alike(trace, eqn, trace.settle(values))


def _moves(value: Value) -> bool:
    """Whether this is a parameter, or made of parameters alone, and may be scaled."""
    moves = value.overall != ZERO or value.blocks or value.layers
    return bool(moves) and not value.data


def _num_scales(value: Value) -> int:
    return 1 + sum(len(distinct(table)) - 1 for _, table in value.blocks)


def _layer_by_layer(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    """As the loop that the scan stands for: the carry may change scale from layer to layer."""
    p = eqn.params
    body, steps = p["jaxpr"], p["length"]
    consts, carries = scan_arguments(p)
    fixed, carry = values[:consts], values[consts : consts + carries]
    for value in values[consts + carries :]:
        trace.tables.tie(value)
    sequences = [layers_of(trace.scales, value, 0) for value in values[consts + carries :]]
    outcomes: list[list[Value]] = [[]] * steps
    for i in reversed(range(steps)) if p["reverse"] else range(steps):
        slices = [layers[i] for layers in sequences]
        results = trace.run(body.jaxpr, body.consts, [*fixed, *carry, *slices])
        carry, outcomes[i] = results[:carries], trace.settle(results[carries:])
        _leave_rows(trace, outcomes[i])
    stacked = [stack(layers, 0) for layers in zip(*outcomes, strict=True)]
    return [*carry, *(merged(trace.scales, value) for value in stacked)]


def _steps_alike(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    p = eqn.params
    body, steps = p["jaxpr"], p["length"]
    consts, carries = scan_arguments(p)
    start, sequences = values[consts : consts + carries], values[consts + carries :]
    data = any(value.data for value in values)
    # The scales s of the carry are unknown: s = s(start) and s = s(body(carry)), a fixed point.
    carry = _fresh_carry(trace, [v.aval for v in body.jaxpr.invars[consts : consts + carries]])
    carry = [value._replace(data=data) for value in carry]
    _close(trace, eqn, carry, start)
    slices = [trace.scales.reduce(merged(trace.scales, value), (0,)) for value in sequences]
    for value, layer in zip(sequences, slices, strict=True):
        trace.tables.tie(value)
        if _moves(value):  # too many layers: the others lose what one has, or at most that much
            trace.charge(eqn, (steps - 1) * _num_scales(layer))
    slices = [
        layer._replace(given=value.given, positive=value.positive)  # as of a mask of each step
        for value, layer in zip(sequences, slices, strict=True)
    ]
    operands = [*values[:consts], *carry, *slices]
    results = trace.settle(_run_alike(trace, body, operands))
    _close(trace, eqn, carry, results[:carries])
    _leave_rows(trace, results[carries:])
    stacked = [
        trace.scales.place(value, (steps, *value.shape), range(1, len(value.shape) + 1))
        for value in results[carries:]
    ]
    return [*carry, *stacked]


def _while(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    p = eqn.params
    tests, bodies = p["cond_nconsts"], p["body_nconsts"]
    start, body, test = values[tests + bodies :], p["body_jaxpr"], p["cond_jaxpr"]
    data = any(value.data for value in values)
    carry = _fresh_carry(trace, [v.aval for v in body.jaxpr.invars[bodies:]])
    carry = [value._replace(data=data) for value in carry]
    _close(trace, eqn, carry, start)
    _run_alike(trace, test, [*values[:tests], *carry])
    operands = [*values[tests : tests + bodies], *carry]
    _close(trace, eqn, carry, trace.settle(_run_alike(trace, body, operands)))
    return carry


def _branch(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    _, *operands = values
    branches = eqn.params["branches"]
    outcomes = [trace.settle(trace.run(b.jaxpr, b.consts, operands)) for b in branches]
    results = []
    for outcome in outcomes:
        _leave_rows(trace, outcome)
    for first, *others in zip(*outcomes, strict=True):
        total = merged(trace.scales, first)._replace(known=None)
        for other in others:
            total, _ = trace.scales.equate(total, merged(trace.scales, other))
        results.append(total)
    return results


RULES: dict[str, Rule] = {"scan": _scan, "while": _while, "cond": _branch}
RULES |= dict.fromkeys(CALLS, _call)

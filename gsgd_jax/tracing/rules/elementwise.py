"""How arithmetic on entries passes scales on."""

from fractions import Fraction
from typing import Any

import numpy as np

from gsgd_jax.tracing.algebra.scales import ZERO, Epsilon, Value
from gsgd_jax.tracing.interpreter import LARGEST_KNOWN, Rule, Trace, is_inexact

_LARGEST_EPSILON = 1e-2
"""What is larger changes what is computed; Keras normalises with 1e-3."""
_LARGEST_DENOMINATOR = 8
"""Of exponents; others, such as 0.1, are no short fractions in binary."""


def _ranked(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    """Scalars take the rank of the output, so that axes correspond."""
    rank = len(eqn.outvars[0].aval.shape)
    ones = (1,) * rank
    return [
        value if len(value.shape) == rank else trace.scales.place(value, ones, ())
        for value in values
    ]


def _shaped(eqn: Any, value: Value) -> list[Value]:
    return [value._replace(shape=tuple(eqn.outvars[0].aval.shape), known=None)]


def _multiply(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    left, right = _ranked(trace, eqn, values)
    sign = -1 if eqn.primitive.name == "div" else 1
    return _shaped(eqn, trace.scales.multiply(left, right, sign))


def _equate(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    """Sums, extrema and choices: σ(c x, c y) = c σ(x, y), for c > 0 and one c for all."""
    softened = _soften(trace, eqn, values)
    if softened is not None:
        return _shaped(eqn, softened)
    total, *others = _ranked(trace, eqn, values)
    fixed = any(value.fixed for value in values)
    for other in others:
        total, count = _met(trace, total, other)
        if fixed:  # something moved meets a constant: worth telling
            trace.charge(eqn, count)
    return _shaped(eqn, total)


def _met(trace: Trace, left: Value, right: Value) -> tuple[Value, int]:
    """Requires equal scales; of a constant with zeros, only where there is none of these."""
    for value, other in ((left, right), (right, left)):
        known = other.known
        if known is None or known.ndim != len(value.shape) or not known.ndim:
            continue
        if value.known is not None or value.absorbing or other.absorbing:
            continue
        if known.size > LARGEST_KNOWN:
            continue
        stays = np.isfinite(known) & (known != 0)
        if stays.all():
            continue
        # x + 0 scales as x does, and x + a for other a only if x does not scale: log c = 0 there.
        varying = {a for axes, _ in value.blocks for a in axes}
        stays = stays.any(axis=tuple({*range(known.ndim)} - varying), keepdims=True)
        shape = [n if a in varying else 1 for a, n in enumerate(value.shape)]
        index = np.nonzero(np.broadcast_to(stays, shape))
        numbers = np.full(len(index[0]), value.overall)
        for axes, table in value.blocks:
            numbers = trace.system.combine(numbers, table[tuple(index[a] for a in axes)])
        return value, trace.system.vanish(numbers)
    return trace.scales.equate(left, right)


def _soften(trace: Trace, eqn: Any, values: list[Value]) -> Value | None:
    """A variance or norm with its epsilon: nothing, as long as it is only divided by."""
    if not trace.soften or eqn.primitive.name not in ("add", "max"):
        return None
    for value, other in (values, values[::-1]):
        amount = None if other.known is None or not other.known.size else other.known
        if amount is None or not (value.size and value.known is None):
            continue
        moves = value.overall != ZERO or bool(value.blocks)
        if moves and np.min(amount) > 0 and np.max(amount) <= _LARGEST_EPSILON:
            (ranked, _) = _ranked(trace, eqn, [value, other])
            return ranked._replace(soft=Epsilon(float(np.max(amount)), eqn))
    return None


def _select(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    return _equate(trace, eqn, values[1:])


def _compare(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    _equate(trace, eqn, values)
    return [Value(tuple(eqn.outvars[0].aval.shape))]


def _same(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    keep = eqn.primitive.name in _KEPT
    return [value if keep else value._replace(known=None) for value in values]


def _convert(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    if not is_inexact(eqn.outvars[0].aval):
        return trace.give_up(eqn, values)
    return [values[0]._replace(known=None)]


def _sign(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    return [Value(values[0].shape)]


def _power(exponent: Fraction | int) -> Rule:
    def rule(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
        # (c x)^p = c^p x^p for c > 0.
        return [trace.scales.power(values[0], exponent)]

    return rule


def _integer_power(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    if eqn.params["y"] == 0:
        return [Value(values[0].shape)]
    return [trace.scales.power(values[0], eqn.params["y"])]


def _general_power(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    known = values[1].known
    if known is None or known.size != 1 or not np.isfinite(known) or not np.any(known):
        return trace.give_up(eqn, values)
    # Binary floats are fractions over powers of two; a long one stands for no exact exponent.
    exponent = Fraction(float(known.item()))
    if exponent.denominator > _LARGEST_DENOMINATOR:
        return trace.give_up(eqn, values)
    return [trace.scales.power(values[0], exponent)]


_KEPT = (
    "stop_gradient", "copy", "copy_p", "device_put", "name", "sharding_constraint", "reshard",
)  # fmt: skip
_PARTS = ("real", "imag", "conj")
"""Parts of complex numbers: c > 0 multiplies both."""

RULES: dict[str, Rule] = {
    "mul": _multiply,
    "div": _multiply,
    "select_n": _select,
    "convert_element_type": _convert,
    "sign": _sign,
    "is_finite": _sign,
    "integer_pow": _integer_power,
    "pow": _general_power,
    "square": _power(2),
    "sqrt": _power(Fraction(1, 2)),
    "rsqrt": _power(Fraction(-1, 2)),
    "cbrt": _power(Fraction(1, 3)),
}
RULES |= dict.fromkeys(("add", "sub", "add_any", "max", "min", "clamp", "complex"), _equate)
RULES |= dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), _compare)
RULES |= dict.fromkeys(
    ("neg", "abs", "reduce_precision", "optimization_barrier", *_KEPT, *_PARTS), _same
)

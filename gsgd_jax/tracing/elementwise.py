"""How arithmetic on entries passes scales on."""

from fractions import Fraction
from typing import Any

from gsgd_jax.tracing.interpreter import Rule, Trace, is_inexact
from gsgd_jax.tracing.scales import Value


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
    total, *others = _ranked(trace, eqn, values)
    for other in others:
        fixed = total.known is not None or other.known is not None
        total, count = trace.scales.equate(total, other)
        if fixed:  # something moved meets a constant: worth telling
            trace.charge(eqn, count)
    return _shaped(eqn, total)


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
        return [trace.scales.power(values[0], exponent)]

    return rule


def _integer_power(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    if eqn.params["y"] == 0:
        return [Value(values[0].shape)]
    return [trace.scales.power(values[0], eqn.params["y"])]


def _general_power(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    exponent = values[1].known
    if exponent is None or exponent.size != 1 or float(exponent.item()) not in (0.5, 1.0, 2.0, 3.0):
        return trace.give_up(eqn, values)
    return [trace.scales.power(values[0], Fraction(float(exponent.item())))]


_KEPT = ("stop_gradient", "copy", "copy_p", "device_put")

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
RULES |= dict.fromkeys(("add", "sub", "add_any", "max", "min", "clamp"), _equate)
RULES |= dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), _compare)
RULES |= dict.fromkeys(("neg", "abs", "reduce_precision", "optimization_barrier", *_KEPT), _same)

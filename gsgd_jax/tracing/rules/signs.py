"""How each primitive passes signs on: what holds of scales c > 0 holds of c = -1, but for order."""

from typing import Any

import numpy as np

from gsgd_jax.tracing.algebra.scales import Value
from gsgd_jax.tracing.calls import CALLS
from gsgd_jax.tracing.interpreter import Rule, Trace
from gsgd_jax.tracing.rules.by_primitive import RULES
from gsgd_jax.tracing.rules.stacked import by_layers

_ODD = (
    "tanh", "sin", "tan", "asin", "atan", "sinh", "asinh", "atanh", "erf", "erf_inv", "cbrt",
    "sign", "round",
)  # fmt: skip
"""Of which f(-x) = -f(x)."""
_EVEN = ("cos", "cosh", "abs", "square", "is_finite")
"""Of which f(-x) = f(x)."""
_LINEAR = frozenset({
    "add", "add_any", "sub", "neg", "div", "reduce_sum", "cumsum", "reduce_window_sum",
    "dot_general", "conv_general_dilated", "scatter-add",
    "eq", "ne", "select_n", "convert_element_type", "reduce_precision", "optimization_barrier",
    "copy", "copy_p", "device_put", "name", "sharding_constraint", "stop_gradient",
    "broadcast_in_dim", "concatenate", "expand_dims", "pad", "reshape", "rev", "slice", "split",
    "squeeze", "stack", "tile", "transpose", "unstack",
    "gather", "dynamic_slice", "dynamic_update_slice", "scatter",
    "cond", "scan", "while",
}) | CALLS  # fmt: skip
"""Whose rules hold of c = -1 as well. All others, such as maxima and sorting, ask which of two
numbers is larger, or need one that is positive: without a rule they pin."""


def _even(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    # A sign that is lost here is still one that may be flipped: no edge leaves its node.
    trace.divisors.extend(values)
    return [Value(values[0].shape)]


def _integer_power(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    if eqn.params["y"] % 2 == 0:
        return _even(trace, eqn, values)
    return [values[0]._replace(known=None)]


def _multiply(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    if eqn.invars[0] is eqn.invars[1]:
        return _even(trace, eqn, values[:1])
    return RULES[eqn.primitive.name](trace, eqn, values)


def _clamp(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    low, value, high = values
    if low.known is None or high.known is None or np.any(np.asarray(low.known) != -high.known):
        return trace.give_up(eqn, values)
    return [value._replace(known=None)]


def _without_infinity(rule: Rule) -> Rule:
    """The rule of a primitive for which infinity is a number with a sign, and not without scale."""

    def finite(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
        signed = [
            v if v.known is None or np.isfinite(v.known).all()
            else v._replace(absorbing=False, known=None)
            for v in values
        ]  # fmt: skip
        return rule(trace, eqn, signed)

    return finite


def _kept(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    return [values[0]._replace(known=None)]


_OWN: dict[str, Rule] = {"integer_pow": _integer_power, "mul": _multiply, "clamp": _clamp}
_OWN |= dict.fromkeys(_EVEN, _even)
_OWN |= dict.fromkeys(_ODD, by_layers("neg", _kept))
SIGN_RULES: dict[str, Rule] = {
    name: _without_infinity(rule)
    for name, rule in ({name: RULES[name] for name in _LINEAR if name in RULES} | _OWN).items()
}
"""By the names of the primitives that they are for; one without a rule pins what it is given."""

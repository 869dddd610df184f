"""Recognises normalisation by what is computed: something divided by its own size."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gsgd_jax.tracing.algebra.scales import ZERO, Value

_POSITIVE = frozenset({"abs", "square", "exp", "exp2", "logistic", "sqrt"})
"""Primitives whose outputs are not negative, whatever they are given."""
_KEEP_POSITIVE = frozenset({
    "add", "mul", "div", "max", "min", "pow", "integer_pow", "reduce_sum", "reduce_max",
    "reduce_min", "cumsum", "dot_general", "broadcast_in_dim", "reshape", "squeeze", "expand_dims",
    "transpose", "concatenate", "pad", "slice", "rev", "copy", "stop_gradient",
})  # fmt: skip
"""Primitives whose outputs are not negative where no input is."""


def makes_size(eqn: Any, values: Sequence[Value]) -> bool:
    """Whether an equation takes something to an even power, or its absolute value.

    Args:
        eqn: the equation.
        values: of its inputs.
    """
    name = eqn.primitive.name
    if name == "mul":
        return eqn.invars[0] is eqn.invars[1]
    if name == "dot_general" and eqn.invars[0] is eqn.invars[1]:
        (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
        rank = len(eqn.invars[0].aval.shape)  # every entry must meet itself
        return (left, left_batch) == (right, right_batch) and rank == len(left) + len(left_batch)
    if name == "integer_pow":
        return eqn.params["y"] > 0 and eqn.params["y"] % 2 == 0
    if name == "pow":  # x**2.0, which JAX does not make an integer power
        exponent = values[1].known
        return exponent is not None and bool(np.all((exponent > 0) & (exponent % 2 == 0)))
    return name in ("square", "abs")


def all_sizes(eqn: Any, values: Sequence[Value]) -> bool:
    """Whether an equation's inputs are sizes, but for constants, masks and weights.

    A sum of squares of which some are masked, or that data weigh, is as large as what is summed:
    w >= 0 that no parameter moves makes Σ w (c x)² = c² Σ w x², a size like any other. Weights that
    may be negative could make it zero, where no epsilon is small beside it.

    Args:
        eqn: the equation.
        values: of its inputs.
    """
    if eqn.primitive.name == "select_n":
        values = values[1:]  # whichever is chosen is a size
    variable = [value for value in values if value.known is None and not _weighs(value)]
    return bool(variable) and all(value.size for value in variable)


def _weighs(value: Value) -> bool:
    """Whether it is a mask or weight that no rescaling moves."""
    return value.positive and value.overall == ZERO and not value.blocks


def is_positive(eqn: Any, values: Sequence[Value], aval: Any) -> bool:
    """Whether an output that depends on no parameter has no negative entry.

    Args:
        eqn: the equation.
        values: of its inputs.
        aval: the output's abstract value.
    """
    name = eqn.primitive.name
    if jnp.issubdtype(aval.dtype, jnp.complexfloating):
        return False
    if never_negative(aval) or name in _POSITIVE or makes_size(eqn, values):
        return True
    if name == "sub":  # jnp.var takes 0 from a count
        taken = values[1].known
        return values[0].positive and taken is not None and bool(np.all(taken <= 0))
    if name == "convert_element_type":  # a narrower integer may come out negative
        dtype, before = aval.dtype, eqn.invars[0].aval.dtype
        wide = jnp.issubdtype(dtype, jnp.inexact) or dtype.itemsize > before.itemsize
        return wide and values[0].positive
    if name == "select_n":
        return all(value.positive for value in values[1:])
    return name in _KEEP_POSITIVE and all(value.positive for value in values)


def never_negative(aval: Any) -> bool:
    """Whether arrays of this type, as masks are, have no negative entry.

    Args:
        aval: an abstract value.
    """
    dtype = getattr(aval, "dtype", None)
    if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended):
        return False
    return jnp.issubdtype(dtype, jnp.bool_) or jnp.issubdtype(dtype, jnp.unsignedinteger)


def divisor(eqn: Any, values: Sequence[Value]) -> Value | None:
    """Which of its inputs an equation divides by.

    Args:
        eqn: the equation.
        values: of its inputs.
    """
    name = eqn.primitive.name
    if name == "div":
        return values[1]
    if name == "rsqrt":
        return values[0]
    if name == "integer_pow" and eqn.params["y"] < 0:
        return values[0]
    if name == "pow":
        exponent = values[1].known
        return values[0] if exponent is not None and np.all(exponent < 0) else None
    return None

"""Recognises normalisation by what is computed: something divided by its own size."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gsgd_jax.tracing.algebra.scales import Value


def makes_size(eqn: Any) -> bool:
    """Whether an equation squares something, or takes its absolute value.

    Args:
        eqn: the equation.
    """
    name = eqn.primitive.name
    if name == "mul":
        return eqn.invars[0] is eqn.invars[1]
    if name == "dot_general" and eqn.invars[0] is eqn.invars[1]:
        (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
        rank = len(eqn.invars[0].aval.shape)  # every entry must meet itself
        return (left, left_batch) == (right, right_batch) and rank == len(left) + len(left_batch)
    return name in ("square", "abs") or (name == "integer_pow" and eqn.params["y"] == 2)


def all_sizes(values: Sequence[Value]) -> bool:
    """Whether values are sizes, but for constants.

    Args:
        values: of an equation's inputs.
    """
    variable = [value for value in values if value.known is None]
    return bool(variable) and all(value.size for value in variable)


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

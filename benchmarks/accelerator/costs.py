"""What training costs, from shapes alone: operations of a step, memory of a run. Nothing is run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

PEAKS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "V100": 125e12,
    "TPU v6": 918e12,
    "TPU v5p": 459e12,
    "TPU v5": 197e12,
    "TPU v4": 275e12,
}
"""Operations a second of dense products in bfloat16 (float16 of V100), as the makers state them, by
what the device's name has in it; the first that fits."""


class Program(NamedTuple):
    """A loss of one batch, and its arguments as shapes and dtypes."""

    loss: Callable[..., jax.Array]
    """(params, *inputs) -> scalar."""
    params: Any
    inputs: tuple[Any, ...]


class Cost(NamedTuple):
    """Of one step of one run."""

    operations: float
    """Of the gradient, as XLA counts them: a multiplication and an addition are two."""
    kept: int
    """Bytes: parameters, gradient and state of the rule, four copies of the parameters in all, and
    what is kept for the backward pass before XLA fuses anything."""


def cost(program: Program) -> Cost:
    """Counts a step's operations and a run's memory; seconds of tracing for a large network."""
    loss, params, inputs = program
    lowered = jax.jit(jax.grad(loss)).lower(params, *inputs)
    counted: Any = lowered.cost_analysis() or {}

    def pullback(params: Any, *inputs: Any) -> Any:
        return jax.vjp(lambda params: loss(params, *inputs), params)[1]

    residuals = jax.eval_shape(pullback, params, *inputs)
    return Cost(float(counted.get("flops", 0.0)), _size(residuals) + 4 * _size(params))


def peak(kind: str) -> float | None:
    """A device's peak by its name, in operations a second; None where it is not known.

    Example:
        >>> f"{peak('NVIDIA H100 80GB HBM3'):.0f}", peak("cpu")
        ('989000000000000', None)
    """
    return next((value for name, value in PEAKS.items() if name in kind), None)


def _size(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

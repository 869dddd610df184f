"""What a step costs, from shapes alone: operations, and memory of a run. Nothing is run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


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


def _size(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

"""How a server keeps the running averages of a network whose workers push statistics."""

from collections.abc import Callable
from typing import Any

import jax
from jax.typing import ArrayLike

from dcasgd_jax._arguments import check_number
from dcasgd_jax._precision import cast


def running_average(decay: ArrayLike) -> Callable[[Any, Any], Any]:
    r"""Folds in the statistics of one batch: r ← ρ r + (1 - ρ) s.

    For `simulate(..., merge=running_average(0.9))` with a network that pushes the batch's own
    statistics s, as batch normalisation with momentum 0 does. Every batch counts alike and in the
    order of arrival. (Pushing instead what became of the pulled averages, the default of
    `simulate`, forgets what arrived in between; and adding the difference that a worker made,
    r + (1 - ρ)(s - r_pulled), is a delayed recursion that diverges once 1 - ρ exceeds
    2 sin(π / (2 (2 τ + 1))), which at ρ = 0.9 is a delay of 15.)

    Args:
        decay: ρ in [0, 1).

    Returns:
        (the server's averages, what was pushed) -> the next averages, in their own dtypes.

    Raises:
        ValueError: if `decay` is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> running_average(0.75)({"mean": jnp.array([4.0])}, {"mean": jnp.array([8.0])})
        {'mean': Array([5.], dtype=float32)}
    """
    check_number("decay", decay, bound=1.0)

    def fold(average: jax.Array, statistic: jax.Array) -> jax.Array:
        keep = cast(decay, average.dtype)  # r ← ρ r + (1 - ρ) s
        return keep * average + (1 - keep) * cast(statistic, average.dtype)

    return lambda averages, pushed: jax.tree.map(fold, averages, pushed)

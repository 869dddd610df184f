"""Delayed Nesterov: gradients step at once, momentum only once in N arrivals."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dcasgd_jax._arguments import check_count, check_number, scalar
from dcasgd_jax._masked_trees import map_present, working_zeros
from dcasgd_jax._precision import cast, cast_like


class DelayedNesterovState(NamedTuple):
    """State of `delayed_nesterov`."""

    gathered: jax.Array  # shape=(), dtype=int32: gradients in the buffer, below the period
    momentum: optax.Params  # like the parameters, float32 or wider
    buffer: optax.Params  # like the parameters, float32 or wider: the sum of the gradients since
    # the momentum moved


def delayed_nesterov(
    period: int, *, momentum: ArrayLike = 0.9, spread: ArrayLike = 0.0
) -> optax.GradientTransformationExtraArgs:
    r"""Nesterov's momentum, refreshed by the mean of N gradients and otherwise at rest.

    Momentum amplifies stale gradients, each by 1 / (1 - β). Here every gradient g steps by a share
    at once, and the momentum m takes in N of them together:

        Δ ← Δ + g
        at every N-th arrival:  m ← β m + Δ / N,  Δ ← 0,  u = (1 - c N + c) β m + g / N
        else:                                            u = c β m + g / N

    With N = 1 it is Nesterov's momentum as of `optax.trace`. Put the learning rate behind it.

    Memory: two copies of the parameters in float32.

    Args:
        period: N >= 1, the number of workers in the paper's experiments.
        momentum: β in [0, 1).
        spread: c in [0, 1/N], how much of the momentum's step is taken at arrivals between.

    Returns:
        A transformation; it reads no extra arguments.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = delayed_nesterov(2, momentum=0.5)
        >>> w, state = jnp.array(0.0), delayed_nesterov(2, momentum=0.5).init(jnp.array(0.0))
        >>> first, state = tx.update(jnp.array(1.0), state, w)
        >>> second, state = tx.update(jnp.array(3.0), state, w)
        >>> float(first), float(second)  # 1/2, and 3/2 + 0.5 * (1 + 3)/2
        (0.5, 2.5)

    References:
        Liu et al., Asynchronous Local-SGD Training for Language Modeling, 2024
        (https://arxiv.org/abs/2401.09135), algorithm 3, as reported.
    """
    check_count("period", period)
    check_number("momentum", momentum, bound=1.0)
    check_number("spread", spread)
    if isinstance(spread, int | float) and spread * period > 1:
        raise ValueError(f"spread must be at most 1 / period = {1 / period:g}, got {spread}.")

    def init_fn(params: optax.Params) -> Any:
        return DelayedNesterovState(
            gathered=jnp.zeros([], jnp.int32),
            momentum=working_zeros(params),
            buffer=working_zeros(params),
        )

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, Any]:
        del params, extra_args
        full = state.gathered + 1 == period
        buffer = map_present(lambda g, d: d + cast(g, d.dtype), updates, state.buffer)

        def refreshed(g: Any, m: jax.Array, d: jax.Array) -> jax.Array:
            # m ← β m + Δ / N at every N-th arrival.
            return jnp.where(full, scalar(momentum, m.dtype) * m + d / period, m)

        def direction(g: Any, m: jax.Array) -> jax.Array:
            c = jnp.asarray(scalar(spread, m.dtype), m.dtype)
            # Shares of m that add up to one step over N arrivals: N - 1 times c, then the rest.
            share = jnp.where(full, 1 - c * period + c, c)
            return cast_like(share * scalar(momentum, m.dtype) * m + cast(g, m.dtype) / period, g)

        new = map_present(refreshed, updates, state.momentum, buffer)
        return map_present(direction, updates, new), DelayedNesterovState(
            gathered=jnp.where(full, 0, state.gathered + 1),
            momentum=new,
            buffer=map_present(lambda g, d: jnp.where(full, 0, d), updates, buffer),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)

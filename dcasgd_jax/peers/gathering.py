"""What rules that drop or gather gradients share: an inner rule that steps only now and then."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from dcasgd_jax._leaves import map_present
from dcasgd_jax._precision import cast, cast_like


def when(
    steps: jax.Array,
    inner: optax.GradientTransformationExtraArgs,
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None,
    **extra_args: Any,
) -> tuple[optax.Updates, optax.OptState]:
    """The inner rule's update where it steps; else none, its state untouched.

    Args:
        steps: whether it does, a traced boolean scalar.
        inner: the rule.
        updates: what it is given.
        state: its own.
        params: the server's weights.
        **extra_args: handed on.

    Returns:
        Its updates or zeros, and its next state or the present one.
    """
    moved, after = inner.update(updates, state, params, **extra_args)
    moved = map_present(lambda u: jnp.where(steps, u, jnp.zeros_like(u)), moved)
    after = jax.tree.map(lambda new, old: jnp.where(steps, new, old), after, state)
    return moved, after


def added(updates: optax.Updates, total: optax.Params, counts: jax.Array) -> optax.Params:
    """A buffer with a gradient added, if it counts.

    Args:
        updates: the gradient.
        total: the buffer, float32 or wider.
        counts: by how much, a scalar: 0 for a gradient that is dropped.
    """

    def add(g: Any, t: jax.Array) -> jax.Array:
        # A dropped gradient that is not finite must leave no trace.
        return jnp.where(counts > 0, t + cast(counts, t.dtype) * cast(g, t.dtype), t)

    return map_present(add, updates, total)


def mean(updates: optax.Updates, total: optax.Params, number: Any) -> optax.Updates:
    """A buffer over the number of gradients in it, in the gradients' dtypes.

    Args:
        updates: for the dtypes.
        total: the buffer.
        number: at least 1.
    """
    return map_present(lambda g, t: cast_like(t / jnp.asarray(number, t.dtype), g), updates, total)


def emptied(total: optax.Params, full: jax.Array) -> optax.Params:
    """A buffer, emptied where it was full.

    Args:
        total: the buffer.
        full: whether it was.
    """
    return map_present(lambda t: jnp.where(full, 0, t), total)

"""What rules that drop or gather gradients share: an inner rule that steps only now and then."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from dcasgd_jax._masked_trees import map_present
from dcasgd_jax._precision import cast, cast_like


def step_where(
    steps: jax.Array,
    inner: optax.GradientTransformationExtraArgs,
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None,
    **extra_args: Any,
) -> tuple[optax.Updates, optax.OptState]:
    """The inner rule's update and next state where `steps`; else zeros, and its state untouched."""
    moved, after = inner.update(updates, state, params, **extra_args)
    moved = map_present(lambda u: jnp.where(steps, u, jnp.zeros_like(u)), moved)
    after = jax.tree.map(lambda new, old: jnp.where(steps, new, old), after, state)
    return moved, after


def add_gradient(updates: optax.Updates, total: optax.Params, weight: jax.Array) -> optax.Params:
    """A buffer with `weight` times a gradient added, float32 or wider; 0 drops the gradient."""

    def add(g: Any, t: jax.Array) -> jax.Array:
        # A dropped gradient that is not finite must leave no trace.
        return jnp.where(weight > 0, t + cast(weight, t.dtype) * cast(g, t.dtype), t)

    return map_present(add, updates, total)


def buffer_mean(updates: optax.Updates, total: optax.Params, number: Any) -> optax.Updates:
    """A buffer over the number of gradients in it, in the gradients' dtypes."""
    return map_present(lambda g, t: cast_like(t / jnp.asarray(number, t.dtype), g), updates, total)


def empty_where(full: jax.Array, total: optax.Params) -> optax.Params:
    """A buffer, emptied where it is full."""
    return map_present(lambda t: jnp.where(full, 0, t), total)

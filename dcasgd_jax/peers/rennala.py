"""Rennala SGD: only gradients taken at the present weights count; B of them make a step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dcasgd_jax._arguments import check_count, one_staleness
from dcasgd_jax._masked_trees import working_zeros
from dcasgd_jax.peers.gathering import add_gradient, buffer_mean, empty_where, step_where


class RennalaState(NamedTuple):
    """State of `rennala`."""

    gathered: jax.Array  # shape=(), dtype=int32: gradients gathered for the next step
    events: jax.Array  # shape=(), dtype=int32: arrivals since the weights last moved
    buffer: optax.Params  # like the parameters, float32 or wider: the sum of those gathered
    inner: optax.OptState


def rennala(
    inner: optax.GradientTransformation, batch_size: int
) -> optax.GradientTransformationExtraArgs:
    """Drops every stale gradient, and steps on the mean of B that are not.

    A minibatch method whose minibatch is computed by whoever is fast: the weights stay until B
    gradients taken at them have arrived, and gradients taken at earlier ones are thrown away. Its
    time complexity is optimal for fixed speeds of the workers.

    A gradient that arrives τ server events after its weights were pulled was taken at the present
    weights if these have not moved for τ events; that is what is looked at.

    Memory: one copy of the parameters in float32, beside the inner rule's own.

    Args:
        inner: the server's rule.
        batch_size: B >= 1.

    Returns:
        A transformation whose `update` needs the keyword `staleness`. Where nothing steps, the
        update is zero and the inner rule's state untouched.

    Raises:
        ValueError: here, if B is below 1; from `update`, if `staleness` is missing.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> tx = rennala(optax.sgd(1.0), 2)
        >>> w = jnp.array(0.0)
        >>> state, steps = tx.init(w), []
        >>> for gradient, staleness in [(1.0, 0), (3.0, 1), (9.0, 2), (5.0, 0)]:
        ...     u, state = tx.update(jnp.array(gradient), state, w, staleness=staleness)
        ...     steps.append(float(u))
        >>> steps  # the third was taken before the step and is dropped
        [0.0, -2.0, 0.0, 0.0]

    References:
        Tyurin and Richtarik, Optimal Time Complexities of Parallel Stochastic Optimization Methods
        Under a Fixed Computation Model, NeurIPS 2023 (https://arxiv.org/abs/2305.12387), method 4,
        as reported.
    """
    check_count("batch_size", batch_size)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> Any:
        zero = jnp.zeros([], jnp.int32)
        return RennalaState(zero, zero, working_zeros(params), inner.init(params))

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        staleness = one_staleness("rennala", extra_args.get("staleness"))
        # Taken at the present weights, if they have not moved since the pull, τ events ago.
        present = jnp.asarray(staleness) <= state.events
        total = add_gradient(updates, state.buffer, present.astype(jnp.float32))
        count = state.gathered + present.astype(jnp.int32)
        full = count == batch_size
        step = buffer_mean(updates, total, batch_size)
        moved, after = step_where(full, inner, step, state.inner, params, **extra_args)
        return moved, RennalaState(
            gathered=jnp.where(full, 0, count),
            events=jnp.where(full, 0, state.events + 1),
            buffer=empty_where(full, total),
            inner=after,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)

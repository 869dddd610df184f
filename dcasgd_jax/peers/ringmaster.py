"""Ringmaster ASGD: a gradient whose weights are R steps old or older is not applied."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dcasgd_jax._arguments import check_count, one_staleness
from dcasgd_jax.peers.gathering import step_where

_NEVER = jnp.iinfo(jnp.int32).min


class RingmasterState(NamedTuple):
    """State of `ringmaster`."""

    event: jax.Array  # shape=(), dtype=int32: gradients that arrived
    version: jax.Array  # shape=(), dtype=int32: those that were applied
    applied: jax.Array  # shape=(threshold,), dtype=int32: the last R events at which one was
    inner: optax.OptState


def ringmaster(
    inner: optax.GradientTransformation, threshold: int
) -> optax.GradientTransformationExtraArgs:
    """Asynchronous SGD that throws away what is too late.

    The delay δ of a gradient is the number of steps that moved the weights since they were pulled;
    it is applied if δ < R. With R large it is ASGD, with R = 1 it steps on fresh gradients alone;
    in between, time complexity is optimal for fixed and for changing speeds of the workers.

    Dropped gradients do not move the weights and so do not count in δ, but do in `staleness`, the
    arrivals since the pull. Which of these were applied is in the state: δ < R if, of the last R
    that were, the first came before the pull. So it holds for any schedule, rounds and failures
    among them. (The paper's other algorithm also stops computations that are bound to be dropped;
    this is the one that lets them end.)

    Memory: R integers, beside the inner rule's own.

    Args:
        inner: the server's rule.
        threshold: R >= 1.

    Returns:
        A transformation whose `update` needs the keyword `staleness` (int32 scalar). Where a
        gradient is dropped the update is zero and the inner rule's state untouched.

    Raises:
        ValueError: here, if R is below 1; from `update`, if `staleness` is missing.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> tx = ringmaster(optax.sgd(1.0), 2)
        >>> w = jnp.array(0.0)
        >>> state, steps = tx.init(w), []
        >>> for staleness in (0, 0, 2, 2):  # the third was taken two steps ago, the fourth one
        ...     u, state = tx.update(jnp.array(1.0), state, w, staleness=staleness)
        ...     steps.append(float(u))
        >>> steps
        [-1.0, -1.0, 0.0, -1.0]

    References:
        Maranjyan, Tyurin and Richtarik, Ringmaster ASGD: The First Asynchronous SGD with Optimal
        Time Complexity, ICML 2025 (https://arxiv.org/abs/2501.16168), algorithm 4 (without
        calculation stops), as reported.
    """
    check_count("threshold", threshold)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> Any:
        zero = jnp.zeros([], jnp.int32)
        return RingmasterState(
            zero, zero, jnp.full(threshold, _NEVER, jnp.int32), inner.init(params)
        )

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        staleness = one_staleness("ringmaster", extra_args.get("staleness"))
        pulled = state.event - jnp.asarray(staleness).astype(jnp.int32)
        # The oldest of the last R steps is where the next one will be written.
        place = state.version % threshold
        applied = jnp.asarray(state.applied)  # a restored state may be of numpy
        in_time = applied[place] < pulled  # fewer than R were applied since the pull: δ < R
        moved, after = step_where(in_time, inner, updates, state.inner, params, **extra_args)
        written = jnp.where(in_time, state.event, applied[place])
        return moved, RingmasterState(
            event=jnp.asarray(optax.safe_increment(state.event)),
            version=state.version + in_time.astype(jnp.int32),
            applied=applied.at[place].set(written),
            inner=after,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)

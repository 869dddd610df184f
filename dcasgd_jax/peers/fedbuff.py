"""FedBuff: the server steps on the mean of the last K gradients that arrived, however stale."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dcasgd_jax._arguments import check_count, one_staleness
from dcasgd_jax._masked_trees import working_zeros
from dcasgd_jax.peers.gathering import add_gradient, buffer_mean, empty_where, step_where


class FedBuffState(NamedTuple):
    """State of `fedbuff`."""

    gathered: jax.Array  # shape=(), dtype=int32: gradients in the buffer, below its size
    buffer: optax.Params  # like the parameters, float32 or wider: their weighted sum
    inner: optax.OptState


def fedbuff(
    inner: optax.GradientTransformation, buffer_size: int, *, discount: bool = True
) -> optax.GradientTransformationExtraArgs:
    r"""Gathers K gradients, then lets the inner rule step on their mean.

        Δ ← Δ + s(δ) g;   at every K-th arrival:  inner steps on Δ / K,  Δ ← 0.

    s(δ) = 1 / √(1 + δ) discounts late gradients, with δ the steps since the weights were pulled.
    `staleness` τ counts arrivals; with k gradients in the buffer, δ = ⌈max(τ - k, 0) / K⌉.
    `discount=False` weighs all alike, and then K = 1 is the inner rule itself.

    In the paper a client sends the change by several local steps; here, one gradient.

    Memory: one copy of the parameters in float32, beside the inner rule's own.

    Args:
        inner: the server's rule.
        buffer_size: K >= 1; 10 in the paper's experiments.
        discount: whether late gradients weigh less.

    Returns:
        A transformation; with `discount` its `update` needs the keyword `staleness`. Extra
        arguments are handed on to the inner rule as they came with the last gradient.

    Raises:
        ValueError: here, if K is below 1; from `update`, if `staleness` is missing.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> tx = fedbuff(optax.sgd(1.0), 2)
        >>> w = jnp.array(0.0)
        >>> first, state = tx.update(jnp.array(2.0), tx.init(w), w, staleness=0)
        >>> second, state = tx.update(jnp.array(2.0), state, w, staleness=1)
        >>> third, state = tx.update(jnp.array(2.0), state, w, staleness=0)
        >>> fourth, state = tx.update(jnp.array(2.0), state, w, staleness=6)
        >>> float(second), float(fourth)  # -(2 + 2) / 2, and -(2 + 2/2) / 2, three steps late
        (-2.0, -1.5)

    References:
        Nguyen et al., Federated Learning with Buffered Asynchronous Aggregation, AISTATS 2022
        (https://arxiv.org/abs/2106.06639), algorithm 1.
    """
    check_count("buffer_size", buffer_size)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> Any:
        return FedBuffState(jnp.zeros([], jnp.int32), working_zeros(params), inner.init(params))

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        weight = jnp.ones([])
        if discount:
            staleness = one_staleness("fedbuff", extra_args.get("staleness"))
            before = jnp.maximum(jnp.asarray(staleness) - state.gathered, 0)
            versions = -(-before // buffer_size)  # δ, rounded up
            weight = 1 / jnp.sqrt(1 + versions.astype(jnp.result_type(float)))
        total = add_gradient(updates, state.buffer, weight)
        full = state.gathered + 1 == buffer_size
        step = buffer_mean(updates, total, buffer_size)
        moved, after = step_where(full, inner, step, state.inner, params, **extra_args)
        return moved, FedBuffState(
            jnp.where(full, 0, state.gathered + 1), empty_where(full, total), after
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)

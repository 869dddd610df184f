"""Aggregation of a round's updates, each weighted by the examples or tokens behind it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.typing import ArrayLike

from dcasgd_jax._arguments import check_count, require
from dcasgd_jax._masked_trees import map_present, working_zeros
from dcasgd_jax._precision import cast, working_dtype
from dcasgd_jax.peers.gathering import add_gradient, buffer_mean, empty_where, step_where


class WeightedAggregationState(NamedTuple):
    """State of `weighted_aggregation`."""

    step: jax.Array  # shape=(), dtype=int32: updates that have come so far
    weight: jax.Array  # shape=(), float32 or wider: of what is in the buffer
    buffer: optax.Params  # like the parameters, float32 or wider: the weighted sum
    inner: optax.OptState


def weighted_aggregation(
    inner: optax.GradientTransformation,
    ends: int | Sequence[bool] | ArrayLike,
    *,
    weigh: Callable[[Any], ArrayLike] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Gathers a round's updates, then lets the inner rule step on their weighted mean.

        Δ ← Δ + n g,  N ← N + n;   at the end of a round:  inner steps on Δ / N,  Δ, N ← 0,

    where n is the number of examples or tokens that g was taken on, so that the mean is over
    these and not over workers. Rounds need not be equally large: with a quorum and a time of grace
    (`Quorum`), `merge_ends(schedule)` says where each ends::

        schedule = cluster_times(8, 1000, seed=0, wait_for=Quorum(5, grace=0.5))
        server = weighted_aggregation(optax.sgd(1.0), merge_ends(schedule), weigh=num_tokens)

    In front of `optax.sgd(1.0)`, with `local_steps` on the workers, it is FedAvg; in front of
    `optax.sgd(0.7, momentum=0.9, nesterov=True)`, DiLoCo. Late updates, if the quorum does not drop
    them, weigh as the others do; `optax.chain(staleness_aware(), weighted_aggregation(...))`
    shortens them first.

    Memory: one copy of the parameters in float32, beside the inner rule's own.

    Args:
        inner: the server's rule.
        ends: K >= 1 for rounds of K updates; or, of each server step from the first on, whether
            its update is the last of a round, bool, shape [num_steps]. There are no more updates
            than that: of one that comes later, it is not known whether it ends a round.
        weigh: batch -> n >= 0, a scalar: how many examples or tokens are in it. Where no update of
            a round has any, the inner rule steps on zero. None: all weigh alike.

    Returns:
        A transformation; with `weigh` its `update` needs the keyword `batch`. Extra arguments are
        handed on to the inner rule as they came with the last update.

    Raises:
        ValueError: here, if `ends` is neither; from `update`, if `batch` is missing, or if `ends`
            says nothing of this step. Within a program (jit, `simulate`), where no step is known
            before it runs, the update is NaN then.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> tx = weighted_aggregation(optax.sgd(1.0), 2, weigh=lambda batch: batch.size)
        >>> w = jnp.array(0.0)
        >>> first, state = tx.update(jnp.array(1.0), tx.init(w), w, batch=jnp.zeros(3))
        >>> second, state = tx.update(jnp.array(5.0), state, w, batch=jnp.zeros(1))
        >>> float(first), float(second)  # (3 * 1 + 1 * 5) / 4
        (0.0, -2.0)

    References:
        McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data,
        AISTATS 2017 (https://arxiv.org/abs/1602.05629), algorithm 1: w ← Σ n_k w_k / Σ n_k;
        Reddi et al., Adaptive Federated Optimization, ICLR 2021
        (https://arxiv.org/abs/2003.00295), for any optimiser on the server. Decoupled DiLoCo, 2026
        (https://arxiv.org/abs/2604.21428), weighs by tokens, as reported.
    """
    last = None
    if isinstance(ends, int) or ends is None:
        check_count("ends", ends)
    else:
        last = jnp.asarray(ends)
        if last.ndim != 1 or last.dtype != jnp.bool:
            raise ValueError(
                "ends must be an int >= 1, or say of each server step whether it ends a round, "
                f"bool of shape [num_steps], got {last.dtype} of shape {last.shape}; take "
                "merge_ends(schedule)."
            )
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> Any:
        buffer = working_zeros(params)
        dtype = working_dtype(*jax.tree.leaves(buffer))
        zero = jnp.zeros([], jnp.int32)
        return WeightedAggregationState(zero, jnp.zeros([], dtype), buffer, inner.init(params))

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        weight = jnp.ones([], state.weight.dtype)
        if weigh is not None:
            require("weighted_aggregation", batch=extra_args.get("batch"))
            weight = cast(weigh(extra_args["batch"]), state.weight.dtype)
        total, sum_of_weights = add_gradient(updates, state.buffer, weight), state.weight + weight
        step = jnp.asarray(optax.safe_increment(state.step))
        if last is None:
            full = step % jnp.asarray(ends, jnp.int32) == 0
        else:
            _check_within(last, state.step)
            full = jnp.append(last, True)[state.step]  # past the end, the entry added
        mean = buffer_mean(updates, total, jnp.where(sum_of_weights > 0, sum_of_weights, 1))
        moved, after = step_where(full, inner, mean, state.inner, params, **extra_args)
        if last is not None:
            # No number, rather than a round that was never asked for.
            beyond = state.step >= last.size
            moved = map_present(lambda u: jnp.where(beyond, jnp.nan, u), moved)
        return moved, WeightedAggregationState(
            step=step,
            weight=jnp.where(full, 0, sum_of_weights),
            buffer=empty_where(full, total),
            inner=after,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _check_within(ends: jax.Array, step: jax.Array) -> None:
    """Refuses a step of which `ends` says nothing; a traced one is let through."""
    if not isinstance(step, Tracer) and step >= ends.size:
        raise ValueError(
            f"ends says of {ends.size} server steps whether they end a round, and it got one "
            "more; give merge_ends of the whole schedule."
        )

"""Round-robin asynchrony inside an ordinary training loop, as a wrapper around an optimiser."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax._src.base import NO_PARAMS_MSG  # optax's own wording, which it does not re-export

from dcasgd_jax._precision import cast_like
from dcasgd_jax.rules.queues import check_delays, delay_of_leaves, empty_queue, passed_on


class ConstantDelayState(NamedTuple):
    """State of `constant_delay`.

    Gradients and snapshots are tuples of trees, not trees of stacked arrays: each member is a
    parameter tree to `optax.tree.map_params`, to sharding rules and to checkpoints.
    """

    step: jax.Array  # shape=(), dtype=int32: gradients received
    gradients: tuple[optax.Updates, ...]  # as many trees as the longest delay, oldest first; a leaf
    # of delay d is in the last d of them, and a `MaskedNode` is in its place in the others
    snapshots: tuple[optax.Params, ...]  # where each of them was taken
    inner_state: optax.OptState  # of the wrapped transformation


def constant_delay(
    inner: optax.GradientTransformation, delay: int | Any
) -> optax.GradientTransformationExtraArgs:
    """Hands every gradient to `inner` `delay` updates late, with the snapshot it was taken at.

    Training with M = delay + 1 equally fast workers is one sequential loop: the gradient received
    at call t was taken at w_t and is applied at call t + delay, when the weights are w_{t+delay},

        inner.update(g_t, state, w_{t+delay}, stale_params=w_t, staleness=delay, worker=t mod M).

    The first `delay` calls fill the pipeline: their updates are zero, and `inner` stands still.
    After T + delay calls the weights are, up to rounding, those of `simulate` after T server steps
    of `round_robin(delay + 1, T)`, given the same batches in the same order.

    This form keeps its snapshots in its own state, so it runs in training loops that have no way
    to pass `stale_params` on (Flax's linen TrainState, nnx.Optimizer). `inner` may be any
    transformation: with plain `optax.sgd` it is ASGD. Other extra arguments are handed on at
    once, undelayed; but not `batch`, which would be another gradient's.

    **A delay for each leaf**, as pipeline stages have them: with a tree prefix of ints, a leaf of
    delay d is handed the gradient of d calls ago, with its own weights of then as `stale_params`,
    and `staleness` is a tree. Its first d updates are zero, and until then `inner` sees zero
    gradients for it at its present weights; `inner` stands still until the first leaf's gradient
    arrives. No one worker sends such a gradient: `worker` is not passed on. (Each gradient is taken
    at the weights of one moment here. A pipeline takes it at weights of several moments, stage by
    stage: that is `simulate` with a tree of schedules.)

    Memory: for a leaf of delay d, d gradients and d snapshots. A loop carried by `lax.scan` copies
    them at each step; `simulate` is the faster way to long runs.

    Args:
        inner: what the server applies, `dcasgd` or any other transformation.
        delay: τ >= 0, updates between a gradient's snapshot and its arrival; M - 1 for M workers.
            An int, or a tree prefix of ints, as from `pipeline_delays`.

    Returns:
        A transformation whose `update` needs `params`, the weights at which the gradient was
        taken just now. Gradients wait in the dtypes of the parameters.

    Raises:
        ValueError: here, if a delay is not a whole number >= 0; from `init`, if the delays are no
            tree prefix of the parameters; from `update`, if `params` is missing, if the gradients
            are not structured like it, or if `stale_params`, `staleness`, `worker` or `batch` is
            given: the delay is made here.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> tx = constant_delay(optax.sgd(0.5), 1)
        >>> w = jnp.array(1.0)
        >>> state = tx.init(w)
        >>> for _ in range(3):  # minimise w² / 2, whose gradient is w, with two workers
        ...     updates, state = tx.update(w, state, w)
        ...     w = optax.apply_updates(w, updates)
        ...     print(w)
        1.0
        0.5
        0.0
    """
    check_delays(delay)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> ConstantDelayState:
        # What stands here before the first arrivals is never applied; zeros share no buffer with
        # the parameters, so that both can be donated.
        return ConstantDelayState(
            step=jnp.zeros([], jnp.int32),
            gradients=empty_queue(delay, params),
            snapshots=empty_queue(delay, params),
            inner_state=inner.init(params),
        )

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        stale_params: optax.Params | None = None,
        staleness: Any = None,
        worker: Any = None,
        batch: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        if params is None:
            raise ValueError(NO_PARAMS_MSG)
        _refuse_delayed(stale_params=stale_params, staleness=staleness, worker=worker, batch=batch)
        _check_gradients(updates, params)
        depths = delay_of_leaves(delay, params)
        gradients, arriving = passed_on(state.gradients, _stored(updates, params), depths)
        snapshots, stale = passed_on(state.snapshots, _stored(params, params), depths)
        filled = jax.tree.map(lambda d: state.step >= d, depths)
        if not isinstance(delay, int):
            # A leaf whose gradients have not come yet stands where it stands.
            stale = jax.tree.map(jnp.where, filled, stale, _stored(params, params))
        moved, inner_state = inner.update(
            jax.tree.map(cast_like, arriving, updates),
            state.inner_state,
            params,
            stale_params=jax.tree.map(cast_like, stale, params),
            **_told(delay, depths, state.step),
            **extra_args,
        )
        begun = state.step >= min(jax.tree.leaves(depths), default=0)
        return (
            jax.tree.map(lambda f, u: jnp.where(f, u, jnp.zeros_like(u)), filled, moved),
            ConstantDelayState(
                step=jnp.asarray(optax.safe_increment(state.step)),
                gradients=gradients,
                snapshots=snapshots,
                inner_state=jax.tree.map(
                    lambda new, old: jnp.where(begun, new, old), inner_state, state.inner_state
                ),
            ),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _told(delay: Any, depths: Any, step: jax.Array) -> dict[str, Any]:
    """What the rule is told of a gradient beside its snapshot."""
    # As on a server: the workers' first gradients all come from w_0, 0, 1, 2, ... late.
    staleness = jax.tree.map(lambda d: jnp.clip(step - d, 0, d), depths)
    if not isinstance(delay, int):
        return {"staleness": staleness}
    worker = jnp.maximum(step - delay, 0) % (delay + 1)
    return {"staleness": jnp.clip(step - delay, 0, delay), "worker": worker}


def _refuse_delayed(**arguments: Any) -> None:
    """Refuses arguments that say that the gradient is stale already, or whose it is."""
    names = [f"`{name}`" for name, value in arguments.items() if value is not None]
    if names:
        raise ValueError(
            "constant_delay makes the delay itself and keeps the snapshots, but not the batches; "
            f"it got {', '.join(names)}. Leave {'it' if len(names) == 1 else 'them'} out; or, "
            "where gradients come stale already (as in simulate), use the wrapped transformation "
            "by itself."
        )


def _check_gradients(updates: optax.Updates, params: optax.Params) -> None:
    """Refuses gradients that are not structured like the parameters: each has a place to wait."""
    try:
        jax.tree.structure(updates).flatten_up_to(params)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "gradients must be structured like the parameters, "
            f"{jax.tree.structure(params)}, got {jax.tree.structure(updates)}; give zeros for a "
            "parameter without a gradient, or keep it out with optax.masked."
        ) from error


def _stored(tree: optax.Updates, params: optax.Params) -> optax.Updates:
    """`tree` in the parameters' dtypes, never weakly typed, so that the state's types stay put."""
    return jax.tree.map(lambda x, w: jnp.asarray(x).astype(jnp.result_type(w)), tree, params)

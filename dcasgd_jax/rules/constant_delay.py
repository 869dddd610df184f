"""Round-robin asynchrony inside an ordinary training loop, as a wrapper around an optimiser."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax._src.base import NO_PARAMS_MSG  # optax's own wording, which it does not re-export

from dcasgd_jax._precision import cast_like


class ConstantDelayState(NamedTuple):
    """State of `constant_delay`.

    Gradients and snapshots are tuples of trees, not trees of stacked arrays: each member is a
    parameter tree to `optax.tree.map_params`, to sharding rules and to checkpoints.
    """

    step: jax.Array  # shape=(), dtype=int32: gradients received
    gradients: tuple[optax.Updates, ...]  # `delay` trees like the parameters, oldest first
    snapshots: tuple[optax.Params, ...]  # where each of them was taken
    inner_state: optax.OptState  # of the wrapped transformation


def constant_delay(
    inner: optax.GradientTransformation, delay: int
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

    Memory: `delay` gradients and `delay` snapshots. A loop carried by `lax.scan` copies them at
    each step; `simulate` is the faster way to long runs.

    Args:
        inner: what the server applies, `dcasgd` or any other transformation.
        delay: τ >= 0, updates between a gradient's snapshot and its arrival; M - 1 for M workers.

    Returns:
        A transformation whose `update` needs `params`, the weights at which the gradient was
        taken just now. Gradients wait in the dtypes of the parameters.

    Raises:
        ValueError: here, if `delay` is not a whole number >= 0; from `update`, if `params` is
            missing, or if `stale_params`, `staleness`, `worker` or `batch` is given: the delay is
            made here.

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
    if isinstance(delay, bool) or not isinstance(delay, int) or delay < 0:
        raise ValueError(
            f"delay must be an int >= 0 (the workers less one), got {delay!r}; under "
            'inject_hyperparams name it static: static_args=("delay",).'
        )
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> ConstantDelayState:
        # What stands here before the first arrivals is never applied; zeros share no buffer with
        # the parameters, so that both can be donated.
        empty = tuple(jax.tree.map(_zeros, params) for _ in range(delay))
        return ConstantDelayState(
            step=jnp.zeros([], jnp.int32),
            gradients=empty,
            snapshots=tuple(jax.tree.map(_zeros, params) for _ in range(delay)),
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
        # The pipeline: what is received now waits behind what was received before.
        gradients = (*state.gradients, _stored(updates, params))
        snapshots = (*state.snapshots, _stored(params, params))
        arriving, inner_state = inner.update(
            jax.tree.map(cast_like, gradients[0], updates),
            state.inner_state,
            params,
            stale_params=jax.tree.map(cast_like, snapshots[0], params),
            # As on a server: the workers' first gradients all come from w_0, 0, 1, 2, ... late.
            staleness=jnp.clip(state.step - delay, 0, delay),
            worker=jnp.maximum(state.step - delay, 0) % (delay + 1),
            **extra_args,
        )
        filled = state.step >= delay  # before that, what arrives is the zeros of the beginning
        applied = jax.tree.map(lambda u: jnp.where(filled, u, jnp.zeros_like(u)), arriving)
        return applied, ConstantDelayState(
            step=jnp.asarray(optax.safe_increment(state.step)),
            gradients=gradients[1:],
            snapshots=snapshots[1:],
            inner_state=jax.tree.map(
                lambda new, old: jnp.where(filled, new, old), inner_state, state.inner_state
            ),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


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


def _zeros(w: Any) -> jax.Array:
    """Zeros like w, never weakly typed."""
    return jnp.zeros_like(w, jnp.result_type(w))


def _stored(tree: optax.Updates, params: optax.Params) -> optax.Updates:
    """`tree` in the parameters' dtypes, never weakly typed, so that the state's types stay put."""
    return jax.tree.map(lambda x, w: jnp.asarray(x).astype(jnp.result_type(w)), tree, params)

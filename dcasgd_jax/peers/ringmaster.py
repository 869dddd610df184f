"""Ringmaster ASGD: a gradient whose weights are R steps old or older is not applied."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dcasgd_jax.arguments import check_count, check_worker, required
from dcasgd_jax.peers.gathering import when


class RingmasterState(NamedTuple):
    """State of `ringmaster`."""

    version: jax.Array  # shape=(), dtype=int32: steps that have moved the weights
    pulled: jax.Array  # shape=(num_workers,), dtype=int32: the version each worker holds
    inner: optax.OptState


def ringmaster(
    inner: optax.GradientTransformation, threshold: int, *, num_workers: int
) -> optax.GradientTransformationExtraArgs:
    """Asynchronous SGD that throws away what is too late.

    The delay δ of a gradient is the number of steps that moved the weights since they were pulled;
    dropped gradients do not move them and do not count. It is applied if δ < R. With R large it is
    ASGD, with R = 1 one gradient a version; in between, time complexity is optimal for fixed speeds
    of the workers.

    Workers are taken to pull upon their own arrival, dropped or not, as in asynchronous schedules.

    Args:
        inner: the server's rule.
        threshold: R >= 1.
        num_workers: M >= 1.

    Returns:
        A transformation whose `update` needs the keyword `worker`. Where a gradient is dropped the
        update is zero and the inner rule's state untouched.

    Raises:
        ValueError: here, if an argument is out of its range; from `update`, if `worker` is missing
            or there is no such worker.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> tx = ringmaster(optax.sgd(1.0), 2, num_workers=3)
        >>> w = jnp.array(0.0)
        >>> state, steps = tx.init(w), []
        >>> for worker in (0, 0, 1, 1):  # worker 1 held the first weights for two steps
        ...     u, state = tx.update(jnp.array(1.0), state, w, worker=worker)
        ...     steps.append(float(u))
        >>> steps
        [-1.0, -1.0, 0.0, -1.0]

    References:
        Maranjyan, Tyurin and Richtarik, Ringmaster ASGD: The First Asynchronous SGD with Optimal
        Time Complexity, ICML 2025 (https://arxiv.org/abs/2501.16168), algorithm 4, as reported.
    """
    check_count("threshold", threshold)
    check_count("num_workers", num_workers)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> Any:
        return RingmasterState(
            version=jnp.zeros([], jnp.int32),
            pulled=jnp.zeros(num_workers, jnp.int32),
            inner=inner.init(params),
        )

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        worker: Any = extra_args.get("worker")
        required("ringmaster", worker=worker)
        check_worker(worker, num_workers)
        applied = state.version - state.pulled[worker] < threshold
        moved, after = when(applied, inner, updates, state.inner, params, **extra_args)
        version = state.version + applied.astype(jnp.int32)
        return moved, RingmasterState(version, state.pulled.at[worker].set(version), after)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)

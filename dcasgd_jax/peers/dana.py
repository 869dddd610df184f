"""DANA: momentum kept apart for each worker, and workers sent where the weights will be."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dcasgd_jax._arguments import at_step, check_count, check_number, check_worker, require, scalar
from dcasgd_jax._masked_trees import map_present, working_zeros
from dcasgd_jax._precision import cast, cast_like, working_dtype
from dcasgd_jax.rules.sending import SendingRule, state_of


class DanaZeroState(NamedTuple):
    """State of `dana_zero`."""

    step: jax.Array  # shape=(), dtype=int32: updates so far
    momenta: optax.Params  # a leading axis [num_workers], float32 or wider: v_m
    total: optax.Params  # like the parameters, float32 or wider: the sum of all v_m


class DanaSlimState(NamedTuple):
    """State of `dana_slim`."""

    momenta: optax.Params  # a leading axis [num_workers], float32 or wider: v_m


def dana_zero(
    learning_rate: optax.ScalarOrSchedule, *, num_workers: int, momentum: ArrayLike = 0.9
) -> SendingRule:
    r"""Momentum for each worker, and a look-ahead over all of them for whoever pulls.

    On a push of worker m, with γ the momentum and η the step:

        v_m ← γ v_m + g,   w ← w - η v_m,

    and a worker that pulls is sent where momentum alone would take the weights until all workers
    have reported once more, by

        ŵ = w - η γ Σ_j v_j.

    So a gradient is taken near the weights that it will be applied to.

    Memory: M + 1 copies of the parameters in float32, beside the snapshots.

    Args:
        learning_rate: η, a scalar or a schedule by server step.
        num_workers: M >= 1.
        momentum: γ in [0, 1).

    Returns:
        A `SendingRule` for `simulate`; its `update` needs the keyword `worker`.

    Raises:
        ValueError: here, if an argument is out of its range; from `update`, if `worker` is missing
            or there is no such worker.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from dcasgd_jax import round_robin, simulate
        >>> rule = dana_zero(0.05, num_workers=4, momentum=0.9)
        >>> w, _ = simulate(jax.grad(lambda w, _: w**2), jnp.array(1.0), rule, round_robin(4, 200),
        ...                 jnp.zeros(200))
        >>> bool(abs(w) < 1e-2)
        True

    References:
        Hakimi, Barkai, Gabel and Schuster, Taming Momentum in a Distributed Asynchronous
        Environment, 2019 (https://arxiv.org/abs/1907.11612), DANA-Zero.
    """
    check_number("learning_rate", learning_rate, schedule=True)
    check_count("num_workers", num_workers)
    check_number("momentum", momentum, bound=1.0)

    def init_fn(params: optax.Params) -> Any:
        return DanaZeroState(
            step=jnp.zeros([], jnp.int32),
            momenta=working_zeros(params, leading=(num_workers,)),
            total=working_zeros(params),
        )

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        worker: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        del params, extra_args
        _check("dana_zero", worker, num_workers)
        rate = at_step(learning_rate, state.step)
        new = map_present(
            lambda g, v: _with_momentum(g, v[worker], momentum), updates, state.momenta
        )
        # Σ_j v_j changes by what v_m does.
        total = map_present(
            lambda g, t, v, n: t + n - v[worker], updates, state.total, state.momenta, new
        )
        moved = map_present(
            lambda g, n: cast_like(n * jnp.negative(scalar(rate, n.dtype)), g), updates, new
        )
        return moved, DanaZeroState(
            step=jnp.asarray(optax.safe_increment(state.step)),
            momenta=map_present(
                lambda g, v, n: _written(v, worker, n), updates, state.momenta, new
            ),
            total=total,
        )

    def send(params: optax.Params, opt_state: optax.OptState) -> optax.Params:
        state = state_of(opt_state, DanaZeroState)
        # The step that the next update will take.
        rate = at_step(learning_rate, state.step)

        def ahead(w: jax.Array, total: jax.Array) -> jax.Array:
            factor = scalar(rate, total.dtype) * scalar(momentum, total.dtype)
            return cast_like(cast(w, total.dtype) - factor * total, w)

        return map_present(ahead, params, state.total)

    return SendingRule(optax.GradientTransformationExtraArgs(init_fn, update_fn), send)


def dana_slim(
    *, num_workers: int, momentum: ArrayLike = 0.9
) -> optax.GradientTransformationExtraArgs:
    r"""DANA-Zero without its look-ahead being sent: the workers' momentum in Bengio's form.

        v_m ← γ v_m + g,   u = γ v_m + g,

    and the weights step along u. With a constant step, these weights *are* DANA-Zero's look-ahead
    ŵ, step by step, so the plain weights can be sent. In a cluster each worker keeps its own v_m
    and the server needs no memory; here the server keeps them, in M copies of the parameters.

    Put the learning rate behind it: `optax.chain(dana_slim(num_workers=8), optax.sgd(0.1))`.

    Args:
        num_workers: M >= 1.
        momentum: γ in [0, 1).

    Returns:
        A transformation whose `update` needs the keyword `worker`.

    Raises:
        ValueError: here, if an argument is out of its range; from `update`, if `worker` is missing
            or there is no such worker.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = dana_slim(num_workers=2, momentum=0.5)
        >>> w = jnp.array(0.0)
        >>> u, state = tx.update(jnp.array(1.0), tx.init(w), w, worker=0)
        >>> float(u), state.momenta.tolist()
        (1.5, [1.0, 0.0])

    References:
        Hakimi et al., 2019 (https://arxiv.org/abs/1907.11612), DANA-Slim.
    """
    check_count("num_workers", num_workers)
    check_number("momentum", momentum, bound=1.0)

    def init_fn(params: optax.Params) -> Any:
        return DanaSlimState(momenta=working_zeros(params, leading=(num_workers,)))

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        worker: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        del params, extra_args
        _check("dana_slim", worker, num_workers)
        new = map_present(
            lambda g, v: _with_momentum(g, v[worker], momentum), updates, state.momenta
        )
        # u = γ v_m + g is the same step once more, from the new v_m.
        moved = map_present(lambda g, n: cast_like(_with_momentum(g, n, momentum), g), updates, new)
        momenta = map_present(lambda g, v, n: _written(v, worker, n), updates, state.momenta, new)
        return moved, DanaSlimState(momenta=momenta)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _written(momenta: jax.Array, worker: Any, new: jax.Array) -> jax.Array:
    """The momenta with one worker's in place of its last; a restored state may be of numpy."""
    return jnp.asarray(momenta).at[worker].set(new)


def _check(rule: str, worker: Any, num_workers: int) -> None:
    """Refuses a worker that is missing or does not exist."""
    require(rule, worker=worker)
    check_worker(worker, num_workers)


def _with_momentum(g: ArrayLike, v: jax.Array, momentum: ArrayLike) -> jax.Array:
    """γ v + g, float32 or wider."""
    dtype = working_dtype(g, v)
    return jnp.asarray(scalar(momentum, dtype) * cast(v, dtype) + cast(g, dtype))

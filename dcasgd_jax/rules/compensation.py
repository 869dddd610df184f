"""Delay compensation: a stale gradient, corrected to first order for how far the weights moved."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dcasgd_jax._arguments import (
    at_step,
    check_count,
    check_number,
    check_worker,
    require,
    scalar,
)
from dcasgd_jax._masked_trees import (
    check_same_structure,
    is_hidden,
    map_present,
    movement,
    working_zeros,
)
from dcasgd_jax._precision import cast, cast_like


class DelayCompensationState(NamedTuple):
    """State of `delay_compensation`."""

    step: jax.Array  # shape=(), dtype=int32: updates so far, the argument of a schedule
    mean_square: optax.Params | None  # like the parameters, float32 or wider, with a leading axis
    # [num_workers] where every worker has its own; None: constant lambda


def delay_compensation(
    lambda_: optax.ScalarOrSchedule,
    *,
    mean_square_decay: ArrayLike | None = None,
    num_workers: int | None = None,
    eps: ArrayLike = 1e-7,
) -> optax.GradientTransformationExtraArgs:
    r"""Corrects a stale gradient, to first order, for how far the weights have moved since.

    A worker computes its gradient g = ∇f(w_stale) at a snapshot w_stale; when the gradient arrives,
    the server holds w. The expansion ∇f(w) = g + H (w - w_stale) + O(|w - w_stale|²) asks for the
    Hessian H, which is replaced by the scaled diagonal of the gradient's outer product:

        u = g + λ_t g ⊙ g ⊙ (w - w_stale)

    - DC-ASGD-c (`mean_square_decay=None`): λ_t = λ₀, a constant or a schedule.
    - DC-ASGD-a: λ_t = λ₀ / √(v_t + ε), elementwise, with v_t = m v_{t-1} + (1 - m) g ⊙ g and
      v_{-1} = 0. As published, v takes in the present gradient before it is used, and it is not
      corrected for its start at zero: the first gradients are compensated 1 / √(1 - m) times as
      strongly as later ones of the same size. By default one v serves all workers; with
      `num_workers`, each has its own, of its own gradients alone: where workers see different
      data, the strength then fits theirs, for M times the memory.

    It is the cheapest rung of a ladder; `curvature_compensation` has those between it and the
    exact Hessian, and `low_rank_compensation` one that sees directions which are not axes.

    A gradient with NaN or infinity in it is let through, since nothing can be raised from a
    compiled step; `optax.apply_if_finite` around the whole chain leaves such steps out.

    With λ₀ = 0, and where w = w_stale, the gradient passes unchanged, to the bit. The products and
    v are computed and kept in float32, or wider where the parameters are wider.

    Put it first in a chain. What belongs to the server's current weights comes after it, weight
    decay above all: `optax.chain(delay_compensation(0.04), optax.add_decayed_weights(1e-4),
    optax.sgd(0.1))`. Decay put before it would be squared with the gradient.

    Args:
        lambda_: λ₀, non-negative, or a schedule of it by server step. The paper used 0.04 for
            DC-ASGD-c and 2.0 for DC-ASGD-a. For DC-ASGD-c it has the unit of curvature over
            squared gradient, so it depends on the batch size; for DC-ASGD-a, of curvature over
            gradient.
        mean_square_decay: m in [0, 1), 0.95 in the paper; None for DC-ASGD-c.
        num_workers: M, for a mean square for each worker; None for one for the server. Of DC-ASGD-a
            only, and static under `optax.inject_hyperparams`.
        eps: ε > 0, of DC-ASGD-a only.

    Returns:
        A transformation whose `update` needs `params` (w) and the keyword `stale_params`
        (w_stale, same structure and shapes; where `optax.masked` hides leaves, the whole tree is
        accepted); with `num_workers` also `worker` (whose gradient it is, int32 scalar; a traced
        one is not checked). It ignores all other extra arguments, `staleness` among them.

    Raises:
        ValueError: here, if a concrete argument is out of its range; from `update`, if an argument
            that it needs is missing, a worker does not exist, or a snapshot's shape is not its
            parameter's.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> tx = optax.chain(delay_compensation(0.5), optax.sgd(0.1))
        >>> w, w_stale = jnp.array([1.0, 2.0]), jnp.array([0.0, 2.0])
        >>> gradient = jnp.array([2.0, 3.0])  # taken at w_stale
        >>> updates, _ = tx.update(gradient, tx.init(w), w, stale_params=w_stale)
        >>> updates  # -0.1 (2 + 0.5 * 2 * 2 * 1) and -0.1 * 3
        Array([-0.4, -0.3], dtype=float32)

    References:
        Zheng et al., Asynchronous Stochastic Gradient Descent with Delay Compensation, ICML 2017
        (https://arxiv.org/abs/1609.08326).
    """
    _check_arguments(lambda_, mean_square_decay, num_workers, eps)

    def init_fn(params: optax.Params) -> Any:
        mean_square = None
        if mean_square_decay is not None:
            mean_square = working_zeros(
                params, leading=() if num_workers is None else (num_workers,)
            )
        return DelayCompensationState(step=jnp.zeros([], jnp.int32), mean_square=mean_square)

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        stale_params: optax.Params | None = None,
        worker: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        del extra_args
        require("delay_compensation", params=params, stale_params=stale_params)
        check_same_structure(updates, params=params, stale_params=stale_params)
        if num_workers is not None:
            require("delay_compensation with num_workers", worker=worker)
            check_worker(worker, num_workers)
        strength = at_step(lambda_, state.step)
        step = jnp.asarray(optax.safe_increment(state.step))
        if mean_square_decay is None:
            compensated = map_present(
                lambda g, w, s: _compensate(g, w, s, strength), updates, params, stale_params
            )
            return compensated, DelayCompensationState(step=step, mean_square=None)
        row, decay = None if num_workers is None else worker, mean_square_decay
        new = map_present(
            lambda g, v: _mean_square(g, _of_worker(v, row), decay),
            updates,
            state.mean_square,
        )
        compensated = map_present(
            lambda g, w, s, v: _compensate(g, w, s, strength, v, eps),
            updates,
            params,
            stale_params,
            new,
        )
        mean_square = _with_worker(state.mean_square, new, row, updates)
        return compensated, DelayCompensationState(step=step, mean_square=mean_square)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _check_arguments(
    lambda_: Any, mean_square_decay: Any, num_workers: int | None, eps: ArrayLike
) -> None:
    """Refuses hyperparameters out of their ranges."""
    check_number("lambda_", lambda_, schedule=True)
    if mean_square_decay is not None:
        check_number("mean_square_decay", mean_square_decay, bound=1.0)
        check_number("eps", eps, positive=True)
    if num_workers is not None:
        check_count("num_workers", num_workers)
        if mean_square_decay is None:
            raise ValueError(
                "num_workers asks for a mean square for each worker, which only DC-ASGD-a has; "
                "give mean_square_decay too, or leave num_workers out."
            )


def _of_worker(mean_square: Any, worker: Any) -> ArrayLike:
    """A worker's row of one leaf; the leaf itself where one mean square serves all (None)."""
    return mean_square if worker is None else jnp.asarray(mean_square)[worker]


def _with_worker(mean_square: Any, new: Any, worker: Any, updates: optax.Updates) -> Any:
    """The state's tree with the new values in, leaves without a gradient left as they are."""

    def replaced(g: Any, v: Any, value: Any) -> Any:
        if is_hidden(g):
            return v
        return value if worker is None else jnp.asarray(v).at[worker].set(value)

    return jax.tree.map(replaced, updates, mean_square, new, is_leaf=is_hidden)


def _mean_square(g: ArrayLike, v: ArrayLike, decay: ArrayLike) -> jax.Array:
    """One leaf of m v + (1 - m) g ⊙ g, in the dtype of v."""
    v = jnp.asarray(v)  # a restored state may be of numpy
    g, decay = cast(g, v.dtype), scalar(decay, v.dtype)
    return jnp.asarray(decay * v + (1 - decay) * g * g)


def _compensate(
    g: ArrayLike,
    w: ArrayLike,
    stale: ArrayLike,
    strength: ArrayLike,
    mean_square: jax.Array | None = None,
    eps: ArrayLike = 0.0,
) -> jax.Array:
    """One leaf of u = g + λ g ⊙ g ⊙ (w - w_stale); arrays of the leaf's shape, and scalars."""
    moved = movement(g, w, stale)
    dtype = moved.dtype  # float32 or wider: g ⊙ g underflows in half precision
    wide, strength = cast(g, dtype), scalar(strength, dtype)
    if mean_square is not None:  # λ_t = λ₀ / √(v + ε)
        strength = strength / jnp.sqrt(cast(mean_square, dtype) + scalar(eps, dtype))
    return cast_like(wide + strength * wide * wide * moved, g)

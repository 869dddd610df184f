"""Delay compensation: a stale gradient, corrected to first order for how far the weights moved."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.typing import ArrayLike
from optax._src.base import NO_PARAMS_MSG  # optax's own wording, which it does not re-export

from dcasgd_jax.precision import cast, cast_like, working_dtype


class DelayCompensationState(NamedTuple):
    """State of `delay_compensation`."""

    step: jax.Array  # shape=(), dtype=int32: updates so far, the argument of a schedule
    mean_square: optax.Params | None  # like the parameters, float32 or wider; None: constant lambda


def delay_compensation(
    lambda_: optax.ScalarOrSchedule,
    *,
    mean_square_decay: ArrayLike | None = None,
    eps: ArrayLike = 1e-7,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds to a stale gradient the first-order effect of the weights' movement since it was taken.

    A worker takes its gradient g = ∇f(w_stale) at a snapshot w_stale; when the gradient arrives,
    the server holds w. The expansion ∇f(w) = g + H (w - w_stale) + O(|w - w_stale|²) asks for the
    Hessian H, which is replaced by the scaled diagonal of the gradient's outer product:

        u = g + λ_t g ⊙ g ⊙ (w - w_stale)

    - DC-ASGD-c (`mean_square_decay=None`): λ_t = λ₀, a constant or a schedule.
    - DC-ASGD-a: λ_t = λ₀ / √(v_t + ε), elementwise, with v_t = m v_{t-1} + (1 - m) g ⊙ g and
      v_{-1} = 0. As published, v takes in the present gradient before it is used, and it is not
      corrected for its start at zero: the first gradients are compensated 1 / √(1 - m) times as
      strongly as later ones of the same size. One v serves all workers.

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
        eps: ε > 0, of DC-ASGD-a only.

    Returns:
        A transformation whose `update` needs `params` (w) and the keyword `stale_params`
        (w_stale, same structure and shapes; where `optax.masked` hides leaves, the whole tree is
        accepted). It ignores all other extra arguments, `staleness` among them.

    Raises:
        ValueError: here, if a concrete argument is out of its range; from `update`, if `params`
            or `stale_params` is missing or a snapshot's shape is not its parameter's.

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
    check_compensation(lambda_, mean_square_decay=mean_square_decay, eps=eps)

    def init_fn(params: optax.Params) -> Any:
        mean_square = None
        if mean_square_decay is not None:
            mean_square = jax.tree.map(lambda w: jnp.zeros_like(w, working_dtype(w)), params)
        return DelayCompensationState(step=jnp.zeros([], jnp.int32), mean_square=mean_square)

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        stale_params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        del extra_args
        if params is None:
            raise ValueError(NO_PARAMS_MSG)
        if stale_params is None:
            raise ValueError(
                "delay_compensation needs the weights at which the gradient was taken, got no "
                "`stale_params`; call update(gradients, state, params, stale_params=snapshot). "
                "Where a training loop cannot pass it on, wrap the optimiser in constant_delay, "
                "which keeps its own snapshots."
            )
        strength = lambda_(state.step) if callable(lambda_) else lambda_
        if mean_square_decay is None:
            mean_square = None
            compensated = jax.tree.map(
                lambda g, w, s: g if _absent(g) else _compensate(g, w, s, strength),
                updates,
                params,
                stale_params,
                is_leaf=_absent,
            )
        else:
            decay = mean_square_decay
            mean_square = jax.tree.map(
                lambda g, v: v if _absent(g) else _mean_square(g, v, decay),
                updates,
                state.mean_square,
                is_leaf=_absent,
            )
            compensated = jax.tree.map(
                lambda g, w, s, v: g if _absent(g) else _compensate(g, w, s, strength, v, eps),
                updates,
                params,
                stale_params,
                mean_square,
                is_leaf=_absent,
            )
        step = jnp.asarray(optax.safe_increment(state.step))
        return compensated, DelayCompensationState(step=step, mean_square=mean_square)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def check_compensation(
    lambda_: optax.ScalarOrSchedule,
    *,
    mean_square_decay: ArrayLike | None,
    eps: ArrayLike,
) -> None:
    """Refuses arguments of `delay_compensation` out of their range, where they can be read.

    Args:
        lambda_: a schedule and a traced scalar are let through.
        mean_square_decay: likewise, and None.
        eps: likewise.

    Raises:
        ValueError: naming the argument, its range and what came.
    """
    _check("lambda_", lambda_, "a schedule, or a finite scalar >= 0", 0.0, math.inf)
    if mean_square_decay is not None:
        _check("mean_square_decay", mean_square_decay, "None, or a scalar >= 0 and < 1", 0.0, 1.0)
        _check("eps", eps, "a finite scalar > 0", math.nextafter(0.0, 1.0), math.inf)


def _check(name: str, value: Any, rule: str, least: float, bound: float) -> None:
    if callable(value) or isinstance(value, Tracer):
        return
    if jnp.ndim(value) != 0 or not least <= float(value) < bound:
        raise ValueError(f"{name} must be {rule}, got {value}.")


def _mean_square(g: ArrayLike, v: jax.Array, decay: ArrayLike) -> jax.Array:
    g, decay = cast(g, v.dtype), _scalar(decay, v.dtype)
    return jnp.asarray(decay * v + (1 - decay) * g * g)


def _compensate(
    g: ArrayLike,
    w: ArrayLike,
    stale: ArrayLike,
    strength: ArrayLike,
    mean_square: jax.Array | None = None,
    eps: ArrayLike = 0.0,
) -> jax.Array:
    """One leaf of the rule; every array has the leaf's shape, the scalars have none."""
    if jnp.shape(stale) != jnp.shape(w) or jnp.shape(g) != jnp.shape(w):
        raise ValueError(
            "gradient, params and stale_params must have the same shapes leaf by leaf, got "
            f"{jnp.shape(g)}, {jnp.shape(w)} and {jnp.shape(stale)}; pass the one snapshot that "
            "this gradient was taken at, not a stack of them."
        )
    dtype = working_dtype(g, w)
    wide, moved = cast(g, dtype), cast(w, dtype) - cast(stale, dtype)
    strength = _scalar(strength, dtype)
    if mean_square is not None:
        strength = strength / jnp.sqrt(cast(mean_square, dtype) + _scalar(eps, dtype))
    return cast_like(wide + strength * wide * wide * moved, g)


def _scalar(value: ArrayLike, dtype: jnp.dtype) -> ArrayLike:
    """A hyperparameter for arithmetic in `dtype`; a plain number adapts by itself."""
    return value if type(value) in (int, float) else cast(value, dtype)


def _absent(node: Any) -> bool:
    """Whether a leaf of the updates is missing, by None or hidden by `optax.masked`.

    `masked` hides leaves of updates and params, but hands extra arguments on whole: a plain tree
    map over all of them would find their structures at odds.
    """
    return node is None or isinstance(node, optax.MaskedNode)

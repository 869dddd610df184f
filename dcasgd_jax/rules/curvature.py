"""The idea behind delay compensation, with any curvature: g + C (w - w_stale)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dcasgd_jax._arguments import at_step, check_number, require, scalar
from dcasgd_jax._masked_trees import (
    check_same_structure,
    dot,
    is_hidden,
    map_present,
    movement,
    working_zeros,
)
from dcasgd_jax._precision import cast, cast_like, working_dtype


class Arrival(NamedTuple):
    """What a curvature may be computed from when a stale gradient arrives.

    Every tree has the structure of the whole snapshot; where `optax.masked` hides a leaf, its
    gradient and its movement are zero.
    """

    gradients: optax.Updates  # g, taken at the snapshot; float32 or wider
    moved: optax.Params  # w - w_stale; float32 or wider
    stale_params: optax.Params  # w_stale, in its own dtype
    batch: Any  # that g was taken on, as the server passed it to `update`; None if it did not
    step: jax.Array  # shape=(), dtype=int32: server steps before this one


Curvature = Callable[[Arrival], optax.Updates]
"""C (w - w_stale), a tree like `moved`, from what arrived."""


class CurvatureCompensationState(NamedTuple):
    """State of `curvature_compensation`."""

    step: jax.Array  # shape=(), dtype=int32: updates so far, the argument of a schedule


def curvature_compensation(
    curvature: Curvature, *, strength: optax.ScalarOrSchedule = 1.0
) -> optax.GradientTransformationExtraArgs:
    r"""Adds C (w - w_stale) to a stale gradient, for a matrix C that is never formed.

    The expansion ∇f(w) = g + H (w - w_stale) + O(|w - w_stale|²) asks for the Hessian H at the
    snapshot. The ladder from exact to cheap is a choice of K in C = κ K:

    - `hessian(grad_fn)`: K = H, the oracle. What is left of the error is of second order.
    - `gauss_newton(model_fn, loss_fn)`: K = Jᵀ H_loss J, positive semi-definite for a convex loss.
    - `empirical_fisher(losses_fn)`: K = (1/B) Σ_i g_i g_iᵀ over the B examples of the batch.
    - `outer_product`: K = g gᵀ, the paper's G, of rank one: κ (g·(w - w_stale)) g.
    - `hessian_diagonal(grad_fn, key)`: K = diag(H), estimated by probing.
    - `delay_compensation(lambda_)`: K = diag(g gᵀ), a transformation of its own, the cheapest.
    - `low_rank_compensation(rank)`: one of its own too, as it learns from arrival to arrival.

    On a quadratic of curvature h in a direction, with step η and constant delay, a C of κ h is
    stable for η h < 2 at every delay if 1/2 <= κ <= 1, and for η h < 2 / (2 κ - 1) if κ > 1;
    below 1/2 the limit falls with the delay. Heavy-ball momentum removes that guarantee.

    Put it first in a chain, before weight decay and the optimiser. Under `optax.masked` and
    `optax.partition` it compensates the leaves it is given for the movement of those leaves alone.

    Args:
        curvature: one of the above, or any function of an `Arrival` that gives C (w - w_stale).
            Under `optax.inject_hyperparams` name it static, lest it is taken for a schedule:
            static_args=("curvature",).
        strength: κ >= 0, a scalar or a schedule of it by server step. For `outer_product` it is
            λ₀, with the unit of curvature over squared gradient.

    Returns:
        A transformation whose `update` needs `params` (w) and the keyword `stale_params`
        (w_stale); and `batch`, where the curvature reads it. The sum is formed in float32 or wider.

    Raises:
        ValueError: here, if `strength` is out of its range; from `update`, if an argument is
            missing, a snapshot's shape is not its parameter's, or the curvature gives something
            else than a tree like the parameters.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from dcasgd_jax.rules.hessian import hessian
        >>> def loss(w, batch):
        ...     return jnp.sum(batch * w**4)
        >>> tx = curvature_compensation(hessian(jax.grad(loss)))
        >>> batch, w_stale, w = jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0]), jnp.array([1.5, 0.75])
        >>> gradient = jax.grad(loss)(w_stale, batch)  # 4 and 8; at w, 13.5 and 3.4
        >>> tx.update(gradient, tx.init(w), w, stale_params=w_stale, batch=batch)[0]
        Array([10.,  2.], dtype=float32)

    References:
        Zheng et al., Asynchronous Stochastic Gradient Descent with Delay Compensation, ICML 2017
        (https://arxiv.org/abs/1609.08326).
    """
    check_number("strength", strength, schedule=True)

    def init_fn(params: optax.Params) -> Any:
        del params
        return CurvatureCompensationState(step=jnp.zeros([], jnp.int32))

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        stale_params: optax.Params | None = None,
        batch: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        del extra_args
        require("curvature_compensation", params=params, stale_params=stale_params)
        check_same_structure(updates, params=params, stale_params=stale_params)
        arrival = _arrival(updates, params, stale_params, batch, jnp.asarray(state.step))
        product = curvature(arrival)
        wanted = jax.tree.structure(arrival.moved)
        if jax.tree.structure(product) != wanted:
            raise ValueError(
                f"a curvature must return a tree like the parameters, {wanted}, got "
                f"{jax.tree.structure(product)}."
            )
        strength_now = at_step(strength, state.step)
        compensated = map_present(lambda g, c: _add(g, c, strength_now), updates, product)
        step = jnp.asarray(optax.safe_increment(state.step))
        return compensated, CurvatureCompensationState(step=step)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def outer_product(arrival: Arrival) -> optax.Updates:
    """(g gᵀ)(w - w_stale) = g (g·(w - w_stale)), the paper's G before its diagonal is taken.

    G is the gradient's outer product, an estimate of the Fisher matrix by one vector: of rank one,
    it sees the movement along the gradient and no other. `curvature_compensation(outer_product,
    strength=lambda_)` costs one inner product over all parameters.

    Args:
        arrival: what arrived.

    Returns:
        A tree like `arrival.moved`, float32 or wider.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = curvature_compensation(outer_product, strength=0.5)
        >>> w = jnp.array([1.0, 1.0])
        >>> gradient, w_stale = jnp.array([1.0, 2.0]), jnp.array([0.0, 0.5])
        >>> tx.update(gradient, tx.init(w), w, stale_params=w_stale)[0]  # g·(w - w_stale) is 2
        Array([2., 4.], dtype=float32)

    References:
        Zheng et al., ICML 2017 (https://arxiv.org/abs/1609.08326), for G, λG and diag(λG).
    """
    along = dot(jax.tree.leaves(arrival.gradients), jax.tree.leaves(arrival.moved))
    return jax.tree.map(lambda g: g * cast(along, g.dtype), arrival.gradients)


def _arrival(updates: Any, params: Any, stale_params: Any, batch: Any, step: jax.Array) -> Arrival:
    """What a curvature may look at, zeros in place of what is hidden."""

    def filled(function: Callable[..., jax.Array], *trees: Any) -> Any:
        return jax.tree.map(
            lambda g, *rest: _hidden_zeros(rest[-1]) if is_hidden(g) else function(g, *rest),
            updates,
            *trees,
            is_leaf=is_hidden,
        )

    return Arrival(
        gradients=filled(lambda g, w, s: cast(g, working_dtype(g, w, s)), params, stale_params),
        moved=filled(movement, params, stale_params),
        stale_params=stale_params,
        batch=batch,
        step=step,
    )


def _hidden_zeros(tree: Any) -> Any:
    """Zeros for leaves that are hidden, whatever they hold: whole numbers or keys may be there."""

    def zeros(w: Any) -> jax.Array:
        floating = jnp.issubdtype(jnp.result_type(w), jnp.floating)
        return working_zeros(w) if floating else jnp.zeros(jnp.shape(w), jnp.float32)

    return jax.tree.map(zeros, tree)


def _add(g: Any, c: Any, strength: Any) -> jax.Array:
    """One leaf of g + κ K (w - w_stale), with c the product."""
    dtype = working_dtype(g, c)
    return cast_like(cast(g, dtype) + scalar(strength, dtype) * cast(c, dtype), g)

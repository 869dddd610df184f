"""Curvatures that are never negative: the Gauss-Newton matrix and the empirical Fisher matrix."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dcasgd_jax._arguments import require
from dcasgd_jax._precision import cast
from dcasgd_jax.rules.curvature import Arrival, Curvature
from dcasgd_jax.rules.hessian import check_whole


def gauss_newton(
    model_fn: Callable[[optax.Params, Any], Any], loss_fn: Callable[[Any, Any], jax.Array]
) -> Curvature:
    r"""Jᵀ H_loss J (w - w_stale): the Hessian without the curvature of the model itself.

    With outputs o = model(w; batch), J = ∂o/∂w, and H_loss the Hessian of the loss in its outputs,

        H = Jᵀ H_loss J + Σ_j (∂loss/∂o_j) ∇²o_j,

    of which the second term vanishes as the loss is fitted. The first is positive semi-definite
    for a loss that is convex in its outputs, and for a likelihood it is the Fisher matrix with the
    model's own labels. No matrix is formed: one forward derivative, one product with H_loss, one
    reverse derivative; about the price of a gradient.

    Args:
        model_fn: (params, batch) -> outputs, any pytree of arrays.
        loss_fn: (outputs, batch) -> the scalar loss whose gradient was sent.

    Returns:
        A curvature for `curvature_compensation`, whose `update` then needs the keyword `batch`.

    Raises:
        ValueError: from `update`, if `batch` is missing, or part of the snapshot is.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from dcasgd_jax.rules.curvature import curvature_compensation
        >>> def model(w, batch):
        ...     return w[0] * w[1] * batch
        >>> def loss(output, batch):
        ...     return 0.5 * (output - 1.0) ** 2
        >>> tx = curvature_compensation(gauss_newton(model, loss))
        >>> w, w_stale, batch = jnp.array([1.5, 1.0]), jnp.array([1.0, 1.0]), jnp.array(1.0)
        >>> gradient = jax.grad(lambda w: loss(model(w, batch), batch))(w_stale)  # fitted: zero
        >>> tx.update(gradient, tx.init(w), w, stale_params=w_stale, batch=batch)[0]
        Array([0.5, 0.5], dtype=float32)

    References:
        Schraudolph, Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent,
        Neural Computation 14, 2002.
    """

    def curvature(arrival: Arrival) -> optax.Updates:
        _check("gauss_newton", arrival)
        batch = arrival.batch
        outputs, forward, backward = _derivatives(lambda s: model_fn(s, batch), arrival)
        gradient = jax.grad(lambda o: loss_fn(o, batch))
        _, curved = jax.jvp(gradient, (outputs,), (forward,))  # H_loss J (w - w_stale)
        return backward(curved)  # Jᵀ of that

    return curvature


def empirical_fisher(losses_fn: Callable[[optax.Params, Any], jax.Array]) -> Curvature:
    r"""(1/B) Σ_i g_i (g_i·(w - w_stale)), over the gradients g_i of the examples of a batch.

    The sum of outer products that G = g gᵀ estimates by one, but with the labels of the data, of
    rank up to B, and without the factor B that makes the square of a mean gradient shrink with the
    batch. Near a fitted likelihood it is close to the Hessian; elsewhere its scale is another, and
    `strength` has to be found. Matrix-free: with l the losses of the examples, (1/B) J_lᵀ J_l v.

    Args:
        losses_fn: (params, batch) -> the losses of the examples, shape [B]; their mean is the
            loss whose gradient was sent.

    Returns:
        A curvature for `curvature_compensation`, whose `update` then needs the keyword `batch`.

    Raises:
        ValueError: from `update`, if `batch` is missing, part of the snapshot is, or the losses
            are not of shape [B].

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from dcasgd_jax.rules.curvature import curvature_compensation
        >>> tx = curvature_compensation(empirical_fisher(lambda w, batch: batch @ w))
        >>> batch = jnp.array([[1.0, 0.0], [0.0, 2.0]])  # the gradients of two examples
        >>> w, w_stale = jnp.array([1.0, 1.0]), jnp.array([0.0, 0.0])
        >>> tx.update(batch.mean(0), tx.init(w), w, stale_params=w_stale, batch=batch)[0]
        Array([1., 3.], dtype=float32)

    References:
        Kunstner, Balles and Hennig, Limitations of the Empirical Fisher Approximation for Natural
        Gradient Descent, NeurIPS 2019 (https://arxiv.org/abs/1905.12558).
    """

    def curvature(arrival: Arrival) -> optax.Updates:
        _check("empirical_fisher", arrival)
        losses, along, backward = _derivatives(lambda s: losses_fn(s, arrival.batch), arrival)
        if jnp.ndim(losses) != 1:
            raise ValueError(
                "empirical_fisher needs the loss of each example, shape [B], got shape "
                f"{jnp.shape(losses)}; return them before their mean is taken."
            )
        return backward(along / losses.size)  # (1/B) J_lᵀ J_l (w - w_stale)

    return curvature


def _check(rule: str, arrival: Arrival) -> None:
    """Refuses an arrival that a model cannot be evaluated at."""
    require(rule, batch=arrival.batch)
    check_whole(rule, arrival.stale_params)


def _derivatives(
    function: Callable[[optax.Params], Any], arrival: Arrival
) -> tuple[Any, Any, Callable[[Any], optax.Updates]]:
    """Outputs at the snapshot, their change along the movement, and the way back, u -> Jᵀ u."""
    moved = jax.tree.map(
        lambda m, s: cast(m, jnp.result_type(s)), arrival.moved, arrival.stale_params
    )
    outputs, forward = jax.jvp(function, (arrival.stale_params,), (moved,))
    _, reverse = jax.vjp(function, arrival.stale_params)

    def backward(u: Any) -> optax.Updates:
        (product,) = reverse(u)
        return jax.tree.map(lambda p, m: cast(p, m.dtype), product, arrival.moved)

    return outputs, forward, backward

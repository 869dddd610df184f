"""The exact curvature of the loss: the Hessian's product, and its diagonal estimated by probing."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dcasgd_jax._arguments import check_count, require
from dcasgd_jax._precision import cast
from dcasgd_jax.rules.curvature import Arrival, Curvature


def hessian(grad_fn: Callable[[optax.Params, Any], optax.Updates]) -> Curvature:
    """H (w - w_stale), the Hessian at the snapshot on the gradient's own batch: the oracle.

    What no compensator can beat to first order, for the price of a second gradient: a directional
    derivative of `grad_fn` (forward over reverse), with nothing stored. A real server would have
    to be sent the worker's batch too; this one is to tell what cheaper curvatures lose.

    The derivative is taken in the precision of the parameters, in which the gradient was.

    Args:
        grad_fn: (params, batch) -> gradients, the same as was used for the stale gradient.

    Returns:
        A curvature for `curvature_compensation`, whose `update` then needs the keyword `batch`.

    Raises:
        ValueError: from `update`, if `batch` is missing, or part of the snapshot is.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from dcasgd_jax.rules.curvature import curvature_compensation
        >>> gradient = jax.grad(lambda w, batch: batch * w[0] * w[1])
        >>> tx = curvature_compensation(hessian(gradient))
        >>> w, w_stale, batch = jnp.array([2.0, 3.0]), jnp.array([1.0, 5.0]), jnp.array(2.0)
        >>> g = gradient(w_stale, batch)
        >>> tx.update(g, tx.init(w), w, stale_params=w_stale, batch=batch)[0]  # gradient(w, batch)
        Array([6., 4.], dtype=float32)

    References:
        Pearlmutter, Fast Exact Multiplication by the Hessian, Neural Computation 6, 1994.
    """

    def curvature(arrival: Arrival) -> optax.Updates:
        product = _product(grad_fn, "hessian", arrival)
        return jax.tree.map(_like, product(arrival.moved), arrival.moved)

    return curvature


def hessian_diagonal(
    grad_fn: Callable[[optax.Params, Any], optax.Updates],
    key: jax.Array,
    *,
    num_probes: int = 1,
) -> Curvature:
    r"""diag(H) ⊙ (w - w_stale), the diagonal estimated from products with random signs.

    E[z ⊙ H z] = diag(H) for z of independent signs, and the mean of `num_probes` such products
    has the variance Σ_{j≠i} H_ij² / num_probes in entry i: exact for a diagonal Hessian, noisy
    for one that is not. It is here to tell whether a diagonal compensator fails for want of a good
    diagonal or because it is diagonal.

    Args:
        grad_fn: (params, batch) -> gradients, the same as was used for the stale gradient.
        key: of the signs. Each server step folds its number into it, so that steps are
            independent and a resumed run draws what an uninterrupted one would have.
        num_probes: products a step, >= 1, each the price of a gradient; they are taken one
            after another, so the memory is that of one.

    Returns:
        A curvature for `curvature_compensation`, whose `update` then needs the keyword `batch`.

    Raises:
        ValueError: here, if `num_probes` is not a whole number >= 1; from `update`, if
            `batch` is missing, or part of the snapshot is.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from dcasgd_jax.rules.curvature import curvature_compensation
        >>> gradient = jax.grad(lambda w, batch: jnp.sum(batch * w**2))
        >>> tx = curvature_compensation(hessian_diagonal(gradient, jax.random.key(0)))
        >>> w, w_stale, batch = jnp.ones(2), jnp.array([0.0, 2.0]), jnp.array([0.5, 3.0])
        >>> g = gradient(w_stale, batch)
        >>> tx.update(g, tx.init(w), w, stale_params=w_stale, batch=batch)[0]
        Array([1., 6.], dtype=float32)

    References:
        Bekas, Kokiopoulou and Saad, An Estimator for the Diagonal of a Matrix, Applied Numerical
        Mathematics 57, 2007; Hutchinson's estimator for the trace, entry by entry.
    """
    check_count("num_probes", num_probes)

    def curvature(arrival: Arrival) -> optax.Updates:
        product = _product(grad_fn, "hessian_diagonal", arrival)
        leaves, structure = jax.tree.flatten(arrival.moved)

        # E[z ⊙ H z] = diag(H): off the diagonal, products of independent signs average out.
        def probe(total: list[jax.Array], probe_key: jax.Array) -> tuple[list[jax.Array], None]:
            keys = jax.random.split(probe_key, len(leaves))
            signs = [
                jax.random.rademacher(k, m.shape, m.dtype)
                for k, m in zip(keys, leaves, strict=True)
            ]
            products = jax.tree.leaves(product(structure.unflatten(signs)))
            return [
                t + z * _like(p, z) for t, z, p in zip(total, signs, products, strict=True)
            ], None

        keys = jax.random.split(jax.random.fold_in(key, arrival.step), num_probes)
        total, _ = jax.lax.scan(probe, [jnp.zeros_like(m) for m in leaves], keys)
        diagonal = [t / num_probes for t in total]
        return structure.unflatten([d * m for d, m in zip(diagonal, leaves, strict=True)])

    return curvature


def _product(
    grad_fn: Callable[[optax.Params, Any], optax.Updates], rule: str, arrival: Arrival
) -> Callable[[optax.Params], optax.Updates]:
    """The function v -> H v at the snapshot, on the arrival's batch."""
    require(rule, batch=arrival.batch)
    check_whole(rule, arrival.stale_params)
    _, product = jax.linearize(lambda s: grad_fn(s, arrival.batch), arrival.stale_params)
    return lambda v: product(jax.tree.map(_like, v, arrival.stale_params))


def check_whole(rule: str, stale_params: optax.Params) -> None:
    """Refuses a snapshot that a model cannot be evaluated at, as `optax.masked` hid parts of it."""
    nodes = jax.tree.leaves(stale_params, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
    if any(isinstance(node, optax.MaskedNode) for node in nodes):
        raise ValueError(
            f"{rule} evaluates the model at the snapshot, but optax.masked has hidden leaves of "
            "`stale_params`; leave mask_compatible_extra_args at False."
        )


def _like(x: Any, reference: Any) -> jax.Array:
    """An array in the dtype of another."""
    return cast(x, jnp.result_type(reference))

"""Path-SGD: steepest descent with respect to the path norm."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax._src.base import NO_PARAMS_MSG  # optax's own wording, which it does not re-export

from gsgd_jax._precision import cast_like, check_number, working_dtype
from gsgd_jax.family.path_norm import path_sum


def scale_by_path_norm(
    apply_fn: Callable[..., Any], *example_inputs: Any
) -> optax.GradientTransformation:
    r"""Divides gradients by κ_e, the sum over paths through e of the other weights squared.

        κ_e = Σ_{p ∋ e} Π_{e' ∈ p, e' ≠ e} w_{e'}² = ∂/∂(w_e²) Σ_p v_p²,

    found by one forward and one backward pass over squared weights on a single example. Rescaling
    by c multiplies w_e by c_head / c_tail, g_e by its inverse and κ_e by its inverse square: so the
    step on a rescaled network is the rescaled step, whatever the weights.

    An entry through which only paths of value zero lead has κ = 0, and its update is 0. Updates of
    leaves that are no real floating-point numbers stay as they are.

    Args:
        apply_fn: the network, a function of parameters and inputs, as `path_norm` asks for.
        *example_inputs: one example; only shapes and dtypes are used.

    Returns:
        A transformation whose `update` needs `params`; stateless.

    Raises:
        ValueError: from `update`, if `params` is missing or has other leaves than the updates, or
            an input is of integers.

    Example:
        >>> def network(params, x):
        ...     return jax.nn.relu(x @ params[0]) @ params[1]
        >>> params = [jnp.array([[2.0]]), jnp.array([[5.0]])]
        >>> tx = scale_by_path_norm(network, jnp.ones((1, 1)))
        >>> grads = [jnp.array([[1.0]]), jnp.array([[1.0]])]
        >>> tx.update(grads, tx.init(params), params)[0]  # 1 / 5² and 1 / 2²
        [Array([[0.04]], dtype=float32), Array([[0.25]], dtype=float32)]

    References:
        Neyshabur, Salakhutdinov and Srebro, *Path-SGD: path-normalized optimization in deep neural
        networks*, NeurIPS 2015, algorithm 1 with p = 2.
    """

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Any]:
        if params is None:
            raise ValueError(NO_PARAMS_MSG)
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(params)]
        squares = {
            i: jnp.square(leaf.astype(working_dtype([leaf])))
            for i, leaf in enumerate(leaves)
            if jnp.issubdtype(leaf.dtype, jnp.floating)
        }

        def total(squares: dict[int, jax.Array]) -> jax.Array:
            weights = [squares.get(i, leaf) for i, leaf in enumerate(leaves)]
            tree = jax.tree.unflatten(jax.tree.structure(params), weights)
            return path_sum(apply_fn, tree, *example_inputs)

        grads, structure = jax.tree.flatten(updates)
        if len(grads) != len(leaves):
            raise ValueError(
                f"updates have {len(grads)} leaves, params {len(leaves)}: give gradients of params."
            )
        for i, kappa in jax.grad(total)(squares).items():
            inverse = jnp.where(kappa > 0, 1 / jnp.where(kappa > 0, kappa, 1), 0)
            grads[i] = cast_like(grads[i].astype(kappa.dtype) * inverse, grads[i])
        return jax.tree.unflatten(structure, grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update_fn)


def path_sgd(
    learning_rate: optax.ScalarOrSchedule, apply_fn: Callable[..., Any], *example_inputs: Any
) -> optax.GradientTransformation:
    r"""Path-SGD: w_e' = w_e - η / κ_e ∂L/∂w_e; see `scale_by_path_norm`.

    Args:
        learning_rate: η, or a schedule of it.
        apply_fn: the network.
        *example_inputs: one example; only shapes and dtypes are used.

    Returns:
        A transformation whose `update` needs `params`.

    Raises:
        ValueError: if the learning rate can be read and is negative; a schedule and a traced number
            are let through.

    Example:
        >>> def network(params, x):
        ...     return jax.nn.relu(x @ params[0]) @ params[1]
        >>> params = [jnp.array([[2.0]]), jnp.array([[5.0]])]
        >>> tx = path_sgd(0.1, network, jnp.ones((1, 1)))
        >>> grads = [jnp.array([[1.0]]), jnp.array([[1.0]])]
        >>> tx.update(grads, tx.init(params), params)[0][1]
        Array([[-0.025]], dtype=float32)

    References:
        Neyshabur, Salakhutdinov and Srebro, *Path-SGD: path-normalized optimization in deep neural
        networks*, NeurIPS 2015, algorithm 1.
    """
    check_number("learning_rate", learning_rate, schedule=True)
    return optax.chain(
        scale_by_path_norm(apply_fn, *example_inputs), optax.scale_by_learning_rate(learning_rate)
    )

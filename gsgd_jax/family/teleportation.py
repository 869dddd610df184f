"""Teleportation: to a rescaled copy of the network at which the gradient is larger."""

import jax
import jax.numpy as jnp
import optax

from gsgd_jax._factors import Group, factor_parts, group_leaves
from gsgd_jax._precision import working_dtype


def teleport(
    params: optax.Params,
    gradients: optax.Updates,
    gauge: Group,
    *,
    max_scale: float = 2.0,
    num_steps: int = 10,
) -> optax.Params:
    r"""Rescales a network so that the loss falls faster there: to a larger gradient.

    Under a group element c the gradient's entries are multiplied by Π_h c_h^(-k_eh), so its squared
    norm is known everywhere on the orbit from one gradient,

        ‖∇L(c·w)‖² = Σ_e g_e² Π_h c_h^(-2 k_eh),

    and no gradient is taken anew. It is convex in log c and grows without bound, as do some
    weights, so scales are kept in [1 / max_scale, max_scale], where the largest lies at a corner.
    The search goes from corner to corner: it linearises and takes the best corner of the
    linearisation, which never lowers a convex function (Frank and Wolfe's method with full steps).
    It ends in a local maximum after a few.

    The loss does not change. What a gradient twice as large does to the step at a fixed learning
    rate, a learning rate does as well; and optimisers in path space do not see the difference.

    Args:
        params: a parameter tree, concrete or traced.
        gradients: of the loss at `params`, of the same tree.
        gauge: the rescaling group of the parameters.
        max_scale: the largest factor by which one node's scale is moved, above 1.
        num_steps: how many corners are gone to at most; static.

    Returns:
        Weights of the same function, dtypes kept, at which the gradient is at least as large.

    Raises:
        TypeError: if a leaf in the group is not of real floating-point numbers.
        ValueError: if a tree is not the gauge's, or a number is out of its range.

    Example:
        >>> from gsgd_jax import mlp_gauge
        >>> params = [jnp.array([[1.0]]), jnp.array([[1.0]])]
        >>> gradients = [jnp.array([[3.0]]), jnp.array([[1.0]])]
        >>> teleport(params, gradients, mlp_gauge(params))  # gradients 6 and 1/2 there
        [Array([[0.5]], dtype=float32), Array([[2.]], dtype=float32)]

    References:
        Zhao, Dehmamy, Walters and Yu, *Symmetry teleportation for accelerated optimization*,
        NeurIPS 2022, arXiv 2205.10637; there by gradient ascent on the norm.
    """
    if not max_scale > 1 or num_steps < 1:
        raise ValueError(
            f"max_scale must be above 1 and num_steps positive, got {max_scale} and {num_steps}."
        )
    weights, slopes = (
        [jnp.asarray(leaf) for leaf in group_leaves(gauge, tree)] for tree in (params, gradients)
    )
    ones = jnp.ones(gauge.num_nodes, jnp.float32)
    inside = [i for i, parts in enumerate(factor_parts(gauge, ones)) if parts]
    if not inside:
        return params
    dtype = working_dtype([weights[i] for i in inside])
    squares = [jnp.square(slopes[i].astype(dtype)) for i in inside]
    reach = jnp.log(jnp.asarray(max_scale, dtype))

    def size(logs: jax.Array) -> jax.Array:
        factors = factor_parts(gauge, jnp.exp(-2 * logs))
        total = jnp.zeros([], dtype)
        for i, square in zip(inside, squares, strict=True):
            for part in factors[i]:
                square = square * part
            total = total + jnp.sum(square)
        return total

    def corner(_: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        best, logs = state
        slope = jax.grad(size)(logs)
        # A node with no slope stays: no corner is better to first order.
        moved = jnp.where(slope == 0, logs, jnp.sign(slope) * reach)
        there = size(moved)
        better = there > best
        return jnp.where(better, there, best), jnp.where(better, moved, logs)

    start = jnp.zeros(gauge.num_nodes, dtype)
    _, logs = jax.lax.fori_loop(0, num_steps, corner, (size(start), start))
    return gauge.act(params, jnp.exp(logs))

"""The unit-consistent gradient: in units that the weights themselves set."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax._src.base import NO_PARAMS_MSG  # optax's own wording, which it does not re-export

from gsgd_jax._factors import Group, factor_parts, group_leaves, leaf_tables
from gsgd_jax._precision import cast_like, working_dtype
from gsgd_jax.solver.incidence import ON_DEVICE, Incidence, reduced
from gsgd_jax.solver.least_squares import conjugate_gradients


def scale_by_unit_consistency(gauge: Group) -> optax.GradientTransformation:
    r"""Gradients taken where every node's weights have geometric mean 1, and brought back.

    Rescaling by c multiplies a weight by f_e = Π_h c_h^k_eh and its gradient by 1 / f_e, so a
    step along the gradient is not the rescaled step. A unit-consistent one measures each weight in
    units that move with it. These are the scales d with which log-sizes are nearest to 0, by least
    squares over the weights that are not zero,

        d = argmin_c Σ_e (log |w_e| + Σ_h k_eh log c_h)²,

    so that the network d·w has, at every node, log-sizes that add up to 0: products of row and
    column entries are 1, as in the scaling that unit-consistent inverses are built on. The step
    there, brought back, is g_e / (Π_h d_h^k_eh)². On a copy c·w it is f_e times the step on w, for
    every c. A linear system over the nodes is solved at each step.

    The reference replaces the transpose in every layer's backward pass; this is its invariance, put
    into the step, for all layers at once. `in_path_space` keeps the units of the start instead.

    Args:
        gauge: the rescaling group of the parameters.

    Returns:
        A transformation whose `update` needs `params`; stateless. Use it as the first of a chain,
        before a learning rate.

    Raises:
        ValueError: from `update`, if `params` is missing, or a tree is not the gauge's.

    Example:
        >>> from gsgd_jax import mlp_gauge
        >>> params = [jnp.array([[4.0]]), jnp.array([[1.0]])]  # 2 and 2 in their own units
        >>> tx = scale_by_unit_consistency(mlp_gauge(params))
        >>> grads = [jnp.array([[1.0]]), jnp.array([[4.0]])]
        >>> tx.update(grads, tx.init(params), params)[0]
        [Array([[4.]], dtype=float32), Array([[1.]], dtype=float32)]

    References:
        Uhlmann, *Unit-consistent (UC) adjoint for GSD and backprop in deep learning applications*,
        arXiv 2601.10873, 2026.
    """
    group = _Inside(gauge)

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Any]:
        if params is None:
            raise ValueError(NO_PARAMS_MSG)
        weights, slopes = (
            [jnp.asarray(leaf) for leaf in group_leaves(gauge, tree)] for tree in (params, updates)
        )
        inside = group.inside
        if inside:
            dtype = working_dtype([weights[i] for i in inside])
            logs = _log_scales([weights[i].astype(dtype) for i in inside], group)
            factors = factor_parts(gauge, jnp.exp(logs))
            for i in inside:
                step = slopes[i].astype(dtype)
                for part in factors[i]:
                    step = step / jnp.square(part)
                slopes[i] = cast_like(step, slopes[i])
        return jax.tree.unflatten(jax.tree.structure(updates), slopes), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update_fn)


class _Inside:
    """What is worked out once for a group: the leaves inside, and which nodes scale them."""

    def __init__(self, gauge: Group):
        tables = leaf_tables(gauge)
        self.inside = [i for i, parts in enumerate(tables) if parts]
        self.tables = [tables[i] for i in self.inside]
        if self.inside:
            self.incidence = Incidence(self.tables, gauge.num_nodes)


def _log_scales(weights: list[jax.Array], group: "_Inside") -> jax.Array:
    """Log d, [num_nodes]."""
    incidence, pairs = group.incidence, list(zip(weights, group.tables, strict=True))
    present = [reduced((w != 0).astype(w.dtype), own, jnp) for w, own in pairs]
    sizes = [reduced(jnp.log(jnp.where(w != 0, jnp.abs(w), 1)), own, jnp) for w, own in pairs]
    nodes = len(incidence.longest_steps())
    zero = incidence.logs(jnp.zeros(nodes, weights[0].dtype), jnp)

    def summed(leaves: list[jax.Array], weigh: Any) -> jax.Array:
        totals = incidence.totals(leaves, zero, ON_DEVICE)
        return incidence.sums(totals, (weigh,), ON_DEVICE)[0]

    counts = incidence.totals(present, zero, ON_DEVICE)
    diagonal = incidence.sums(counts, (np.square,), ON_DEVICE)[0]
    free = diagonal > 0  # a node all of whose weights are zero keeps its scale

    def normal(direction: jax.Array) -> jax.Array:
        """Σ_e k_eh Σ_g k_eg x_g, half of the slopes of sums of squares where all sizes are 1."""
        slopes = incidence.slopes(present, zero, counts, incidence.logs(direction, jnp), ON_DEVICE)
        moved = incidence.sums(slopes, (np.positive,), ON_DEVICE)[0] / 2
        return jnp.where(free, moved, direction)

    target = jnp.where(free, -summed(sizes, np.positive), 0)
    safe = jnp.where(free, diagonal, 1)
    solution = jnp.zeros_like(target)
    for _ in range(2):  # once more for what four digits leave
        rest = target - normal(solution)
        solution = solution + conjugate_gradients(normal, rest, safe, ON_DEVICE)
    return jnp.where(free, solution, 0)

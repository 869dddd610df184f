"""Path values, weight allocation, and the inverse chain rule, as pure functions on the tree."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax.chart import Chart, chart, tail_factors
from gsgd_jax.nodes import collect, gather, is_entry, spread, take
from gsgd_jax.precision import cast_like
from gsgd_jax.section import (
    Section,
    SectionChart,
    at_values,
    over_factors,
    section_chart,
    times_factors,
)
from gsgd_jax.skeleton import Skeleton


class StepInfo(NamedTuple):
    """What a step in path space did to the free skeleton entries, whose signs are coordinates."""

    least_ratio: jax.Array  # shape=(), working dtype: smallest v'/v asked for; <= 0: sign crossed
    bounded: jax.Array  # shape=(), dtype=int32: how many of their steps were shortened


def path_values(params: optax.Params, skeleton: Skeleton | Section) -> optax.Params:
    r"""The coordinates of a network on path space: v_e = α_tail(e) w_e β_head(e).

    Rescaling the network does not change them, and `allocate` inverts them. They come on the
    parameters' own tree: at an entry of the tree T, which has no path of its own, stands its weight
    (a coordinate along the group, not of the function); entries outside the group stand for
    themselves. See `Skeleton` for the basis "cycles", and `Section` for groups that are no graph.

    Args:
        params: a parameter tree.
        skeleton: of its gauge; or a section of its group.

    Returns:
        A tree like `params`, dtypes kept.

    Raises:
        ValueError: if the tree is not the gauge's.

    Example:
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [jnp.array([[2.0, 3.0]]), jnp.array([[5.0], [7.0]])]
        >>> skeleton = choose_skeleton(mlp_gauge(params), params)
        >>> path_values(params, skeleton)[1].ravel()  # 2 * 5 and 3 * 7
        Array([10., 21.], dtype=float32)

    References:
        Meng et al., *G-SGD*, ICLR 2019, for basis paths.
    """
    return values_at(chart_at(params, skeleton), params)


def allocate(
    values: optax.Params, params: optax.Params, skeleton: Skeleton | Section
) -> optax.Params:
    r"""Weight allocation: the weights with given path values and the tree entries of `params`.

    With α from the tree, which stays, and from the output to the input,

        w'_e = v'_e / (α_tail(e) β'_head(e)),       β'_h = w'_out(h) β'_head(out(h)).

    The recursion has a closed solution: the way out from h follows the tree up to its first free
    edge s, and β'_h = v'_s / α_h.

    Args:
        values: path values; what stands at entries of the tree is not looked at, so the gradient
            with respect to it is zero.
        params: a parameter tree, of which only the tree entries are used.
        skeleton: of their gauge.

    Returns:
        A tree like `values`, dtypes kept; and `allocate(path_values(params, s), params, s)` is
        `params`.

    Raises:
        ValueError: if a tree is not the gauge's.

    Example:
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [jnp.array([[2.0, 3.0]]), jnp.array([[5.0], [7.0]])]
        >>> skeleton = choose_skeleton(mlp_gauge(params), params)
        >>> values = [jnp.zeros((1, 2)), jnp.array([[8.0], [27.0]])]  # zeros: not looked at
        >>> kernels = allocate(values, params, skeleton)
        >>> kernels[0], kernels[1].ravel()
        (Array([[2., 3.]], dtype=float32), Array([4., 9.], dtype=float32))

    References:
        Meng et al., *G-SGD*, ICLR 2019, for layers of equal width.
    """
    if isinstance(skeleton, Section):
        return at_values(section_chart(params, skeleton), values)
    leaves, kept = skeleton.gauge.leaves(values), skeleton.gauge.leaves(params)
    tail = tail_factors(kept, skeleton)
    if skeleton.basis == "paths":
        edges = skeleton.out_edges[skeleton.roots]
        inverse_head = tail / gather(leaves, edges, skeleton.gauge, tail.dtype, ground=1.0)
    else:
        inverse_head = tail
    for i, view in enumerate(skeleton.leaf_views):
        if view is not None:
            weight = spread(inverse_head, view.heads, leaves[i].astype(tail.dtype))
            weight = spread(1 / tail, view.tails, weight)
            if view.tree is not None:
                tree = is_entry(view.tree, weight.shape)
                weight = jnp.where(tree, kept[i].astype(tail.dtype), weight)
            leaves[i] = cast_like(weight, leaves[i])
    return jax.tree.unflatten(jax.tree.structure(values), leaves)


def inverse_chain_rule(
    grads: optax.Updates, params: optax.Params, skeleton: Skeleton | Section
) -> optax.Updates:
    r"""The gradient with respect to path values, from that with respect to weights.

    It is the vector-Jacobian product of `allocate` at the path values of `params`, for any g,
    whether or not a loss has it as its gradient; here in closed form, with one pass over weights
    and gradients. With f_e = w_e g_e, and for every node D_h the sum of f over its incoming entries
    off the tree,

        dL/dv_e = g_e / (α_tail(e) β_head(e))                    for e in N,
        dL/dv_s = g_s / (α_tail(s) β_head(s)) - C_s / v_s        for s in S,

    where C_s sums D_h over the nodes h whose way out leaves the tree by s: as v_s grows, so does
    β_h, and the weights coming into h shrink. Entries of the tree get zero. With the basis
    "cycles", where nothing depends on S, every entry off the tree has the first form.

    Args:
        grads: gradients with respect to the weights.
        params: a parameter tree.
        skeleton: of its gauge.

    Returns:
        A tree like `grads`, dtypes kept.

    Raises:
        ValueError: if a tree is not the gauge's.

    Example:
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [jnp.array([[2.0, 3.0]]), jnp.array([[5.0], [7.0]])]
        >>> skeleton = choose_skeleton(mlp_gauge(params), params)
        >>> grads = [jnp.array([[5.0, 7.0]]), jnp.array([[2.0], [3.0]])]  # of the sum of both paths
        >>> slopes = inverse_chain_rule(grads, params, skeleton)
        >>> slopes[0], slopes[1].ravel()
        (Array([[0., 0.]], dtype=float32), Array([1., 1.], dtype=float32))

    References:
        Meng et al., *G-SGD*, ICLR 2019, for layers of equal width.
    """
    return slopes_at(chart_at(params, skeleton), grads)


def weight_updates(
    updates: optax.Updates,
    params: optax.Params,
    skeleton: Skeleton | Section,
    *,
    max_ratio: chex.Numeric | None = None,
) -> tuple[optax.Updates, StepInfo]:
    r"""The change of weights that a change u of the path values asks for.

    In exact arithmetic `allocate(path_values(params) + u) - params`. Computed as

        Δw_e = ρ_h u_e / (α_tail(e) β_head(e)) + (ρ_h - 1) w_e

    with h = head(e) and ρ_h = β_h / β'_h = v_s / (v_s + u_s), nothing cancels: where u is zero, so
    is Δw, in half precision too.

    Args:
        updates: u; what stands at entries of the tree is not looked at.
        params: a parameter tree.
        skeleton: of its gauge.
        max_ratio: the largest factor, above 1, by which a step may change a free skeleton entry's
            path value either way; None for no bound.

    Returns:
        A tree like `updates` with the change of weights, zero on the tree, dtypes kept; and what
        became of the free skeleton entries.

    Raises:
        ValueError: if a tree is not the gauge's.

    Example:
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [jnp.array([[2.0, 3.0]]), jnp.array([[5.0], [7.0]])]
        >>> skeleton = choose_skeleton(mlp_gauge(params), params)
        >>> steps = [jnp.zeros((1, 2)), jnp.array([[-1.0], [3.0]])]  # of path values
        >>> changes, info = weight_updates(steps, params, skeleton)
        >>> changes[1].ravel()
        Array([-0.5,  1. ], dtype=float32)
        >>> info.least_ratio  # path value 10 becomes 9
        Array(0.9, dtype=float32)
    """
    return changes_at(chart_at(params, skeleton), updates, max_ratio)


def chart_at(params: optax.Params, skeleton: Skeleton | Section) -> Chart | SectionChart:
    """The coordinates around `params`, of whichever kind."""
    if isinstance(skeleton, Section):
        return section_chart(params, skeleton)
    return chart(params, skeleton)


def values_at(at: Chart | SectionChart, params: optax.Params) -> optax.Params:
    """`path_values` of the parameters for which a chart was made."""
    if isinstance(at, SectionChart):
        return times_factors(at, params)
    leaves = list(at.weights)
    for i, view in enumerate(at.skeleton.leaf_views):
        if view is not None:
            weight = leaves[i].astype(at.dtype)
            value = spread(at.tail, view.tails, spread(at.head, view.heads, weight))
            tree = at.tree[i]
            value = value if tree is None else jnp.where(tree, weight, value)
            leaves[i] = cast_like(value, leaves[i])
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def slopes_at(at: Chart | SectionChart, grads: optax.Updates) -> optax.Updates:
    """`inverse_chain_rule` in a chart."""
    if isinstance(at, SectionChart):
        return over_factors(at, grads)
    leaves = at.skeleton.gauge.leaves(grads)
    tail, head = 1 / at.tail, 1 / at.head
    through = None
    if at.skeleton.basis == "paths" and at.skeleton.gauge.num_nodes:
        through = _through_flow(at, leaves) / at.values
    for i, view in enumerate(at.skeleton.leaf_views):
        if view is not None:
            slope = spread(tail, view.tails, spread(head, view.heads, leaves[i].astype(at.dtype)))
            free, tree = at.free[i], at.tree[i]
            if free is not None and view.tails is not None and through is not None:
                slope = slope - jnp.where(free, take(through, view.tails), 0)
            if tree is not None:
                slope = jnp.where(tree, 0, slope)
            leaves[i] = cast_like(slope, leaves[i])
    return jax.tree.unflatten(jax.tree.structure(grads), leaves)


def changes_at(
    at: Chart | SectionChart, updates: optax.Updates, max_ratio: chex.Numeric | None
) -> tuple[optax.Updates, StepInfo]:
    """`weight_updates` in a chart."""
    if isinstance(at, SectionChart):
        nothing = StepInfo(jnp.ones([], at.dtype), jnp.zeros([], jnp.int32))
        return over_factors(at, updates), nothing
    skeleton = at.skeleton
    leaves = skeleton.gauge.leaves(updates)
    info = StepInfo(jnp.ones([], at.dtype), jnp.zeros([], jnp.int32))
    tail, head, shrink, bounds = 1 / at.tail, 1 / at.head, None, None
    if skeleton.basis == "paths" and skeleton.gauge.num_nodes:
        edges = skeleton.out_edges[skeleton.roots]
        change = gather(leaves, edges, skeleton.gauge, at.dtype, ground=0.0) / at.values
        wanted, bounded = 1 + change, jnp.zeros([], jnp.int32)
        if max_ratio is not None:
            limit = jnp.asarray(max_ratio, at.dtype)
            beyond = (wanted < 1 / limit) | (wanted > limit)
            bounded = jnp.sum(take(beyond, skeleton.free_nodes), dtype=jnp.int32)
            change = jnp.where(beyond, jnp.clip(wanted, 1 / limit, limit) - 1, change)
            bounds = beyond, change * at.values
        info = StepInfo(jnp.min(take(wanted, skeleton.free_nodes)), bounded)
        shrink = -change / (1 + change)
        head = head / (1 + change)
    for i, view in enumerate(skeleton.leaf_views):
        if view is not None:
            update, free, tree = leaves[i].astype(at.dtype), at.free[i], at.tree[i]
            if free is not None and view.tails is not None and bounds is not None:
                beyond, nearest = (take(bound, view.tails) for bound in bounds)
                update = jnp.where(beyond & free, nearest, update)
            update = spread(tail, view.tails, spread(head, view.heads, update))
            if shrink is not None and view.heads is not None:
                update = update + spread(shrink, view.heads, at.weights[i].astype(at.dtype))
            if tree is not None:
                update = jnp.where(tree, 0, update)
            leaves[i] = cast_like(update, leaves[i])
    return jax.tree.unflatten(jax.tree.structure(updates), leaves), info


def _through_flow(at: Chart, grads: list[jax.Array]) -> jax.Array:
    """C at every node whose out-edge is free, anything elsewhere; [num_nodes + 1]."""
    count = at.skeleton.gauge.num_nodes
    sums = jnp.zeros(count + 1, at.dtype)
    for i, view in enumerate(at.skeleton.leaf_views):
        if view is not None and view.heads is not None:
            flow, tree = grads[i].astype(at.dtype) * at.weights[i].astype(at.dtype), at.tree[i]
            flow = flow if tree is None else jnp.where(tree, 0, flow)
            sums = sums + collect(flow, view.heads, count)
    roots = np.append(at.skeleton.roots, count)
    if (roots == np.arange(count + 1)).all():
        return sums
    return jnp.zeros_like(sums).at[roots].add(sums, mode="promise_in_bounds")

"""Path values, weight allocation, and the inverse chain rule, as pure functions on the tree."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax.blocks import Nodes, collect, each, gather, inverse, pick, product, spread
from gsgd_jax.chart import Chart, chart, path_dtype, tail_factors
from gsgd_jax.nodes import is_entry, take
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
    dtype, bounds = path_dtype(kept, skeleton), skeleton.bounds
    tail = inverse_head = tail_factors(kept, skeleton, dtype)
    if skeleton.basis == "paths":
        edges = skeleton.out_edges[skeleton.roots]
        ends = gather(leaves, edges, skeleton.gauge, bounds, dtype)
        inverse_head = each(lambda own, end: own / end, tail, ends)
    inverse_tail = each(inverse, tail)
    for i, view in enumerate(skeleton.leaf_views):
        if view is not None:
            weight = spread(inverse_head, view.heads, bounds, leaves[i].astype(dtype))
            weight = spread(inverse_tail, view.tails, bounds, weight)
            if view.tree is not None:
                tree = is_entry(view.tree, weight.shape)
                weight = jnp.where(tree, kept[i].astype(dtype), weight)
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
    leaves, bounds = list(at.weights), at.skeleton.bounds
    for i, view in enumerate(at.skeleton.leaf_views):
        if view is not None:
            weight = leaves[i].astype(at.dtype)
            value = spread(at.tail, view.tails, bounds, spread(at.head, view.heads, bounds, weight))
            tree = at.tree[i]
            value = value if tree is None else jnp.where(tree, weight, value)
            leaves[i] = cast_like(value, leaves[i])
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def slopes_at(at: Chart | SectionChart, grads: optax.Updates) -> optax.Updates:
    """`inverse_chain_rule` in a chart."""
    if isinstance(at, SectionChart):
        return over_factors(at, grads)
    leaves, bounds = at.skeleton.gauge.leaves(grads), at.skeleton.bounds
    through = None
    if at.skeleton.basis == "paths" and at.skeleton.gauge.num_nodes:
        through = each(product, _through_flow(at, leaves), at.over_values)
    for i, view in enumerate(at.skeleton.leaf_views):
        if view is not None:
            slope = spread(at.over_head, view.heads, bounds, leaves[i].astype(at.dtype))
            slope = spread(at.over_tail, view.tails, bounds, slope)
            free, tree = at.free[i], at.tree[i]
            if free is not None and view.tails is not None and through is not None:
                passing = pick(through, view.tails, bounds, ground=0.0)
                slope = slope - jnp.where(free, passing, 0)
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
    skeleton, bounds = at.skeleton, at.skeleton.bounds
    leaves = skeleton.gauge.leaves(updates)
    info = StepInfo(jnp.ones([], at.dtype), jnp.zeros([], jnp.int32))
    head, shrink, bound = at.over_head, None, None
    if skeleton.basis == "paths" and skeleton.gauge.num_nodes:
        edges = skeleton.out_edges[skeleton.roots]
        asked = gather(leaves, edges, skeleton.gauge, bounds, at.dtype)
        change = each(product, asked, at.over_values)
        wanted = each(lambda c: 1 + c, change)
        ratios = pick(wanted, skeleton.free_nodes, bounds, ground=1.0)
        bounded = jnp.zeros([], jnp.int32)
        if max_ratio is not None:
            limit = jnp.asarray(max_ratio, at.dtype)

            def outside(ratio: jax.Array) -> jax.Array:
                return (ratio < 1 / limit) | (ratio > limit)

            beyond = each(outside, wanted)
            bounded = jnp.sum(outside(ratios), dtype=jnp.int32)
            within = each(lambda ratio: jnp.clip(ratio, 1 / limit, limit) - 1, wanted)
            change = each(jnp.where, beyond, within, change)
            bound = beyond, each(product, change, at.values)
        info = StepInfo(jnp.min(ratios), bounded)
        grown = each(lambda c: 1 / (1 + c), change)  # ρ
        shrink = each(lambda c, rho: -c * rho, change, grown)
        head = each(product, head, grown)
    for i, view in enumerate(skeleton.leaf_views):
        if view is not None:
            update, free, tree = leaves[i].astype(at.dtype), at.free[i], at.tree[i]
            if free is not None and view.tails is not None and bound is not None:
                beyond, nearest = (pick(v, view.tails, bounds, ground=0.0) for v in bound)
                update = jnp.where(beyond & free, nearest, update)
            update = spread(head, view.heads, bounds, update)
            update = spread(at.over_tail, view.tails, bounds, update)
            if shrink is not None and view.heads is not None:
                shrunk = pick(shrink, view.heads, bounds, ground=0.0)
                update = update + shrunk * at.weights[i].astype(at.dtype)
            if tree is not None:
                update = jnp.where(tree, 0, update)
            leaves[i] = cast_like(update, leaves[i])
    return jax.tree.unflatten(jax.tree.structure(updates), leaves), info


def _through_flow(at: Chart, grads: list[jax.Array]) -> Nodes:
    """C at every node whose out-edge is free, anything elsewhere."""
    skeleton, bounds = at.skeleton, at.skeleton.bounds
    sums: list[jax.Array | None] = [None] * len(at.tail)
    for i, view in enumerate(skeleton.leaf_views):
        if view is not None and view.heads is not None:
            flow, tree = grads[i].astype(at.dtype) * at.weights[i].astype(at.dtype), at.tree[i]
            flow = flow if tree is None else jnp.where(tree, 0, flow)
            for b, part in collect(flow, view.heads, bounds):
                own = sums[b]
                sums[b] = part if own is None else own + part
    flows = [sum_ for sum_ in sums if sum_ is not None]
    moved = np.flatnonzero(skeleton.roots != np.arange(len(skeleton.roots)))
    if not moved.size:
        return flows
    roots = skeleton.roots[moved]
    further = pick(flows, moved, bounds, ground=0.0)
    added = (
        jnp.zeros(len(skeleton.roots), at.dtype).at[roots].add(further, mode="promise_in_bounds")
    )
    return [
        own + take(added, np.arange(low, high)) if ((roots >= low) & (roots < high)).any() else own
        for own, low, high in zip(flows, bounds[:-1], bounds[1:], strict=True)
    ]

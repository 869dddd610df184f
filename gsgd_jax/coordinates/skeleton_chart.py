"""A skeleton at one point: path values, slopes, steps and weight allocation."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax._precision import cast_like, working_dtype
from gsgd_jax.coordinates.frame import Frame, held_within, multiplied
from gsgd_jax.coordinates.node_vectors import collect, gather, is_entry, products, spread, take
from gsgd_jax.coordinates.protocol import StepInfo
from gsgd_jax.coordinates.skeleton import Skeleton


class SkeletonChart(NamedTuple):
    """The coordinates around w: v_e = α_tail(e) w_e β_head(e) off the tree; see `Chart`.

    With the basis "cycles" the same holds with 1/α for β, and |α| in units of `tree_scales` for α.
    """

    skeleton: Skeleton
    params: optax.Params  # w
    tail: jax.Array  # α, working dtype, [num_nodes + 1]; 1 at ground, which is last
    head: jax.Array  # β, likewise
    over_tail: jax.Array  # 1 / α: vectors are divided by once, and leaves multiplied
    over_head: jax.Array  # 1 / β
    dtype: np.dtype  # the working dtype, in which path values are worked out
    tree: list[jax.Array | None]  # bool, like each leaf: entries of T; None where there is none
    free: list[jax.Array | None]  # bool, like each leaf: entries of S; None where there is none
    frame: Frame | None  # of the run's start, in which its steps are bounded

    @property
    def fixed(self) -> list[jax.Array | None]:
        """Which entries have no coordinate of their own; None of a leaf without such."""
        return self.tree

    def values(self) -> optax.Params:
        """v_e = α_tail(e) w_e β_head(e); at an entry of the tree stands its weight."""
        return self._over_leaves(self.params, self.tail, self.head, kept=self.params)

    def weights(self, values: optax.Params) -> optax.Params:
        """Weight allocation: w'_e = v'_e / (α_tail(e) β'_head(e)), the tree keeping its weights.

        β'_h = w'_out(h) β'_head(out(h)) has a closed solution: the way out from h follows the tree
        up to its first free edge s, and β'_h = v'_s / α_h.
        """
        over_head = self.over_head
        if self.skeleton.basis == "paths":
            over_head = self.tail / self._free_values(values)
        return self._over_leaves(values, self.over_tail, over_head, kept=self.params)

    def slopes(self, gradients: optax.Updates) -> optax.Updates:
        """The inverse chain rule, g_e / (α_tail(e) β_head(e)), less C_s / v_s at free entries s.

        C_s sums w_e g_e over the entries e off the tree whose heads' way out leaves the tree by s:
        as v_s grows, so does β there, and these weights shrink.
        """
        slopes = self._over_leaves(gradients, self.over_tail, self.over_head, kept=None)
        if self.skeleton.basis == "cycles" or not self.skeleton.gauge.num_nodes:
            return slopes
        leaves = jax.tree.leaves(slopes)
        passing = self._through_flow(gradients) * self.over_tail * self.over_head  # C / v
        for i, view in enumerate(self.skeleton.leaf_views):
            free = self.free[i]
            if view is not None and free is not None and view.tails is not None:
                less = jnp.where(free, take(passing, view.tails), 0)
                leaves[i] = cast_like(leaves[i].astype(self.dtype) - less, leaves[i])
        return jax.tree.unflatten(jax.tree.structure(gradients), leaves)

    def changes(
        self,
        steps: optax.Updates,
        *,
        max_ratio: chex.Numeric | None = None,
        max_growth: chex.Numeric | None = None,
    ) -> tuple[optax.Updates, StepInfo]:
        """Δw_e = ρ_h u_e / (α_tail(e) β_head(e)) + (ρ_h - 1) w_e with h = head(e), ρ = β / β'.

        Nothing cancels: where u is zero, so is Δw, in half precision too.
        """
        skeleton = self.skeleton
        leaves, weights = skeleton.gauge.leaves(steps), skeleton.gauge.leaves(self.params)
        info = StepInfo(jnp.ones([], self.dtype), jnp.zeros([], jnp.int32))
        head, shrink, bound = self.over_head, None, None
        if skeleton.basis == "paths" and skeleton.gauge.num_nodes:
            change, info, bound = self._bounded(steps, max_ratio, max_growth)
            grown = 1 / (1 + change)  # ρ = v_s / (v_s + u_s)
            shrink, head = -change * grown, head * grown  # ρ - 1
        for i, view in enumerate(skeleton.leaf_views):
            if view is None:
                continue
            update, free, tree = leaves[i].astype(self.dtype), self.free[i], self.tree[i]
            if free is not None and view.tails is not None and bound is not None:
                beyond, nearest = (take(vector, view.tails) for vector in bound)
                update = jnp.where(beyond & free, nearest, update)
            update = spread(self.over_tail, view.tails, spread(head, view.heads, update))
            weight = weights[i].astype(self.dtype)
            if shrink is not None and view.heads is not None:
                update = update + take(shrink, view.heads) * weight
            if tree is not None:
                update = jnp.where(tree, 0, update)
            if self.frame is not None and max_growth is not None:
                update = held_within(update, weight, i, self.frame, max_growth)
            leaves[i] = cast_like(update, leaves[i])
        return jax.tree.unflatten(jax.tree.structure(steps), leaves), info

    def _bounded(
        self,
        steps: optax.Updates,
        max_ratio: chex.Numeric | None,
        max_growth: chex.Numeric | None,
    ) -> tuple[jax.Array, StepInfo, tuple[jax.Array, jax.Array] | None]:
        """v'_s / v_s - 1 at every node's free entry, within bounds; which were out of them."""
        asked = self._free_values(steps) * self.over_tail * self.over_head
        asked = asked.at[-1].set(0)
        least = jnp.min(take(1 + asked, self.skeleton.free_nodes), initial=jnp.inf)
        least = least if self.skeleton.free_nodes.size else jnp.ones([], self.dtype)
        if max_ratio is None:
            return asked, StepInfo(least, jnp.zeros([], jnp.int32)), None
        most = jnp.asarray(max_ratio, self.dtype)
        low = jnp.full_like(asked, 1 / most)
        if max_growth is not None and self.frame is not None:
            # As v_s shrinks, the weights into its node grow. Together its shrinking steps make
            # them at most max_growth times as large: below |v_s| = ε it shrinks no more.
            size = jnp.abs(self._free_in_frame()) * jnp.asarray(max_growth, self.dtype)
            low = jnp.maximum(low, jnp.minimum(1 / size, 1.0))
        beyond = (1 + asked < low) | (1 + asked > most)
        change = jnp.where(beyond, jnp.clip(1 + asked, low, most) - 1, asked)
        counted = take(beyond, self.skeleton.free_nodes)
        info = StepInfo(least, jnp.sum(counted, dtype=jnp.int32))
        return change, info, (beyond, change * self.tail * self.head)

    def _free_in_frame(self) -> jax.Array:
        """The free entry of every node, as a weight of the balanced copy of the start."""
        assert self.frame is not None, "it is asked for in a frame only"
        skeleton, gauge = self.skeleton, self.skeleton.gauge
        edges = skeleton.out_edges[skeleton.roots]
        leaves = [
            multiplied(leaf.astype(self.dtype), parts) if parts else leaf
            for leaf, parts in zip(gauge.leaves(self.params), self.frame.parts, strict=True)
        ]
        return gather(leaves, edges, gauge.offsets, self.dtype)

    def _free_values(self, tree: optax.Params) -> jax.Array:
        """What stands in a tree at the free entry that each node's way out leads to."""
        skeleton = self.skeleton
        edges = skeleton.out_edges[skeleton.roots]
        return gather(skeleton.gauge.leaves(tree), edges, skeleton.gauge.offsets, self.dtype)

    def _through_flow(self, gradients: optax.Updates) -> jax.Array:
        """C at every node whose out-edge is free, anything elsewhere; [num_nodes + 1]."""
        skeleton, count = self.skeleton, self.skeleton.gauge.num_nodes
        sums = jnp.zeros(count + 1, self.dtype)
        leaves, weights = skeleton.gauge.leaves(gradients), skeleton.gauge.leaves(self.params)
        for i, view in enumerate(skeleton.leaf_views):
            if view is not None and view.heads is not None:
                flow = leaves[i].astype(self.dtype) * weights[i].astype(self.dtype)
                on_tree = self.tree[i]
                flow = flow if on_tree is None else jnp.where(on_tree, 0, flow)
                sums = sums + collect(flow, view.heads, count)
        moved = np.flatnonzero(skeleton.roots != np.arange(count))
        further = take(sums, moved)
        return sums.at[skeleton.roots[moved]].add(further, mode="promise_in_bounds")

    def _over_leaves(
        self,
        tree: optax.Params,
        tail: jax.Array,
        head: jax.Array,
        *,
        kept: optax.Params | None,
    ) -> optax.Params:
        """A tree times the numbers of its entries' ends; on T, what is kept there, or zero."""
        gauge = self.skeleton.gauge
        leaves = gauge.leaves(tree)
        others = leaves if kept is None else gauge.leaves(kept)
        for i, view in enumerate(self.skeleton.leaf_views):
            if view is not None:
                moved = spread(head, view.heads, leaves[i].astype(self.dtype))
                moved = spread(tail, view.tails, moved)
                on_tree = self.tree[i]
                if on_tree is not None:
                    fixed = 0 if kept is None else others[i].astype(self.dtype)
                    moved = jnp.where(on_tree, fixed, moved)
                leaves[i] = cast_like(moved, leaves[i])
        return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def skeleton_chart(
    params: optax.Params, skeleton: Skeleton, frame: Frame | None = None
) -> SkeletonChart:
    """The coordinates around `params`.

    Raises:
        ValueError: if the tree is not the gauge's.
    """
    gauge = skeleton.gauge
    weights = gauge.leaves(params)
    views = list(zip(skeleton.leaf_views, gauge.shapes, strict=True))
    inside = zip(weights, skeleton.leaf_views, strict=True)
    dtype = working_dtype(leaf for leaf, view in inside if view is not None)
    tail = products(gather(weights, skeleton.in_edges, gauge.offsets, dtype), skeleton.in_rounds)
    if skeleton.basis == "cycles":
        tail = jnp.abs(tail)
        if skeleton.tree_scales is not None:
            tail = tail / jnp.asarray(np.append(skeleton.tree_scales, 1.0), dtype)
        over_tail = 1 / tail
        head, over_head = over_tail, tail
    else:
        edges = gather(weights, skeleton.out_edges, gauge.offsets, dtype)
        head = products(edges, skeleton.out_rounds)
        over_tail, over_head = 1 / tail, 1 / head
    return SkeletonChart(
        skeleton,
        params,
        tail,
        head,
        over_tail,
        over_head,
        dtype,
        tree=[is_entry(v.tree, s) if v and v.tree is not None else None for v, s in views],
        free=[is_entry(v.free, s) if v and v.free is not None else None for v, s in views],
        frame=frame,
    )

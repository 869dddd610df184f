"""A skeleton at one point: what path values, slopes and steps have in common, found once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax.blocks import Nodes, each, gather, inverse, pick, product
from gsgd_jax.nodes import is_entry
from gsgd_jax.precision import working_dtype
from gsgd_jax.skeleton import Skeleton


class Chart(NamedTuple):
    """The coordinates around some weights: v_e = tail[tail(e)] w_e head[head(e)] off the tree."""

    skeleton: Skeleton
    weights: list[jax.Array]  # the leaves of the parameters
    tail: Nodes  # working dtype; 1 at ground
    head: Nodes  # likewise
    over_tail: Nodes  # 1 / tail: vectors are divided by once, and leaves multiplied
    over_head: Nodes  # 1 / head
    dtype: np.dtype  # the working dtype, in which path values are worked out
    tree: list[jax.Array | None]  # bool, like each leaf: entries of T; None where there is none
    free: list[jax.Array | None]  # bool, like each leaf: entries of S; None where there is none

    @property
    def values(self) -> Nodes:
        """With paths, at h the value of the free path that its way out leads to; as `tail`."""
        return each(product, self.tail, self.head)

    @property
    def over_values(self) -> Nodes:
        """1 / values."""
        return each(product, self.over_tail, self.over_head)


def chart(params: optax.Params, skeleton: Skeleton) -> Chart:
    """The coordinates around `params`.

    Raises:
        ValueError: if the tree is not the gauge's.
    """
    weights = skeleton.gauge.leaves(params)
    dtype = path_dtype(weights, skeleton)
    tail = tail_factors(weights, skeleton, dtype)
    over_tail = each(inverse, tail)
    if skeleton.basis == "cycles":
        head, over_head = over_tail, tail
    else:
        head = _products(weights, skeleton.out_edges, skeleton.out_rounds, skeleton, dtype)
        over_head = each(inverse, head)
    views = list(zip(skeleton.leaf_views, skeleton.gauge.shapes, strict=True))
    return Chart(
        skeleton,
        weights,
        tail,
        head,
        over_tail,
        over_head,
        dtype,
        tree=[is_entry(v.tree, s) if v and v.tree is not None else None for v, s in views],
        free=[is_entry(v.free, s) if v and v.free is not None else None for v, s in views],
    )


def path_dtype(leaves: list[jax.Array], skeleton: Skeleton) -> np.dtype:
    """The working dtype of the leaves that the group moves.

    Args:
        leaves: of the parameters.
        skeleton: of their gauge.
    """
    views = zip(leaves, skeleton.leaf_views, strict=True)
    return working_dtype(leaf for leaf, view in views if view is not None)


def tail_factors(leaves: list[jax.Array], skeleton: Skeleton, dtype: np.dtype) -> Nodes:
    """α, of tree entries only; for "cycles" |α| in units of `tree_scales`."""
    signed = _products(leaves, skeleton.in_edges, skeleton.in_rounds, skeleton, dtype)
    if skeleton.basis == "paths":
        return signed
    sizes = each(jnp.abs, signed)
    if skeleton.tree_scales is None:
        return sizes
    scales = np.split(skeleton.tree_scales.astype(dtype), skeleton.bounds[1:-1])
    return [size / scale for size, scale in zip(sizes, scales, strict=True)]


def _products(
    leaves: list[jax.Array],
    edges: np.ndarray,
    rounds: tuple[np.ndarray, ...],
    skeleton: Skeleton,
    dtype: np.dtype,
) -> Nodes:
    """Products of weights along edges up to ground, by doubling."""
    bounds, ground = skeleton.bounds, skeleton.gauge.num_nodes
    products = gather(leaves, edges, skeleton.gauge, bounds, dtype)
    for jump in rounds:
        further = np.split(jump[:-1], bounds[1:-1])
        products = [
            own if (ids == ground).all() else own * pick(products, ids, bounds, ground=1.0)
            for own, ids in zip(products, further, strict=True)
        ]
    return products

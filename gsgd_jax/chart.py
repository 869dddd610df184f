"""A skeleton at one point: what path values, slopes and steps have in common, found once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax.nodes import gather, is_entry, take
from gsgd_jax.precision import working_dtype
from gsgd_jax.skeleton import Skeleton


class Chart(NamedTuple):
    """The coordinates around some weights: v_e = tail[tail(e)] w_e head[head(e)] off the tree."""

    skeleton: Skeleton
    weights: list[jax.Array]  # the leaves of the parameters
    tail: jax.Array  # shape [num_nodes + 1], working dtype; ground, the last, has 1
    head: jax.Array  # shape [num_nodes + 1], working dtype; ground, the last, has 1
    tree: list[jax.Array | None]  # bool, like each leaf: entries of T; None where there is none
    free: list[jax.Array | None]  # bool, like each leaf: entries of S; None where there is none

    @property
    def dtype(self) -> np.dtype:
        """The dtype in which path values are worked out."""
        return self.tail.dtype

    @property
    def values(self) -> jax.Array:
        """With paths, at h the value of the free path that its way out leads to; as `tail`."""
        return self.tail * self.head


def chart(params: optax.Params, skeleton: Skeleton) -> Chart:
    """The coordinates around `params`.

    Raises:
        ValueError: if the tree is not the gauge's.
    """
    weights = skeleton.gauge.leaves(params)
    tail = tail_factors(weights, skeleton)
    if skeleton.basis == "cycles":
        head = 1 / tail
    else:
        head = _products(weights, skeleton.out_edges, skeleton.out_rounds, skeleton)
    views = list(zip(skeleton.leaf_views, skeleton.gauge.shapes, strict=True))
    return Chart(
        skeleton,
        weights,
        tail,
        head,
        tree=[is_entry(v.tree, s) if v and v.tree is not None else None for v, s in views],
        free=[is_entry(v.free, s) if v and v.free is not None else None for v, s in views],
    )


def tail_factors(leaves: list[jax.Array], skeleton: Skeleton) -> jax.Array:
    """α, of tree entries only; for "cycles" |α| in units of `tree_scales`; [num_nodes + 1]."""
    product = _products(leaves, skeleton.in_edges, skeleton.in_rounds, skeleton)
    if skeleton.basis == "paths":
        return product
    if skeleton.tree_scales is None:
        return jnp.abs(product)
    return jnp.abs(product) / np.append(skeleton.tree_scales, 1.0).astype(product.dtype)


def _products(
    leaves: list[jax.Array],
    edges: np.ndarray,
    rounds: tuple[np.ndarray, ...],
    skeleton: Skeleton,
) -> jax.Array:
    """Products of weights along edges up to ground, by doubling; [num_nodes + 1]."""
    views = zip(leaves, skeleton.leaf_views, strict=True)
    dtype = working_dtype(leaf for leaf, view in views if view is not None)
    products = gather(leaves, edges, skeleton.gauge, dtype, ground=1.0)
    for jump in rounds:
        products = products * take(products, jump)
    return products

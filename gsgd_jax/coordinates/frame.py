"""A frame: the rescaled copy of the start in which weights are measured along a run."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax._factors import Group, factor_parts
from gsgd_jax.balance import balancing_scales

ARRAYS = (jax.Array, np.ndarray, np.generic)
"""What parameters are made of; the last are NumPy's scalars, such as `np.float32(1)`."""


class Frame(NamedTuple):
    """The group element that leads to the frame, as factors of the leaves' entries.

    A leaf's factor is the product of its parts, each of which broadcasts to it: for a kernel the
    scales at its heads, and the inverse ones at its tails. It has no part outside the group.
    """

    scales: jax.Array  # c, working dtype, shape=[num_nodes]
    parts: list[tuple[jax.Array, ...]]  # of each leaf, working dtype
    inverses: list[tuple[jax.Array, ...]]  # 1 / parts: leaves are multiplied, never divided
    largest: jax.Array  # shape=(), working dtype: the largest balanced weight, or 1 if that is more


def balanced_frame(params: optax.Params, group: Group, *, small_as_zero: bool = False) -> Frame:
    """The frame of a start; works under jit. For `small_as_zero` see `balancing_scales`.

    optax initialises transformations with placeholders too, and with bare shapes, to find out what
    in a state is like the parameters: these get a frame of ones.
    """
    leaves = jax.tree.leaves(params)
    if not leaves or not all(isinstance(leaf, ARRAYS) for leaf in leaves):
        leaves, scales = [], np.ones(group.num_nodes, np.float32)
    else:
        scales = balancing_scales(params, group, small_as_zero=small_as_zero)
    # On the host nothing needs to be compiled.
    xp: Any = np if isinstance(scales, np.ndarray) else jnp
    parts = factor_parts(group, scales, xp)
    largest = xp.ones([], scales.dtype)
    for leaf, own in zip(leaves, parts, strict=False):
        if own:
            size = xp.abs(multiplied(xp.asarray(leaf).astype(scales.dtype), own))
            largest = xp.maximum(largest, xp.max(size, initial=0))
    inverses = [tuple(1 / part for part in own) for own in parts]
    arrays = jax.tree.map(jnp.asarray, (scales, parts, inverses, largest))
    return Frame(*arrays)


def multiplied(array: Any, parts: tuple[Any, ...]) -> Any:
    """A leaf times its factor, on the device or on the host."""
    for part in parts:
        array = array * part
    return array


def held_within(
    update: jax.Array, weight: jax.Array, place: int, frame: Frame, max_growth: chex.Numeric
) -> jax.Array:
    """The update of a leaf's weights, cut as `within` cuts balanced ones; inside, to the bit."""
    parts = frame.parts[place]
    step = multiplied(update, parts)
    kept = within(step, multiplied(weight, parts), frame, max_growth)
    return jnp.where(kept == step, update, multiplied(kept, frame.inverses[place]))


def within(
    step: jax.Array, value: jax.Array, frame: Frame, max_growth: chex.Numeric | None
) -> jax.Array:
    """The step of some balanced weights that takes none beyond `max_growth` times `largest`.

    Or beyond where it is, if that is further out already, as it may be where weights were loaded or
    rescaled in mid-run: a step may bring such a weight back, but nothing forces it to. An infinite
    step is cut like any other, NaN stays. How many entries are cut is not counted, which would take
    a third of the time of a step on CPU.
    """
    if max_growth is None:
        return step
    limit = frame.largest * jnp.asarray(max_growth, frame.largest.dtype)
    return jnp.clip(step, jnp.minimum(-limit - value, 0), jnp.maximum(limit - value, 0))

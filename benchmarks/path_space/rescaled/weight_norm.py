"""Weight normalisation: each output channel's weights as a length and a direction.

    w_j = g_j v_j / |v_j|        for every output channel j of every kernel; trained are g and v.

It begins at v = w, g = |w|, as libraries have it. Of the rescalings of the network it takes away
none: they act on g, by c_head, and on the inputs of a channel, which changes the direction of v.
It adds one of its own: |v_j| is no part of the function. Gradients stand at right angles to v_j, so
that |v_j| can only grow, and the larger it is, the smaller a step is as a turn. So a start with
channels rescaled is another start here too: what c does to |v_j| is a step size for each channel.
"""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.path_space.rescaled.kernels import output_axes


def normalised(params: Any) -> Any:
    """The parameters that weight normalisation trains, at the same weights.

    Args:
        params: weights of a linen network.

    Returns:
        {"directions": v, and all that is no kernel; "lengths": g, flat, of every kernel}.
    """

    def length(path: Any, leaf: jax.Array) -> Any:
        axes = output_axes(path, leaf)
        return () if axes is None else _norm(leaf, axes).ravel()

    lengths = jax.tree_util.tree_map_with_path(length, params)
    return {"directions": params, "lengths": lengths}


def weights(trained: Any) -> Any:
    """The weights that a network computes with.

    Args:
        trained: as `normalised` returns it.
    """

    def weight(path: Any, leaf: jax.Array, length: Any) -> jax.Array:
        axes = output_axes(path, leaf)
        if axes is None:
            return leaf
        norm = _norm(leaf, axes)
        # A channel without weights has no direction, and stays without weights.
        unit = leaf / jnp.where(norm > 0, norm, jnp.ones_like(norm))
        return unit * length.reshape(norm.shape)

    return jax.tree_util.tree_map_with_path(weight, trained["directions"], trained["lengths"])


def _norm(leaf: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The norm of every output channel's weights, with axes of length 1 for the inputs."""
    inputs = tuple(i for i in range(leaf.ndim) if i not in axes)
    square = jnp.square(leaf).sum(inputs, keepdims=True)
    # The root has no slope at 0.
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)

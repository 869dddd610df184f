"""Path-BN: batch normalisation that leaves the skeleton's constant part alone."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax._precision import cast_like, working_dtype
from gsgd_jax.coordinates.skeleton import Skeleton, check_skeleton


class BatchStatistics(NamedTuple):
    """Moments of a layer's trained part, for running averages."""

    mean: jax.Array  # shape [channels], float32 or wider
    variance: jax.Array  # shape [channels], float32 or wider


def path_batch_norm(
    linear: Callable[[jax.Array], jax.Array],
    weight: jax.Array,
    on_skeleton: jax.Array | np.ndarray,
    *,
    scale: jax.Array | None = None,
    shift: jax.Array | None = None,
    statistics: BatchStatistics | None = None,
    axes: Sequence[int] | None = None,
    epsilon: float = 1e-5,
) -> tuple[jax.Array, BatchStatistics]:
    r"""Normalises what the trained entries of a layer contribute, and adds what the skeleton does.

    With E the layer's entries on the skeleton, which path-reparameterised networks keep constant,
    and W - E all others, on the inputs h,

        y = γ ((W - E) h - μ) / sqrt(σ² + ε) + δ + E h,

    μ and σ² being the mean and variance of (W - E) h over the batch. BatchNorm would normalise W h,
    the skeleton with the rest: then a scaling of the trained entries would also shrink what comes
    through the skeleton. Here it is taken away wholly, as ε goes to 0, so that their scale and
    their direction are decoupled, and E h passes as it is.

    The formula is our reading of the paper's abstract.

    Args:
        linear: the layer as a function of its kernel, inputs closed over: `lambda w: h @ w`; its
            output's last axis is the channels'.
        weight: W, shape [*kernel].
        on_skeleton: bool, broadcasts to [*kernel]: which entries are E; `skeleton_masks` gives it.
        scale: γ, shape [channels]; None for 1.
        shift: δ, shape [channels]; None for 0.
        statistics: μ and σ² to use, running averages in evaluation; None for the batch's.
        axes: to average over; None for all but the last.
        epsilon: ε.

    Returns:
        y, in the dtype of the layer's output; and the statistics used.

    Example:
        >>> h = jnp.array([[1.0, 2.0], [3.0, 5.0]])
        >>> mask = jnp.array([[True], [False]])
        >>> y, moments = path_batch_norm(lambda w: h @ w, jnp.array([[10.0], [7.0]]), mask)
        >>> y.ravel()  # 10 h_0 and the second input, normalised
        Array([ 9., 31.], dtype=float32)
        >>> moments.mean
        Array([24.5], dtype=float32)

    References:
        Luo et al., *Path-BN: towards effective batch normalization in the path space for ReLU
        networks*, UAI 2021.
    """
    mask = jnp.broadcast_to(jnp.asarray(on_skeleton), weight.shape)
    trained = linear(jnp.where(mask, jnp.zeros_like(weight), weight))
    constant = linear(jnp.where(mask, weight, jnp.zeros_like(weight)))
    dtype = working_dtype([trained])
    wide = trained.astype(dtype)
    over = tuple(range(trained.ndim - 1)) if axes is None else tuple(axes)
    if statistics is None:
        mean = jnp.mean(wide, axis=over)
        spread = wide - mean.reshape([1] * (wide.ndim - 1) + [-1])
        statistics = BatchStatistics(mean, jnp.mean(jnp.square(spread), axis=over))
    factor = jax.lax.rsqrt(statistics.variance + epsilon)
    factor = factor if scale is None else factor * scale.astype(dtype)

    def along(channels: jax.Array) -> jax.Array:
        return channels.astype(dtype).reshape([1] * (wide.ndim - 1) + [-1])

    normal = (wide - along(statistics.mean)) * along(factor)
    normal = normal if shift is None else normal + along(shift)
    return cast_like(normal + constant.astype(dtype), trained), statistics


def skeleton_masks(params: optax.Params, skeleton: Skeleton) -> optax.Params:
    """Which entries are on the skeleton, in-edges and out-edges, as a tree of masks.

    Args:
        params: a parameter tree, for its structure.
        skeleton: of its gauge.

    Returns:
        A tree like `params` of NumPy arrays, bool.

    Raises:
        TypeError: if the skeleton is none.
        ValueError: if the tree is not the gauge's.

    Example:
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [jnp.ones((1, 2)), jnp.ones((2, 2))]
        >>> skeleton_masks(params, choose_skeleton(mlp_gauge(params), params, basis="paths"))
        [array([[ True,  True]]), array([[ True, False],
               [False,  True]])]
    """
    check_skeleton(skeleton, "skeleton_masks")
    gauge = skeleton.gauge
    gauge.leaves(params)
    flat = np.zeros(gauge.num_entries, bool)
    flat[skeleton.in_edges] = True
    flat[skeleton.out_edges] = True
    parts = np.split(flat, gauge.offsets[1:-1])
    masks = [part.reshape(shape) for part, shape in zip(parts, gauge.shapes, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(params), masks)

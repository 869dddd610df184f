"""Starting points for training in path space."""

import jax
import numpy as np
import optax

from gsgd_jax.coordinates.skeleton import Skeleton, check_skeleton


def skeleton_init(params: optax.Params, skeleton: Skeleton) -> optax.Params:
    """The papers' reset: every in-edge and out-edge of the skeleton is set to 1.

    It changes the function, so it belongs before training, and any comparison should give it to the
    other side as well: it is an initialisation, not part of the optimiser. With it every α and β is
    1, and the path values of all other entries at first are their weights.

    Args:
        params: freshly initialised parameters.
        skeleton: of their gauge, of either basis.

    Returns:
        A tree like `params`, dtypes kept.

    Raises:
        TypeError: if the skeleton is none.
        ValueError: if the tree is not the gauge's.

    Example:
        >>> import jax.numpy as jnp
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [0.5 * jnp.ones((2, 2)), 0.5 * jnp.ones((2, 1))]
        >>> skeleton_init(params, choose_skeleton(mlp_gauge(params), params, basis="paths"))[0]
        Array([[1. , 0.5],
               [0.5, 1. ]], dtype=float32)

    References:
        Meng et al., *G-SGD: optimizing ReLU neural networks in its positively scale-invariant
        space*, ICLR 2019.
    """
    check_skeleton(skeleton, "skeleton_init")
    gauge, leaves = skeleton.gauge, skeleton.gauge.leaves(params)
    edges = np.union1d(skeleton.in_edges, skeleton.out_edges)
    for i, (low, high) in enumerate(zip(gauge.offsets[:-1], gauge.offsets[1:], strict=True)):
        here = edges[(edges >= low) & (edges < high)] - low
        if here.size:
            leaves[i] = leaves[i].at[np.unravel_index(here, gauge.shapes[i])].set(1)
    return jax.tree.unflatten(jax.tree.structure(params), leaves)

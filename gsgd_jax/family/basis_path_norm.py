"""The basis-path norm, a measure of capacity, and its smooth penalty."""

import jax
import jax.numpy as jnp
import optax

from gsgd_jax.coordinates.skeleton import Skeleton, check_skeleton
from gsgd_jax.coordinates.skeleton_chart import skeleton_chart


def basis_path_norm(params: optax.Params, skeleton: Skeleton) -> jax.Array:
    r"""How far the values of basis paths are from a small network: a supremum over both kinds.

        φ = max( max_{s ∈ S} |log |v_s||,  max_{e ∈ N} |v_e| ).

    All other paths are products of powers of the basis paths. Those through an entry e of N stand
    there with the exponent of e on the path, which is not negative: for all paths to be small these
    values need only not be large. Those of the free skeleton entries, S, are divided by too, once
    for every skeleton that a path leaves, so they must be neither large nor small. Entries outside
    the group, as the last bias, count with N. Rescaling does not change φ.

    Args:
        params: a parameter tree.
        skeleton: of its gauge, with the basis "paths".

    Returns:
        Shape [], in the working dtype; differentiable where the largest is one.

    Raises:
        TypeError: if the skeleton is none.
        ValueError: if the tree is not the gauge's or the basis is not "paths".

    Example:
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [jnp.array([[1.0]]), jnp.array([[0.1, -1.5]])]
        >>> skeleton = choose_skeleton(mlp_gauge(params), params, basis="paths")
        >>> basis_path_norm(params, skeleton)  # of log 0.1 and 1.5
        Array(2.3025851, dtype=float32)

    References:
        Zheng et al., *Capacity control of ReLU neural networks by basis-path norm*, AAAI 2019: φ,
        with the negative basis paths for S and the positive ones for N.
    """
    largest = [
        jnp.max(jnp.where(mask, size, 0), initial=0)
        for size, mask in _both_kinds(params, skeleton, jnp.abs, lambda v: jnp.abs(jnp.log(v)))
    ]
    return jnp.max(jnp.stack(largest)) if largest else jnp.zeros([])


def basis_path_penalty(params: optax.Params, skeleton: Skeleton) -> jax.Array:
    r"""A smooth penalty that vanishes and grows with what `basis_path_norm` measures.

        R = ½ Σ_{s ∈ S} log² |v_s| + ½ Σ_{e ∈ N} v_e²,

    with sums of squares for the supremum: the norm itself would move one path a step. To be added
    to a loss, with a factor; under `in_path_space` its gradient decays every path of N towards 0
    and every free skeleton path towards 1 in magnitude, each by itself:
    ∂R/∂v_s = log|v_s| / v_s and ∂R/∂v_e = v_e.

    The form of the penalty is ours, not the paper's.

    Args:
        params: a parameter tree.
        skeleton: of its gauge, with the basis "paths".

    Returns:
        Shape [], in the working dtype.

    Raises:
        TypeError: if the skeleton is none.
        ValueError: if the tree is not the gauge's or the basis is not "paths".

    Example:
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [jnp.array([[1.0]]), jnp.array([[1.0, 2.0]])]
        >>> basis_path_penalty(params, choose_skeleton(mlp_gauge(params), params, basis="paths"))
        Array(2., dtype=float32)

    References:
        Zheng et al., *Capacity control of ReLU neural networks by basis-path norm*, AAAI 2019.
    """
    terms = [
        jnp.sum(jnp.where(mask, part, 0))
        for part, mask in _both_kinds(params, skeleton, jnp.square, lambda v: jnp.log(v) ** 2)
    ]
    return 0.5 * jnp.sum(jnp.stack(terms)) if terms else jnp.zeros([])


def _both_kinds(params: optax.Params, skeleton: Skeleton, of_rest, of_free):
    """Of every leaf one function of |v| at S and another at N, and where it is a path."""
    check_skeleton(skeleton, "the basis-path norm")
    if skeleton.basis != "paths":
        raise ValueError(
            "the basis-path norm is one of directed paths; choose the skeleton with basis='paths'."
        )
    at = skeleton_chart(params, skeleton)
    found = []
    for i, leaf in enumerate(jax.tree.leaves(at.values())):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        value = jnp.abs(leaf.astype(at.dtype))
        free, tree = at.free[i], at.tree[i]
        # Where it is not asked for, a logarithm of 1: its slope there must not be infinite.
        part = of_rest(value)
        if free is not None:
            part = jnp.where(free, of_free(jnp.where(free, value, 1)), part)
        mask = jnp.ones_like(value, bool) if tree is None else ~tree
        found.append((part, mask))
    return found

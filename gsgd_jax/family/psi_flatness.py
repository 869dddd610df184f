"""Flatness of the loss in path values, which rescaling cannot change."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax._precision import cast_like, check_count
from gsgd_jax.coordinates.paths import allocate, path_values
from gsgd_jax.coordinates.skeleton import Skeleton, check_skeleton

LossFn = Callable[[optax.Params], jax.Array]


def psi_hessian_product(
    loss_fn: LossFn, params: optax.Params, skeleton: Skeleton, vector: optax.Params
) -> optax.Params:
    r"""The Hessian of the loss in path values, ∂²L(w(v))/∂v², times a vector.

    The Hessian in weights changes under rescaling, as much as one likes: a minimum can be made
    sharp without touching the function. In path values it does not.

    Args:
        loss_fn: L, of the weights.
        params: where to take it.
        skeleton: of their gauge, of either basis.
        vector: on the tree of the parameters; entries of the skeleton's tree count as 0.

    Returns:
        A tree like `params`, zero at entries of the skeleton's tree and in leaves that are no real
        floating-point numbers.

    Raises:
        TypeError: if the skeleton is none.
        ValueError: if a tree is not the gauge's.

    Example:
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [jnp.array([[2.0]]), jnp.array([[3.0]])]
        >>> skeleton = choose_skeleton(mlp_gauge(params), params, basis="paths")
        >>> def loss(params):  # of the only path value: its second derivative is 2
        ...     return jnp.sum((params[0] @ params[1]) ** 2)
        >>> psi_hessian_product(loss, params, skeleton, [jnp.ones((1, 1)), jnp.ones((1, 1))])
        [Array([[0.]], dtype=float32), Array([[2.]], dtype=float32)]

    References:
        Yi et al., *Positively scale-invariant flatness of ReLU neural networks*, 2019.
    """
    check_skeleton(skeleton, "psi_hessian_product")
    leaves, structure = jax.tree.flatten(path_values(params, skeleton))
    moved = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def loss(floats: list[jax.Array]) -> jax.Array:
        whole = list(leaves)
        for i, leaf in zip(moved, floats, strict=True):
            whole[i] = leaf
        return loss_fn(allocate(jax.tree.unflatten(structure, whole), params, skeleton))

    along = jax.tree.leaves(_off_tree(vector, skeleton))
    floats = [leaves[i] for i in moved]
    tangents = [cast_like(along[i], leaves[i]) for i in moved]
    slopes = jax.jvp(jax.grad(loss), (floats,), (tangents,))[1]
    product = [jnp.zeros_like(leaf) for leaf in leaves]
    for i, slope in zip(moved, slopes, strict=True):
        product[i] = slope
    return jax.tree.unflatten(structure, product)


def psi_trace(
    loss_fn: LossFn,
    params: optax.Params,
    skeleton: Skeleton,
    key: jax.Array,
    *,
    num_samples: int = 16,
) -> jax.Array:
    r"""An estimate of the trace of the Hessian in path values: a PSI-flatness.

    Hutchinson's: the mean of zᵀ H z over vectors z of random signs; unbiased, with a variance that
    comes from the entries of H off its diagonal.

    Args:
        loss_fn: L, of the weights.
        params: where to take it.
        skeleton: of their gauge.
        key: a PRNG key. The same key gives the same for all rescaled copies.
        num_samples: how many vectors.

    Returns:
        Shape [].

    Raises:
        TypeError: if the skeleton is none.
        ValueError: if the tree is not the gauge's, or the number is not above 0.

    Example:
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [jnp.array([[2.0]]), jnp.array([[3.0]])]
        >>> skeleton = choose_skeleton(mlp_gauge(params), params, basis="paths")
        >>> def loss(params):
        ...     return jnp.sum((params[0] @ params[1]) ** 2)
        >>> psi_trace(loss, params, skeleton, jax.random.key(0))
        Array(2., dtype=float32)

    References:
        Yi et al., *Positively scale-invariant flatness of ReLU neural networks*, 2019. Hutchinson,
        *A stochastic estimator of the trace of the influence matrix*, 1990.
    """
    check_skeleton(skeleton, "psi_trace")
    check_count("num_samples", num_samples)

    def sample(key: jax.Array) -> jax.Array:
        signs = _drawn(key, params, skeleton, jax.random.rademacher)
        return _inner(signs, psi_hessian_product(loss_fn, params, skeleton, signs))

    return jnp.mean(jax.lax.map(sample, jax.random.split(key, num_samples)))


def psi_sharpness(
    loss_fn: LossFn,
    params: optax.Params,
    skeleton: Skeleton,
    key: jax.Array,
    *,
    num_steps: int = 50,
) -> jax.Array:
    r"""The Hessian's eigenvalue of largest magnitude in path values, by the power method.

    Args:
        loss_fn: L, of the weights.
        params: where to take it.
        skeleton: of their gauge.
        key: a PRNG key, for the vector to begin with.
        num_steps: of the power method; the error falls by the ratio of the two largest magnitudes
            a step, squared.

    Returns:
        Shape []: a Rayleigh quotient, so never above the true magnitude.

    Raises:
        TypeError: if the skeleton is none.
        ValueError: if the tree is not the gauge's, or the number is not above 0.

    Example:
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [jnp.array([[2.0]]), jnp.array([[3.0]])]
        >>> skeleton = choose_skeleton(mlp_gauge(params), params, basis="paths")
        >>> def loss(params):
        ...     return -jnp.sum((params[0] @ params[1]) ** 2)
        >>> psi_sharpness(loss, params, skeleton, jax.random.key(0))
        Array(-2., dtype=float32)

    References:
        Yi et al., *Positively scale-invariant flatness of ReLU neural networks*, 2019.
    """
    check_skeleton(skeleton, "psi_sharpness")
    check_count("num_steps", num_steps)

    def unit(vector: optax.Params) -> optax.Params:
        norm = jnp.sqrt(_inner(vector, vector))
        scale = 1 / jnp.where(norm > 0, norm, 1)
        return jax.tree.map(lambda leaf: cast_like(leaf * scale.astype(leaf.dtype), leaf), vector)

    def step(_: jax.Array, vector: optax.Params) -> optax.Params:
        return unit(psi_hessian_product(loss_fn, params, skeleton, vector))

    start = unit(_drawn(key, params, skeleton, jax.random.normal))
    vector = jax.lax.fori_loop(0, num_steps, step, start)
    return _inner(vector, psi_hessian_product(loss_fn, params, skeleton, vector))


def basis_path_spread(params: optax.Params, skeleton: Skeleton) -> jax.Array:
    r"""The ratio of the largest to the smallest basis-path value, in magnitude.

    The generalisation bound of PSI-flatness grows with it: of two minima that are equally good, the
    one with balanced path values is likely to be the flatter.

    Args:
        params: a parameter tree.
        skeleton: of its gauge, of either basis.

    Returns:
        Shape []; infinite if a value is zero.

    Raises:
        TypeError: if the skeleton is none.
        ValueError: if the tree is not the gauge's.

    Example:
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [jnp.array([[2.0, 3.0]]), jnp.array([[5.0], [7.0]])]
        >>> skeleton = choose_skeleton(mlp_gauge(params), params, basis="paths")
        >>> basis_path_spread(params, skeleton)  # 21 / 10
        Array(2.1, dtype=float32)

    References:
        Yi et al., *Positively scale-invariant flatness of ReLU neural networks*, 2019.
    """
    check_skeleton(skeleton, "basis_path_spread")
    masks = _tree_masks(skeleton)
    leaves = jax.tree.leaves(path_values(params, skeleton))
    sizes = [
        jnp.abs(leaf).ravel()[np.flatnonzero(~mask.ravel())]
        for leaf, mask in zip(leaves, masks, strict=True)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    most = [jnp.max(size) for size in sizes if size.size]
    least = [jnp.min(size) for size in sizes if size.size]
    return jnp.max(jnp.stack(most)) / jnp.min(jnp.stack(least))


def _tree_masks(skeleton: Skeleton) -> list[np.ndarray]:
    """Of every leaf which entries are in-edges."""
    gauge = skeleton.gauge
    flat = np.zeros(gauge.num_entries, bool)
    flat[skeleton.in_edges] = True
    parts = np.split(flat, gauge.offsets[1:-1])
    return [part.reshape(shape) for part, shape in zip(parts, gauge.shapes, strict=True)]


def _off_tree(vector: optax.Params, skeleton: Skeleton) -> optax.Params:
    """The vector with zeros at entries of the skeleton's tree."""
    leaves, structure = jax.tree.flatten(vector)
    masks = _tree_masks(skeleton)
    zeroed = [jnp.where(mask, 0, leaf) for mask, leaf in zip(masks, leaves, strict=True)]
    return jax.tree.unflatten(structure, zeroed)


def _drawn(
    key: jax.Array, params: optax.Params, skeleton: Skeleton, sampler: Callable[..., jax.Array]
) -> optax.Params:
    """A vector at random, zero where nothing moves: on the tree, and in leaves of other numbers."""

    def floats(leaf: jax.typing.ArrayLike) -> jax.Array:
        array = jnp.asarray(leaf)
        return array if jnp.issubdtype(array.dtype, jnp.floating) else jnp.zeros(array.shape)

    drawn = _off_tree(optax.tree.random_like(key, jax.tree.map(floats, params), sampler), skeleton)
    return jax.tree.map(
        lambda v, leaf: (
            cast_like(v, leaf)
            if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)
            else jnp.zeros_like(leaf)
        ),
        drawn,
        params,
    )


def _inner(one: optax.Params, other: optax.Params) -> jax.Array:
    """The inner product of two trees, over leaves of real floating-point numbers."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    floats = [(a, b) for a, b in pairs if jnp.issubdtype(jnp.asarray(a).dtype, jnp.floating)]
    return jnp.asarray(optax.tree.vdot(*map(list, zip(*floats, strict=True))))

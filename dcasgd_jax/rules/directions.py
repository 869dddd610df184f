"""The leading principal directions of a stream of gradients, by an incremental decomposition.

Directions are kept leaf by leaf: a list with an array [k, *s] for each leaf [*s] of the parameters.
They are orthogonal over all leaves together, the longest first; the squared length of one is the
mean square of the gradients along it. A direction of length zero is none.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from dcasgd_jax._precision import working_dtype


class UpdatedDirections(NamedTuple):
    """Directions after a gradient has been added."""

    directions: list[jax.Array]  # a leaf [k, *s] each
    cosines: jax.Array  # shape=(k, k): of new (rows) with old ones; zero where there is none


def update_directions(
    directions: Sequence[jax.Array], gradient: Sequence[jax.Array], decay: ArrayLike, *, rank: int
) -> UpdatedDirections:
    r"""The leading directions of ρ Σ_i d_i d_iᵀ + (1 - ρ) g gᵀ.

    With the k + 1 rows √ρ d_i and √(1 - ρ) g of a matrix Z, they are the leading eigenvectors of
    Zᵀ Z, got from those of Z Zᵀ, which is of order k + 1.

    Args:
        directions: k of them, leaf by leaf.
        gradient: g, leaf by leaf.
        decay: ρ in [0, 1].
        rank: k.

    Returns:
        The k leading directions, and their cosines with those before.

    Example:
        >>> import jax.numpy as jnp
        >>> gradient = [jnp.array([0.0, 3.0])]
        >>> turned = update_directions([jnp.array([[1.0, 0.0]])], gradient, 0.5, rank=1)
        >>> abs(turned.directions[0]), turned.cosines  # the new gradient is the longer
        (Array([[0.  , 2.12...]], dtype=float32), Array([[0.]], dtype=float32))

    References:
        Brand, Incremental Singular Value Decomposition of Uncertain Data with Missing Values, ECCV
        2002.
    """
    dtype = working_dtype(*directions, *gradient)
    decay = jnp.asarray(decay, dtype)
    old, new = jnp.sqrt(decay), jnp.sqrt(1 - decay)
    rows = [
        jnp.concatenate([old.astype(d.dtype) * d, new.astype(d.dtype) * g[None]])
        for d, g in zip(directions, gradient, strict=True)
    ]
    gram = inner_products(rows, rows, shape=(rank + 1, rank + 1), dtype=dtype)
    # Z Zᵀ m = e m makes Zᵀ m an eigenvector of Zᵀ Z, of squared length e: the direction wanted.
    energy, mixture = jnp.linalg.eigh(gram)
    energy, mixture = energy[::-1][:rank], mixture[:, ::-1][:, :rank]
    # Below rounding, a direction is noise of the arithmetic.
    real = energy > (rank + 1) * jnp.finfo(dtype).eps * energy[0]
    mixture = jnp.where(real[None], mixture, 0.0)
    turned = [jnp.tensordot(mixture.T.astype(r.dtype), r, 1) for r in rows]
    # Row i, column j: (Zᵀ m_i)·d_j over both lengths, as √ρ d_j is row j of Z.
    cosines = divide_or_zero(mixture.T @ gram[:, :rank], jnp.sqrt(jnp.diagonal(gram)[:rank])[None])
    return UpdatedDirections(
        turned, divide_or_zero(cosines, jnp.sqrt(jnp.maximum(energy, 0.0))[:, None])
    )


def inner_products(
    x: Sequence[jax.Array], y: Sequence[jax.Array], *, shape: tuple[int, int], dtype: jnp.dtype
) -> jax.Array:
    """Inner products of i vectors with j vectors: leaves [i, *s] and [j, *s], all summed."""
    total = jnp.zeros(shape, dtype)
    for a, b in zip(x, y, strict=True):
        axes = tuple(range(1, a.ndim))
        product = jnp.tensordot(a, b, (axes, axes), out_sharding=_replicated(b))
        total += product.astype(dtype)
    return total


def _replicated(x: jax.Array) -> NamedSharding | None:
    """The sharding to ask of a product summed over sharded axes, where axes are explicit."""
    mesh = jax.typeof(x).sharding.mesh
    return NamedSharding(mesh, PartitionSpec()) if mesh.explicit_axes else None


def direction_lengths(directions: Sequence[jax.Array], *, rank: int, dtype: jnp.dtype) -> jax.Array:
    """Lengths of the directions, shape [k]."""
    total = jnp.zeros(rank, dtype)
    for leaf in directions:
        total += jnp.sum(leaf**2, axis=tuple(range(1, leaf.ndim))).astype(dtype)
    return jnp.sqrt(total)


def divide_or_zero(x: jax.Array, y: jax.Array) -> jax.Array:
    """The quotient x / y, and zero where y is not positive; y has the rank of x."""
    return jnp.where(y > 0, x / jnp.where(y > 0, y, 1), 0)

"""Eigenbases of the Kronecker factors of gradients, and the gradients' mean squares in them.

A leaf of any shape is taken for a matrix G by its last axis. Its factors are the running means of
G Gᵀ and Gᵀ G; the basis of the leaf is that of the products of their eigenvectors.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dcasgd_jax._arguments import scalar
from dcasgd_jax._masked_trees import is_hidden
from dcasgd_jax._precision import cast, working_dtype


class AxisBasis(NamedTuple):
    """What is known of the gradients along one axis of a leaf."""

    moment: jax.Array  # shape=(d, d), float32 or wider: running mean of G Gᵀ, or of Gᵀ G
    vectors: jax.Array  # shape=(d, d), of the same dtype: its eigenvectors, in columns


class LeafBasis(NamedTuple):
    """The bases of a leaf's two axes; None for an axis that is left as it is."""

    rows: AxisBasis | None
    columns: AxisBasis | None


def _matrix_shape(w: Any) -> tuple[int, int]:
    """The rows and columns that a leaf is taken for."""
    shape = jnp.shape(w)
    return math.prod(shape[:-1]), (shape[-1] if shape else 1)


def empty_basis(w: Any, max_dimension: int) -> LeafBasis:
    """The axes as they are."""

    def of(size: int) -> AxisBasis | None:
        if not 1 < size <= max_dimension:
            return None
        return AxisBasis(*(f(size, dtype=working_dtype(w)) for f in (_square_zeros, jnp.eye)))

    return LeafBasis(*map(of, _matrix_shape(w)))


def _square_zeros(size: int, dtype: Any) -> jax.Array:
    """Zeros of shape [size, size]."""
    return jnp.zeros((size, size), dtype)


def is_sound(updates: optax.Updates) -> jax.Array:
    """Whether the squares of all that arrived can be summed."""
    present = [g for g in jax.tree.leaves(updates, is_leaf=is_hidden) if not is_hidden(g)]
    sums = [jnp.isfinite(jnp.sum(jnp.square(cast(g, working_dtype(g))))) for g in present]
    return jnp.all(jnp.stack(sums)) if sums else jnp.zeros([], bool)


def learn(
    updates: Any, bases: Any, mean_square: Any, decay: ArrayLike, *, turn: jax.Array
) -> tuple[Any, Any]:
    """Bases and mean squares after one more gradient; leaves without one as they were."""

    def axis(old: AxisBasis | None, product: jax.Array) -> AxisBasis | None:
        if old is None:
            return None
        keep = scalar(decay, old.moment.dtype)
        return old._replace(moment=keep * old.moment + (1 - keep) * product)

    def basis(g: Any, old: Any, v: Any) -> Any:
        if is_hidden(g):
            return old
        matrix = cast(jnp.asarray(g).reshape(_matrix_shape(g)), jnp.result_type(v))
        return LeafBasis(
            rows=axis(old.rows, matrix @ matrix.T), columns=axis(old.columns, matrix.T @ matrix)
        )

    def square(g: Any, basis: Any, v: Any) -> Any:
        if is_hidden(g):
            return v
        keep = scalar(decay, v.dtype)
        return keep * v + (1 - keep) * jnp.square(rotated(cast(g, v.dtype), basis))

    bases = jax.tree.map(basis, updates, bases, mean_square, is_leaf=is_hidden)
    bases, mean_square = jax.lax.cond(
        turn, lambda: _turned(bases, mean_square), lambda: (bases, mean_square)
    )
    return bases, jax.tree.map(square, updates, bases, mean_square, is_leaf=is_hidden)


def _turned(bases: Any, mean_square: Any) -> tuple[Any, Any]:
    """The eigenvectors of the moments, and the mean squares carried over into them."""

    def is_basis(node: Any) -> bool:
        return isinstance(node, LeafBasis)

    def axis(old: AxisBasis | None) -> AxisBasis | None:
        return None if old is None else old._replace(vectors=jnp.linalg.eigh(old.moment)[1])

    turned = jax.tree.map(lambda old: LeafBasis(*map(axis, old)), bases, is_leaf=is_basis)
    carried = jax.tree.map(
        lambda old, new, v: _carried_over(v, old, new), bases, turned, mean_square, is_leaf=is_basis
    )
    return turned, carried


def rotated(x: jax.Array, basis: LeafBasis) -> jax.Array:
    """Q_Lᵀ X Q_R, in the shape of x."""
    return _between(
        x,
        None if basis.rows is None else basis.rows.vectors.T,
        None if basis.columns is None else basis.columns.vectors,
    )


def rotated_back(x: jax.Array, basis: LeafBasis) -> jax.Array:
    """Q_L X Q_Rᵀ, in the shape of x."""
    return _between(
        x,
        None if basis.rows is None else basis.rows.vectors,
        None if basis.columns is None else basis.columns.vectors.T,
    )


def _carried_over(v: jax.Array, old: LeafBasis, new: LeafBasis) -> jax.Array:
    """The diagonal, in the new basis, of the matrix that is diagonal with v in the old one."""
    rows, columns = (
        None if before is None or after is None else jnp.square(after.vectors.T @ before.vectors)
        for before, after in zip(old, new, strict=True)
    )
    return _between(v, rows, None if columns is None else columns.T)


def _between(x: jax.Array, left: jax.Array | None, right: jax.Array | None) -> jax.Array:
    """The product left x right, of a leaf taken for a matrix."""
    matrix = x.reshape(_matrix_shape(x))
    matrix = matrix if left is None else left @ matrix
    return (matrix if right is None else matrix @ right).reshape(x.shape)

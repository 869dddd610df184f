"""Values and outputs of attention heads, balanced within every head."""

import jax
import jax.numpy as jnp

from gsgd_jax._precision import cast_like, working_dtype


def balance_heads(
    value: jax.Array,
    output: jax.Array,
    bias: jax.Array | None = None,
    *,
    trace_only: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    r"""Of all factors of a head's value-output product, those of least norm.

    Between a head's value projection V and its output projection O nothing but a linear map is
    done, so V → V M, O → M⁻¹ O changes no output for any invertible M, of which scalings of
    channels, which `find_gauge` finds, are the diagonal ones. Of all these factors of V O the
    balanced ones,

        Vᵀ V = O Oᵀ,

    have the least ‖V‖² + ‖O‖², twice the sum of the product's singular values. They are
    V = A √S R and O = Rᵀ √S Bᵀ with the singular value decomposition A S Bᵀ of V O, found from
    QR decompositions of V and O. Of the rotations R that are free is chosen what stays nearest to
    the V given, so that balanced heads stay as they are.

    Args:
        value: V, [features, heads, channels].
        output: O, [heads, channels, features_out]; or with a multiple of the heads, in grouped
            query attention, where query heads in succession share a value head.
        bias: of the values, [heads, channels]; it counts as one more row of V.
        trace_only: whether to move each head by one number only, after which V and O have equal
            norms: tr Vᵀ V = tr O Oᵀ.

    Returns:
        Value, output and bias of the same function, dtypes kept. Where a product has rank less than
        the channels, the channels left over are zero.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> value, output = jnp.full((1, 1, 1), 8.0), jnp.full((1, 1, 1), 2.0)
        >>> [w.item() for w in balance_heads(value, output)[:2]]
        [4.0, 4.0]

    References:
        *Circuit-Muon*, record 41 of track 3 of the NanoGPT speed runs, 2026, for the trace alone.
        Srebro, Rennie and Jaakkola, *Maximum-margin matrix factorization*, NIPS 2004, lemma 1, for
        the least norm.
    """
    heads, channels = value.shape[1:] if value.ndim == 3 else (0, 0)
    shared = output.shape[0] // heads if heads and output.ndim == 3 else 0
    fits = shared and output.shape[:2] == (heads * shared, channels)
    if not fits or (bias is not None and bias.shape != (heads, channels)):
        raise ValueError(
            "value must be [features, heads, channels], output [heads or a multiple, channels, "
            "features] and bias [heads, channels], got "
            f"{value.shape}, {output.shape} and {None if bias is None else bias.shape}."
        )
    dtype = working_dtype([value, output])
    rows = jnp.moveaxis(value, 1, 0).astype(dtype)  # [heads, features, channels]
    if bias is not None:
        rows = jnp.concatenate([rows, bias.astype(dtype)[:, None]], axis=1)
    features = output.shape[-1]
    columns = output.astype(dtype).reshape(heads, shared, channels, features)
    columns = jnp.moveaxis(columns, 1, 2).reshape(heads, channels, shared * features)
    balanced = jax.vmap(_scaled if trace_only else _factors)
    rows, columns = balanced(rows, columns)
    columns = jnp.moveaxis(columns.reshape(heads, channels, shared, features), 2, 1)
    moved = cast_like(columns.reshape(output.shape), output)
    new_bias = None if bias is None else cast_like(rows[:, -1], bias)
    kept = rows if bias is None else rows[:, :-1]
    return cast_like(jnp.moveaxis(kept, 0, 1), value), moved, new_bias


def _scaled(value: jax.Array, output: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One head's factors times c and 1/c."""
    sizes = jnp.linalg.norm(value), jnp.linalg.norm(output)
    alive = (sizes[0] > 0) & (sizes[1] > 0)
    ratio = jnp.where(alive, sizes[1], 1) / jnp.where(alive, sizes[0], 1)
    return value * jnp.sqrt(ratio), output / jnp.sqrt(ratio)


def _factors(value: jax.Array, output: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One head's balanced factors, [features, channels] and [channels, features]."""
    # V O = Q_v (R_v R_oᵀ) Q_oᵀ, and the matrix within is of the size of the channels.
    left, inner_left = jnp.linalg.qr(value)
    right, inner_right = jnp.linalg.qr(output.T)
    a, s, bt = jnp.linalg.svd(inner_left @ inner_right.T, full_matrices=False)
    root = jnp.sqrt(s)
    new_value, new_output = left @ (a * root[None]), (root[:, None] * bt) @ right.T
    # The rotation that brings √S Aᵀ nearest to V (Procrustes).
    u, _, vt = jnp.linalg.svd(new_value.T @ value, full_matrices=False)
    turn = u @ vt
    return new_value @ turn, turn.T @ new_output

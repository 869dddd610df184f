"""What the latents mean to the decoder: move one of them, or exchange s and v."""

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from lacim_jax.model.lacim import LaCIM, Variables, apply


def traverse(
    model: LaCIM,
    variables: Variables,
    latents: Float[Array, " dim"],
    dims: Int[Array, " dims"],
    values: Float[Array, "dims steps"],
) -> Float[Array, " dims steps *image"]:
    """The images decoded while one latent at a time takes each of its values.

    Args:
        model: the trained model.
        variables: its variables.
        latents: z = (s, v) of one image, in which one latent at a time is replaced.
        dims: which to move: below `s_dim` those of s, from there on those of v.
        values: those that each of them takes.

    Returns:
        Means of p(x|s,v).

    Raises:
        ValueError: if there are not as many latents as the model has, or one of those to move is
            none of them. Traced numbers pass.
    """
    size = model.s_dim + model.v_dim
    if latents.size != size:
        raise ValueError(
            f"latents must be the s_dim + v_dim = {size} of one image, got {latents.size}."
        )
    # JAX would drop a change out of range, and every picture be the same.
    if not isinstance(dims, Tracer) and dims.size and not (dims.min() >= 0 and dims.max() < size):
        raise ValueError(
            f"dims must lie between 0 and s_dim + v_dim - 1 = {size - 1}, got {int(dims.min())} to "
            f"{int(dims.max())}; those of s come first, v's are s_dim + 0, s_dim + 1, ..."
        )
    moved = jnp.broadcast_to(latents, (*values.shape, latents.size))
    moved = jax.vmap(lambda z, i, x: z.at[:, i].set(x))(moved, dims, values)
    return _decoded(model, variables, moved)


def exchange(
    model: LaCIM, variables: Variables, latents: Float[Array, "n dim"]
) -> Float[Array, " n n *image"]:
    """The images decoded from every s together with every v.

    On the diagonal stand the reconstructions. Along a row s stays the same, and so does the label
    if s holds all that causes it.

    Args:
        model: the trained model.
        variables: its variables.
        latents: z = (s, v) of n images.

    Returns:
        Means of p(x|s,v); entry (i, j) has s from image i and v from image j.
    """
    s, v = model.split(latents)
    n = len(latents)
    mixed = jnp.concatenate(
        [
            jnp.broadcast_to(s[:, None], (n, n, s.shape[-1])),
            jnp.broadcast_to(v[None], (n, n, v.shape[-1])),
        ],
        axis=-1,
    )
    return _decoded(model, variables, mixed)


def active_dims(
    kl_per_dim: Float[Array, "batch dim"], *, s_dim: int, count: int
) -> tuple[Int[Array, " s"], Int[Array, " v"]]:
    """The latents that carry most information about an image, by divergence from the prior.

    Args:
        kl_per_dim: KL(q(s,v|x,d) || p(s,v|d)) of each dimension, which `elbo` returns.
        s_dim: how many numbers s has.
        count: how many of s and how many of v are wanted; fewer where there are fewer.

    Returns:
        Two int32 arrays of indices into z, of s and of v, the most active first.
    """
    mean = kl_per_dim.mean(0)
    s = jnp.argsort(-mean[:s_dim])[:count]
    v = s_dim + jnp.argsort(-mean[s_dim:])[:count]
    return s.astype(jnp.int32), v.astype(jnp.int32)


def _decoded(model: LaCIM, variables: Variables, latents: jax.Array) -> jax.Array:
    """The means of p(x|s,v) of latents [..., dim], [..., *image]."""
    flat = latents.reshape(-1, latents.shape[-1])
    pixels = apply(model, variables, "decode", flat)
    means = model.likelihood.mean(pixels)
    return means.reshape(*latents.shape[:-1], *means.shape[1:])

"""The check of images that networks share."""

import jax
import jax.numpy as jnp


def check_images(images: jax.Array, *, shape: str, ndim: int | None = None) -> None:
    """Refuses inputs that a network would silently misread.

    Args:
        images: what the network was called with.
        shape: the shape it expects, for the message.
        ndim: the number of axes it expects; None for at least one beside the batch.

    Raises:
        TypeError: if they are not floating-point: stored pixels must be scaled first.
        ValueError: if they have the wrong number of axes.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"a network's input must be floating-point, got {images.dtype}: scale stored pixels "
            "with common.data.as_float or common.data.standardise."
        )
    if images.ndim < 2 if ndim is None else images.ndim != ndim:
        raise ValueError(f"a network's input must have shape {shape}, got {images.shape}.")

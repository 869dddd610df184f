"""Which pixels a number depends on: saliency of s, of v, and of any other function of images."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from lacim_jax.model.checks import check_images
from lacim_jax.model.lacim import LaCIM, Variables, apply


class Saliency(NamedTuple):
    """One map an image for each part of the latents."""

    s: jax.Array  # shape=[batch, ...], the images' without channels
    v: jax.Array  # shape=[batch, ...]


def saliency(model: LaCIM, variables: Variables, images: Float[Array, " batch *image"]) -> Saliency:
    """How much the encoder's s and v change with each pixel, whatever the domain.

    The maps of `saliency_of` for the posterior's means, averaged over the posteriors that the image
    has in each training domain, each latent in units of its spread over the batch, so that latents
    of different scale count alike; below a spread of 1e-3, as of a collapsed latent, the unit is
    1e-3.

    Args:
        model: the trained model.
        variables: its variables.
        images: x; at least two, for the spread.

    Returns:
        The two maps, at least 0.

    Raises:
        ValueError: if there is one image or none, or their shape or a pixel does not suit the
            model. Traced images pass.
    """
    if len(images) < 2:
        raise ValueError(
            f"there must be at least two images, for the latents' spread, got {len(images)}; give "
            "more, or call saliency_of, which has no unit."
        )
    if not isinstance(images, Tracer):
        check_images(model, variables, np.asarray(images))

    def means(x: jax.Array) -> jax.Array:
        return apply(model, variables, "encode_in_every_domain", x).mean.mean(axis=1)

    spread = jnp.maximum(means(images).std(axis=0), 1e-3)
    s = saliency_of(lambda x: (means(x) / spread[None])[:, : model.s_dim], images)
    v = saliency_of(lambda x: (means(x) / spread[None])[:, model.s_dim :], images)
    return Saliency(s, v)


def saliency_of(
    function: Callable[[jax.Array], jax.Array], images: Float[Array, " batch *image"]
) -> Float[Array, " batch *pixels"]:
    r"""The length of each pixel's columns of the Jacobian.

    Of pixel p it is $\sqrt{\sum_{k,c} (\partial f_k / \partial x_{pc})^2}$, c its channels.

    Args:
        function: images [batch, ..., channels] to numbers [batch, k], each image by itself; k is
            the number of passes back.
        images: x.

    Returns:
        [batch, ...], without the channels.

    Example:
        >>> weights = jnp.array([3.0, 0.0])
        >>> images = jnp.zeros((1, 2, 2))  # two pixels of two channels
        >>> saliency_of(lambda x: (x.sum(-1) * weights).sum(-1, keepdims=True), images)
        Array([[4.2426405, 0.       ]], dtype=float32)

    References:
        Simonyan et al., *Deep inside convolutional networks*, 2014
        (https://arxiv.org/abs/1312.6034), section 3, for one output.
    """

    def one(image: jax.Array) -> jax.Array:
        jacobian = jax.jacrev(lambda x: function(x[None])[0])(image)  # [k, ..., channels]
        return jnp.sqrt((jacobian**2).sum(axis=(0, -1)))

    return jax.vmap(one)(images)

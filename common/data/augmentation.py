"""Standard augmentation of images on the device, as pure functions of a key.

Each image of a batch has random numbers of its own. All functions can be jitted and vmapped, work
on uint8 and on floating-point images, and give the same images for the same key.
"""

import jax
import jax.numpy as jnp


def random_crop(key: jax.Array, images: jax.Array, *, padding: int = 4) -> jax.Array:
    r"""Pads with zeros on all sides and cuts out a window of the old size at a random place.

    Each image is moved by an offset of its own, uniform over $\{-p, \dots, p\}^2$.

    The padding is 0 in the units of the images: black in stored pixels, the mean colour in
    standardised ones. He et al. pad images from which the mean is subtracted, so standardise first
    to do as they did.

    Args:
        key: a typed PRNG key, scalar.
        images: [n, height, width, channels], any dtype.
        padding: p, in pixels, at least 0. With 0 the images are returned as they are.

    Returns:
        Images of the same shape and dtype.

    Raises:
        ValueError: if the images are not [n, height, width, channels] or the padding is negative.

    Example:
        >>> moved = random_crop(jax.random.key(0), jnp.ones((8, 32, 32, 3)), padding=4)
        >>> moved.shape
        (8, 32, 32, 3)

    References:
        He et al., *Deep residual learning for image recognition*, 2016, section 4.2.
    """
    _check(images)
    if padding < 0:
        raise ValueError(f"padding must be at least 0 pixels, got {padding}.")
    if padding == 0:
        return images
    n, height, width, channels = images.shape
    # The corner of the window in the padded image; (padding, padding) leaves the image in place.
    corners = jax.random.randint(key, (n, 2), 0, 2 * padding + 1)
    border = (padding, padding)
    padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))

    def cut(image: jax.Array, corner: jax.Array) -> jax.Array:
        start = (corner[0], corner[1], jnp.zeros_like(corner[0]))
        return jax.lax.dynamic_slice(image, start, (height, width, channels))

    return jax.vmap(cut)(padded, corners)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability one half.

    Args:
        key: a typed PRNG key, scalar.
        images: [n, height, width, channels], any dtype.

    Returns:
        Images of the same shape and dtype.

    Raises:
        ValueError: if the images are not [n, height, width, channels].
    """
    _check(images)
    flip = jax.random.bernoulli(key, shape=(images.shape[0], 1, 1, 1))
    return jnp.where(flip, images[:, :, ::-1], images)


def pad_crop_flip(key: jax.Array, images: jax.Array, *, padding: int = 4) -> jax.Array:
    """The augmentation used on CIFAR: a random crop of the padded image, mirrored or not.

    Args:
        key: a typed PRNG key, scalar.
        images: [n, height, width, channels], any dtype.
        padding: see `random_crop`.

    Returns:
        Images of the same shape and dtype.

    Raises:
        ValueError: if the images are not [n, height, width, channels] or the padding is negative.

    References:
        He et al., *Deep residual learning for image recognition*, 2016, section 4.2.
    """
    crop_key, flip_key = jax.random.split(key)
    return random_flip(flip_key, random_crop(crop_key, images, padding=padding))


def _check(images: jax.Array) -> None:
    if images.ndim != 4:
        raise ValueError(
            f"images must have shape [n, height, width, channels], got {images.shape}: "
            "add the axis that is missing, or flatten the leading ones."
        )

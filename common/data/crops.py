"""Crops of images of any size to one size, on the host: the input of networks for ImageNet."""

import math

import numpy as np
from PIL import Image

_ATTEMPTS = 10  # to draw a rectangle that lies within the image


def random_resized_crop(
    image: np.ndarray,
    size: int,
    generator: np.random.Generator,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """A random rectangle of an image, scaled to a square, mirrored or not.

    The rectangle's share of the area is uniform, and so are the logarithm of its aspect ratio and
    its place. If none of ten draws fits into the image, the central crop is taken.

    Args:
        image: uint8, [height, width, channels], 1 or 3 channels.
        size: height and width of the result.
        generator: what draws; it is advanced.
        area: least and largest share of the image's area, above 0 and up to 1.
        aspect: least and largest width by height.

    Returns:
        uint8, [size, size, channels].

    Raises:
        ValueError: if the image is not of that form, or a range is empty.

    Example:
        >>> image = np.zeros((40, 60, 3), np.uint8)
        >>> random_resized_crop(image, 32, np.random.default_rng(0)).shape
        (32, 32, 3)

    References:
        Szegedy et al., *Going deeper with convolutions*, 2015, section 6.
    """
    _check(image, size)
    if not (0 < area[0] <= area[1] <= 1 and 0 < aspect[0] <= aspect[1]):
        raise ValueError(
            f"area must lie within (0, 1] and aspect above 0, the lower bound first, got {area} "
            f"and {aspect}."
        )
    height, width, _ = image.shape
    box = None
    for _ in range(_ATTEMPTS):
        pixels = generator.uniform(*area) * height * width
        # width * height = pixels and width / height = ratio.
        ratio = math.exp(generator.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(generator.integers(0, width - w + 1))
            top = int(generator.integers(0, height - h + 1))
            box = (left, top, left + w, top + h)
            break
    mirrored = bool(generator.random() < 0.5)
    crop = central_crop(image, size) if box is None else _scaled(image, size, box)
    return np.ascontiguousarray(crop[:, ::-1]) if mirrored else crop


def central_crop(image: np.ndarray, size: int, *, share: float = 0.875) -> np.ndarray:
    """The central square of an image, scaled.

    Args:
        image: uint8, [height, width, channels], 1 or 3 channels.
        size: height and width of the result.
        share: side of the square by the shorter side of the image, above 0 and up to 1; 0.875 is
            the usual 224 of 256.

    Returns:
        uint8, [size, size, channels].

    Raises:
        ValueError: if the image is not of that form, or the share is out of its range.
    """
    _check(image, size)
    if not 0 < share <= 1:
        raise ValueError(f"share must lie above 0 and be at most 1, got {share}.")
    height, width, _ = image.shape
    side = share * min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    return _scaled(image, size, (left, top, left + side, top + side))


def _scaled(image: np.ndarray, size: int, box: tuple[float, float, float, float]) -> np.ndarray:
    grey = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    scaled = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=box))
    return scaled[..., None] if grey else scaled


def _check(image: np.ndarray, size: int) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise ValueError(
            "images are uint8 [height, width, channels] with 1 or 3 channels, got "
            f"{image.dtype} {image.shape}."
        )
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}.")

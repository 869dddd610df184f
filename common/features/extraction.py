"""Features of images, computed once and kept."""

import hashlib
import io
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from common.data.stored import read_arrays
from common.features.efficientnet_lite import FEATURES, EfficientNetLite0
from common.features.pretrained import DIGEST, pretrained_variables
from common.files import write_whole
from common.progress import Bar, Silent

# Of stored pixels. The Lite networks were trained on pixels of about -1 to 1, not on ones divided
# by ImageNet's deviations; with these the classifier names 92% of PACS's elephants, else 79%.
_MEAN, _SCALE = 127.0, 128.0
_RECIPE = "1"
"""Counted up with every change of what is computed: stored features are then not used again."""


def frozen_features(
    images: np.ndarray,
    *,
    resolution: int = 224,
    batch_size: int = 64,
    cache: Path | str | None = None,
    bar: Bar | None = None,
) -> np.ndarray:
    """The features that EfficientNet-Lite0, trained on ImageNet, gives images.

    They are stored under a name made of the images, the weights and the resolution; a second call
    reads them. A damaged file is computed anew and replaced.

    Args:
        images: uint8, [n, height, width, 3].
        resolution: height and width to which images are scaled, bilinearly, before the network;
            224 is what it was trained with.
        batch_size: images in the network at once.
        cache: folder of the stored features, made if it is missing; None for `cache_folder()`.
        bar: advanced by 1 in all.

    Returns:
        float32, [n, 1280], between 0 and 6.

    Raises:
        TypeError: if the images are not uint8.
        ValueError: if their shape is another, or a size is out of range.
        FileNotFoundError: if the weights are not installed.
        OSError: if the features cannot be stored.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise TypeError(f"images must be stored pixels, uint8, got {images.dtype}.")
    if images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise ValueError(f"images must have shape [n, height, width, 3], got {images.shape}.")
    if resolution < 32 or batch_size < 1:
        raise ValueError(
            "resolution must be at least 32 and batch_size at least 1, got "
            f"{resolution} and {batch_size}."
        )
    if bar is None:
        with Silent().task("features", total=1) as bar:
            pass
    folder = Path(cache).expanduser() if cache is not None else cache_folder()
    path = folder / f"efficientnet-lite0-{resolution}-{_key(images, resolution)}.npz"
    features = _stored(path, len(images))
    if features is not None:
        bar.advance()
        return features
    folder.mkdir(parents=True, exist_ok=True)  # before the work, which it would be a pity to lose
    features = _computed(images, resolution, batch_size, bar)
    content = io.BytesIO()
    np.savez(content, features=features)
    write_whole(path, content.getvalue())
    return features


def cache_folder() -> Path:
    """Where features are kept: `$XDG_CACHE_HOME/frozen-features`, or below `~/.cache`."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "frozen-features"


def _key(images: np.ndarray, resolution: int) -> str:
    """A name for what is computed: of the recipe, the weights, the resolution and every pixel."""
    digest = hashlib.sha256(f"{_RECIPE} {DIGEST} {resolution} {images.shape}".encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()[:32]


def _stored(path: Path, n: int) -> np.ndarray | None:
    """What an earlier call stored, or None where there is nothing or it is damaged."""
    try:
        features = read_arrays(path).get("features")
    except (FileNotFoundError, ValueError):
        return None
    if features is None or (features.shape, features.dtype) != ((n, FEATURES), np.float32):
        return None
    return features if np.isfinite(features).all() else None


def _computed(images: np.ndarray, resolution: int, batch_size: int, bar: Bar) -> np.ndarray:
    variables, network = pretrained_variables(), EfficientNetLite0()
    variables["params"].pop("classifier")

    @jax.jit
    def features(variables: dict, pixels: jax.Array) -> jax.Array:
        shape = (len(pixels), resolution, resolution, 3)
        scaled = jax.image.resize(pixels.astype(jnp.float32), shape, "bilinear")
        return jnp.asarray(network.apply(variables, (scaled - _MEAN) / _SCALE))

    found = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        # The last batch is filled up: one compilation.
        full = np.resize(batch, (min(batch_size, len(images)), *images.shape[1:]))
        found.append(np.asarray(features(variables, full))[: len(batch)])
        bar.advance(len(batch) / len(images))
    return np.concatenate(found)

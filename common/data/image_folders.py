"""Images in folders whose names say what they show, and where."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from common.data.domains import DomainDataset, from_domains

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")

PACS = ("domain", "class")
"""PACS: art_painting/dog/pic_001.jpg."""

NICO = ("class", "domain")
"""NICO: dog/on_grass/12.jpg; the context is the domain."""


def read_folders(
    root: Path | str,
    *,
    levels: Sequence[str] = PACS,
    size: int = 64,
    classes: Sequence[str] | None = None,
    domains: Sequence[str] | None = None,
) -> DomainDataset:
    """Reads all images two folders below a root, scaled to one size.

    Each image is converted to RGB and scaled, without keeping its proportions, by area averaging.

    Args:
        root: the folder.
        levels: what the two levels of folders are, "class" and "domain" in either order: `PACS` or
            `NICO`.
        size: height and width of the result, in pixels.
        classes: names of the classes to read; by default all there are, sorted.
        domains: names of the domains to read; by default all there are, sorted.

    Returns:
        Images [n, size, size, 3], in the order of their paths.

    Raises:
        FileNotFoundError: if there is no such folder, or a class or domain requested is missing.
        ValueError: if it holds no image in such folders, a file is no image, or the levels or the
            size are wrong.
    """
    root = Path(root).expanduser()
    if sorted(levels) != ["class", "domain"]:
        raise ValueError(f'levels must be "class" and "domain" in some order, got {levels}.')
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}.")
    layout = "/".join(level.upper() for level in levels)
    if not root.is_dir():
        raise FileNotFoundError(
            f"no folder {root}; the images are looked for as {root}/{layout}/NAME.jpg. Sets given "
            "out on request only, such as NICO, have to be put there by hand."
        )
    paths = sorted(
        path for path in root.glob("*/*/*") if path.suffix.lower() in SUFFIXES and path.is_file()
    )
    if not paths:
        raise ValueError(
            f"{root} holds no image as {layout}/NAME with one of the endings {', '.join(SUFFIXES)};"
            " name the folder that holds these folders."
        )
    where = {level: i for i, level in enumerate(levels)}
    parents = [path.relative_to(root).parts[:2] for path in paths]
    of_path = {level: [parts[i] for parts in parents] for level, i in where.items()}
    names = {
        "class": _chosen("class", classes, of_path["class"], root),
        "domain": _chosen("domain", domains, of_path["domain"], root),
    }
    kept = [
        i
        for i in range(len(paths))
        if of_path["class"][i] in names["class"] and of_path["domain"][i] in names["domain"]
    ]
    if not kept:
        raise ValueError(
            f"{root} has no image of the classes {names['class']} in the domains "
            f"{names['domain']}; ask for others."
        )
    return from_domains(
        np.stack([_read(paths[i], size) for i in kept]),
        np.asarray([names["class"].index(of_path["class"][i]) for i in kept]),
        np.asarray([names["domain"].index(of_path["domain"][i]) for i in kept]),
        class_names=names["class"],
        domain_names=names["domain"],
        name=root.name,
    )


def _chosen(
    level: str, requested: Sequence[str] | None, of_path: Sequence[str], root: Path
) -> list[str]:
    """The names requested of a level, or all that there are; each must be there."""
    available = sorted(set(of_path))
    if requested is None:
        return available
    missing = [name for name in requested if name not in available]
    if missing:
        raise FileNotFoundError(
            f"{root} has no {level} called {', '.join(missing)}; it has {', '.join(available)}."
        )
    return list(requested)


def _read(path: Path, size: int) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BOX))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}); remove it.") from error

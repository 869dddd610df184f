"""The text of Python's standard library as bytes: it is wherever Python is."""

import hashlib
import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np

PARTS = ("train", "validation", "test")
FOLD = 10
"""Of so many files in alphabetical order, one is for validation and one for the test."""
LARGEST = 100_000
"""Bytes taken of one file, from its beginning, so that no file is most of the text."""


class Text(NamedTuple):
    """Three parts of one text, no file in two of them; uint8, each at least a window long."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    digest: str
    """SHA-256 of names and contents, in hexadecimal: it differs between versions of Python."""
    files: dict[str, tuple[str, ...]]
    """The names in each part, in the order in which they were joined."""


def standard_library(limit: int, folder: Path | None = None) -> Text:
    """Reads the modules at the top of Python's standard library, up to `limit` bytes in all.

    Files are taken in alphabetical order, whole or up to `LARGEST`, until the limit is reached.

    Args:
        limit: bytes, at least 1,000.
        folder: where the *.py files are; None for those of the running Python.

    Raises:
        ValueError: if there are too few files for three parts.
    """
    folder = Path(sysconfig.get_paths()["stdlib"]) if folder is None else folder
    parts: dict[str, list[tuple[str, bytes]]] = {part: [] for part in PARTS}
    total, digest = 0, hashlib.sha256()
    for i, path in enumerate(sorted(folder.glob("*.py"), key=lambda path: path.name)):
        if total >= limit:
            break
        content = path.read_bytes()[: min(LARGEST, limit - total)]
        total += len(content)
        for piece in (path.name.encode(), content):
            digest.update(len(piece).to_bytes(8, "big") + piece)
        parts[part_of(i)].append((path.name, content))
    if any(not sum(len(content) for _, content in files) for files in parts.values()):
        raise ValueError(
            f"the text needs {FOLD} files or more, so that one is for validation and one for the "
            f"test; got {sum(map(len, parts.values()))} with {total} bytes from {folder}: raise "
            "the limit, or install Python with its sources."
        )
    train, validation, test = (
        np.frombuffer(b"".join(content for _, content in files), np.uint8)
        for files in parts.values()
    )
    names = {part: tuple(name for name, _ in files) for part, files in parts.items()}
    return Text(train, validation, test, digest.hexdigest(), names)


def part_of(place: int) -> str:
    """The part that the file at a place in the order belongs to.

    Example:
        >>> [part_of(i) for i in range(10)].count("train"), part_of(3), part_of(7)
        (8, 'validation', 'test')
    """
    return {3: "validation", 7: "test"}.get(place % FOLD, "train")


def windows(part: np.ndarray, count: int, length: int) -> np.ndarray:
    """`count` windows of `length` + 1 bytes, evenly spread over a part: int32 [count, length + 1].

    Raises:
        ValueError: if the part is shorter than one window.
    """
    room = len(part) - length - 1
    if room < 0:
        raise ValueError(
            f"a window of {length + 1} bytes does not fit into a part of {len(part)}; read more "
            "of the text, or take shorter windows."
        )
    starts = np.linspace(0, room, count).astype(int)
    return part[starts[:, None] + np.arange(length + 1)].astype(np.int32)

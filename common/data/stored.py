"""NumPy's own files, read as numbers and text and as nothing else."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

_DAMAGED = (
    ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error,
    NotImplementedError, RuntimeError,  # packed or encrypted in ways that zipfile does not know
    MemoryError, OverflowError,  # arrays of shapes that cannot be
)  # fmt: skip


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of an .npz file.

    Args:
        path: the file, which must exist.

    Raises:
        ValueError: if it is damaged, holds pickled objects, which could run any program, or holds
            one array without a name.
    """
    try:
        with path.open("rb") as file:  # opened here: NumPy would not close a damaged file
            content = np.load(file, allow_pickle=False)
            arrays = None
            if not isinstance(content, np.ndarray):
                arrays = {name: content[name] for name in content.files}
    except _DAMAGED as error:
        if "pickle" in str(error):
            raise ValueError(
                f"{path} must hold numbers and text, got pickled objects, which could run any "
                "program and are not read; write it anew with arrays of numbers and of text."
            ) from error
        raise ValueError(
            f"{path} must be a whole NumPy file, got a damaged one ({error}); copy or make it "
            "again."
        ) from error
    if arrays is None:
        raise ValueError(f"{path} must hold arrays by name, got one array; use numpy.savez.")
    return arrays

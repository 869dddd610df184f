"""NumPy's own files, read as numbers and text and as nothing else."""

import zipfile
from pathlib import Path

import numpy as np


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of an .npz file.

    Args:
        path: of a file that is there.

    Raises:
        ValueError: if it is damaged, or holds pickled objects, which could run any program.
    """
    found = _loaded(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold arrays by name, got one array; use numpy.savez.")
    return found


def read_array(path: Path) -> np.ndarray:
    """The array of an .npy file.

    Args:
        path: of a file that is there.

    Raises:
        ValueError: if it is damaged, holds pickled objects, or several arrays.
    """
    found = _loaded(path)
    if isinstance(found, dict):
        raise ValueError(f"{path} must hold one array, got {sorted(found)}; use numpy.save.")
    return found


def _loaded(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:  # which NumPy would leave open where it is damaged
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return found
            return {name: found[name] for name in found.files}
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        if "pickle" in str(error):
            raise ValueError(
                f"{path} must hold numbers and text, got pickled objects, which could run any "
                "program and are not read; write it anew with arrays of numbers and of text."
            ) from error
        raise ValueError(
            f"{path} must be a whole file of NumPy's, got one that is damaged ({error}); copy or "
            "make it again."
        ) from error

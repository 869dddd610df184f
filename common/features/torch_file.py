"""Tensors of a PyTorch file, read as numbers and as nothing else.

Before version 1.6 `torch.save` wrote five pickles one after another (a magic number, the version,
the sizes of C types, the saved object, the keys of its storages) and then the storages' bytes. An
object of tensors by name, a `state_dict`, calls for three things only: a dictionary, a function
that lays a tensor over a storage, and the storages' types. The unpickler here knows stand-ins for
these, which do nothing but note what was said, and no other name.
"""

import collections
import io
import math
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
}


class _Storage(NamedTuple):
    """What a pickle says of a storage."""

    dtype: str
    key: str
    size: int


class _Laid(NamedTuple):
    """What a pickle says of a tensor; in elements of its storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Unpickler(pickle.Unpickler):
    """Makes dictionaries, lists, tuples, numbers and text, and notes of tensors."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """A stand-in for one of the names that tensors need; every other name is refused."""
        if (module_name, global_name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module_name, global_name) == ("torch._utils", "_rebuild_tensor_v2"):
            # A new one each time: a pickle can set the attributes of what it names.
            return lambda storage, offset, shape, strides, *_: _Laid(
                storage, offset, shape, strides
            )
        if module_name == "torch" and global_name in _DTYPES:
            return _DTYPES[global_name]
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")

    def persistent_load(self, pid: Any, /) -> Any:
        """A note of a storage, by what stands in its place."""
        kind, dtype, key, _, size, view = pid
        if kind != "storage" or view is not None or dtype not in _DTYPES.values():
            raise pickle.UnpicklingError("it refers to something that is no storage of numbers")
        return _Storage(dtype, str(key), int(size))


def read_tensors(path: Path | str) -> dict[str, np.ndarray]:
    """Reads the tensors that `torch.save` wrote of a `state_dict`, in its format before 1.6.

    Args:
        path: the file, which must exist. Nothing in it is executed: of a pickle only dictionaries,
            numbers, text and tensors are read.

    Returns:
        The tensors by name, in the order of the file, as arrays of their own.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it names anything but tensors, which could run any program; is damaged; or
            is no such file.
    """
    content = Path(path).read_bytes()
    try:
        return _tensors(io.BytesIO(content))
    except Exception as error:  # the bytes decide what the unpickler raises
        raise ValueError(
            f"{path} must hold tensors by name and nothing else, as torch.save wrote them before "
            f"version 1.6, and was not read ({error}); take it from where it was published."
        ) from error


def _tensors(file: io.BytesIO) -> dict[str, np.ndarray]:
    magic, version, _, state, keys = (_Unpickler(file).load() for _ in range(5))
    if (magic, version) != (_MAGIC, _VERSION):
        raise ValueError("its first numbers are not those of the format")
    if not isinstance(state, collections.OrderedDict):
        raise ValueError(f"it holds {type(state).__name__}, no dictionary of tensors")
    notes: dict[str, _Laid] = {str(name): note for name, note in state.items()}
    for name, note in notes.items():
        if not isinstance(note, _Laid) or not isinstance(note.storage, _Storage):
            raise ValueError(f"{name} is no tensor")
    storages = {note.storage.key: note.storage for note in notes.values()}
    if sorted(storages) != sorted(keys):
        raise ValueError("its storages are not those of its tensors")
    arrays = {key: _values(file, storages[key]) for key in keys}
    if file.read(1):
        raise ValueError("something follows the last storage")
    return {name: _laid(arrays[note.storage.key], note) for name, note in notes.items()}


def _values(file: io.BytesIO, storage: _Storage) -> np.ndarray:
    """The next storage of the file: its number of elements, int64, and these."""
    size = int.from_bytes(file.read(8), "little")
    width = np.dtype(storage.dtype).itemsize
    if size != storage.size or size > len(file.getbuffer()) // width:
        raise ValueError(f"a storage of {storage.size} numbers has {size}")
    return np.frombuffer(file.read(size * width), storage.dtype, count=size)


def _laid(values: np.ndarray, note: _Laid) -> np.ndarray:
    """A tensor's own numbers, after checking that all of them lie in its storage."""
    dtype, (_, offset, shape, strides) = values.dtype, note
    if dtype != np.dtype(note.storage.dtype):
        raise ValueError("two tensors disagree about their storage")
    whole = (offset, *shape, *strides)
    if len(shape) != len(strides) or any(type(n) is not int or n < 0 for n in whole):
        raise ValueError(f"a tensor has shape {shape} and strides {strides}")
    # Strides of 0 repeat a number: a small file must not become a large array.
    if math.prod(shape) > values.size:
        raise ValueError(f"a tensor of shape {shape} is larger than its storage")
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= values.size:
        raise ValueError("a tensor reaches beyond its storage")
    bytes_apart = [s * dtype.itemsize for s in strides]
    return np.lib.stride_tricks.as_strided(values[offset:], shape, bytes_apart).copy()

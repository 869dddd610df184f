"""A PyTorch file gives numbers; whatever else it asks for is refused before it is done."""

import collections
import io
import pickle
import struct
from typing import Any, NamedTuple

import numpy as np
import pytest

from common.features import read_tensors

FLOATS = np.arange(24, dtype="<f4")
COUNT = np.asarray([7], "<i8")


class Name(NamedTuple):
    """Something that a pickle names, by its module."""

    module: str
    name: str


class Call:
    """Pickled as a call of a name with arguments."""

    def __init__(self, of: Name, *args: Any):
        self.of, self.args = of, args


class Stored(NamedTuple):
    """Pickled as a reference to a storage."""

    dtype: Name
    key: str
    size: int


class Writer(pickle._Pickler):
    """Writes what no import is needed for: names as text, calls of them, storages.

    Python's own pickler, since the one in C writes no name that cannot be imported.
    """

    def persistent_id(self, obj):
        if isinstance(obj, Stored):
            return ("storage", obj.dtype, obj.key, "cpu", obj.size, None)
        return None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Name):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.of)
            self.save(obj.args)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


def pickled(obj) -> bytes:
    file = io.BytesIO()
    Writer(file, 2).dump(obj)
    return file.getvalue()


REBUILD = Name("torch._utils", "_rebuild_tensor_v2")
FLOAT, LONG = Name("torch", "FloatStorage"), Name("torch", "LongStorage")


def tensor(shape, strides, *, offset=0, stored=None):
    stored = Stored(FLOAT, "a", 24) if stored is None else stored
    return Call(REBUILD, stored, offset, shape, strides, False, collections.OrderedDict())


def content(state, *, keys=("a",), storages=(FLOATS,), magic=0x1950A86A20F9469CFC6C) -> bytes:
    head = [magic, 1001, {"little_endian": True}, state, list(keys)]
    body = (struct.pack("<q", len(values)) + values.tobytes() for values in storages)
    return b"".join([*map(pickled, head), *body])


@pytest.fixture
def read(tmp_path):
    def of(data: bytes):
        path = tmp_path / "weights.pth"
        path.write_bytes(data)
        return read_tensors(path)

    return of


def test_tensors_lie_in_their_storages_as_strides_and_offsets_say(read):
    state = collections.OrderedDict(
        whole=tensor((2, 3, 4), (12, 4, 1)),
        turned=tensor((4, 3), (1, 4), offset=12),
        count=tensor((), (), stored=Stored(LONG, "b", 1)),
    )
    found = read(content(state, keys=("a", "b"), storages=(FLOATS, COUNT)))
    assert list(found) == ["whole", "turned", "count"]
    np.testing.assert_array_equal(found["whole"], FLOATS.reshape(2, 3, 4))
    np.testing.assert_array_equal(found["turned"], FLOATS[12:].reshape(3, 4).T)
    assert found["count"] == 7
    assert found["count"].dtype == np.int64
    assert found["whole"].flags.owndata
    assert found["whole"].flags.writeable


def hostile(tmp_path):
    marker = tmp_path / "executed"
    code = f"open({str(marker)!r}, 'w').close()"
    one = collections.OrderedDict(a=tensor((24,), (1,)))
    calls = {
        "a call": content(Call(Name("builtins", "exec"), code)),
        "a call among tensors": content(
            collections.OrderedDict(one, b=Call(Name("os", "system"), f"touch {marker}"))
        ),
        "a call in a storage's place": content(
            collections.OrderedDict(
                a=Call(REBUILD, Call(Name("builtins", "eval"), code), 0, (1,), (1,), False, {})
            )
        ),
        "a function of torch that unpickles": content(Call(Name("torch", "load"), "x")),
        "an attribute of an allowed module": content(Name("collections", "_sys")),
        "a call before the object": pickled(Call(Name("builtins", "exec"), code)),
    }
    return marker, calls


@pytest.mark.parametrize("which", range(6))
def test_a_hostile_file_is_refused_and_runs_nothing(read, tmp_path, which):
    marker, files = hostile(tmp_path)
    data = list(files.values())[which]
    with pytest.raises(ValueError, match=r"must hold tensors by name and nothing else.*it names"):
        read(data)
    assert not marker.exists()


def test_the_hostile_files_would_have_run_in_an_ordinary_unpickler(tmp_path):
    marker, files = hostile(tmp_path)
    pickle.loads(files["a call before the object"])
    assert marker.exists()


GOOD = collections.OrderedDict(a=tensor((24,), (1,)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "Ran out of input|was not read"),
        (b"PK\x03\x04 a zip, of torch 1.6", "before version 1.6"),
        (content(GOOD, magic=1), "first numbers"),
        (content({"a": 1}), "holds dict"),
        (content(collections.OrderedDict(a=1)), "a is no tensor"),
        (content(collections.OrderedDict(a=tensor((1,), (1,), stored="x"))), "a is no tensor"),
        (content(GOOD, keys=("b",)), "storages are not those"),
        (content(GOOD, storages=(FLOATS[:5],)), "24 numbers has 5"),
        (content(GOOD)[:-3], "was not read"),
        (content(GOOD) + b"x", "follows the last storage"),
        (content({}, keys=(), storages=()), "holds dict"),
        (content(collections.OrderedDict(a=tensor((24,), (2,)))), "beyond its storage"),
        (content(collections.OrderedDict(a=tensor((4,), (1,), offset=21))), "beyond its storage"),
        (content(collections.OrderedDict(a=tensor((4,), (-1,), offset=9))), r"strides \(-1,\)"),
        (content(collections.OrderedDict(a=tensor((10**9,), (0,)))), "larger than its storage"),
        (content(collections.OrderedDict(a=tensor((4,), ()))), r"strides \(\)"),
        (
            content(
                collections.OrderedDict(a=tensor((1,), (1,), stored=Stored(FLOAT, "a", 2**62))),
                storages=(),
            ),
            f"storage of {2**62} numbers",
        ),
    ],
)
def test_a_damaged_or_foreign_file_gives_one_error(read, data, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(data)
    assert "take it from where it was published" in str(caught.value)


def test_a_missing_file_is_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "none.pth")

"""NumPy's files: damaged ones are named, pickled ones never loaded."""

import pickle

import numpy as np
import pytest

from common.data.stored import read_arrays


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


@pytest.fixture
def path(tmp_path):
    np.savez(tmp_path / "file.npz", a=np.arange(100), b=np.asarray(["x", "y"]))
    return tmp_path / "file.npz"


def test_arrays_come_back(path):
    found = read_arrays(path)
    assert found.keys() == {"a", "b"}
    np.testing.assert_array_equal(found["a"], np.arange(100))


def _in_directory(whole, offset, value):
    """A file with other bytes in the first entry of its zip directory, and before the entry."""
    place = whole.index(b"PK\x01\x02") + offset
    whole = whole[:place] + value + whole[place + len(value) :]
    place = whole.index(b"PK\x03\x04") + offset - 2
    return whole[:place] + value + whole[place + len(value) :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda whole: b"", "whole NumPy file.*damaged one .No data left"),
        (
            lambda whole: whole[: len(whole) // 2],
            "whole NumPy file.*damaged one .File is not a zip file",
        ),
        (
            lambda whole: whole[:150] + b"!" + whole[151:],
            "whole NumPy file.*damaged one .Bad CRC-32",
        ),
        # Packed in a way that there is not, and encrypted.
        (
            lambda whole: _in_directory(whole, 10, b"\x63\x00"),
            "damaged one .That compression method is not supported",
        ),
        (lambda whole: _in_directory(whole, 8, b"\x01\x00"), "damaged one .*encrypted"),
        (lambda whole: pickle.dumps(Bomb()), "numbers and text, got pickled objects"),
    ],
)
def test_what_is_damaged_or_pickled_is_refused(path, content, message):
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        read_arrays(path)


def test_arrays_of_objects_are_refused(path):
    np.savez(path, a=np.asarray([Bomb()], object))
    with pytest.raises(ValueError, match="got pickled objects, which could run any program"):
        read_arrays(path)
    np.save(path.with_name("one.npy"), np.asarray([Bomb()], object))
    with pytest.raises(ValueError, match="got pickled objects, which could run any program"):
        read_arrays(path.with_name("one.npy"))


def test_one_array_without_a_name_is_refused(path):
    np.save(path.with_name("one.npy"), np.arange(3))
    with pytest.raises(ValueError, match="must hold arrays by name"):
        read_arrays(path.with_name("one.npy"))

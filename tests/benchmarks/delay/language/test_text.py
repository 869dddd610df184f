"""The text is the same at every reading, and no file is in two parts of it."""

import numpy as np
import pytest

from benchmarks.delay.language import text

LIMIT = 300_000


@pytest.fixture(scope="module")
def read():
    return text.standard_library(LIMIT)


def test_the_split_is_by_file_and_deterministic(read):
    again = text.standard_library(LIMIT)
    assert again.digest == read.digest
    assert again.files == read.files
    names = [set(read.files[part]) for part in text.PARTS]
    assert not names[0] & names[1]
    assert not names[0] & names[2]
    assert not names[1] & names[2]
    for part in text.PARTS:
        np.testing.assert_array_equal(getattr(read, part), getattr(again, part))
    assert sum(len(getattr(read, part)) for part in text.PARTS) == LIMIT


def test_parts_hold_the_files_that_they_name(tmp_path):
    for i in range(12):
        (tmp_path / f"module_{i:02}.py").write_bytes(bytes([65 + i]) * 10)
    made = text.standard_library(1000, tmp_path)
    assert made.files["validation"] == ("module_03.py",)
    assert made.files["test"] == ("module_07.py",)
    assert bytes(made.validation) == b"D" * 10
    assert bytes(made.test) == b"H" * 10
    assert bytes(made.train) == b"".join(bytes([65 + i]) * 10 for i in range(12) if i not in (3, 7))
    (tmp_path / "module_00.py").write_bytes(b"A" * 9 + b"B")
    assert text.standard_library(1000, tmp_path).digest != made.digest
    (tmp_path / "module_00.py").write_bytes(b"A" * (text.LARGEST + 1))
    assert len(text.standard_library(10**6, tmp_path).train) == text.LARGEST + 90


def test_too_little_text_is_refused(tmp_path):
    (tmp_path / "module.py").write_bytes(b"pass")
    with pytest.raises(ValueError, match="needs 10 files"):
        text.standard_library(1000, tmp_path)
    with pytest.raises(ValueError, match="does not fit"):
        text.windows(np.zeros(8, np.uint8), 2, 8)


def test_windows_are_spread_from_the_first_byte_to_the_last():
    rows = text.windows(np.arange(20, dtype=np.uint8), 3, 4)
    np.testing.assert_array_equal(rows[:, 0], [0, 7, 15])
    np.testing.assert_array_equal(rows[-1], [15, 16, 17, 18, 19])

"""Files are written whole or not at all, on a full disk and under Ctrl-C too; names stay inside."""

import errno
import os

import pytest

from common.files import (
    OutsideError,
    append_whole,
    clear_partials,
    cut_unfinished_line,
    full_disk,
    inside,
    links_outside,
    write_whole,
)


def half_then(error):
    """As `os.write` on a disk that fills up: a part is taken, and the next call fails."""
    written, write = [], os.write

    def fails(descriptor, content):
        if written:
            raise error
        written.append(write(descriptor, content[: len(content) // 2]))
        return written[0]

    return fails


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=["full disk", "Ctrl-C"])
def test_what_cannot_be_written_to_its_end_leaves_what_was_there(tmp_path, monkeypatch, error):
    path = tmp_path / "file"
    write_whole(path, "old\n")
    for act in (write_whole, append_whole):
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half_then(error))
            with pytest.raises(type(error)):
                act(path, b"something new\n")
        assert path.read_bytes() == b"old\n"
        assert list(tmp_path.iterdir()) == [path]
    append_whole(path, b"new\n")
    assert path.read_bytes() == b"old\nnew\n"


def test_what_does_not_reach_the_disk_is_not_there(tmp_path, monkeypatch):
    def fsync(descriptor):
        raise FULL

    path = tmp_path / "file"
    path.write_bytes(b"old\n")
    monkeypatch.setattr(os, "fsync", fsync)
    for act in (write_whole, append_whole):
        with pytest.raises(OSError, match="No space left") as found:
            act(path, b"new\n")
        assert full_disk(found.value)
    assert path.read_bytes() == b"old\n"


def test_a_line_that_another_process_wrote_behind_is_not_cut_off(tmp_path, monkeypatch):
    path = tmp_path / "file"
    append_whole(path, b"old\n")

    def fsync(descriptor):
        with path.open("ab") as other:
            other.write(b"theirs\n")
        raise FULL

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        append_whole(path, b"ours\n")
    assert path.read_bytes() == b"old\nours\ntheirs\n"


def test_only_a_line_without_an_end_is_cut(tmp_path):
    path = tmp_path / "file"
    cut_unfinished_line(path)
    assert not path.exists()
    for before, after in ((b"a\nb", b"a\n"), (b"a\nb\n", b"a\nb\n"), (b"a", b""), (b"", b"")):
        path.write_bytes(before)
        cut_unfinished_line(path)
        assert path.read_bytes() == after


def test_other_errors_are_no_full_disk():
    assert not full_disk(OSError(errno.EACCES, "no"))
    assert not full_disk(ValueError("no"))


def test_names_stay_inside(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    (tmp_path / "away").mkdir()
    (folder / "link").symlink_to(tmp_path / "away")
    (folder / "own").symlink_to(folder)
    assert inside(folder, "a/b") == folder / "a/b"
    assert inside(folder, "own/b") == folder / "own/b"
    for name in ("../away", "a/../../away", str(tmp_path / "away"), "link", "link/b"):
        with pytest.raises(OutsideError, match=r'must lie in .* without "\.\."'):
            inside(folder, name)
    assert list(links_outside(folder)) == [folder / "link"]
    assert list(links_outside(tmp_path / "none")) == []
    # The folder itself may be a link.
    (tmp_path / "other").symlink_to(folder)
    assert inside(tmp_path / "other", "a") == tmp_path / "other" / "a"


def test_what_a_killed_process_left_of_one_file_is_removed_and_nothing_else(tmp_path):
    kept = [".tables.md.7", ".manifest.json.bak", "manifest.json.7", "manifest.json"]
    for name in (*kept, ".manifest.json.7", ".manifest.json.123"):
        (tmp_path / name).touch()
    clear_partials(tmp_path / "manifest.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)

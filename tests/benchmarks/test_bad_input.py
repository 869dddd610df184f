"""The command line under bad input: one line says what is wrong, and what was finished stays."""

import errno
import json
import os
import subprocess
import sys

import pytest

from benchmarks.cli import main
from benchmarks.judgement import evidence
from common.files import LOCK
from common.results.records import Record, RecordWriter, read_records


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def refused(arguments, capsys):
    """What is printed; exit status 2, and nothing but one line."""
    capsys.readouterr()
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    return printed.err


def finished(line, out, seeds="2"):
    line()
    assert main(["line", "--seeds", seeds, "--out", str(out)]) == 0
    return (out / "records.jsonl").read_bytes()


def test_a_file_is_no_folder_for_results(line, tmp_path, capsys):
    line()
    (tmp_path / "file").write_text("mine")
    for out in ("file", "file/below"):
        printed = refused(["line", "--out", str(tmp_path / out)], capsys)
        assert "is none and cannot be made one" in printed
        assert "name another with --out" in printed
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["records.jsonl", "manifest.json", "slope.png", "tables.md"])
def test_links_do_not_lead_out_of_the_folder(line, tmp_path, out, capsys, name):
    line()
    out.mkdir()
    (tmp_path / "precious").write_text("mine")
    (out / name).symlink_to(tmp_path / "precious")
    printed = refused(["line", "--out", str(out)], capsys)
    assert f"{name} in it is a link to {tmp_path / 'precious'}; remove the link" in printed
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("command", ["demo", "all"])
def test_the_folder_of_an_experiment_is_in_that_of_all(line, tmp_path, out, capsys, command):
    line()
    out.mkdir()
    (tmp_path / "away").mkdir()
    (out / "line").symlink_to(tmp_path / "away")
    assert str(tmp_path / "away") in refused([command, "--out", str(out)], capsys)
    assert not list((tmp_path / "away").iterdir())


def test_a_folder_named_by_out_may_itself_be_a_link(line, tmp_path, out):
    (tmp_path / "large_disk").mkdir()
    out.symlink_to(tmp_path / "large_disk")
    finished(line, out)
    assert (tmp_path / "large_disk" / "records.jsonl").is_file()


def test_a_damaged_record_is_found_before_anything_is_computed(line, out, capsys):
    before = finished(line, out)
    made = line()
    (out / "records.jsonl").write_bytes(b"!" + before[1:])
    assert "records.jsonl:1 is not a record" in refused(["line", "--out", str(out)], capsys)
    assert made == []


def test_a_record_cut_short_is_left_out_and_cut_off(line, out):
    before = finished(line, out)
    (out / "records.jsonl").write_bytes(before[:-9])
    line()
    with pytest.warns(UserWarning, match=r"records\.jsonl:2 is cut off and left out"):
        assert main(["line", "--seeds", "1", "--out", str(out)]) == 0
    assert [r.seed for r in read_records(out / "records.jsonl")] == [0, 0]


def test_a_stage_that_lost_its_record_is_computed_again(line, out):
    before = finished(line, out)
    (out / "records.jsonl").write_bytes(before[: before.index(b"\n") + 1])
    made = line()
    assert main(["line", "--seeds", "2", "--out", str(out), "--resume"]) == 0
    assert made == [1]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"run": 1}'])
def test_a_damaged_manifest_is_named(line, out, capsys, content):
    before = finished(line, out)
    line()
    (out / "manifest.json").write_text(content)
    printed = refused(["line", "--seeds", "2", "--out", str(out), "--resume"], capsys)
    assert "manifest.json is damaged" in printed
    assert "remove it to begin anew there (records are kept)" in printed
    assert (out / "records.jsonl").read_bytes() == before


def fills_up_after(calls):
    """`os.fsync` of a disk with room for so many writes."""
    fsync, done = os.fsync, []

    def full(descriptor):
        done.append(descriptor)
        if len(done) > calls:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    return full


@pytest.mark.parametrize("calls", range(3, 16, 4))
def test_a_full_disk_keeps_what_is_finished_and_the_run_can_be_gone_on_with(
    line, out, capsys, monkeypatch, calls
):
    line()
    arguments = ["line", "--seeds", "3", "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fills_up_after(calls))
        assert main(arguments) == 1
    printed = capsys.readouterr().err
    kept = [r.seed for r in read_records(out / "records.jsonl")]
    assert kept == list(range(len(kept)))
    assert f"is full ([Errno 28] {os.strerror(errno.ENOSPC)}" in printed
    assert f"): make room; {len(kept)} finished records are kept" in printed
    assert printed.count("\n") == 1
    made = line()
    assert main([*arguments, "--resume"]) == 0
    assert set(range(3)) - set(made) <= set(kept)
    assert json.loads((out / "manifest.json").read_text())["status"] == "finished"
    assert not list(out.glob(".*"))


def test_ctrl_c_while_tables_are_made_is_an_interruption(line, out, capsys, monkeypatch):
    line()

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.harness.runner.made_by", interrupted)
        assert main(["line", "--seeds", "2", "--out", str(out)]) == 130
    assert "interrupted; 2 finished records are kept" in capsys.readouterr().err
    made = line()
    assert main(["line", "--seeds", "2", "--out", str(out), "--resume"]) == 0
    assert made == []


def test_a_folder_has_one_writer_at_a_time(line, out, capsys):
    before = finished(line, out)
    made = line()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == b"locked\n"
    for command in (["line", "--out", str(out)], ["all", "--out", str(out)]):
        printed = refused([*command, "--resume"], capsys)
        assert f"the process {holder.pid} is writing to {out}; wait for its end" in printed
    assert made == []
    holder.kill()  # it leaves its file behind, and the system lets go of it
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    assert (out / LOCK).exists()
    assert main(["line", "--seeds", "2", "--out", str(out), "--resume"]) == 0
    assert made == []
    assert (out / "records.jsonl").read_bytes().startswith(before)
    assert not (out / LOCK).exists()


HOLDER = """
import sys
from pathlib import Path
from common.files import locked

with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("number", "status", "message"),
    [
        (errno.EROFS, 2, "nothing can be (Read-only file system); name another folder with --out"),
        (errno.EACCES, 2, "nothing can be (Permission denied); name another folder with --out"),
        (errno.ENOSPC, 1, "/.lock'): make room; nothing was begun"),
    ],
)
def test_a_folder_that_takes_no_file_is_found_before_anything_is_computed(
    line, out, capsys, monkeypatch, number, status, message
):
    made = line()
    out.mkdir()
    opened = os.open

    def refusing(path, flags, *arguments, **options):
        if str(path).startswith(str(out)) and flags & os.O_CREAT:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, flags, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refusing)
        assert main(["line", "--out", str(out)]) == status
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert made == []


def test_resume_says_when_there_is_nothing_to_go_on_with(line, out, capsys):
    line()
    assert main(["line", "--seeds", "1", "--out", str(out), "--resume"]) == 0
    printed = capsys.readouterr().err
    assert printed == (
        f"python -m benchmarks: --resume finds no run to go on with in {out}; "
        "this one begins anew there.\n"
    )
    assert main(["line", "--seeds", "1", "--out", str(out), "--resume"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "stages",
    [[{}], [{"name": "seed 0"}], [{"name": 0, "first": "x", "records": 1}], 3, [[[]]]],
)
def test_a_manifest_edited_by_hand_is_named(line, out, capsys, stages):
    before = finished(line, out)
    line()
    manifest = json.loads((out / "manifest.json").read_text()) | {"stages": stages}
    (out / "manifest.json").write_text(json.dumps(manifest))
    printed = refused(["line", "--seeds", "2", "--out", str(out), "--resume"], capsys)
    assert "manifest.json is damaged" in printed
    assert (out / "records.jsonl").read_bytes() == before


@pytest.mark.parametrize("nested", ["[" * 100_000, '{"a":' * 100_000])
def test_a_record_without_bottom_is_no_record(line, out, capsys, nested):
    finished(line, out)
    line()
    with (out / "records.jsonl").open("a") as file:
        file.write(nested + "\n")
    assert "records.jsonl:3 is not a record" in refused(["line", "--out", str(out)], capsys)


@pytest.mark.parametrize(
    "origin",
    [
        {"benchmark": "line", "preset": "../../../escape"},
        {"benchmark": "../escape", "preset": "smoke"},
        {"benchmark": "line", "preset": "/escape"},
        {"benchmark": "line"},
        {},
    ],
)
def test_names_in_records_do_not_become_paths_unless_known(line, tmp_path, capsys, origin):
    line()
    record = Record(method="m", setting={}, seed=0, metrics={}, wall_time=0.0)
    RecordWriter(tmp_path / "run" / "records.jsonl", origin=origin).write(record)
    with pytest.raises(ValueError, match=r"no (experiment|preset) is called .*: did you mean"):
        evidence.take(tmp_path / "run", tmp_path / "deep" / "evidence")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert "did you mean" in refused(["report", "--take", str(tmp_path / "run")], capsys)

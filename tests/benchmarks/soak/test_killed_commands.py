"""Kills of the command line itself: at two places for sure, and what counts the kills of a soak."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from benchmarks.cli import main
from benchmarks.soak import killed_commands
from benchmarks.soak.killed_commands import (
    CommandFailedError,
    Ended,
    differences,
    until_it_ends,
    until_killed,
)
from common.progress import Silent
from common.results.records import Record, RecordWriter, last_run, read_records

BAR = SimpleNamespace(advance=lambda amount: None)
ENV = dict(os.environ)

STOPS_IN_ITS_FOURTH_WRITE = """
import pathlib, signal, sys
from benchmarks.cli import main
from benchmarks.harness import registry
from common import files
from tests.benchmarks.conftest import experiment

registry.MODULES, registry.NAMES = {"line": "line"}, ("line",)
registry.describe = lambda name: "A claim."
sys.modules["benchmarks.line"] = experiment([])
write, written, stopped = files._write, [], pathlib.Path(sys.argv[1])

def writing(descriptor, content):
    written.append(content)
    if len(written) == 4:
        write(descriptor, content[: len(content) // 2])
        stopped.touch()
        signal.pause()
    write(descriptor, content)

files._write = writing
main(sys.argv[2:])
"""


@pytest.mark.usefixtures("standard_promotion")
def test_what_sigkill_cuts_in_two_is_gone_on_with(line, tmp_path, capsys):
    """The first write it cuts is that of a record, the second, of the run that goes on, a manifest.

    While the process is alive, no other can go on with its folder.
    """
    line()
    arguments = ["line", "--seeds", "3", "--resume", "--out"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert main([*arguments, str(whole)]) == 0
    for event in ("a record", "a manifest"):
        stopped = tmp_path / event
        process = subprocess.Popen(
            [sys.executable, "-c", STOPS_IN_ITS_FOURTH_WRITE, str(stopped), *arguments, str(out)],
            stdout=subprocess.DEVNULL,
        )
        while not stopped.exists():
            assert process.poll() is None, "it ended before it got there"
            time.sleep(0.01)
        capsys.readouterr()
        assert main([*arguments, str(out)]) == 2
        assert f"the process {process.pid} is writing to {out}" in capsys.readouterr().err
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert [path.name for path in out.glob(".manifest*")] == (
            [] if event == "a record" else [f".manifest.json.{process.pid}"]
        )
        torn = not (out / "records.jsonl").read_bytes().endswith(b"\n")
        assert torn == (event == "a record")
    made = line()
    assert main([*arguments, str(out)]) == 0
    assert made == [1, 2]  # the record of seed 1 was there; that its stage was done was not
    assert differences(out, whole) == dict.fromkeys(killed_commands.DIFFERENCES, 0)
    assert sorted(path.name for path in out.iterdir()) == sorted(
        path.name for path in whole.iterdir()
    )


def test_a_program_is_killed_for_what_it_has_computed():
    python = (sys.executable, "-S", "-c")
    assert until_killed([*python, "while True: pass"], ENV, 0.05) is None
    taken = until_killed([*python, "sum(range(10**6))"], ENV, float("inf"))
    assert taken is not None
    assert 0 <= taken < 60
    with pytest.raises(CommandFailedError, match="no such method"):
        until_killed([*python, "raise SystemExit('no such method')"], ENV, float("inf"))


def record(seed, figure=1.0):
    return Record(
        method="m", setting={"k": 1}, seed=seed, metrics={"x": figure}, wall_time=0.5 + seed
    )


def folder(out, seeds, *, done=None, torn=False, status="running", figure=1.0):
    """What a run leaves: records of seeds, those of `done` finished stages."""
    out.mkdir(exist_ok=True)
    run = f"run {time.monotonic_ns()}"
    writer = RecordWriter(out / "records.jsonl", origin={"run": run})
    for seed in seeds:
        writer.write(record(seed, figure))
    if torn:
        with (out / "records.jsonl").open("a") as file:
            file.write('{"cut')
    done = seeds if done is None else done
    stages = [{"name": str(seed), "first": i, "records": 1} for i, seed in enumerate(done)]
    manifest = {"run": run, "stages": stages, "status": status, "files": ["tables.md"]}
    (out / "manifest.json").write_text(json.dumps(manifest))
    (out / "tables.md").write_text("table")


def killed(monkeypatch, out, *states):
    """The ends of commands that leave these states, one after another; the last ends by itself."""
    left = iter(states)

    def leaves(command, env, seconds):
        state = next(left)
        if state is not None:
            folder(out, **state)
        return 1.0 if state is states[-1] else None

    monkeypatch.setattr(killed_commands, "until_killed", leaves)
    moments = iter([0.1, 0.2, 0.3, 0.4, 0.5])
    return until_it_ends([], {}, out, lambda: next(moments), BAR)


def test_kills_and_what_they_leave_are_counted(monkeypatch, tmp_path):
    out = tmp_path / "out"
    ended = killed(
        monkeypatch, out, None, {"seeds": [0], "torn": True}, {"seeds": [0, 1], "done": [0]},
        {"seeds": [0, 1], "status": "finished"},
    )  # fmt: skip
    assert ended == Ended([0.1, 0.2, 0.3], [0, 1, 1], lost=0, torn=1, strays=0)


def test_a_stage_that_is_lost_and_a_file_that_is_left_are_seen(monkeypatch, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".manifest.json.77").touch()
    ended = killed(monkeypatch, out, {"seeds": [0, 1]}, {"seeds": [0]}, {"seeds": [0, 1]})
    assert (ended.lost, ended.strays) == (1, 1)


def test_differences_are_named(tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    folder(whole, [0, 1, 2])
    folder(out, [0, 1, 2])
    assert not any(differences(out, whole).values())
    folder(out, [0, 0, 2, 3], figure=2.0)
    (out / "tables.md").unlink()
    assert differences(out, whole) == {
        "records_lost": 1, "records_doubled": 2, "records_changed": 2, "files_changed": 1,
    }  # fmt: skip
    assert len(last_run(read_records(out / "records.jsonl"))) == 4


def soaked(monkeypatch, tmp_path, differing):
    """A soak of commands that are killed twice a folder."""

    def ends(command, env, out, moment, bar):
        assert command[2:4] == ["benchmarks", "gsgd_architectures"]
        assert 0.0 <= moment() <= 8.0
        folder(out, [0])
        return Ended([1.5, 2.5], [0, 1], lost=0, torn=1, strays=0)

    def whole(command, env, seconds):
        folder(killed_commands.Path(command[-1]), [0], figure=differing)
        return 8.0

    monkeypatch.setattr(killed_commands, "until_it_ends", ends)
    monkeypatch.setattr(killed_commands, "until_killed", whole)
    context = killed_commands.Context(seeds=(0, 1), data_dir=None, progress=Silent())
    return list(killed_commands.run(killed_commands.Settings(kills=3), context))


def test_a_soak_goes_on_until_there_were_as_many_kills_as_asked_for(monkeypatch, tmp_path):
    records = soaked(monkeypatch, tmp_path, 1.0)
    assert [(r.seed, r.metrics["kills"], r.metrics["runs"]) for r in records] == [
        (0, 4.0, 2.0), (1, 4.0, 2.0)
    ]  # fmt: skip
    assert records[0].curve == {"seconds": [1.5, 2.5] * 2, "stages": [0, 1] * 2}
    table = killed_commands.tables(records)
    assert table.startswith("8 kills of 4 runs of gsgd_architectures: nothing was lost, doubled,")
    assert [path.name for path in killed_commands.plots(records, tmp_path)] == ["kills.png"]


def test_a_soak_says_what_it_found(monkeypatch, tmp_path):
    table = killed_commands.tables(soaked(monkeypatch, tmp_path, 3.0))
    assert table.startswith("8 kills of 4 runs of gsgd_architectures: 4 faults.")

"""The command: a plan without a device, and at toy size the whole way to the records."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import accelerate
from benchmarks.accelerator import plan
from benchmarks.accelerator.pieces import Piece
from benchmarks.cli import main
from benchmarks.harness import everything, registry
from benchmarks.harness.runner import DiskFullError, RunInterruptedError
from common.results.records import read_records

ROOT = Path(__file__).resolve().parents[3]

LINE = Piece("line", 1.0, 0.1, "a line is short", {}, {}, None)

CHILD = """
import sys
sys.path.insert(0, {root!r})
from benchmarks import accelerate
from benchmarks.accelerator.pieces import Piece
from benchmarks.cli import main
from benchmarks.harness import registry
from tests.benchmarks.conftest import experiment
registry.MODULES, registry.NAMES = {{"line": "line"}}, ("line",)
sys.modules["benchmarks.line"] = experiment([])
accelerate.PIECES = (Piece("line", 1.0, 0.1, "", {{}}, {{}}, None),)
sys.exit(main(["accelerator", *sys.argv[1:]]))
"""


@pytest.fixture
def toy(line, monkeypatch):
    """The little experiment as the only piece; gives the seeds computed in this process."""
    made = line()
    monkeypatch.setattr(accelerate, "PIECES", (LINE,))
    monkeypatch.setattr(plan, "PIECES", (LINE,))
    return made


def test_a_dry_run_prints_the_plan_and_runs_nothing(toy, tmp_path, capsys):
    options = ["--dry-run", "--preset", "smoke", "--out", str(tmp_path / "out")]
    assert main(["accelerator", *options, "--minutes", "10"]) == 0
    assert toy == []
    assert not (tmp_path / "out").exists()
    assert "- line: 10%, as a line is short." in capsys.readouterr().out


def test_a_dry_run_of_one_piece_prints_its_plan_and_runs_nothing(
    toy, tmp_path, capsys, monkeypatch
):
    other = LINE._replace(name="other", why="it is another")
    monkeypatch.setattr(accelerate, "PIECES", (LINE, other))
    options = ["line", "--dry-run", "--preset", "smoke", "--out", str(tmp_path / "out")]
    assert main(["accelerator", *options, "--time-budget", "2.5"]) == 0
    assert toy == []
    assert not (tmp_path / "out").exists()
    said = capsys.readouterr().out
    assert "- line: 10%, as a line is short." in said
    assert "other" not in said
    (row,) = (each for each in said.splitlines() if each.startswith("| line"))
    assert "2.5" in row


def test_at_toy_size_it_goes_all_the_way_to_the_records(toy, tmp_path, monkeypatch, capsys):
    child = (sys.executable, "-c", CHILD.format(root=str(ROOT)))
    monkeypatch.setattr(accelerate, "CHILD", child)
    monkeypatch.setattr(accelerate, "device", lambda: ("cpu", "cpu"))
    out = tmp_path / "out"
    options = ["--preset", "smoke", "--seeds", "2", "--minutes", "5", "--out", str(out)]
    assert main(["accelerator", *options]) == 0, (out / "line" / "log.txt").read_text()
    records = read_records(out / "line" / "records.jsonl")
    assert [record.seed for record in records] == [0, 1]
    command = records[0].origin["command"]
    assert command == "python -m benchmarks accelerator line --preset smoke --seeds 2"
    assert "line finished" in capsys.readouterr().out


def test_one_piece_runs_here_and_out_of_time_it_can_be_gone_on_with(toy, tmp_path, capsys):
    options = ["line", "--preset", "smoke", "--seeds", "3", "--out", str(tmp_path)]
    assert main(["accelerator", *options, "--time-budget", "0"]) == everything.STOPPED
    assert toy == [0]  # the first stage is always begun
    assert "minutes are spent" in capsys.readouterr().err
    assert main(["accelerator", *options, "--resume"]) == 0
    assert toy == [0, 1, 2]


@pytest.mark.parametrize(
    ("ends", "status"),
    [([0, 0], 0), ([0, 3], 3), ([130], 3), ([0, 7], 1)],
)
def test_the_status_is_that_of_the_worst(ends, status, toy, tmp_path, monkeypatch):
    asked = {}

    def pretend(jobs, **settings):
        asked.update(settings, jobs=jobs)
        return [everything.Outcome(jobs[0], end, 0.0) for end in ends]

    monkeypatch.setattr(everything, "run_jobs", pretend)
    monkeypatch.setattr(accelerate, "device", lambda: ("gpu", "NVIDIA H100"))
    options = ["--preset", "smoke", "--minutes", "10", "--resume", "--out", str(tmp_path / "o")]
    assert main(["accelerator", *options, "--data-dir", "/data"]) == status
    (job,) = asked["jobs"]
    assert {"--resume", "--data-dir", "/data"} <= {*job.arguments}
    assert (asked["minutes"], job.part) == (9.75, 1.0)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--minutes", "0.1"], "--minutes must be above 0.25, got 0.1."),
        (["--seeds", "0"], "--seeds and --epochs must be at least 1."),
        (["--dry-run", "--card", "H300"], "no card is called 'H300'"),
        (["lime"], "no piece is called 'lime'"),
        (["--preset", "huge"], "no preset is called 'huge'"),
        (["line", "--preset", "huge"], "no preset is called 'huge'"),
        (["--epochs", "2"], "--epochs is of one piece, and none is named"),
        (
            ["--dry-run", "--narrow", "--time-budget", "2"],
            "--narrow and --time-budget are of one piece, and none is named",
        ),
        (["line", "--preset", "smoke", "--epochs", "5"], "line is not cut to epochs"),
        (["line", "--preset", "smoke", "--epochs", "5", "--dry-run"], "line is not cut to epochs"),
        (["line", "--preset", "smoke", "--narrow"], "line has nothing narrower at preset smoke"),
    ],
)
def test_bad_input_is_one_line(options, rule, toy, capsys, monkeypatch):
    monkeypatch.setattr(accelerate, "device", lambda: ("gpu", "NVIDIA H100"))
    assert main(["accelerator", *options]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert rule in said


@pytest.mark.parametrize(
    ("error", "status"),
    [(DiskFullError("no room."), 1), (RunInterruptedError("stopped."), everything.INTERRUPTED)],
)
def test_what_stops_a_piece_has_the_status_that_it_has_elsewhere(
    error, status, toy, tmp_path, monkeypatch, capsys
):
    def stopped(*args, **kwargs):
        raise error

    monkeypatch.setattr(accelerate, "run_experiment", stopped)
    assert main(["accelerator", "line", "--preset", "smoke", "--out", str(tmp_path)]) == status
    assert capsys.readouterr().err == f"python -m benchmarks: {error}\n"


@pytest.mark.parametrize("piece", [[], ["line"]])
def test_full_presets_need_an_accelerator(piece, toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(accelerate, "device", lambda: ("cpu", "cpu"))
    presets = registry.load("line").PRESETS
    monkeypatch.setitem(presets, "full", presets["smoke"])
    assert main(["accelerator", *piece, "--out", str(tmp_path / "out")]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "full presets are for an accelerator" in said
    assert toy == []


def test_what_times_programs_has_one_seed_when_run_alone_too(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "TIMED", ("line",))
    assert main(["accelerator", "line", "--preset", "smoke", "--out", str(tmp_path)]) == 0
    assert toy == [0]


def test_the_device_is_asked_in_a_process_of_its_own(monkeypatch):
    def answered(text):
        done = subprocess.CompletedProcess([], 0, stdout=text)
        monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: done)
        return accelerate.device()

    assert answered("gpu|NVIDIA H100 80GB HBM3\n") == ("gpu", "NVIDIA H100 80GB HBM3")
    assert answered("") == ("none", "")

"""The command: a plan without a device, and at toy size the whole way to the records."""

import dataclasses
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest

from benchmarks import accelerate
from benchmarks.accelerator.pieces import PIECES, Piece
from benchmarks.cli import main
from benchmarks.harness import everything, registry
from benchmarks.harness.runner import DiskFullError, RunInterruptedError
from common.results.records import last_run, read_records

ROOT = Path(__file__).resolve().parents[3]


def no_work(settings, seeds):
    del settings, seeds
    return ()


LINE = Piece("line", 1.0, 0.1, "a line is short", {}, {}, no_work)

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
accelerate.PIECES = (Piece("line", 1.0, 0.1, "", {{}}, {{}}, lambda *_: ()),)
sys.exit(main(["accelerator", *sys.argv[1:]]))
"""


@pytest.fixture
def toy(line, monkeypatch):
    """The little experiment as the only piece; gives the seeds computed in this process."""
    made = line()
    monkeypatch.setattr(accelerate, "PIECES", (LINE,))
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
    assert job.part == 1.0
    # From the command's beginning; what an interrupted piece needs for its end is kept back.
    assert 9.0 < asked["minutes"] < 10 - accelerate.SPARE


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--minutes", "0.1"], "--minutes must be above 0.5, got 0.1."),
        (["--seeds", "0"], "--seeds and --epochs must be at least 1."),
        (["--dry-run", "--card", "H300"], "no card is called 'H300'"),
        (["--card", "H100"], "--card is of --dry-run"),
        (["line", "--card", "nonsense"], "--card is of --dry-run"),
        (["line", "--minutes", "2", "--epochs", "2"], "--epochs is what --minutes chooses"),
        (
            ["line", "--minutes", "2", "--narrow", "--time-budget", "1"],
            "--narrow and --time-budget are what --minutes chooses",
        ),
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


def test_time_is_kept_back_for_the_end_of_an_interrupted_piece():
    assert 60 * accelerate.SPARE >= everything._GRACE + 10


def test_minutes_count_from_the_beginning_of_the_command(toy, tmp_path, monkeypatch):
    """Asking for the device and planning take 90 seconds here, by a clock of the test's own."""
    asked, now = {}, [1000.0]

    def slow():
        now[0] += 90
        return "gpu", "NVIDIA H100"

    def pretend(jobs, **settings):
        asked.update(settings)
        return [everything.Outcome(job, 0, 0.0) for job in jobs]

    monkeypatch.setattr(accelerate, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(accelerate, "device", slow)
    monkeypatch.setattr(everything, "run_jobs", pretend)
    options = ["--preset", "smoke", "--minutes", "4", "--out", str(tmp_path / "o")]
    assert main(["accelerator", *options]) == 0
    assert asked["minutes"] == pytest.approx(4 - accelerate.SPARE - 1.5)


def test_a_named_piece_is_fitted_into_its_minutes_and_limited_by_them(
    toy, tmp_path, monkeypatch, capsys
):
    asked = {}

    def pretend(jobs, **settings):
        asked.update(settings, jobs=jobs)
        return [everything.Outcome(job, 0, 1.0) for job in jobs]

    other = LINE._replace(name="other")
    monkeypatch.setattr(accelerate, "PIECES", (other, LINE))
    monkeypatch.setattr(everything, "run_jobs", pretend)
    monkeypatch.setattr(accelerate, "device", lambda: ("gpu", "a card of tomorrow"))
    options = ["line", "--preset", "smoke", "--minutes", "3", "--out", str(tmp_path / "o")]
    assert main(["accelerator", *options]) == 0
    (job,) = asked["jobs"]
    assert (job.name, job.part) == ("line", 1.0)
    assert 2.0 < asked["minutes"] <= 2.5
    assert "The peak of a card of tomorrow is not known" in capsys.readouterr().out


def test_a_dry_run_plans_all_pieces_at_full_for_the_minutes(capsys, tmp_path, standard_promotion):
    options = ["--dry-run", "--minutes", "10", "--card", "H100", "--out", str(tmp_path / "out")]
    assert main(["accelerator", *options]) == 0
    said = capsys.readouterr().out
    rows = {
        cells[0]: cells[1:]
        for line in said.splitlines()
        if line.startswith("|")
        for cells in [[cell.strip() for cell in line.split("|")[1:-1]]]
    }
    for piece in PIECES:
        minutes, expected, _, _, _, step, whole, memory, _ = rows[piece.name]
        # What fits is planned, with what a piece without epochs may take beyond its share.
        assert 0 < float(expected) < accelerate.PATIENCE * float(minutes) + 0.05, piece.name
        assert all(float(each) > 0 for each in step.split(", "))
        assert float(whole) > 0
        assert 0 < float(memory) < 80
    assert "The share of the peak of H100 that each should reach" in said


SMALL = {
    "data": "digits8x8", "depth": 8, "width": 0.125, "train_size": 160, "test_size": 50,
    "batch_size": 4, "epochs": 4, "evaluations": 4,
}  # fmt: skip


def test_cut_to_an_epoch_and_narrow_a_piece_goes_all_the_way_and_is_gone_on_with(
    tmp_path, monkeypatch, capsys, standard_promotion
):
    """On the path of an accelerator: runs side by side, in one scanned program."""
    name = "dcasgd_cifar10"
    presets = dict(registry.load(name).PRESETS)
    presets["full"] = dataclasses.replace(presets["full"], **SMALL)
    monkeypatch.setattr(registry.load(name), "PRESETS", presets)
    piece = next(piece for piece in PIECES if piece.name == name)
    narrow = {**piece.narrow, "methods": ("ASGD",), "workers": (4,), "learning_rates": (0.1, 0.05)}
    small = piece._replace(changes={**piece.changes, "bfloat16": False}, narrow=narrow)
    monkeypatch.setattr(accelerate, "PIECES", (small,))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    options = [name, "--seeds", "2", "--out", str(tmp_path)]
    assert main(["accelerator", *options, "--epochs", "1", "--narrow"]) == 0
    records = read_records(tmp_path / "records.jsonl")
    assert {(r.method, r.setting["learning_rate"], r.seed) for r in records} == {
        ("ASGD", rate, seed) for rate in (0.1, 0.05) for seed in (0, 1)
    }
    for record in records:
        assert record.curve["gradients"] == [36]  # whole rounds of waiting for 4 and for 3
        assert 0 <= record.metrics["test_accuracy"] <= 1
    assert records[0].origin["command"].endswith("--preset full --seeds 2 --narrow --epochs 1")
    # Gone on with, it has its own seeds, epochs and breadth, whatever is asked for now.
    assert main(["accelerator", name, "--out", str(tmp_path), "--resume"]) == 0
    again = last_run(read_records(tmp_path / "records.jsonl"))
    assert [r.metrics for r in again] == [r.metrics for r in records]


def test_jobs_that_are_gone_on_with_are_asked_for_as_they_were_begun(
    toy, tmp_path, monkeypatch, capsys
):
    asked = []

    def pretend(jobs, **settings):
        del settings
        asked.extend(jobs)
        return [everything.Outcome(job, 3, 1.0) for job in jobs]

    monkeypatch.setattr(everything, "run_jobs", pretend)
    monkeypatch.setattr(accelerate, "device", lambda: ("gpu", "NVIDIA H100"))
    options = ["--preset", "smoke", "--out", str(tmp_path / "o"), "--minutes", "5"]
    whole = ["line", "--preset", "smoke", "--seeds", "4", "--out", str(tmp_path / "o" / "line")]
    assert main(["accelerator", *whole]) == 0
    assert main(["accelerator", *options, "--resume"]) == 3
    (job,) = asked
    assert job.arguments[:4] == ("--preset", "smoke", "--seeds", "4")
    said = capsys.readouterr().out
    assert f"Unfinished, with records: {tmp_path / 'o' / 'line'}." in said

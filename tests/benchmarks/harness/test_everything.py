"""`all`: every experiment in a process of its own, the timed ones alone."""

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.harness import everything, registry
from benchmarks.harness.everything import FAILED, STOPPED, Job, Outcome, run_jobs
from benchmarks.harness.runner import DiskFullError

CHILD = """
import json, os, sys, time
name, out = sys.argv[1], sys.argv[sys.argv.index("--out") + 1]
begun = time.monotonic()
pair = {"left": "right", "right": "left"}
if name in pair:  # they end only when both have begun
    open(os.path.join(out, "begun"), "w").close()
    while not os.path.exists(os.path.join(os.path.dirname(out), pair[name], "begun")):
        time.sleep(0.01)
cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
told = {"arguments": sys.argv[2:], "begun": begun, "ended": time.monotonic(), "cores": cores}
open(os.path.join(out, "told.json"), "w").write(json.dumps(told))
print("said", name)
sys.exit({"fails": 7}.get(name, 0))
"""
PROGRAM = (sys.executable, "-c", CHILD)
ROOT = Path(__file__).resolve().parents[3]


def jobs(folder: Path, *names: str, alone: tuple[str, ...] = ()):
    return [Job(name, name in alone, ("--seeds", "3"), folder / name) for name in names]


def told(folder: Path, name: str):
    return json.loads((folder / name / "told.json").read_text())


def test_timed_jobs_run_alone_and_the_others_side_by_side_on_their_own_cores(tmp_path):
    lines = []
    todo = jobs(tmp_path, "left", "timed", "right", "fails", alone=("timed",))
    outcomes = run_jobs(todo, at_once=2, report=lines.append, program=PROGRAM)
    assert {o.job.name: o.status for o in outcomes} == {
        "timed": 0, "left": 0, "right": 0, "fails": 7
    }  # fmt: skip
    timed, a, b = (told(tmp_path, name) for name in ("timed", "left", "right"))
    assert timed["ended"] <= min(a["begun"], b["begun"])
    assert max(a["begun"], b["begun"]) < min(a["ended"], b["ended"])
    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    assert timed["cores"] == mine
    if len(mine) > 1:
        assert not set(a["cores"]) & set(b["cores"])
    assert a["arguments"] == ["--seeds", "3", "--out", str(tmp_path / "left")]
    assert (tmp_path / "left" / "log.txt").read_text() == "said left\n"
    assert any(line.startswith("fails FAILED, see ") for line in lines)


def test_a_job_that_cannot_be_started_has_failed_and_the_others_run(tmp_path):
    (tmp_path / "a").write_text("")  # where its folder should be
    (tmp_path / "b" / "log.txt").mkdir(parents=True)
    lines, todo = [], jobs(tmp_path, "a", "b", "c")
    outcomes = run_jobs(todo, report=lines.append, program=PROGRAM)
    assert [(o.job.name, o.status) for o in outcomes] == [("a", FAILED), ("b", FAILED), ("c", 0)]
    assert any(
        line.startswith("a FAILED, it could not be started (") and str(tmp_path / "a") in line
        for line in lines
    )
    missing = (str(tmp_path / "no_such_program"),)
    (outcome,) = run_jobs(jobs(tmp_path, "c"), report=lines.append, program=missing)
    assert outcome.status == FAILED


def test_on_a_full_disk_nothing_more_is_begun_and_the_command_says_so(tmp_path, monkeypatch):
    opened = Path.open

    def full(path, *arguments, **options):
        if path == tmp_path / "b" / "log.txt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    todo = jobs(tmp_path, "a", "b", "c")
    with pytest.raises(DiskFullError, match=r"b is full .*make room; what is finished is kept"):
        run_jobs(todo, report=lambda line: None, program=PROGRAM)
    assert (tmp_path / "a" / "told.json").exists()
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("error", [BrokenPipeError, SystemExit])
def test_what_reporting_raises_reaches_the_caller_and_nothing_more_is_begun(error, tmp_path):
    def gone(line):
        raise error

    for todo in (jobs(tmp_path, "a"), jobs(tmp_path, "a", alone=("a",))):
        with pytest.raises(error):
            run_jobs(todo, report=gone, program=PROGRAM)
    assert not (tmp_path / "a" / "told.json").exists()


def test_a_thread_that_dies_is_not_taken_for_one_that_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(everything._Queue, "_work", lambda queue, waiting, share: None)
    with pytest.raises(RuntimeError, match="of 1 experiments 0 came to an end"):
        run_jobs(jobs(tmp_path, "a"), report=lambda line: None, program=PROGRAM)


def test_a_log_is_appended_to_as_records_are(tmp_path):
    for _ in range(2):
        run_jobs(jobs(tmp_path, "a"), report=lambda line: None, program=PROGRAM)
    assert (tmp_path / "a" / "log.txt").read_text() == "said a\n" * 2


def test_out_of_time_nothing_more_is_begun_and_what_runs_is_told_what_is_left(
    tmp_path, monkeypatch
):
    todo, seconds = jobs(tmp_path, "a", "b"), itertools.count()  # a clock that no machine slows
    monkeypatch.setattr(everything, "time", types.SimpleNamespace(monotonic=seconds.__next__))
    outcomes = run_jobs(todo, minutes=0.03, report=lambda line: None, program=PROGRAM)
    assert [(o.job.name, o.status) for o in outcomes] == [("a", 0), ("b", STOPPED)]
    arguments = told(tmp_path, "a")["arguments"]
    assert float(arguments[arguments.index("--time-budget") + 1]) <= 0.02
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(("minutes", "part"), [(0.004, 1.0), (1.0, 0.004)])
def test_a_remainder_that_would_be_told_as_nothing_begins_nothing(
    minutes, part, tmp_path, monkeypatch
):
    monkeypatch.setattr(everything, "time", types.SimpleNamespace(monotonic=lambda: 0.0))
    todo = [job._replace(part=part) for job in jobs(tmp_path, "a")]
    (outcome,) = run_jobs(todo, minutes=minutes, report=lambda line: None, program=PROGRAM)
    assert outcome.status == STOPPED
    assert not (tmp_path / "a").exists()


@pytest.fixture
def run_all(monkeypatch, tmp_path):
    """Calls the command line with `all`, and gives its status and what it would have run."""

    def call(*options, status=0):
        asked = {}

        def pretend(jobs, **settings):
            asked.update(settings, jobs=jobs)
            return [Outcome(job, status, 0.0) for job in jobs]

        monkeypatch.setattr(everything, "run_jobs", pretend)
        return main(["all", "--out", str(tmp_path), *options]), asked

    return call


def test_all_is_every_experiment_and_times_from_one_seed(run_all, tmp_path, capsys):
    status, asked = run_all("--preset", "cpu", "--seeds", "5", "--jobs", "2", "--resume")
    assert status == 0
    assert asked["at_once"] == 2
    assert [job.name for job in asked["jobs"]] == list(registry.NAMES)
    for job in asked["jobs"]:
        seeds = "1" if job.name in registry.ONE_SEED else "5"
        assert job.alone == (job.name in registry.TIMED)
        assert job.arguments == ("--preset", "cpu", "--seeds", seeds, "--resume")
        assert job.out == tmp_path.resolve() / job.name
    assert f"report --take {tmp_path}/*" in capsys.readouterr().out


def test_an_experiment_that_needs_more_seeds_has_them(run_all):
    def seeds(preset):
        _, asked = run_all("--preset", preset, "--seeds", "2")
        jobs = asked["jobs"]
        return {job.name: job.arguments[job.arguments.index("--seeds") + 1] for job in jobs}

    # Where it is to decide; to show that it runs, what was asked for is enough.
    assert (seeds("day")["lacim_identifiability"], seeds("day")["gsgd_delay"]) == ("5", "2")
    assert seeds("cpu")["lacim_identifiability"] == "2"
    assert seeds("day")["gsgd_stability"] == seeds("cpu")["gsgd_stability"] == "1"


def test_its_status_tells_how_all_went(run_all):
    assert run_all(status=7)[0] == 1
    assert run_all(status=STOPPED)[0] == 3
    assert run_all("--jobs", "0")[0] == 2
    assert run_all("--time-budget", "0")[0] == 2
    assert run_all("--preset", "smok")[0] == 2


IN_THE_BACKGROUND = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")
"""Before a command: it inherits that Ctrl-C is ignored, as in a script that does not wait."""


@pytest.mark.parametrize(
    ("asked", "before"),
    [(signal.SIGINT, ()), (signal.SIGTERM, ()), (signal.SIGINT, IN_THE_BACKGROUND)],
)
def test_ctrl_c_and_a_machine_that_is_taken_away_end_all_experiments(asked, before, tmp_path):
    command = [*before, sys.executable, "-m", "benchmarks", "all", "--out", str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == f"{registry.TIMED[0]} begins\n"
        log = tmp_path / registry.TIMED[0] / "log.txt"
        while not log.exists():
            time.sleep(0.01)
        program.send_signal(asked)
        try:
            _, said = program.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            program.kill()  # else the test ends when all experiments have
            raise
    assert program.returncode == 130
    assert "interrupted; what is finished is kept" in said
    assert [path.name for path in tmp_path.iterdir()] == [registry.TIMED[0]]


@pytest.mark.parametrize("first_begun", [True, False])
def test_ctrl_c_while_work_is_being_started_begins_nothing_more(first_begun, tmp_path, monkeypatch):
    begun = []

    class Interrupted(threading.Thread):
        """Raises where the main thread waits until the new one runs."""

        def start(self):
            if first_begun:
                begun.append(self)
                super().start()
                while not (tmp_path / "left" / "begun").exists():
                    time.sleep(0.01)
            raise KeyboardInterrupt

    monkeypatch.setattr(everything, "threading", types.SimpleNamespace(
        Thread=Interrupted, Lock=threading.Lock, Event=threading.Event
    ))  # fmt: skip
    todo = jobs(tmp_path, "left", "right", "fails", alone=("left", "right", "fails"))
    with pytest.raises(KeyboardInterrupt):
        run_jobs(todo, report=lambda line: None, program=PROGRAM)
    # "left" would wait for "right" for ever: it was told.
    assert not any(worker.is_alive() for worker in begun)
    assert [path.name for path in tmp_path.iterdir()] == ["left"] * first_begun


def test_one_experiment_is_one_process(capsys):
    assert main(["gsgd_mlp", "--jobs", "2"]) == 2
    assert '--jobs is of "all"' in capsys.readouterr().err


SLOW = """
import signal, sys, time
deaf = sys.argv[1] == "deaf"
signal.signal(signal.SIGINT, signal.SIG_IGN if deaf else lambda *told: sys.exit(130))
print("begun", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("name", "status"), [("listens", everything.INTERRUPTED), ("deaf", -signal.SIGKILL)]
)
def test_what_outlasts_patience_is_interrupted_and_what_is_deaf_killed(name, status, monkeypatch):
    monkeypatch.setattr(everything, "_GRACE", 0.1 if name == "deaf" else 30.0)
    process = subprocess.Popen([sys.executable, "-c", SLOW, name], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        assert everything._ended(process, 0.01) == status


def test_ctrl_c_kills_what_is_deaf_to_it_when_its_grace_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(everything, "_GRACE", 0.1)
    log = tmp_path / "deaf" / "log.txt"

    class Interrupted(threading.Thread):
        """Raises where the main thread waits, when the process is deaf."""

        def start(self):
            super().start()
            while not (log.exists() and log.read_text()):
                time.sleep(0.01)
            raise KeyboardInterrupt

    monkeypatch.setattr(everything, "threading", types.SimpleNamespace(
        Thread=Interrupted, Lock=threading.Lock, Event=threading.Event
    ))  # fmt: skip
    lines, todo = [], jobs(tmp_path, "deaf", alone=("deaf",))
    with pytest.raises(KeyboardInterrupt):
        run_jobs(todo, report=lines.append, program=(sys.executable, "-c", SLOW))
    assert lines[-1].startswith("deaf FAILED")  # its thread has waited for its end


@pytest.mark.parametrize(
    ("patience", "part", "seconds"),
    [(None, 1.0, float("inf")), (1.5, 0.5, 90.0), (9.0, 0.5, 120.0)],
)
def test_a_job_may_take_its_part_of_what_is_left_and_patience_beyond_it(
    patience, part, seconds, tmp_path, monkeypatch
):
    monkeypatch.setattr(everything, "time", types.SimpleNamespace(monotonic=lambda: 0.0))
    waited = []

    def ended(process, seconds):
        waited.append(seconds)
        return process.wait()

    monkeypatch.setattr(everything, "_ended", ended)
    todo = [job._replace(part=part) for job in jobs(tmp_path, "a")]
    run_jobs(todo, minutes=2.0, patience=patience, report=lambda line: None, program=PROGRAM)
    assert waited == [seconds]
    arguments = told(tmp_path, "a")["arguments"]
    assert float(arguments[arguments.index("--time-budget") + 1]) == 2.0 * part

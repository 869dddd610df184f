"""Kills and resumes: the machinery on a program without jax, and each method's own run once."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks.soak import preemption
from benchmarks.soak.preempted_run import RUNS
from benchmarks.soak.preemption import differing_bits, largest_difference, until_it_ends
from common.progress import Silent
from common.results.records import Record
from common.seeds import streams
from common.training.checkpoints import Checkpoints

BAR = SimpleNamespace(advance=lambda amount: None)


def moments(*events: Path):
    """In place of a generator: kills as soon as each of these files is there, and then no more.

    The programs below stop of their own accord where they have left the file, so that they are
    killed at that very place, however busy the machine is.
    """
    left = iter(events)

    def uniform(low, high):
        event = next(left, None)
        if event is None:
            return 600.0
        while not event.exists():
            time.sleep(0.01)
        return 0.0

    return SimpleNamespace(uniform=uniform)


COUNTS = """
import sys, pathlib, signal, numpy
folder = pathlib.Path(sys.argv[1])
done = max((int(e.name) for e in (folder / "checkpoints").iterdir() if e.name.isdigit()), default=0)
print("ready", flush=True)
for step in range(done + 1, 9):
    partial = folder / "checkpoints" / f"{step}.partial"
    begun_before = partial.exists()
    partial.mkdir(exist_ok=True)
    if step in (3, 6) and not begun_before:
        signal.pause()
    partial.rename(folder / "checkpoints" / str(step))
numpy.savez(folder / "final.npz", numpy.arange(3.0), numpy.int32(step))
"""


def test_a_program_is_killed_until_it_gets_through(tmp_path):
    command = (sys.executable, "-c", COUNTS)
    partial = [tmp_path / "run" / "checkpoints" / f"{step}.partial" for step in (3, 6)]
    ended = until_it_ends(command, tmp_path / "run", moments(*partial), 1.0, BAR)
    assert ended.steps == [2, 5]
    assert ended.torn == 2
    assert [leaf.tolist() for leaf in ended.leaves] == [[0.0, 1.0, 2.0], 8]


def test_a_program_that_fails_by_itself_is_not_taken_for_a_killed_one(tmp_path):
    command = (sys.executable, "-c", "print('ready'); raise SystemExit('no such method')")
    with pytest.raises(RuntimeError, match="no such method"):
        until_it_ends(command, tmp_path / "run", moments(), 1.0, BAR)


def test_one_bit_is_seen():
    wanted = [np.float32([1.0, -0.0]), np.int32(3)]
    found = [np.float32([1.0, 0.0]), np.int32(3)]
    assert differing_bits(wanted, wanted) == 0
    assert differing_bits(found, wanted) == 1
    assert largest_difference(found, wanted) == 0.0
    assert largest_difference([np.float32([1.5, -0.0]), np.int32(3)], wanted) == 0.5


STOPS_BEFORE_ITS_THIRD_SEAL = """
import pathlib, signal, sys
from benchmarks.soak import preempted_run
from common.training import checkpoints

seal, sealed, stopped = checkpoints._seal, [], pathlib.Path(sys.argv[-1]) / "stopped"

def sealing(folder):
    sealed.append(folder)
    if len(sealed) == 3 and not stopped.exists():
        stopped.touch()
        signal.pause()
    seal(folder)

checkpoints._seal = sealing
preempted_run.main(*sys.argv[1:])
"""


@pytest.mark.parametrize("method", RUNS)
@pytest.mark.usefixtures("standard_promotion")
def test_sigkill_changes_no_bit_of_what_a_method_ends_with(method, tmp_path):
    with Checkpoints(tmp_path / "whole") as checkpoints:
        wanted = jax.tree.leaves(RUNS[method](streams(0), 10)(checkpoints))
    command = (sys.executable, "-c", STOPS_BEFORE_ITS_THIRD_SEAL, method, "0", "10")
    stopped = tmp_path / "killed" / "stopped"
    ended = until_it_ends(command, tmp_path / "killed", moments(stopped), 1.0, BAR)
    assert len(ended.steps) == 1
    assert differing_bits(ended.leaves, [np.asarray(leaf) for leaf in wanted]) == 0


def test_the_table_counts_kills_and_says_whose_end_differs(tmp_path):
    records = [
        Record(
            method="G-SGD",
            setting={"steps": 640},
            seed=seed,
            metrics={
                "kills": 5.0, "runs": 2.0, "torn": 1.0, "differing_bits": bits, "divergence": apart,
            },
            curve={"kill": [1, 2, 3], "step": [4, 100, 300]},
            wall_time=1.0,
        )
        for seed, bits, apart in ((0, 0.0, 0.0), (1, 7.0, 0.25))
    ]  # fmt: skip
    table = preemption.tables(records)
    assert "10 kills; the end of 1 in 2" in table
    assert "| G-SGD  |         640 |    4 |                10 |" in table
    assert "|                            2 |                7 |               0.25 |" in table
    assert [path.name for path in preemption.plots(records, tmp_path)] == ["progress.png"]


def test_runs_are_repeated_until_there_were_as_many_kills_as_asked_for(monkeypatch):
    made = []

    def ends(command, folder, moments, within, bar):
        folder.mkdir()
        made.append((folder.name, within))
        steps = [] if within is None else [4, 8]
        return preemption.Ended(steps, 0, [np.zeros(2)])

    monkeypatch.setattr(preemption, "until_it_ends", ends)
    settings = preemption.Settings(methods=("LaCIM",), kills=3)
    context = preemption.Context(seeds=(0,), data_dir=None, progress=Silent())
    (record,) = preemption.run(settings, context)
    assert [(name.rpartition(", ")[2], within) for name, within in made] == [
        ("whole", None), ("killed 0", 4.0), ("killed 1", 4.0)
    ]  # fmt: skip
    assert (record.metrics["kills"], record.metrics["runs"]) == (4, 2)

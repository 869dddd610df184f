"""Runs every experiment, each in a process of its own: `python -m benchmarks all`.

What times programs against each other runs first, alone, from one seed: its repetitions are its
statistics. The rest runs `jobs` at a time, each on its own share of the cores, since programs as
small as these leave a second core idle.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

FINISHED, STOPPED, INTERRUPTED = 0, 3, 130
"""How an experiment's process ends: with its tables, out of time, or by Ctrl-C."""

_ROOT = Path(__file__).resolve().parents[2]


class Job(NamedTuple):
    """One experiment of many."""

    name: str
    alone: bool
    """Whether nothing may run beside it."""
    arguments: tuple[str, ...]
    """Of the command line, behind the name."""
    out: Path
    """Its folder, where its output goes as log.txt."""


class Outcome(NamedTuple):
    """How a job ended."""

    job: Job
    status: int
    """The process's own; `STOPPED` too if it was not begun."""
    minutes: float


def run_jobs(
    jobs: Sequence[Job],
    *,
    at_once: int = 1,
    minutes: float | None = None,
    report: Callable[[str], None],
    program: Sequence[str] = (sys.executable, "-m", "benchmarks"),
) -> list[Outcome]:
    """Runs jobs to their ends, those that must be alone first.

    Args:
        jobs: what is to run.
        at_once: how many of those that need not be alone.
        minutes: after which no job is begun; those that run are told how much is left. None for
            no limit.
        report: told what begins and what ends, a line each.
        program: what is called with a job's name and arguments.

    Returns:
        How each job ended, in the order of their ends.

    Raises:
        KeyboardInterrupt: on Ctrl-C, when all processes have written what they have finished.
    """
    begun = time.monotonic()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    lock, outcomes, running = threading.Lock(), [], []
    stop = threading.Event()

    def left() -> float | None:
        return None if minutes is None else minutes - (time.monotonic() - begun) / 60

    def run_one(job: Job, share: Sequence[int]) -> None:
        remaining = left()
        if stop.is_set() or (remaining is not None and remaining <= 0):
            outcomes.append(Outcome(job, STOPPED, 0.0))
            return
        budget = [] if remaining is None else ["--time-budget", f"{remaining:.2f}"]
        started = time.monotonic()
        report(f"{job.name} begins")
        job.out.mkdir(parents=True, exist_ok=True)
        with (job.out / "log.txt").open("wb") as log, lock:
            process = subprocess.Popen(
                [*program, job.name, *job.arguments, "--out", str(job.out), *budget],
                cwd=_ROOT, stdout=log, stderr=subprocess.STDOUT,
                # A process group of its own: Ctrl-C reaches it once, from here.
                start_new_session=True,
            )  # fmt: skip
            if share:
                os.sched_setaffinity(process.pid, share)
            running.append(process)
        status = process.wait()
        spent = (time.monotonic() - started) / 60
        outcomes.append(Outcome(job, status, spent))
        report(f"{job.name} {_ending(status, job.out)}, {spent:.1f} minutes")

    def work(mine: Iterable[Job], share: Sequence[int]) -> None:
        for job in mine:
            run_one(job, share)

    def taken_in_turn(of: Iterator[Job]) -> Iterator[Job]:
        while True:
            with lock:
                job = next(of, None)
            if job is None:
                return
            yield job

    def in_threads(shares: Sequence[Sequence[int]], of: Sequence[Job]) -> None:
        shared = iter(of)
        workers = [
            threading.Thread(target=work, args=(taken_in_turn(shared), share)) for share in shares
        ]
        for worker in workers:
            worker.start()
        try:
            for worker in workers:
                while worker.is_alive():
                    worker.join(0.2)
        except KeyboardInterrupt:
            stop.set()
            with lock:
                for process in running:
                    if process.poll() is None:
                        process.send_signal(signal.SIGINT)
            for worker in workers:
                worker.join()
            raise

    in_threads([()], [job for job in jobs if job.alone])
    in_threads(_shares(cores, at_once), [job for job in jobs if not job.alone])
    return outcomes


def _shares(cores: Sequence[int], at_once: int) -> list[Sequence[int]]:
    """Cores for each of some workers; none, for all of them, if there are fewer than workers."""
    if at_once == 1 or len(cores) < at_once:
        return [()] * at_once
    return [cores[i::at_once] for i in range(at_once)]


def _ending(status: int, out: Path) -> str:
    known = {FINISHED: "finished", STOPPED: "is out of time", INTERRUPTED: "was interrupted"}
    return known.get(status, f"FAILED, see {out / 'log.txt'}")

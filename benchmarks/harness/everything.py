"""Runs every experiment, each in a process of its own: `python -m benchmarks all`.

What times programs against each other runs first, alone, from one seed: its repetitions are its
statistics. The rest runs `jobs` at a time, each on its own share of the cores, since programs as
small as these leave a second core idle.
"""

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness.runner import DiskFullError
from common.files import full_disk

FINISHED, FAILED, STOPPED, INTERRUPTED = 0, 1, 3, 130
"""How an experiment's process ends: with its tables, by an error, out of time, or by Ctrl-C."""

_GRACE = 20.0
"""Seconds in which an interrupted process writes what it has finished."""

_ROOT = Path(__file__).resolve().parents[2]


class Job(NamedTuple):
    """One experiment of many."""

    name: str
    alone: bool
    """Whether nothing may run beside it."""
    arguments: tuple[str, ...]
    """Of the command line, behind the name."""
    out: Path
    """Its folder, where its output is appended to log.txt."""
    part: float = 1.0
    """Of the time that is left when it begins, how much it may take."""


class Outcome(NamedTuple):
    """How a job ended."""

    job: Job
    status: int
    """The process's own; `STOPPED` too if it was not begun."""
    minutes: float


def run_jobs(
    jobs: Sequence[Job], *, at_once: int = 1, minutes: float | None = None,
    report: Callable[[str], None], program: Sequence[str] = (sys.executable, "-m", "benchmarks"),
    patience: float | None = None,
) -> list[Outcome]:  # fmt: skip
    """Runs jobs to their ends, those that must be alone first.

    So many of the others run `at_once`. After so many minutes no job is begun, and those that run
    know how much is left; None for no limit. `report` gets a line for what begins and what ends,
    `program` is called with a job's name and arguments. A job that still runs after `patience`
    times the minutes it may take, or when none are left at all, is interrupted, and keeps what it
    has finished; None for no such limit. A job that cannot be started has failed, and the others
    run. Outcomes are in the order of their ends.

    Raises:
        KeyboardInterrupt: on Ctrl-C, when all processes have written what they have finished, or,
            deaf to it, were killed.
        DiskFullError: if there is no room for a job's folder or log, when those that run have
            ended; none is begun after it.
        BaseException: what `report` raised, likewise.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    queue = _Queue(minutes, report, program, patience)
    queue.run([()], [job for job in jobs if job.alone])
    queue.run(_shares(cores, at_once), [job for job in jobs if not job.alone])
    if len(queue.outcomes) != len(jobs):  # a thread has died, and nobody was told of it
        raise RuntimeError(f"of {len(jobs)} experiments {len(queue.outcomes)} came to an end.")
    return queue.outcomes


class _Queue:
    """Jobs taken in turn by a thread for each share of the cores."""

    def __init__(
        self, minutes: float | None, report: Callable[[str], None], program: Sequence[str],
        patience: float | None,
    ):  # fmt: skip
        self._minutes, self._report, self._program = minutes, report, program
        self._patience = patience
        self._begun, self._stop, self._lock = time.monotonic(), threading.Event(), threading.Lock()
        self._running: list[subprocess.Popen] = []
        self._error: BaseException | None = None
        self.outcomes: list[Outcome] = []

    def run(self, shares: Sequence[Sequence[int]], jobs: Sequence[Job]) -> None:
        """Runs jobs to their ends; on Ctrl-C processes are told, and waited for."""
        waiting = iter(jobs)
        workers = [threading.Thread(target=self._work, args=(waiting, share)) for share in shares]
        try:
            # Ctrl-C may come while a thread is being started.
            for worker in workers:
                worker.start()
            for worker in workers:
                while worker.is_alive():
                    worker.join(0.2)
        except KeyboardInterrupt:
            self._interrupt()
            for worker in workers:
                if worker.ident is not None:
                    worker.join()
            raise
        if self._error is not None:
            raise self._error

    def _interrupt(self) -> None:
        """Tells every process to end, and kills those that still run when their grace is over."""
        with self._lock:
            self._stop.set()
            running = [process for process in self._running if process.poll() is None]
            for process in running:
                process.send_signal(signal.SIGINT)
        until = time.monotonic() + _GRACE
        for process in running:
            _killed_after(process, max(0.0, until - time.monotonic()))

    def _work(self, waiting: Iterator[Job], share: Sequence[int]) -> None:
        while True:
            with self._lock:
                job = next(waiting, None)
            if job is None:
                return
            try:
                outcome = self._run_one(job, share)
            except Exception as error:  # the thread would die of it, and run no other job
                outcome = self._not_run(job, error)
            self.outcomes.append(outcome)

    def _run_one(self, job: Job, share: Sequence[int]) -> Outcome:
        started = time.monotonic()
        left = math.inf if self._minutes is None else (
            self._minutes - (started - self._begun) / 60
        )  # fmt: skip
        mine = left * job.part
        told = round(mine, 2)  # a remainder that rounds to 0 would be refused as a budget
        budget = [] if told == math.inf else ["--time-budget", f"{told:.2f}"]
        if self._stop.is_set() or told <= 0:
            return Outcome(job, STOPPED, 0.0)
        self._say(f"{job.name} begins")
        job.out.mkdir(parents=True, exist_ok=True)
        with (job.out / "log.txt").open("ab") as log, self._lock:
            # Asked anew under the lock: who interrupts tells every process that runs by then.
            if self._stop.is_set():
                return Outcome(job, STOPPED, 0.0)
            process = subprocess.Popen(
                [*self._program, job.name, *job.arguments, "--out", str(job.out), *budget],
                cwd=_ROOT, stdout=log, stderr=subprocess.STDOUT,
                # A process group of its own: Ctrl-C reaches it once, from here.
                start_new_session=True,
            )  # fmt: skip
            self._running.append(process)
            if share:
                # A core may have been taken away; records say how many there were.
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(process.pid, share)
        patience = math.inf if self._patience is None else self._patience * mine
        status = _ended(process, 60 * min(left, patience) if self._patience else math.inf)
        spent = (time.monotonic() - started) / 60
        self._say(f"{job.name} {_ending(status, job.out)}, {spent:.1f} minutes")
        return Outcome(job, status, spent)

    def _not_run(self, job: Job, error: Exception) -> Outcome:
        """A job that could not be started; on a full disk no other could."""
        if full_disk(error):
            full = DiskFullError(
                f"the disk of {job.out} is full ({error}): make room; what is finished is kept, "
                "and --resume goes on from there."
            )
            full.__cause__ = error
            self._end_with(full)
        else:
            self._say(f"{job.name} FAILED, it could not be started ({error})")
        return Outcome(job, FAILED, 0.0)

    def _say(self, line: str) -> None:
        """Reports; an error in that is the caller's, which is in another thread."""
        try:
            self._report(line)
        except BaseException as error:
            self._end_with(error)

    def _end_with(self, error: BaseException) -> None:
        """Begins nothing more; the first error is raised when all that runs has ended."""
        self._error = self._error or error
        self._stop.set()


def _ended(process: subprocess.Popen, seconds: float) -> int:
    """The status of a process, interrupted after so many seconds, and killed if need be."""
    try:
        return process.wait(None if seconds == math.inf else seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    return _killed_after(process, _GRACE)


def _killed_after(process: subprocess.Popen, seconds: float) -> int:
    """The status of a process that has so many seconds to end by itself."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait()


def _shares(cores: Sequence[int], at_once: int) -> list[Sequence[int]]:
    """Cores for each of some workers; none, for all of them, if there are fewer than workers."""
    if at_once == 1 or len(cores) < at_once:
        return [()] * at_once
    return [cores[i::at_once] for i in range(at_once)]


def _ending(status: int, out: Path) -> str:
    known = {FINISHED: "finished", STOPPED: "is out of time", INTERRUPTED: "was interrupted"}
    return known.get(status, f"FAILED, see {out / 'log.txt'}")

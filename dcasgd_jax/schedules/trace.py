"""Recorded traces of arrivals, in files that any program can write and read.

A trace is a text file of comma-separated values with one line for each server step, in order::

    # num_workers=3
    # num_steps=3
    worker,clock
    0,0.51
    2,0.58
    0,1.04

`worker` is whose gradient arrived, counted from 0; `clock` is when, in seconds since all workers
started with the first weights. A column `staleness` may say how many server steps before each
gradient its weights were made; without it, workers pull upon their own arrivals. A column `batch`
may say which batch each gradient was taken on, counted from 0. Columns of other names are left
alone, and so are lines that start with #, except those that give the number of workers and that of
steps, by which a file that was cut short is recognised. There are no quotes.
"""

import math
import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from dcasgd_jax.schedules.checks import MOST_WORKERS, StepError, check_staleness
from dcasgd_jax.schedules.schedule import Schedule, from_arrivals

_DECLARED = re.compile(r"#\s*(num_workers|num_steps)\s*=\s*([0-9]{1,9})\s*", re.ASCII)


def read_trace(path: str | os.PathLike[str], *, num_workers: int | None = None) -> Schedule:
    r"""The schedule that a file records.

    Args:
        path: of a trace as described at the top of this module, in UTF-8. Only numbers are read
            from it.
        num_workers: M, for files that do not give it; None for what the file says, or else one
            more than the largest worker in it.

    Returns:
        The schedule of all its server steps.

    Raises:
        ValueError: naming the file and the line, if the trace is not well formed, has fewer steps
            than it says, or describes what cannot have been: more than 1,048,576 workers, workers
            out of range, a clock that goes back, staleness beyond the start of the run or the last
            arrival of the same worker.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "trace.csv"
        >>> _ = path.write_text("worker,clock\n0,0.51\n2,0.58\n0,1.04\n")
        >>> schedule = read_trace(path)
        >>> schedule.num_workers, schedule.staleness
        (3, array([0, 1, 1], dtype=int32))
    """
    path = Path(path)
    columns, lines, declared = _parse(path, ("worker", "clock", "staleness"))
    _check_length(path, declared, lines)
    declared_workers = declared.get("num_workers")
    if declared_workers is not None and declared_workers > MOST_WORKERS:
        raise ValueError(
            f"{path} says that there are {declared_workers:,} workers, and there can be at most "
            f"{MOST_WORKERS:,}; correct its line num_workers."
        )
    if None not in (num_workers, declared_workers) and num_workers != declared_workers:
        raise ValueError(
            f"{path} says that there are {declared_workers} workers, not {num_workers}; leave "
            "num_workers out."
        )
    try:
        return from_arrivals(
            np.array(columns["worker"], np.int64),
            np.array(columns["clock"], np.float64),
            num_workers=declared_workers if num_workers is None else num_workers,
            staleness=np.array(columns["staleness"], np.int64) if "staleness" in columns else None,
        )
    except StepError as fault:
        raise ValueError(f"{path}, line {lines[fault.step]}: {fault}") from None


def read_batch_order(path: str | os.PathLike[str]) -> np.ndarray:
    r"""Which batch each gradient of a recorded run was taken on: the column `batch` of its trace.

    Args:
        path: of a trace that has the column, as those of real workers do.

    Returns:
        The number of the batch of each server step, shape [num_steps], dtype int32.

    Raises:
        ValueError: naming the file, if it is not well formed or has no such column.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "trace.csv"
        >>> _ = path.write_text("worker,clock,batch\n0,0.51,0\n2,0.58,2\n0,1.04,3\n")
        >>> read_batch_order(path)
        array([0, 2, 3], dtype=int32)
    """
    path = Path(path)
    columns, lines, declared = _parse(path, ("worker", "clock", "batch"))
    _check_length(path, declared, lines)
    if "batch" not in columns:
        raise ValueError(
            f"{path} has no column `batch`: it does not say which batches its gradients were "
            "taken on; record it with write_trace(schedule, path, batch=...)."
        )
    return np.array(columns["batch"], np.int32)


def write_trace(
    schedule: Schedule, path: str | os.PathLike[str], *, batch: ArrayLike | None = None
) -> None:
    """Records a schedule in a file that `read_trace` reads back, to the last bit of the clock.

    Args:
        schedule: a whole schedule: of a stretch from the middle of one, the file could not say
            what its first gradients were taken at.
        path: where to write; what is there is replaced, once all is written.
        batch: which batch each gradient was taken on, for `read_batch_order`; whole numbers >= 0,
            shape [num_steps]. None: the file does not say.

    Raises:
        ValueError: if the schedule is a stretch that does not begin with the first weights, or
            `batch` is not one whole number a step.
        OSError: if it cannot be written, on a full disk say; what was there is there still.

    Example:
        >>> import pathlib, tempfile
        >>> from dcasgd_jax import round_robin
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "trace.csv"
        >>> write_trace(round_robin(2, 3), path)
        >>> print(path.read_text(), end="")
        # num_workers=2
        # num_steps=3
        worker,clock
        0,1.0
        1,1.0
        0,2.0
    """
    worker, clock = np.asarray(schedule.worker), np.asarray(schedule.clock)
    staleness = np.asarray(schedule.staleness)
    try:
        check_staleness(worker, staleness)
    except StepError as fault:
        raise ValueError(
            f"only whole schedules can be recorded, and this one begins in the middle: {fault}"
        ) from None
    columns = {"worker": map(str, worker.tolist()), "clock": map(repr, clock.tolist())}
    upon_arrival = from_arrivals(worker, clock, num_workers=schedule.num_workers).staleness
    if not np.array_equal(staleness, upon_arrival):
        columns["staleness"] = map(str, staleness.tolist())
    if batch is not None:
        batch = np.asarray(batch)
        whole = np.issubdtype(batch.dtype, np.integer) and (batch >= 0).all()
        if not whole or batch.shape != worker.shape:
            raise ValueError(
                f"batch must hold whole numbers >= 0, one a step, shape {worker.shape}, got "
                f"{batch.dtype} of shape {batch.shape}."
            )
        columns["batch"] = map(str, batch.tolist())
    rows = map(",".join, zip(*columns.values(), strict=True))
    lines = [f"# num_workers={schedule.num_workers}", f"# num_steps={worker.size}"]
    lines += [",".join(columns), *rows]
    _write_whole(Path(path), "\n".join(lines) + "\n")


def _write_whole(path: Path, text: str) -> None:
    """Writes a file beside the old one, then puts it in its place: whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _check_length(path: Path, declared: dict[str, int], lines: list[int]) -> None:
    """Refuses a file that has not as many steps as it says."""
    num_steps = declared.get("num_steps", len(lines))
    if num_steps != len(lines):
        raise ValueError(
            f"{path} says that there are {num_steps} steps, and has {len(lines)}: it was cut short "
            "or lengthened; copy or record it again, or correct its line num_steps."
        )


def _parse(
    path: Path, wanted: tuple[str, ...]
) -> tuple[dict[str, list], list[int], dict[str, int]]:
    """The wanted columns that are there, the line of each entry, and the numbers declared."""
    declared: dict[str, int] = {}
    names: list[str] = []
    columns: dict[str, list] = {}
    lines: list[int] = []
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if line.startswith("#"):
                if match := _DECLARED.fullmatch(line):
                    declared[match[1]] = int(match[2])
            elif not line.strip():
                continue
            elif not names:
                names = [name.strip() for name in line.split(",")]
                columns = {name: [] for name in wanted if name in names}
                if not {"worker", "clock"} <= columns.keys() or len({*names}) < len(names):
                    raise ValueError(
                        f"{path}, line {number}: the first line names the columns, worker and "
                        f"clock among them, each once; got {line.strip()!r}."
                    )
            else:
                entries = line.split(",")
                if len(entries) != len(names):
                    raise ValueError(
                        f"{path}, line {number}: there are {len(names)} columns "
                        f"({', '.join(names)}), got {len(entries)} entries: {line.strip()!r}."
                    )
                for name, column in columns.items():
                    column.append(_number(name, entries[names.index(name)], path, number))
                lines.append(number)
    if not names:
        raise ValueError(f"{path} is empty: a trace begins with the line worker,clock.")
    return columns, lines, declared


def _number(name: str, entry: str, path: Path, line: int) -> int | float:
    """An entry of a column as a number; refuses what no schedule could have."""
    kind, bound = (float, math.inf) if name == "clock" else (int, 2**31)
    try:
        number = kind(entry)
    except ValueError:
        number = -1
    # Python reads 1_0 as 10; no other program writes that and means it.
    if not 0 <= number < bound or "_" in entry:
        what = "seconds, from 0" if name == "clock" else "a whole number, from 0"
        raise ValueError(f"{path}, line {line}: {name} must be {what}, got {entry.strip()!r}.")
    if name == "worker" and number >= MOST_WORKERS:
        raise ValueError(
            f"{path}, line {line}: worker must be below {MOST_WORKERS:,}, got {number}; number the "
            "workers from 0 on, without gaps."
        )
    return number

"""What arrivals at a server must satisfy; each refusal names the step at fault."""

import math
import operator
from typing import Any

import numpy as np

from dcasgd_jax.schedules.snapshot_slots import neighbours

MOST_WORKERS = 2**20
"""The bound on the workers of a schedule: each that is ever named may ask for a copy of the weights
and for random numbers of its own, so a slip of the pen in a trace would take all memory."""


class StepError(ValueError):
    """A step of a schedule that cannot be."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


def check_protocol(num_workers: int, num_steps: int, wait_for: int | None) -> None:
    """Refuses numbers of workers, steps and gradients a round that make no schedule."""
    check_whole(num_workers=num_workers, num_steps=num_steps)
    if wait_for is not None:
        check_whole(wait_for=wait_for)
    if num_workers < 1 or num_steps < 0:
        raise ValueError(
            "there must be at least one worker, and no negative number of steps; got "
            f"num_workers={num_workers} and num_steps={num_steps}."
        )
    if num_workers > MOST_WORKERS:
        raise ValueError(
            f"there can be at most {MOST_WORKERS:,} workers, got {num_workers:,}; number those "
            "that report from 0 on, without gaps."
        )
    if wait_for is not None and not 1 <= wait_for <= num_workers:
        raise ValueError(
            f"wait_for must be None (asynchronous) or in [1, {num_workers}], the number of "
            f"gradients that a round waits for, got {wait_for}."
        )


def check_whole(**counts: Any) -> None:
    """Refuses numbers of things that are no ints, of Python or of NumPy."""
    for name, count in counts.items():
        try:
            whole = not isinstance(count, bool) and operator.index(count) is not None
        except TypeError:
            whole = False
        if not whole:
            raise ValueError(f"{name} must be a whole number, an int, got {count!r}.")


def check_workers(worker: np.ndarray, num_workers: int) -> None:
    """Refuses workers that do not exist, naming the first of them and its step."""
    strangers = np.flatnonzero((worker < 0) | (worker >= num_workers))
    if strangers.size:
        step = int(strangers[0])
        raise StepError(
            step,
            f"workers must be in [0, {num_workers}), got worker {worker[step]} at step {step}; "
            f"pass num_workers={int(np.max(worker)) + 1} or correct the trace.",
        )


def check_clock(clock: np.ndarray) -> None:
    """Refuses clocks that go back or are not finite, naming the first step at fault."""
    faults = ~np.isfinite(clock) | ~(np.diff(clock, prepend=0.0) >= 0)
    if faults.any():
        step = int(np.argmax(faults))
        raise StepError(
            step,
            "clock must be finite, start at 0 or later, and never go back, got "
            f"{clock[step]} at step {step}; sort the arrivals by time, or correct the trace.",
        )


def check_staleness(worker: np.ndarray, staleness: np.ndarray) -> None:
    """Refuses staleness that workers holding one version at a time cannot have."""
    version = np.arange(worker.size) - staleness  # of the weights that each gradient is taken at
    last, _ = neighbours(worker)
    again = (last >= 0) & (version == version[last])  # a further gradient at the same weights
    faults = (staleness < 0) | (version < 0) | ((version <= last) & ~again)
    if faults.any():
        step = int(np.argmax(faults))
        raise StepError(
            step,
            f"the gradient of step {step} cannot be {staleness[step]} steps stale: worker "
            f"{worker[step]} "
            + (
                f"sent one at step {last[step]}, so this one is {step - last[step] - 1} steps "
                "stale at most, or taken at the same weights as that one."
                if last[step] >= 0
                else f"started at step 0, so this one is {step} steps stale at most."
            ),
        )


def check_at_least(
    name: str, value: float, least: float, *, most: float = math.inf, positive: bool = False
) -> None:
    """Refuses a number outside [least, most], and zero where it must be positive."""
    number = isinstance(value, int | float | np.number)
    within = number and least <= value <= most and math.isfinite(value)
    if not within or (positive and value == 0):
        bound = "finite and" if most == math.inf else f"at most {most:g} and"
        lower = f"above {least:g}" if positive else f"at least {least:g}"
        raise ValueError(f"{name} must be {bound} {lower}, got {value!r}.")

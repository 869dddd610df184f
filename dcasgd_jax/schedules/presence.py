"""Computations of workers that are not always there: which of them come to an end, and when."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from dcasgd_jax.schedules.arrivals import Attempts, Stream

MOST_LOST = 10_000
"""As many computations lost in a row are taken to say that none will ever be done."""

ALWAYS = ((0.0, math.inf),)
"""The periods of a worker that never leaves."""

_GONE = (math.inf, math.inf)
"""What follows the last period of one that never returns."""

_PORTION = 256


class Attempt(NamedTuple):
    """A computation of a worker, or its absence, from one pull of the weights to the next."""

    end: float  # when its update arrives, or when the worker is back
    lost: bool  # whether there is no update
    leaves: float  # when it leaves; infinity if its update arrives before that


class Worker:
    """A worker that is asked what becomes of a computation, at ever later times."""

    def __init__(
        self, draw: Callable[[int], np.ndarray], periods: Iterator[tuple[float, float]]
    ) -> None:
        """Has computed nothing yet.

        Args:
            draw: count -> the seconds of as many further computations, transfers included.
            periods: in which it is there.
        """
        self._draw, self._periods = draw, periods
        self._drawn: list[float] = []
        self._period, self._following = next(periods, _GONE), next(periods, _GONE)

    def begin(self, start: float) -> Attempt:
        """What becomes of a computation that begins at a time, or when the worker is back."""
        while self._period[1] <= start:
            self._period, self._following = self._following, next(self._periods, _GONE)
        begins, leaves = self._period
        if start < begins:
            return Attempt(begins, lost=True, leaves=start)
        if not self._drawn:
            self._drawn = self._draw(_PORTION)[::-1].tolist()
        end = start + self._drawn.pop()
        if end <= leaves:
            return Attempt(end, lost=False, leaves=math.inf)
        return Attempt(self._following[0], lost=True, leaves=leaves)


def stream_with_absences(
    number: int,
    draw: Callable[[int], np.ndarray],
    periods: Iterator[tuple[float, float]],
    mean: float,
) -> Stream:
    """The attempts of a worker that waits for nobody, a whole period of presence at once.

    Args:
        number: of the worker.
        draw: as for `Worker`.
        periods: as for `Worker`.
        mean: seconds of a computation, about; it decides on the size of portions alone.
    """
    period, now, there = next(periods, _GONE), 0.0, False
    drawn = np.zeros(0)
    lost_in_a_row = 0

    def until_back() -> Attempts:
        """An attempt that is lost, and ends when the worker is back."""
        nonlocal now, there
        there = period is not _GONE
        time = period[0] - now if there else math.inf
        now += time
        return Attempts(np.array([time]), np.array([True]))

    def present(most: int) -> Attempts:
        """Up to `most` attempts of the present period; the last may be cut off by its end."""
        nonlocal drawn, now, period, lost_in_a_row
        room = 1.01 * (period[1] - now) / mean + 16
        width = most if room >= most else int(room)
        if drawn.size < width:
            drawn = np.concatenate([drawn, draw(width - drawn.size)])
        # One sum runs on over all attempts, as in a timeline.
        ends = np.cumsum(np.concatenate([[now], drawn[:width]]))[1:]
        done = int(np.searchsorted(ends, period[1], side="right"))
        time, drawn = drawn[:done], drawn[done:]
        if done:
            now, lost_in_a_row = float(ends[done - 1]), 0
        if done == width:
            return Attempts(time, np.zeros(done, bool))
        drawn = drawn[1:]  # of the one that is cut off
        lost_in_a_row += 1
        if lost_in_a_row > MOST_LOST:
            raise ValueError(
                f"worker {number} has begun {MOST_LOST:,} computations in a row and left before "
                "the end of each; let it be there for longer, or compute and transfer faster."
            )
        period = next(periods, _GONE)
        cut = until_back()
        return Attempts(np.concatenate([time, cut.time]), np.arange(done + 1) == done)

    def stream(count: int) -> Attempts:
        parts, missing = [], count
        while missing > 0:
            begun = there or period[0] <= now < math.inf
            parts.append(present(missing) if begun else until_back())
            missing -= parts[-1].time.size
        time, lost = (
            np.concatenate(column)
            for column in zip(*((part.time, part.lost) for part in parts), strict=True)
        )
        return Attempts(time, lost)

    return stream

"""When workers are there: day and night, coming and going at random, or as it was recorded."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count

import numpy as np
from numpy.typing import ArrayLike

from dcasgd_jax.schedules.checks import check_at_least

Periods = Iterable[tuple[float, float]]
"""(from, to), seconds since the start: ascending and apart; the last may end at infinity."""

Availability = Callable[[int, np.random.Generator], Periods]
"""(worker, its generator) -> the periods in which it is there. After the last it never returns."""


def day_and_night(
    day: float, night: float, *, phase: float | ArrayLike | None = None
) -> Availability:
    """Workers that are there for a day, then away for a night, over and over.

    Args:
        day: seconds for which a worker is there, > 0.
        night: seconds for which it is away, > 0.
        phase: seconds of its first day and night that have gone by at the start, in
            [0, day + night): a scalar, or one for each worker, shape [num_workers], as for time
            zones. None: drawn uniformly for each.

    Returns:
        An availability for `cluster_times`.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> import itertools
        >>> periods = day_and_night(16.0, 8.0, phase=10.0)(0, np.random.default_rng(0))
        >>> list(itertools.islice(periods, 2))
        [(0.0, 6.0), (14.0, 30.0)]

    References:
        Bonawitz et al., Towards Federated Learning at Scale: System Design, MLSys 2019
        (https://arxiv.org/abs/1902.01046): devices take part when idle, on mains and on Wi-Fi,
        most of them at night; of it we recall the pattern.
    """
    for name, length in (("day", day), ("night", night)):
        check_at_least(name, length, 0.0, positive=True)
    whole = day + night
    phases = None if phase is None else np.asarray(phase, np.float64)
    if phases is not None and phases.ndim > 1:
        raise ValueError(
            "phase must be a scalar, or one number for each worker, shape [num_workers], got shape "
            f"{phases.shape}."
        )
    if phases is not None and not ((phases >= 0) & (phases < whole)).all():
        raise ValueError(
            f"phase must be in [0, day + night) = [0, {whole:g}), got {phase}; take it modulo that."
        )

    def periods(worker: int, generator: np.random.Generator) -> Iterator[tuple[float, float]]:
        if phases is not None and phases.ndim and worker >= phases.size:
            raise ValueError(
                f"phase has one number for each of {phases.size} workers, and worker {worker} is "
                "asked for; give as many as the cluster has."
            )
        if phases is None:
            gone_by = float(generator.uniform(0.0, whole))
        else:
            gone_by = float(phases if phases.ndim == 0 else phases[worker])
        for number in count():
            begin = number * whole - gone_by
            if begin + day > 0:
                yield max(begin, 0.0), begin + day

    return periods


def markov_availability(time_there: float, time_away: float) -> Availability:
    """Workers that come and go at random, whatever they are doing: a Markov chain of two states.

    The lengths of presences and absences are exponentially distributed and independent. At the
    start each worker is there with the probability of any later time, F / (F + A). Where
    `failure_times` has machines that fail while they compute, these leave while they wait too.

    Args:
        time_there: F, mean seconds of a presence, > 0.
        time_away: A, mean seconds of an absence, > 0.

    Returns:
        An availability for `cluster_times`.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> periods = markov_availability(100.0, 20.0)(0, np.random.default_rng(0))
        >>> begin, end = next(iter(periods))
        >>> begin < end
        True
    """
    for name, length in (("time_there", time_there), ("time_away", time_away)):
        check_at_least(name, length, 0.0, positive=True)

    def periods(worker: int, generator: np.random.Generator) -> Iterator[tuple[float, float]]:
        del worker
        there = generator.random() < time_there / (time_there + time_away)
        # What is left of an exponential time is distributed as the whole.
        begin = 0.0 if there else time_away * float(generator.standard_exponential())
        while True:
            end = begin + time_there * float(generator.standard_exponential())
            yield begin, end
            begin = end + time_away * float(generator.standard_exponential())

    return periods


def recorded_availability(periods: Sequence[Periods]) -> Availability:
    """Workers that are there when a record says so.

    Args:
        periods: of each worker, pairs (from, to) in seconds since the start, ascending and apart;
            `math.inf` where a worker stays. After its last period it never returns.

    Returns:
        An availability for `cluster_times`, of as many workers.

    Raises:
        ValueError: if periods are not in order, naming the worker.

    Example:
        >>> recorded = recorded_availability([[(0.0, math.inf)], [(0.0, 3.0), (5.0, 9.0)]])
        >>> list(recorded(1, np.random.default_rng(0)))
        [(0.0, 3.0), (5.0, 9.0)]
    """
    kept = [list(checked_periods(worker, each)) for worker, each in enumerate(periods)]

    def periods_of(worker: int, generator: np.random.Generator) -> list[tuple[float, float]]:
        del generator
        if worker >= len(kept):
            raise ValueError(
                f"availability was recorded of {len(kept)} workers, and worker {worker} is asked "
                "for; record as many as the cluster has."
            )
        return kept[worker]

    return periods_of


def checked_periods(worker: int, periods: Periods) -> Iterator[tuple[float, float]]:
    """The periods of a worker, one after another; refuses those that are not in order."""
    last = -math.inf
    for period in periods:
        try:
            begin, end = period
        except TypeError:
            raise ValueError(
                f"periods of presence must be pairs (from, to), got {period!r} of worker {worker}."
            ) from None
        if not (0 <= begin < end and last < begin):
            raise ValueError(
                "periods of presence must be pairs (from, to) with 0 <= from < to, ascending and "
                f"apart, got ({begin}, {end}) of worker {worker} after {last}; join those that "
                "touch."
            )
        yield float(begin), float(end)
        last = end

"""From the times that computations take to the order in which gradients arrive.

Exact, and by sorting rather than event by event: without a server to wait for, each worker's
computations end at running sums of their times, whatever the others do.
"""

import bisect
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dcasgd_jax.schedules.snapshot_slots import allocate, neighbours


class Attempts(NamedTuple):
    """Consecutive computations of one worker, each from a pull of the weights to the next."""

    time: np.ndarray  # shape [count], dtype float64: seconds
    lost: np.ndarray | None  # shape [count], bool: no gradient came of it; None: none is lost
    leaves: np.ndarray | None = None  # shape [count], dtype float64: seconds of a lost one until
    # its worker is out of reach; None: it is so from the beginning


PORTION = 2**20
"""So many computations are drawn for rounds at once."""

Stream = Callable[[int], Attempts]
"""count -> the worker's next attempts, at most `count`: fewer where there are no more.

What is drawn must not depend on the sizes of the portions.
"""


class Timeline(NamedTuple):
    """When one worker's computations end, if it never waits."""

    end: np.ndarray  # shape [count], dtype float64: seconds since the start, ascending
    lost: np.ndarray | None  # shape [count], bool, as in Attempts


class Events(NamedTuple):
    """Arrivals at a server, in order."""

    worker: np.ndarray  # shape [num_steps], whole numbers
    clock: np.ndarray  # shape [num_steps], dtype float64: seconds


class Pulls(NamedTuple):
    """Who took which version of the weights, where losses keep workers from pulling on arrival."""

    staleness: np.ndarray  # shape [num_steps], whole numbers
    reads: np.ndarray  # shape [num_steps], whole numbers in [0, num_workers)
    writes: np.ndarray  # shape [num_steps], whole numbers in [0, num_workers)


def stream_of_attempts(time: np.ndarray, lost: np.ndarray | None) -> Stream:
    """A stream that hands out these attempts, as long as there are any, and then ends."""
    place = 0

    def stream(count: int) -> Attempts:
        nonlocal place
        part = slice(place, place + count)
        place = min(place + count, time.size)
        return Attempts(time[part], None if lost is None else lost[part])

    return stream


def draw_timelines(streams: Sequence[Stream], num_steps: int) -> list[Timeline]:
    """All that happens up to some time, with at least `num_steps` arrivals, and little more."""
    lines = [_extended(Timeline(np.zeros(0), None), stream, 32) for stream in streams]
    until = min(float(line.end[-1]) for line in lines)
    while (count := sum(_count_arrivals(line, until) for line in lines)) < num_steps:
        # At most twice as far, and towards the goal: early draws are no measure of heavy tails.
        if until == np.inf:
            raise ValueError(
                f"all workers are gone for good after {count} updates, and {num_steps} steps were "
                "asked for; ask for fewer, or let some return."
            )
        until *= min(2.0, 1.01 * num_steps / max(count, 1))
        lines = [
            _extended_past(line, stream, until) for line, stream in zip(lines, streams, strict=True)
        ]
        until = min(float(line.end[-1]) for line in lines)
    return [timeline_until(line, until) for line in lines]


def timeline_until(line: Timeline, until: float) -> Timeline:
    """The part of a timeline that ends at `until` or before."""
    count = int(np.searchsorted(line.end, until, side="right"))
    return Timeline(line.end[:count], None if line.lost is None else line.lost[:count])


def arrivals_without_waiting(
    lines: Sequence[Timeline], num_steps: int
) -> tuple[Events, Pulls | None]:
    """The first arrivals of workers that wait for nobody, and who pulled what.

    A worker pulls the weights at the end of each attempt: after an arrival the ones its gradient
    made, after a loss the ones of that time. What ends at one time is taken in the order of the
    workers. All timelines go up to the same time; where they hold fewer than `num_steps` arrivals,
    all of them are returned. The pulls are None where nothing can be lost, so that everyone pulls
    upon arrival.
    """
    end = np.concatenate([line.end for line in lines])
    worker = np.repeat(np.arange(len(lines)), [line.end.size for line in lines])
    # A stable sort keeps the order of workers, and merges what is sorted already.
    order = np.argsort(end, kind="stable")
    if all(line.lost is None for line in lines):
        order = order[:num_steps]
        return Events(worker[order], end[order]), None
    lost = np.concatenate(
        [np.zeros(line.end.size, bool) if line.lost is None else line.lost for line in lines]
    )
    arrives = np.flatnonzero(~lost[order])[:num_steps]
    order = order[: arrives[-1] + 1 if arrives.size else 0]
    return (
        Events(worker[order[arrives]], end[order[arrives]]),
        _pulls(worker[order], arrives, len(lines)),
    )


def arrivals_in_rounds(streams: Sequence[Stream], num_steps: int, *, wait_for: int) -> Events:
    """The first arrivals in rounds that end with the `wait_for`-th gradient: m in each round.

    At the start of a round everyone within reach begins a computation; at its end those still at
    it give it up, and with it the loss that it was to meet later. A worker that has left before is
    out of reach over the ends of rounds, and begins anew when it is back. Fewer arrivals are
    returned where a stream ends.
    """
    num_rounds = -(-num_steps // wait_for)
    # A portion of the rounds at once, so that memory does not grow with all that workers drop.
    portion = min(num_rounds, max(1, PORTION // len(streams)))
    first = [stream(portion) for stream in streams]
    if any(attempts.lost is not None for attempts in first):
        attempts = [_each_attempt(*pair) for pair in zip(first, streams, strict=True)]
        worker, clock = _rounds_with_losses(attempts, num_rounds, wait_for)
    else:
        worker, clock = _rounds_without_losses(first, streams, num_rounds, wait_for)
    return Events(worker[:num_steps], clock[:num_steps])


def _extended(line: Timeline, stream: Stream, count: int) -> Timeline:
    """A timeline with at most `count` attempts more."""
    time, lost, _ = stream(count)
    # Sums run on from the last end, as in one long sum: portions leave no trace in the last bit.
    end = np.cumsum(np.concatenate([line.end[-1:], time]))[line.end[-1:].size :]
    if line.lost is not None and lost is not None:
        lost = np.concatenate([line.lost, lost])
    return Timeline(np.concatenate([line.end, end]), lost)


def _extended_past(line: Timeline, stream: Stream, until: float) -> Timeline:
    """A timeline drawn further until it ends after a time."""
    while line.end[-1] <= until:
        # As many as the mean time so far suggests, but at most as many again as there are.
        size, last = line.end.size, float(line.end[-1])
        missing = (until - last) * size / last if last > 0 else size
        line = _extended(line, stream, int(min(1.01 * missing + 16, size)))
    return line


def _count_arrivals(line: Timeline, until: float) -> int:
    """How many attempts end with a gradient at `until` or before."""
    line = timeline_until(line, until)
    return line.end.size - (0 if line.lost is None else int(np.count_nonzero(line.lost)))


def _pulls(worker: np.ndarray, arrives: np.ndarray, num_workers: int) -> Pulls:
    """Staleness and slots from the workers at which attempts end, some of them with an arrival."""
    # Everyone pulls version 0 at the start: one more entry each, before all others.
    worker = np.concatenate([np.arange(num_workers), worker])
    arrives = arrives + num_workers
    before, after = neighbours(worker)
    arrived = np.zeros(worker.size, np.int64)
    arrived[arrives] = 1
    version = np.cumsum(arrived)  # what is pulled at each entry
    computed_at = version[before[arrives]]  # what the worker pulled last before
    # A version is pulled from the arrival that makes it to just before the next one.
    freed = np.maximum.reduceat(after, np.concatenate([np.zeros(1, np.int64), arrives]))
    slot = allocate(freed, num_workers, never=worker.size)
    return Pulls(np.arange(arrives.size) - computed_at, slot[computed_at], slot[1:])


def _each_attempt(first: Attempts, stream: Stream) -> Iterator[tuple[float, float]]:
    """(seconds, seconds until it is lost, or infinity) of one attempt after another."""
    attempts = first
    while attempts.time.size:
        leaves = np.full(attempts.time.size, np.inf)
        if attempts.lost is not None:
            left = 0.0 if attempts.leaves is None else attempts.leaves
            leaves = np.where(attempts.lost, left, np.inf)
        yield from zip(attempts.time.tolist(), leaves.tolist(), strict=True)
        attempts = stream(256)


def _rounds_without_losses(
    first: Sequence[Attempts], streams: Sequence[Stream], num_rounds: int, wait_for: int
) -> tuple[np.ndarray, np.ndarray]:
    """Many rounds at once: each lasts as long as its m-th gradient takes, whatever came before."""
    workers, clocks = [], []
    portion, start = first, 0.0
    while True:
        count = min(attempts.time.size for attempts in portion)
        time = np.stack([attempts.time[:count] for attempts in portion], axis=1)
        longest = np.partition(time, wait_for - 1, axis=1)[:, wait_for - 1]
        starts = np.cumsum(np.concatenate([[start], longest]))  # one sum runs on over all rounds
        end = starts[:-1, None] + time
        worker = np.argsort(end, axis=1, kind="stable")[:, :wait_for]
        workers.append(worker.ravel())
        clocks.append(np.take_along_axis(end, worker, axis=1).ravel())
        num_rounds, start = num_rounds - count, float(starts[-1])
        if not num_rounds or not count:
            return np.concatenate(workers), np.concatenate(clocks)
        portion = [stream(min(first[0].time.size, num_rounds)) for stream in streams]


def _rounds_with_losses(
    attempts: Sequence[Iterator[tuple[float, float]]], num_rounds: int, wait_for: int
) -> tuple[np.ndarray, np.ndarray]:
    """Round by round: a worker may be away over the ends of several."""
    workers: list[int] = []  # not one list of pairs: a million tuples keep the collector busy
    clocks: list[float] = []
    away: list[tuple[float, int, float]] = []  # when it ends, who, when it is lost, or infinity
    start = 0.0
    try:
        for _ in range(num_rounds):
            out_of_reach = {worker for _, worker, _ in away}
            pending = away + [
                (start + time, worker, start + leaves)
                for worker, following in enumerate(attempts)
                if worker not in out_of_reach
                for time, leaves in (next(following),)
            ]
            pending.sort()
            arrived = 0
            for place, (end, worker, leaves) in enumerate(pending):  # which grows behind `place`
                if leaves < np.inf:
                    time, leaves = next(attempts[worker])
                    bisect.insort(pending, (end + time, worker, end + leaves), place + 1)
                else:
                    workers.append(worker)
                    clocks.append(end)
                    arrived += 1
                    if arrived == wait_for:
                        start = end
                        # Who would leave after this end hears of it, and gives up.
                        away = [later for later in pending[place + 1 :] if later[2] <= end]
                        break
    except StopIteration:
        pass  # a worker has no more attempts: what comes after the last full round is unknown
    settled = len(workers) // wait_for * wait_for
    return np.array(workers[:settled], np.int64), np.array(clocks[:settled], np.float64)

"""Who is done next: the heap of finish times of an event loop."""

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence

Times = Callable[[], Sequence[Iterator[float]]]
"""() -> for each worker, the seconds of its computations, one after another."""


def equal_times(workers: int) -> list[Iterator[float]]:
    """Workers that take a second for each gradient: they take turns."""
    return [itertools.repeat(1.0) for _ in range(workers)]


def arrivals(times: Sequence[Iterator[float]], steps: int) -> Iterator[int]:
    """Whose gradient arrives at each step; of those done at one time, the lowest number first.

    Args:
        times: as of `Times`.
        steps: how many arrivals there are.
    """
    queue = [(next(own), worker) for worker, own in enumerate(times)]
    heapq.heapify(queue)
    for _ in range(steps):
        now, worker = queue[0]
        yield worker
        heapq.heapreplace(queue, (now + next(times[worker]), worker))

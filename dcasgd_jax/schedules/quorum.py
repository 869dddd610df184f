"""Rounds that end with a quorum and a time of grace, and what becomes of those who are late."""

import heapq
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from dcasgd_jax.schedules.checks import check_at_least, check_protocol
from dcasgd_jax.schedules.presence import MOST_LOST, Attempt, Worker
from dcasgd_jax.schedules.schedule import Schedule

Late = Literal["dropped", "stale"]
"""What becomes of computations that are in work when a round ends."""


class Quorum(NamedTuple):
    """When the server merges: with the q-th update of a round, or a time of grace after it.

    A round begins with a merge. The server waits for `size` updates, then for `grace` seconds more,
    or until all workers have sent one; then it merges what has come. Workers that have sent an
    update wait for the merge, pull its weights, and begin anew.
    """

    size: int
    """q >= 1, how many updates a merge has at least."""
    grace: float = 0.0
    """Seconds from the q-th update to the merge, >= 0."""
    late: Late = "dropped"
    """Of the others, "dropped": they give up and begin anew at the merged weights. "stale": they go
    on; their updates belong to the round in which they arrive, and are stale there."""


def merge_ends(schedule: Schedule) -> np.ndarray:
    """After which steps the server's weights are pulled: in rounds, the last of each.

    What rules need that merge as many updates as a round has, such as
    `dcasgd_jax.peers.weighted_aggregation`. Of schedules without rounds, all steps are.

    Args:
        schedule: from `cluster_times` and its siblings; of a recorded trace, whose rounds are not
            known, steps are left out of whose weights no later gradient was taken.

    Returns:
        Shape [num_steps], bool.

    Example:
        >>> from dcasgd_jax import round_robin
        >>> merge_ends(round_robin(3, 7, wait_for=3))
        array([False, False,  True, False, False,  True, False])
    """
    if schedule.writes is None:
        return np.ones(np.shape(schedule.worker), bool)
    return np.asarray(schedule.writes) < schedule.num_workers


def check_quorum(num_workers: int, num_steps: int, wait_for: int | Quorum) -> Quorum:
    """The protocol of rounds that is asked for; refuses one that cannot be."""
    quorum = wait_for if isinstance(wait_for, Quorum) else Quorum(wait_for)
    check_protocol(num_workers, num_steps, quorum.size)
    check_at_least("grace", quorum.grace, 0.0)
    if quorum.late not in get_args(Late):
        raise ValueError(f"late must be 'dropped' or 'stale', got {quorum.late!r}.")
    return quorum


class _Slots:
    """Which slots hold the weights that workers have, and the present ones."""

    def __init__(self, num_workers: int) -> None:
        self._held = [0] * num_workers  # how many have what is in each slot
        self._free = list(range(1, num_workers))  # a heap: the lowest is taken first
        self.current = 0
        self._held[0] = 1  # the server itself has it

    def take(self) -> int:
        """The slot of the present weights, with one more who has it."""
        self._held[self.current] += 1
        return self.current

    def release(self, slot: int) -> None:
        """One less has what is in a slot."""
        self._held[slot] -= 1
        if not self._held[slot]:
            heapq.heappush(self._free, slot)

    def merge(self) -> int:
        """The slot of the weights that a merge makes."""
        # Whoever sent an update has released its slot: one is free, or the server's last was it.
        self.release(self.current)
        self.current = heapq.heappop(self._free)
        self._held[self.current] = 1
        return self.current


class _Rounds:
    """One round after another, event by event."""

    def __init__(self, workers: Sequence[Worker], quorum: Quorum) -> None:
        self._workers, self._quorum = workers, quorum
        self._slots = _Slots(len(workers))
        self._attempt = [Attempt(0.0, True, 0.0)] * len(workers)
        self._slot, self._version = [0] * len(workers), [0] * len(workers)
        self._queue: list[tuple[float, int]] = []
        self._merged = self._lost_in_a_row = 0  # steps that made the present weights; losses
        self.worker: list[int] = []
        self.clock: list[float] = []
        self.version: list[int] = []
        self.reads: list[int] = []
        self.writes: list[int] = []
        for worker in range(len(workers)):
            self._begin(worker, 0.0)

    def _begin(self, worker: int, now: float) -> None:
        """A worker pulls the present weights and computes, or is away."""
        self._slot[worker], self._version[worker] = self._slots.take(), self._merged
        self._attempt[worker] = self._workers[worker].begin(now)
        heapq.heappush(self._queue, (self._attempt[worker].end, worker))

    def play(self) -> None:
        """One round, up to and with the merge."""
        size, grace, late = self._quorum
        arrived: list[int] = []
        closes = math.inf
        while len(arrived) < len(self._workers) and self._queue[0][0] <= closes:
            now, worker = heapq.heappop(self._queue)
            if now == math.inf:
                raise ValueError(
                    f"after {len(self.worker)} updates so many workers are gone for good that "
                    f"fewer than the quorum of {size} are left; ask for fewer steps or a smaller "
                    "quorum, or let them return."
                )
            self._slots.release(self._slot[worker])
            if self._attempt[worker].lost:
                self._begin(worker, now)
                self._count_lost()
                continue
            self._lost_in_a_row = 0
            arrived.append(worker)
            self._record(worker, now)
            if len(arrived) == size:
                closes = now + grace
                if grace == 0:
                    break
        # Who comes last in time is taken in when the window closes, at once if all are there.
        if len(arrived) < len(self._workers):
            self.clock[-1] = closes
        self._merge(arrived, self.clock[-1], drop=late == "dropped")

    def _count_lost(self) -> None:
        """Refuses workers of whom none gets anything done."""
        self._lost_in_a_row += 1
        if self._lost_in_a_row > MOST_LOST * len(self._workers):
            raise ValueError(
                f"after {len(self.worker)} updates, workers have come and gone "
                f"{self._lost_in_a_row:,} times without one; let them be there for longer, or "
                "compute and transfer faster."
            )

    def _record(self, worker: int, now: float) -> None:
        """An update that arrives."""
        self.worker.append(worker)
        self.clock.append(now)
        self.version.append(self._version[worker])
        self.reads.append(self._slot[worker])
        self.writes.append(len(self._workers))

    def _merge(self, arrived: list[int], now: float, *, drop: bool) -> None:
        """New weights, for those who wait for them and for those who give up."""
        restarts = set(arrived)
        if drop:
            # Who is away, or not there to hear of it, is not brought back by the end of a round.
            late = {worker for _, worker in self._queue if now < self._leaving(worker)}
            for worker in late:
                self._slots.release(self._slot[worker])
            self._queue = [entry for entry in self._queue if entry[1] not in late]
            heapq.heapify(self._queue)
            restarts |= late
        self._merged = len(self.worker)
        self.writes[-1] = self._slots.merge()
        for worker in sorted(restarts):
            self._begin(worker, now)

    def _leaving(self, worker: int) -> float:
        """Until when a worker computes, or would if it were let."""
        attempt = self._attempt[worker]
        return attempt.leaves if attempt.lost else math.inf


def schedule_by_quorum(workers: Sequence[Worker], num_steps: int, quorum: Quorum) -> Schedule:
    """The first arrivals in rounds; the last round may be cut."""
    rounds = _Rounds(workers, quorum)
    while len(rounds.worker) < num_steps:
        rounds.play()
    columns = (rounds.worker, rounds.version, rounds.reads, rounds.writes)
    worker, version, reads, writes = (np.array(c[:num_steps], np.int32) for c in columns)
    return Schedule(
        worker=worker,
        staleness=np.arange(num_steps, dtype=np.int32) - version,
        clock=np.array(rounds.clock[:num_steps], np.float64),
        num_workers=len(workers),
        reads=reads,
        writes=writes,
    )

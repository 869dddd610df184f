"""A cluster in plain Python: a queue of what ends next, one event after another.

Shares nothing with dcasgd_jax. `attempts[m]` is an iterator of worker m's computations, pairs
(seconds, lost); of machines that fail, triples of seconds (to compute, until a failure, away).
"""

import heapq
from typing import NamedTuple


class Run(NamedTuple):
    """What happened until the last of the asked-for arrivals, that one included."""

    worker: list  # whose gradient arrived, at each server step
    clock: list  # when
    version: list  # server steps that had been taken when its weights were pulled
    held: list  # the version that each worker holds at the end
    gone: int  # server steps that went by while workers did nothing that came to an arrival


def asynchronous(attempts, num_steps):
    """Everyone pulls when its attempt ends, whatever came of it."""
    queue, held = [], [0] * len(attempts)
    for worker, attempt in enumerate(attempts):
        time, lost = next(attempt)
        heapq.heappush(queue, (time, worker, lost))
    run = Run([], [], [], held, 0)
    gone = 0
    while len(run.worker) < num_steps:
        now, worker, lost = heapq.heappop(queue)
        if lost:
            gone += len(run.worker) - held[worker]
        else:
            run.worker.append(worker)
            run.clock.append(now)
            run.version.append(held[worker])
        held[worker] = len(run.worker)
        time, lost = next(attempts[worker])
        heapq.heappush(queue, (now + time, worker, lost))
    return run._replace(gone=gone)


def rounds(attempts, num_steps, wait_for):
    """Everyone starts at the round's weights; the round ends with its `wait_for`-th arrival."""
    num_workers = len(attempts)
    run = Run([], [], [], [0] * num_workers, 0)
    away, now, gone = {}, 0.0, 0  # away: when an unreachable worker will be back
    while len(run.worker) < num_steps:
        first_step = len(run.worker)
        waiting = [0] * num_workers  # for each who has arrived: after which step
        queue = []
        for worker in range(num_workers):
            if worker in away:
                heapq.heappush(queue, (away[worker], worker, True))
            else:
                time, lost = next(attempts[worker])
                heapq.heappush(queue, (now + time, worker, lost))
        arrived = 0
        while arrived < wait_for:
            now, worker, lost = heapq.heappop(queue)
            if lost:
                time, lost = next(attempts[worker])
                heapq.heappush(queue, (now + time, worker, lost))
                continue
            arrived += 1
            if len(run.worker) < num_steps:
                run.worker.append(worker)
                run.clock.append(now)
                run.version.append(first_step)
                waiting[worker] = len(run.worker)
        away = {worker: end for end, worker, lost in queue if lost}
        if len(run.worker) == first_step + wait_for:
            for worker in range(num_workers):
                run.held[worker] = len(run.worker)
                gone += len(run.worker) - max(waiting[worker], first_step)
    return run._replace(gone=gone)


def failing_rounds(attempts, num_steps, wait_for):
    """Rounds of machines that fail while they compute: failures and returns are events too."""
    run = Run([], [], [], [0] * len(attempts), 0)
    queue, away, begun = [], set(), [0] * len(attempts)

    def begin(worker, now):
        seconds, failure, absence = next(attempts[worker])
        begun[worker] += 1  # what the worker was to meet before is void
        what = "fails" if failure <= seconds else "arrives"
        heapq.heappush(queue, (now + min(failure, seconds), worker, begun[worker], what, absence))

    for worker in range(len(attempts)):
        begin(worker, 0.0)
    arrived = 0
    while len(run.worker) < num_steps:
        now, worker, number, what, absence = heapq.heappop(queue)
        if number != begun[worker]:
            continue
        if what == "fails":
            away.add(worker)
            heapq.heappush(queue, (now + absence, worker, number, "returns", 0.0))
        elif what == "returns":
            away.discard(worker)
            begin(worker, now)
        else:
            run.worker.append(worker)
            run.clock.append(now)
            run.version.append(len(run.worker) - 1 - arrived)
            arrived = (arrived + 1) % wait_for
            if arrived == 0:
                for present in set(range(len(attempts))) - away:
                    begin(present, now)
    return run


def versions_read(reads, writes, num_slots):
    """Which version each step finds in the slot that it reads, played slot by slot."""
    slots, found = [0] * num_slots, []
    for step, (read, write) in enumerate(zip(reads, writes, strict=True)):
        found.append(slots[read])
        if write != num_slots:
            slots[write] = step + 1
    return found


def greedy_waves(version, longest=None):
    """Lengths of the waves, each grown step by step while everything it needs is known."""
    lengths, step = [], 0
    while step < len(version):
        start = step
        while (
            step < len(version)
            and version[step] <= start
            and (longest is None or step - start < longest)
        ):
            step += 1
        lengths.append(step - start)
    return lengths

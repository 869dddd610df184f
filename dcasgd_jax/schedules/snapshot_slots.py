"""Where each snapshot is kept, when workers do not simply pull upon each arrival.

M workers hold at most M different versions of the weights at a time, so M slots are enough,
whoever pulls what. A version that several workers hold is kept once; its slot is free again when
the last of them has pulled anew.
"""

import numpy as np


def neighbours(worker: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The entries of the same worker just before and just after each entry.

    Args:
        worker: whole numbers >= 0, shape [entries].

    Returns:
        Two arrays of indices of the same shape: -1 where there is none before, the number of
        entries where there is none after.

    Example:
        >>> neighbours(np.array([0, 1, 0, 0]))
        (array([-1, -1,  0,  2]), array([2, 4, 3, 4]))
    """
    # NumPy sorts 16-bit integers by counting, twenty times as fast as others.
    narrow = worker.astype(np.uint16) if worker.max(initial=0) < 2**16 else worker
    order = np.argsort(narrow, kind="stable")  # each worker's entries together, in time
    same = worker[order[1:]] == worker[order[:-1]]
    before, after = np.full(worker.size, -1), np.full(worker.size, worker.size)
    before[order[1:][same]] = order[:-1][same]
    after[order[:-1][same]] = order[1:][same]
    return before, after


def allocate(freed: np.ndarray, num_slots: int, *, never: int) -> np.ndarray:
    """Slots for versions that are made one after another: first freed, first taken.

    Version 0 is in slot 0 and the other slots are free. An allocation uses nothing that happens
    after a version is made, so it does not change when the run is made longer.

    Args:
        freed: when each version is last needed, on any scale of whole numbers on which at most
            `num_slots` versions are needed at a time; shape [versions]. A slot can be freed and
            taken in the same instant.
        num_slots: how many slots there are.
        never: the value of `freed` for versions that are needed to the end.

    Returns:
        The slot of each version, shape [versions].

    Example:
        >>> allocate(np.array([9, 1, 2, 9, 9]), 3, never=9)  # 0 is kept, 3 and 4 follow 1 and 2
        array([0, 1, 2, 1, 2])
    """
    order = np.argsort(freed, kind="stable")
    order = order[: np.count_nonzero(freed < never)]
    # The first versions take the free slots; then each takes the slot of an earlier version, and
    # following these links back, doubling their length each time, ends at one of the first.
    slot = np.arange(freed.size)
    slot[num_slots:] = order[: max(freed.size - num_slots, 0)]
    while slot.max(initial=0) >= num_slots:
        slot = slot[slot]
    return slot


def slots_of_trace(staleness: np.ndarray, num_workers: int) -> tuple[np.ndarray, np.ndarray]:
    """Slots for arrivals whose staleness is all that is known of who pulled what.

    A version is kept from when it is made until the last gradient taken at it has arrived, which
    is known in hindsight: the slots are those of the whole trace, not of any longer one.

    Args:
        staleness: server steps since the version that each gradient was taken at was made, shape
            [num_steps].
        num_workers: M; each worker holds one version at a time.

    Returns:
        The slot that each gradient's snapshot is read from, and the slot that the weights are
        written to after each step, `num_workers` where no gradient is taken at them; both of
        shape [num_steps], int32.

    Example:
        >>> slots_of_trace(np.array([0, 1, 0, 1]), 2)
        (array([0, 0, 1, 1], dtype=int32), array([2, 1, 2, 2], dtype=int32))
    """
    step = np.arange(staleness.size)
    made, which = np.unique(step - staleness, return_inverse=True)
    freed = np.zeros(made.size, np.int64)
    freed[which] = step + 1  # of several, NumPy keeps the last
    slot = allocate(freed, num_workers, never=staleness.size + 1)
    kept = np.full(staleness.size + 1, num_workers)
    kept[made] = slot
    return slot[which].astype(np.int32), kept[1:].astype(np.int32)

"""Waves cut into pieces of few widths, so that few programs are compiled and nothing is padded.

A wave can be cut anywhere: what a later part depends on is known even before the earlier part. With
widths that are powers of two, a wave of 13 is 8 + 4 + 1.
"""

from typing import NamedTuple

import numpy as np

from dcasgd_jax.schedules.schedule import Schedule
from dcasgd_jax.schedules.waves import waves

WHOLE, SHARED, MIXED = "whole", "shared", "mixed"
"""What a piece reads: every slot once; one slot for all of it; or any slots."""


class Kind(NamedTuple):
    """What is compiled once for all pieces that are alike."""

    width: int
    reads: str
    """`WHOLE`: gradients are computed slot by slot where the snapshots lie, which copies none.
    `SHARED`: at one snapshot, as in a synchronous round. `MIXED`: at copies of the snapshots."""


class Piece(NamedTuple):
    """A run of server steps whose gradients are computed together."""

    start: int
    kind: Kind


def pieces(
    schedule: Schedule,
    reads: np.ndarray,
    *,
    longest: int | None = None,
    multiple: int = 1,
) -> list[Piece]:
    """Cuts a schedule.

    Args:
        schedule: any, also a stretch of a longer one.
        reads: the slot that each step's gradient is taken at, [num_steps].
        longest: no piece is wider than this; None for no bound.
        multiple: widths above 1 are multiples of this, wherever a wave is that long, so that they
            can be shared evenly by as many devices.

    Returns:
        The pieces in order.

    Example:
        >>> from dcasgd_jax import round_robin
        >>> schedule = round_robin(6, 9)
        >>> [(p.start, *p.kind) for p in pieces(schedule, schedule.worker)]
        [(0, 6, 'whole'), (6, 2, 'mixed'), (8, 1, 'mixed')]
    """
    found = []
    cut = waves(schedule, longest=longest)
    for start, length in zip(cut.start.tolist(), cut.length.tolist(), strict=True):
        at = start
        for width in _widths(length, schedule.num_workers, multiple):
            found.append(Piece(at, Kind(width, _reads(reads[at : at + width], schedule))))
            at += width
    return found


def _widths(length: int, num_workers: int, multiple: int) -> list[int]:
    """Widths that sum to a wave's length: a whole wave of all workers, then powers of two."""
    widths = []
    while length:
        if length == num_workers and length % multiple == 0:
            width = length
        elif length >= multiple:
            width = multiple * 2 ** ((length // multiple).bit_length() - 1)
        else:
            width = 2 ** (length.bit_length() - 1)
        widths.append(width)
        length -= width
    return widths


def _reads(slots: np.ndarray, schedule: Schedule) -> str:
    if slots.size > 1 and (slots == slots[0]).all():
        return SHARED
    every = slots.size == schedule.num_workers and np.unique(slots).size == slots.size
    return WHOLE if every and slots.size > 1 else MIXED

"""Waves cut into chunks of few widths, so that few programs are compiled and nothing is padded.

A wave can be cut anywhere: what a later part depends on is known even before the earlier part. With
widths that are powers of two, a wave of 13 is 8 + 4 + 1.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dcasgd_jax.schedules.schedule import Column, Schedule
from dcasgd_jax.schedules.waves import waves

ALL_SLOTS, ONE_SLOT, ANY_SLOTS = "all slots", "one slot", "any slots"
"""What a chunk reads: every slot once; the same slot at every step; or whichever slots."""


class ChunkKind(NamedTuple):
    """What is compiled once for all chunks that are alike."""

    width: int
    """Server steps in it."""
    reads: str
    """`ALL_SLOTS`: gradients are computed slot by slot where the snapshots lie, which copies none.
    `ONE_SLOT`: all at one snapshot, as in a synchronous round. `ANY_SLOTS`: at copies of the
    snapshots."""


class Chunk(NamedTuple):
    """A run of server steps whose gradients are computed together."""

    start: int
    """Its first step, counted within the stretch."""
    kind: ChunkKind

    @property
    def steps(self) -> slice:
        """Its steps within the stretch."""
        return slice(self.start, self.start + self.kind.width)


class ChunkColumns(NamedTuple):
    """The chunks of a run as data of a compiled loop; columns of shape [num_chunks], int32."""

    start: Column  # the first step of each
    kind: Column  # the place of its kind among the kinds; beyond them: nothing is to be done


def chunk_columns(
    chunks: Sequence[Chunk], *, padded: bool
) -> tuple[tuple[ChunkKind, ...], ChunkColumns]:
    """The kinds of these chunks, and the chunks.

    `padded`: with at most a quarter of idle ones behind them, so that schedules of one length have
    one number of chunks.

    Example:
        >>> from dcasgd_jax import round_robin
        >>> schedule = round_robin(4, 36)
        >>> kinds, columns = chunk_columns(cut_into_chunks(schedule, schedule.worker), padded=True)
        >>> [kind.width for kind in kinds], columns.kind.tolist()
        ([4], [0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    """
    kinds = tuple(sorted({chunk.kind for chunk in chunks}))
    more = -len(chunks) % 2 ** max(len(chunks).bit_length() - 3, 0) if padded else 0
    start = np.array([chunk.start for chunk in chunks], np.int32)
    kind = np.array([kinds.index(chunk.kind) for chunk in chunks], np.int32)
    return kinds, ChunkColumns(
        np.pad(start, (0, more)), np.pad(kind, (0, more), constant_values=len(kinds))
    )


def single_steps(num_steps: int) -> Iterator[Chunk]:
    """Every step by itself."""
    kind = ChunkKind(1, ANY_SLOTS)
    return (Chunk(start, kind) for start in range(num_steps))


def cut_into_chunks(
    schedule: Schedule,
    reads: np.ndarray,
    *,
    longest: int | None = None,
    multiple: int = 1,
) -> tuple[Chunk, ...]:
    """Cuts a schedule, or a stretch of one, into chunks.

    Args:
        schedule: who arrives when.
        reads: the slot that each step's gradient is taken at, shape [num_steps].
        longest: no chunk is wider than this; None for no bound.
        multiple: widths above 1 are multiples of this, wherever a wave is that long, so that they
            can be shared evenly by as many devices.

    Returns:
        The chunks in order.

    Example:
        >>> from dcasgd_jax import round_robin
        >>> schedule = round_robin(6, 9)
        >>> [(c.start, *c.kind) for c in cut_into_chunks(schedule, schedule.worker)]
        [(0, 6, 'all slots'), (6, 2, 'any slots'), (8, 1, 'any slots')]
    """
    chunks = []
    cut = waves(schedule, longest=longest)
    for start, length in zip(cut.start.tolist(), cut.length.tolist(), strict=True):
        first = start
        for width in _widths(length, schedule.num_workers, multiple):
            kind = ChunkKind(width, _reading(reads[first : first + width], schedule.num_workers))
            chunks.append(Chunk(first, kind))
            first += width
    return tuple(chunks)


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


def _reading(slots: np.ndarray, num_workers: int) -> str:
    """What a chunk reads, from the slot of each of its steps."""
    if slots.size > 1 and (slots == slots[0]).all():
        return ONE_SLOT
    every_slot_once = slots.size == num_workers and np.unique(slots).size == slots.size
    return ALL_SLOTS if every_slot_once and slots.size > 1 else ANY_SLOTS

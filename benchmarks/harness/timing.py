"""Seconds of several ways to the same thing, taken in turns, so that a busy moment is shared."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np


def take_turns(
    works: Sequence[Callable[[], Any]], repetitions: int, advance: Callable[[], None]
) -> list[list[float]]:
    """Seconds of each way; the first turn, which compiles, is not counted.

    Args:
        works: each does its whole work when called, and returns what to wait for.
        repetitions: how many times each is timed.
        advance: called after each, `1 + repetitions` times a way in all.
    """
    return [own[1:] for own in all_turns(works, repetitions, advance)]


def all_turns(
    works: Sequence[Callable[[], Any]], repetitions: int, advance: Callable[[], None]
) -> list[list[float]]:
    """As `take_turns`, with the first turn in front.

    Args:
        works: likewise.
        repetitions: likewise.
        advance: likewise.
    """
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(1 + repetitions):
        for work, own in zip(works, seconds, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(work())
            own.append(time.perf_counter() - start)
            advance()
    return seconds


def ratio(own: Sequence[float], baseline: Sequence[float]) -> float:
    """The median over repetitions of one way's seconds by another's of the same turn.

    Args:
        own: seconds.
        baseline: likewise, of the same turns.
    """
    return float(np.median(np.asarray(own) / np.asarray(baseline)))


def memory_in_copies(compiled: Any, params: Any, besides: Any = ()) -> float:
    """Peak memory of a compiled program, in copies of the parameters.

    Args:
        compiled: what `jax.jit(f).lower(...).compile()` returned.
        params: the parameters.
        besides: arguments that are not counted, such as batches.
    """
    memory = compiled.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    peak += memory.output_size_in_bytes - memory.alias_size_in_bytes

    def size(tree: Any) -> int:
        return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))

    return (peak - size(besides)) / size(params)

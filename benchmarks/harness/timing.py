"""Seconds of several ways to the same thing, taken in turns, so that a busy moment is shared."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from common.seeds import streams


def take_turns(
    works: Sequence[Callable[[], Any]], repetitions: int, advance: Callable[[], None]
) -> list[list[float]]:
    """Seconds of each way; the first turn, which compiles, is not counted.

    A way does its whole work when called, and returns what to wait for; `advance` is called after
    each, `1 + repetitions` times a way in all.
    """
    return [turns[1:] for turns in all_turns(works, repetitions, advance)]


def all_turns(
    works: Sequence[Callable[[], Any]], repetitions: int, advance: Callable[[], None]
) -> list[list[float]]:
    """Like `take_turns`, with the first turn in front."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(1 + repetitions):
        for work, spent in zip(works, seconds, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(work())
            spent.append(time.perf_counter() - start)
            advance()
    return seconds


def ratio(seconds: Sequence[float], baseline: Sequence[float]) -> float:
    """The median over repetitions of one way's seconds by another's of the same turn."""
    return float(np.median(np.asarray(seconds) / np.asarray(baseline)))


def memory_in_copies(compiled: Any, params: Any, besides: Any = ()) -> float:
    """Peak memory of a compiled program in copies of the parameters, `besides` not counted."""
    memory = compiled.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    peak += memory.output_size_in_bytes - memory.alias_size_in_bytes

    def size(tree: Any) -> int:
        return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))

    return (peak - size(besides)) / size(params)


def random_images(
    shape: tuple[int, ...], *, steps: int, batch_size: int, seed: int
) -> tuple[jax.Array, jax.Array]:
    """Batches to time on, and their labels of ten classes; what is in them does not matter."""
    keys = streams(seed)
    images = jax.random.normal(keys.data, (steps, batch_size, *shape))
    return images, jax.random.randint(keys.order, (steps, batch_size), 0, 10)


def descent(gradient: Callable[[Any, Any], Any], tx: optax.GradientTransformation) -> Any:
    """One step of plain training, of (params, state) and a batch, as `jax.lax.scan` takes it."""

    def step(carry: Any, batch: Any) -> tuple[Any, None]:
        params, state = carry
        updates, state = tx.update(gradient(params, batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    return step

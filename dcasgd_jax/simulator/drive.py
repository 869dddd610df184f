"""The one loop from Python: compiled chunks, one after another, for every engine."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dcasgd_jax.simulator.batches import BatchesEndedError
from dcasgd_jax.simulator.chunks import Chunk
from dcasgd_jax.simulator.state import SimulatorLog, SimulatorState


class ChunkRunner(NamedTuple):
    """How an engine takes chunks of steps; between them, the state has a form of its own."""

    begin: Callable[[SimulatorState], Any]
    """state -> the engine's form, in arrays that may be donated; the caller's stay theirs."""
    batches: Callable[[Chunk, int], Any]
    """(chunk, its first step counted from the beginning of the run) -> its batches."""
    run: Callable[[Any, Chunk, Any], tuple[Any, SimulatorLog]]
    """(engine's form, chunk, its batches) -> (the next, the log of the chunk's steps)."""
    end: Callable[[Any], SimulatorState]
    """engine's form -> state."""


def drive(
    runner: ChunkRunner, state: SimulatorState, chunks: Iterable[Chunk], *, empty: SimulatorLog
) -> tuple[SimulatorState, SimulatorLog]:
    """Takes all chunks in order; what has been done is kept if the batches end early.

    `empty` is the log of no step.
    """
    first_step, logs = int(state.step), []
    carry = runner.begin(state)
    for chunk in chunks:
        try:
            batches = runner.batches(chunk, first_step + chunk.start)
        except BatchesEndedError as error:
            error.state, error.log = runner.end(carry), _whole(logs or [empty])
            raise
        carry, log = runner.run(carry, chunk, batches)
        logs.append(log)
    return runner.end(carry), _whole(logs)


def _whole(logs: list[SimulatorLog]) -> SimulatorLog:
    """One log of consecutive ones."""
    # Fetched at the end, so that no chunk waits for the log of another.
    logs = jax.device_get(logs)
    return jax.tree.map(
        lambda *parts: jnp.asarray(np.concatenate([np.atleast_1d(part) for part in parts])), *logs
    )

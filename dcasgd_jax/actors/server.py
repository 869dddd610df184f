"""A parameter server, or one of several that share its leaves."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dcasgd_jax.actors.host_arrays import to_host
from dcasgd_jax.actors.process import Process, prepare
from dcasgd_jax.actors.shards import (
    Shard,
    ShardPush,
    ShardState,
    advance_shard,
    leaves_of,
    to_device,
)
from dcasgd_jax.simulator.batches import one_batch
from dcasgd_jax.simulator.server import Server, sent_weights
from dcasgd_jax.simulator.state import ServerState

ShardSnapshot = tuple[list[Any], Any]
"""The leaves of one server, as they are kept, and the model state from the first server."""


class Duty(NamedTuple):
    """What a server has to do."""

    server: Server  # the rule of the whole
    template: ServerState  # shapes and dtypes of the whole state
    shard: Shard


class ParameterServer:
    """Runs in a process of its own, as a Ray actor."""

    def __init__(self, process: Process, program: Sequence[Any]):
        """Prepares the process, then fetches its program.

        Args:
            process: how JAX is to be set up here.
            program: references of a `Duty` and of the batches, for rules that look at them; in a
                list, so that nothing is unpacked before JAX is set up.
        """
        self._duty: Duty
        self._duty, self._batches = prepare(process, program)
        self._advance = jax.jit(self._step, donate_argnums=0)
        self._state: ShardState | None = None

    def start(self, state: ShardState) -> int:
        """Takes over a state from the host, and answers with the number of steps it has taken."""
        self._state = to_device(self._duty.shard, self._duty.template, state)
        return self.steps_taken()

    def steps_taken(self) -> int:
        """How many server steps were taken."""
        assert self._state is not None
        return int(self._state.step)

    def state(self) -> ShardState:
        """What the shard holds, on the host."""
        assert self._state is not None
        return to_host(self._state)

    def step(
        self,
        step: int,
        worker: int,
        staleness: int,
        batch_number: int,
        gradient_part: tuple[list[Any], Any],
        snapshot: ShardSnapshot,
    ) -> tuple[float | None, ShardSnapshot]:
        """One server step.

        Args:
            step: which; all servers take the same steps in the same order.
            worker: whose gradient it is.
            staleness: server steps since the snapshot was the server's.
            batch_number: of the batch that the gradient was taken on.
            gradient_part: the shard's leaves of it, and what was pushed of the model state.
            snapshot: the shard's part of the snapshot that it was taken at.

        Returns:
            The shard's part of |w - snapshot|, or None, and what a worker that pulls now holds.
        """
        if step != self.steps_taken():
            raise RuntimeError(
                f"step {step} reached a server that has taken {self.steps_taken()} steps."
            )
        push = ShardPush(*gradient_part, snapshot[0], np.int32(staleness), np.int32(worker))
        arrays = () if callable(self._batches) else self._batches
        state, sent, distance = self._advance(self._state, push, np.int32(batch_number), arrays)
        self._state = state
        log = None if distance is None else float(distance)
        return log, to_host((sent, state.model_state))

    def _step(self, state: ShardState, push: ShardPush, batch_number: Any, arrays: Any) -> Any:
        """What is compiled: `arrays` are the batches, unless these are a function."""
        duty = self._duty
        batches = self._batches if callable(self._batches) else arrays
        batch = one_batch(batches, batch_number, batch_number)
        return advance_shard(duty.server, duty.shard, duty.template, state, push, batch)


def first_snapshots(
    server: Server, shards: tuple[Shard, ...], state: ServerState
) -> list[ShardSnapshot]:
    """What workers that pull from a whole state hold, for each server its part, on the host."""
    sent = to_host(sent_weights(server, state.params, state.opt_state))
    model_state = to_host(state.model_state)
    return [(leaves_of(shard, sent), model_state if shard.first else ()) for shard in shards]

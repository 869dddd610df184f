"""A parameter server, or one of several that share its leaves."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dcasgd_jax.actors.process import Process, prepare
from dcasgd_jax.actors.shards import Held, Pushed, Shard, advance_shard, pick, restored
from dcasgd_jax.actors.wire import to_host
from dcasgd_jax.simulator.batches import one_batch
from dcasgd_jax.simulator.state import Server, ServerState, sending

Snapshot = tuple[list[Any], Any]
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
        self._held: Held | None = None

    def start(self, held: Held) -> int:
        """Takes a state over, and answers with the number of steps it has taken.

        Args:
            held: the shard's part of it, on the host.
        """
        self._held = restored(self._duty.shard, self._duty.template, held)
        return self.taken()

    def taken(self) -> int:
        """How many server steps were taken."""
        assert self._held is not None
        return int(self._held.step)

    def state(self) -> Held:
        """What the shard holds, on the host."""
        assert self._held is not None
        return to_host(self._held)

    def step(
        self,
        step: int,
        worker: int,
        staleness: int,
        number: int,
        part: tuple[list[Any], Any],
        snapshot: Snapshot,
    ) -> tuple[float | None, Snapshot]:
        """One server step.

        Args:
            step: which; all servers take the same steps in the same order.
            worker: whose gradient it is.
            staleness: server steps since the snapshot was the server's.
            number: of the batch.
            part: of the gradient: the shard's leaves, and what was pushed of the model state.
            snapshot: that it was taken at, the shard's part.

        Returns:
            The shard's part of |w - snapshot|, or None, and what a worker that pulls now holds.
        """
        if step != self.taken():
            raise RuntimeError(f"step {step} reached a server that has taken {self.taken()}.")
        pushed = Pushed(part[0], part[1], snapshot[0], np.int32(staleness), np.int32(worker))
        arrays = () if callable(self._batches) else self._batches
        held, sent, distance = self._advance(self._held, pushed, np.int32(number), arrays)
        self._held = held
        log = None if distance is None else float(distance)
        return log, to_host((sent, held.model_state))

    def _step(self, held: Held, pushed: Pushed, number: Any, arrays: Any) -> Any:
        duty = self._duty
        batches = self._batches if callable(self._batches) else arrays
        batch = one_batch(batches, number, number)
        return advance_shard(duty.server, duty.shard, duty.template, held, pushed, batch)


def first_snapshots(
    server: Server, shards: tuple[Shard, ...], state: ServerState
) -> list[Snapshot]:
    """What workers that pull hold, for each server its part, on the host.

    Args:
        server: the rule.
        shards: of the servers.
        state: of the whole, arrays of JAX.
    """
    sent = to_host(sending(server, state.params, state.opt_state))
    model_state = to_host(state.model_state)
    return [(pick(shard, sent), model_state if shard.first else ()) for shard in shards]

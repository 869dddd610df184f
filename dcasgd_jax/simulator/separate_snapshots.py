"""Chunks driven from Python with every snapshot in arrays of its own, so that none is copied.

A worker's snapshot is the array that a server step put out, whoever else holds it. Where snapshots
are stacked in one array, each step copies one out of it and another into it, which on CPU is a
fifth of a small network's step. A chunk's gradients and server steps are one program: XLA may round
a sum of theirs differently from programs of one step.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dcasgd_jax.simulator.batches import BatchSource, one_batch
from dcasgd_jax.simulator.chunks import ANY_SLOTS, ONE_SLOT, Chunk, ChunkKind
from dcasgd_jax.simulator.drive import ChunkRunner
from dcasgd_jax.simulator.server import (
    Job,
    Push,
    advance,
    compute_gradient,
    in_params_dtype,
)
from dcasgd_jax.simulator.state import (
    ServerState,
    SimulatorLog,
    SimulatorState,
    SlotColumns,
    server_part,
)
from dcasgd_jax.simulator.traced_functions import portable

Snapshot = tuple[optax.Params, Any]
"""Weights as they are kept, and the model state that was pulled with them."""


@partial(jax.jit, static_argnames="kind")
def _take_chunk(
    job: Job,
    state: ServerState,
    snapshots: tuple[Snapshot, ...],
    staleness: jax.Array,
    workers: jax.Array,
    batches: Any,
    first: jax.Array,
    *,
    kind: ChunkKind,
) -> tuple[ServerState, list[Snapshot], Any]:
    """The server's next state, what each step hands to workers, and the distances."""
    server = job.server
    pulled = [(in_params_dtype(server, s, state.params), m) for s, m in snapshots]
    if kind.reads == ONE_SLOT:
        pulled *= kind.width
    rows = [one_batch(batches, first + i, state.step + i) for i in range(kind.width)]
    # All gradients first: none of them depends on a step of this chunk.
    computed = [
        compute_gradient(job.grad_fn, state, *snapshot, batch)
        for snapshot, batch in zip(pulled, rows, strict=True)
    ]
    handed_out, distances = [], []
    for i in range(kind.width):
        push = Push(pulled[i][0], staleness[i], workers[i], *computed[i], rows[i])
        state, sent, distance = advance(server, state, push)
        handed_out.append((sent, state.model_state))
        distances.append(distance)
    return state, handed_out, jnp.stack(distances) if server.log_distance else None


@jax.jit
def _slot_of(stacked: Any, slot: jax.Array) -> Any:
    """A copy of what is in one slot."""
    return jax.tree.map(lambda leaf: leaf[slot], stacked)


def _with_slot(stacked: Any, slot: jax.Array, snapshot: Any) -> Any:
    """All slots, with another snapshot in one of them."""
    return jax.tree.map(lambda leaf, value: leaf.at[slot].set(value), stacked, snapshot)


_with_slot_in_place = jax.jit(_with_slot, donate_argnums=0)


class _Slots:
    """The slots of a state, taken out one by one as they are read, and put back at the end."""

    def __init__(self, state: SimulatorState):
        self._stacked = state.snapshots, state.model_snapshots
        self._pulled = np.array(state.pulled)
        self._separate: dict[int, Snapshot] = {}
        self._changed: set[int] = set()

    def read(self, slot: int) -> Snapshot:
        """What is in a slot, copied out of the stack only once."""
        if slot not in self._separate:
            self._separate[slot] = _slot_of(self._stacked, np.int32(slot))
        return self._separate[slot]

    def write(self, slot: int, snapshot: Snapshot, step: int) -> None:
        """Replaces what is in a slot; does nothing where nobody pulls, so that it is none."""
        if slot < len(self._pulled):
            self._separate[slot], self._pulled[slot] = snapshot, step
            self._changed.add(slot)

    def staleness(self, reads: np.ndarray, first_step: int) -> Any:
        """Of consecutive steps, none of which reads what another of them writes."""
        return (first_step + np.arange(len(reads)) - self._pulled[reads]).astype(np.int32)

    def stacked_again(self, state: ServerState) -> SimulatorState:
        """The whole state, in arrays of its own."""
        if len(self._changed) == len(self._pulled):
            in_order = [self._separate[slot] for slot in range(len(self._pulled))]
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *in_order)
        else:
            stacked = jax.tree.map(jnp.copy, self._stacked)
            for slot in self._changed:
                stacked = _with_slot_in_place(stacked, np.int32(slot), self._separate[slot])
        snapshots, model_snapshots = stacked
        return SimulatorState(
            params=jax.tree.map(jnp.copy, state.params),
            opt_state=state.opt_state,
            snapshots=snapshots,
            pulled=jnp.asarray(self._pulled),
            step=state.step,
            model_state=state.model_state,
            model_snapshots=model_snapshots,
        )


class _Carry(NamedTuple):
    """The form that a state has between chunks."""

    server: ServerState
    slots: _Slots
    first_step: int  # of the stretch, counted from the beginning of the run


def chunk_runner(job: Job, columns: SlotColumns, source: BatchSource, batches: Any) -> ChunkRunner:
    """How `drive` goes through a run; the columns are on the host, `batches` as the user's."""
    writes = columns.worker if columns.write is None else columns.write
    if callable(batches):
        origin = portable(batches)
    else:
        origin = None if source.iterated else jax.tree.map(jnp.asarray, batches)

    def begin(state: SimulatorState) -> _Carry:
        return _Carry(server_part(state), _Slots(state), int(state.step))

    def batches_of(chunk: Chunk, step: int) -> tuple[Any, np.int32]:
        """Arrays, and where the chunk's batches begin in them: they are sliced in its program."""
        if source.iterated:
            return source.stacked(chunk.start, chunk.kind.width, step), np.int32(0)
        return origin, np.int32(chunk.start)

    def run(
        carry: _Carry, chunk: Chunk, batches_and_first: tuple[Any, np.int32]
    ) -> tuple[_Carry, SimulatorLog]:
        server, slots, first_step = carry
        event: SlotColumns = jax.tree.map(lambda column: column[chunk.steps], columns)
        shared = chunk.kind.reads == ONE_SLOT
        snapshots = tuple(slots.read(slot) for slot in event.read[: 1 if shared else None].tolist())
        staleness = slots.staleness(event.read, first_step + chunk.start)
        kind = ChunkKind(chunk.kind.width, ONE_SLOT if shared else ANY_SLOTS)
        server, handed_out, distances = _take_chunk(
            job, server, snapshots, staleness, event.worker, *batches_and_first, kind=kind
        )
        for i, slot in enumerate(writes[chunk.steps].tolist()):
            slots.write(slot, handed_out[i], first_step + chunk.start + i + 1)
        return _Carry(server, slots, first_step), SimulatorLog(staleness, distances)

    def end(carry: _Carry) -> SimulatorState:
        return carry.slots.stacked_again(carry.server)

    return ChunkRunner(begin, batches_of, run, end)

"""Pieces driven from Python with every slot a tree of its own, so that no snapshot is copied.

A worker's snapshot is the array that a server step put out, whoever else holds it. Where slots lie
in one array, each step copies one snapshot out of it and another into it, which on CPU is a fifth
of a small network's step. A piece's gradients and server steps are one program: XLA may round a sum
of theirs differently from programs of one step.
"""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dcasgd_jax.simulator.batches import BatchesEndedError, Source, one_batch
from dcasgd_jax.simulator.plan import MIXED, SHARED, Kind, Piece
from dcasgd_jax.simulator.state import (
    GradFn,
    Server,
    ServerState,
    SimulatorLog,
    SimulatorState,
    Step,
    advance,
    evaluate,
    in_params_dtype,
)

PieceFn = Callable[..., tuple[ServerState, list[tuple[optax.Params, Any]], list[Any]]]
"""(server's state, slots, staleness, workers, batches, start, kind=..., draw=...) -> (its next
state, what each step hands to workers, the distances)."""


def piece_function(server: Server, grad_fn: GradFn) -> PieceFn:
    """What is compiled once for each kind of piece.

    Args:
        server: its rule.
        grad_fn: the user's.
    """

    def piece(
        state: ServerState,
        slots: tuple[Any, ...],
        staleness: jax.Array,
        workers: jax.Array,
        batches: Any,
        start: jax.Array,
        *,
        kind: Kind,
        draw: Callable[[Any], Any] | None,
    ) -> tuple[ServerState, list[tuple[optax.Params, Any]], list[Any]]:
        pulled = [(in_params_dtype(server, s, state.params), m) for s, m in slots]
        if kind.reads == SHARED:
            pulled *= kind.width
        given = batches if draw is None else draw
        rows = [one_batch(given, start + i, state.step + i) for i in range(kind.width)]
        computed = [
            evaluate(grad_fn, state, *held, row) for held, row in zip(pulled, rows, strict=True)
        ]
        handed, distances = [], []
        for i, (gradients, pushed) in enumerate(computed):
            step = Step(pulled[i][0], staleness[i], workers[i], gradients, pushed, rows[i])
            state, sent, distance = advance(server, state, step)
            handed.append((sent, state.model_state))
            distances.append(distance)
        return state, handed, distances

    return jax.jit(piece, static_argnames=("kind", "draw"))


@jax.jit
def _row(every: Any, slot: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[slot], every)


def _put(every: Any, slot: jax.Array, row: Any) -> Any:
    return jax.tree.map(lambda leaf, own: leaf.at[slot].set(own), every, row)


_put_in_place = jax.jit(_put, donate_argnums=0)


class _Slots:
    """The slots of a state, taken out one by one as they are read, and put back at the end."""

    def __init__(self, state: SimulatorState):
        self._every = state.snapshots, state.model_snapshots
        self._pulled = np.array(state.pulled)
        self._out: dict[int, Any] = {}
        self._changed: set[int] = set()

    def read(self, slot: int) -> Any:
        """(snapshot, model state) of a slot."""
        if slot not in self._out:
            self._out[slot] = _row(self._every, np.int32(slot))
        return self._out[slot]

    def write(self, slot: int, handed: Any, step: int) -> None:
        """Replaces a slot; none, where nobody pulls."""
        if slot < len(self._pulled):
            self._out[slot], self._pulled[slot] = handed, step
            self._changed.add(slot)

    def staleness(self, reads: np.ndarray, first: int) -> np.ndarray:
        """Of consecutive steps from `first` on, none of which reads what another writes."""
        return (first + np.arange(len(reads)) - self._pulled[reads]).astype(np.int32)

    def joined(self, state: ServerState) -> SimulatorState:
        """The whole state, in arrays of its own."""
        if len(self._changed) == len(self._pulled):
            rows = [self._out[slot] for slot in range(len(self._pulled))]
            every = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
        else:
            every = jax.tree.map(jnp.copy, self._every)
            for slot in self._changed:
                every = _put_in_place(every, np.int32(slot), self._out[slot])
        snapshots, model_snapshots = every
        return SimulatorState(
            params=jax.tree.map(jnp.copy, state.params),
            opt_state=state.opt_state,
            snapshots=snapshots,
            pulled=jnp.asarray(self._pulled),
            step=state.step,
            model_state=state.model_state,
            model_snapshots=model_snapshots,
        )


def drive(
    piece: PieceFn,
    state: SimulatorState,
    events: tuple[np.ndarray, ...],
    plan: list[Piece],
    given: Source,
    batches: Any,
) -> tuple[SimulatorState, SimulatorLog]:
    """One compiled piece after another, their logs fetched at the end.

    Args:
        piece: as `piece_function` returns it.
        state: before; it stays the caller's.
        events: the slot each step reads, the one it writes, its worker; each [num_steps].
        plan: the pieces.
        given: the batches' source.
        batches: as the user gave them.

    Returns:
        The state after, and the log.

    Raises:
        BatchesEndedError: if batches are iterated over and end; it has the state until then.
    """
    reads, writes, workers = events
    slots, first = _Slots(state), int(state.step)
    server = ServerState(state.params, state.opt_state, state.step, state.model_state)
    staleness, distances = [], []
    # Compiled once for each function; one that cannot be told from others is compiled anew.
    told = isinstance(batches, Hashable)
    draw = (batches if told else partial(batches)) if callable(batches) else None
    arrays = None if callable(batches) or given.on_host else jax.tree.map(jnp.asarray, batches)
    for start, kind in plan:
        own = slice(start, start + kind.width)
        at = np.int32(start)
        if given.on_host:
            try:
                arrays, at = given.take(start, kind.width, None), np.int32(0)
            except BatchesEndedError as error:
                error.state = slots.joined(server)
                raise
        shared = kind.reads == SHARED
        taken = tuple(slots.read(slot) for slot in reads[own][: 1 if shared else None].tolist())
        stale = slots.staleness(reads[own], first + start)
        kind = Kind(kind.width, SHARED if shared else MIXED)
        server, handed, apart = piece(
            server, taken, stale, workers[own], arrays, at, kind=kind, draw=draw
        )
        for i, slot in enumerate(writes[own].tolist()):
            slots.write(slot, handed[i], first + start + i + 1)
        staleness.append(stale)
        distances += apart
    log = SimulatorLog(
        staleness=jnp.asarray(np.concatenate(staleness)),
        distance=None if distances[0] is None else jnp.asarray(np.stack(jax.device_get(distances))),
    )
    return slots.joined(server), log

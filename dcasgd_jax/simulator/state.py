"""States and logs of a simulation, and the forms of what a user hands to one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.core import Tracer

from dcasgd_jax.schedules.schedule import Column, Schedule

Batches = Any
"""A pytree of arrays whose leading axis is the server step; or a function from the step (int32
scalar, counted from 0) to a batch; or an iterable of batches, one a step."""

GradFn = Callable[..., Any]
"""(params, one batch) -> gradients of the structure and shapes of params; with a model state,
(params, model_state, one batch) -> (gradients, what is pushed of the model state)."""

Merge = Callable[[Any, Any], Any]
"""(the server's model state, what was pushed) -> the server's next model state."""


class SimulatorState(NamedTuple):
    """The server and what its workers hold, between two server steps."""

    params: optax.Params  # the server's weights w
    opt_state: optax.OptState  # of the server's rule
    snapshots: (
        optax.Params
    )  # like params with a leading axis [slots]: what workers hold; one slot for each, or
    # as many as `slots_needed` says; with a tree of schedules, those of each leaf's
    pulled: jax.Array | tuple[jax.Array, ...]  # shape=(slots,), dtype=int32: how many steps made
    # each snapshot; with a tree of schedules, one such array for each schedule
    step: jax.Array  # shape=(), dtype=int32: server steps taken
    model_state: Any = ()  # the server's, such as running averages; () for none
    model_snapshots: Any = ()  # like model_state with a leading axis [slots]


class ServerState(NamedTuple):
    """What the server knows without its workers."""

    params: optax.Params
    opt_state: optax.OptState
    step: jax.Array
    model_state: Any


class SimulatorLog(NamedTuple):
    """What was measured at each server step, before the weights moved."""

    staleness: Any  # shape=(num_steps,), dtype=int32: steps since the snapshot was w; a tuple of
    # them where leaves have schedules of their own, one for each schedule
    distance: jax.Array | None  # shape=(num_steps,), float32 or wider: |w - snapshot|, Euclidean;
    # None where it was not asked for


class Simulator(NamedTuple):
    """The two functions that `slot_simulator` and `wavefront_simulator` make."""

    init: Callable[..., SimulatorState]
    """(params, model_state=()) -> the state in which every worker holds them."""
    run: Callable[[SimulatorState, Schedule, Batches], tuple[SimulatorState, SimulatorLog]]
    """(state, schedule, batches) -> the state and the log after a stretch of the schedule."""


class SlotColumns(NamedTuple):
    """Which snapshot slot each step reads and which it writes: columns, or the entries of one step.

    All are int32, of shape [num_steps], or [] for one step.
    """

    read: Column  # the slot of the snapshot that the gradient is taken at
    write: Column | None  # the slot that takes the weights after the step; num_workers for none;
    # None: at every step the worker's own
    worker: Column  # whose gradient it is


def slot_columns(schedule: Schedule | tuple[Schedule, ...]) -> SlotColumns:
    """The columns of a schedule, where a worker's own slot is meant unless it says otherwise.

    Of several schedules, one for each group of leaves, each entry is a tuple of columns.
    """
    if isinstance(schedule, tuple):
        reads, writes, workers = zip(*map(slot_columns, schedule), strict=True)
        return SlotColumns(read=reads, write=writes, worker=workers)
    worker = schedule.worker
    reads = worker if schedule.reads is None else schedule.reads
    return SlotColumns(read=reads, write=schedule.writes, worker=worker)


def slots_needed(schedule: Schedule) -> int:
    """How many slots of snapshots a schedule uses, up to a power of two: M at most.

    A version that several workers hold is in one slot, so rounds need one, however many workers
    there are. The power of two spares programs: a few numbers of slots serve all schedules.
    """
    if schedule.reads is None or schedule.writes is None:
        return schedule.num_workers
    if any(isinstance(column, Tracer) for column in (schedule.reads, schedule.writes)):
        return schedule.num_workers
    writes = np.asarray(schedule.writes)
    written = writes[writes < schedule.num_workers].max(initial=0)
    used = 1 + int(max(np.asarray(schedule.reads).max(initial=0), written))
    return min(schedule.num_workers, 2 ** (used - 1).bit_length())


def check_slots(schedule: Schedule, state: SimulatorState) -> None:
    """Refuses a state that has fewer slots than the rest of a run needs."""
    if isinstance(state.pulled, tuple):
        return  # of a tree of schedules, which has no stretches
    kept = state.pulled.shape[0]
    if kept < schedule.num_workers and kept < slots_needed(schedule):
        raise ValueError(
            f"this stretch needs {slots_needed(schedule)} slots of snapshots, and the state has "
            f"{kept}, as the stretch before needed no more; begin with slot_simulator(...).init or "
            "wavefront_simulator(...).init, which have one for each worker."
        )


def server_part(state: SimulatorState) -> ServerState:
    """The server's part of a whole state."""
    return ServerState(state.params, state.opt_state, state.step, state.model_state)

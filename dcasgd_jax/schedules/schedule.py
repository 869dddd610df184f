"""Arrival schedules: which worker's gradient reaches the server at each step, how stale, and when.

Schedules are made on the host with NumPy, exactly, before anything is traced.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from dcasgd_jax.schedules.arrivals import (
    Events,
    Stream,
    Timeline,
    arrivals_in_rounds,
    arrivals_without_waiting,
    draw_timelines,
    stream_of_attempts,
    timeline_until,
)
from dcasgd_jax.schedules.checks import check_clock, check_protocol, check_staleness, check_workers
from dcasgd_jax.schedules.snapshot_slots import neighbours, slots_of_trace

Column = Any
"""An array with one entry a step; inside jax's transformations, what stands for one there."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The arrivals at a parameter server, one entry for each server step.

    The gradient of step t is taken at w_{t - staleness[t]}, the weights after that many steps.
    Whether the workers wait for each other, and who pulls when, is all in that column: every
    protocol is a schedule, with asynchrony as its default.

    A simulator holds at most M versions of the weights, one a slot. Where everyone pulls upon its
    own arrival, and at no other time, worker m's snapshot is in slot m. Elsewhere (in rounds,
    where all take the weights of the round's start; after failures, where one pulls while others
    arrive) `reads` and `writes` say which slot is which.

    A pytree whose leaves are the columns (`num_workers` is static): it passes through jit, and
    `jax.tree.map(lambda column: column[:100], schedule)` is its first hundred steps.
    """

    worker: Column
    """Whose gradient arrives: in [0, num_workers), shape [num_steps], dtype int32."""
    staleness: Column
    """Server steps since the weights it was taken at; shape [num_steps], dtype int32."""
    clock: Column
    """When it arrives: simulated seconds, ascending; shape [num_steps], dtype float64."""
    num_workers: int
    """How many workers there are, M: at most 1,048,576, as each may need a copy of the weights."""
    reads: Column | None = None
    """The slot of the snapshot that this gradient is taken at: in [0, num_workers), shape
    [num_steps], dtype int32. None: the worker's own."""
    writes: Column | None = None
    """The slot that takes the weights right after this step (once its gradient has been read and
    applied); `num_workers` where nobody pulls them. Shape [num_steps], dtype int32. None: the
    worker's own."""


jax.tree_util.register_dataclass(
    Schedule,
    data_fields=["worker", "staleness", "clock", "reads", "writes"],
    meta_fields=["num_workers"],
)


def round_robin(
    num_workers: int,
    num_steps: int,
    *,
    compute_time: float = 1.0,
    wait_for: int | None = None,
) -> Schedule:
    """Equally fast workers taking turns: constant staleness M - 1 once all have reported once.

    All start at time 0 with the first weights and take `compute_time` for each gradient, so the M
    gradients of a round arrive at one time, in the order of the workers. Server and network take
    no time.

    Args:
        num_workers: M >= 1.
        num_steps: server steps T >= 0.
        compute_time: seconds for one gradient, > 0.
        wait_for: None for asynchrony; m in [1, num_workers] for rounds that end with the m-th
            gradient, which are those of workers 0, ..., m - 1 then.

    Returns:
        Worker t mod M at step t, staleness min(t, M - 1), clock (1 + t div M) compute_time; in
        rounds of m, worker and staleness t mod m, clock (1 + t div m) compute_time.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> schedule = round_robin(3, 7)
        >>> schedule.worker
        array([0, 1, 2, 0, 1, 2, 0], dtype=int32)
        >>> schedule.staleness
        array([0, 1, 2, 2, 2, 2, 2], dtype=int32)
        >>> schedule.clock
        array([1., 1., 1., 2., 2., 2., 3.])
    """
    check_protocol(num_workers, num_steps, wait_for)
    if not 0 < compute_time < np.inf:
        raise ValueError(f"compute_time must be finite and positive, got {compute_time}.")
    step, round_size = np.arange(num_steps), num_workers if wait_for is None else wait_for
    events = Events(step % round_size, (1.0 + step // round_size) * compute_time)
    if wait_for is None:
        return from_arrivals(*events, num_workers=num_workers)
    return _schedule_of_rounds(events, num_workers, wait_for)


def from_compute_times(
    compute_times: ArrayLike,
    num_steps: int,
    *,
    lost: ArrayLike | None = None,
    wait_for: int | None = None,
) -> Schedule:
    """The arrivals that given times of computation lead to.

    All workers start at time 0 with the first weights. Asynchronously, the default, each sends
    its gradient when it is done, pulls the server's weights in the same instant, and starts anew.
    Gradients that arrive at one time are taken in the order of the workers. Server and network
    take no time.

    With `wait_for=m`, training goes in rounds. All start a round with the weights of its
    beginning; the m gradients that come first are the round's m server steps, of staleness
    0, ..., m - 1; with the last of them the round ends, whoever is still computing gives up, and
    all start anew with the server's weights. m = M is synchronous SGD, m < M is m-synchronous SGD
    (with M - m backup workers). What the server does with the gradients is the rule's business:
    `optax.MultiSteps(tx, m)` applies the mean of each round, `dcasgd(learning_rate / m, ...)`
    each gradient in its turn, compensated for those of the same round before it (DC-SSGD).

    The same times with and without `wait_for` are the same cluster under two protocols: compare
    their accuracies at equal `clock`.

    Args:
        compute_times: seconds that worker m takes for its k-th computation, all > 0; shape
            [num_workers, draws].
        num_steps: server steps T >= 0.
        lost: whether no gradient comes of the k-th computation, bool, shape [num_workers, draws]:
            its worker is out of reach for that time, then pulls the weights and starts anew. In
            rounds, it takes the weights of the round's beginning, and the end of a round does not
            bring it back. None: nothing is lost.
        wait_for: None, or m in [1, num_workers].

    Returns:
        The first `num_steps` arrivals. For fewer steps the schedule is a prefix of this one.

    Raises:
        ValueError: if the times are not positive, or run out: every worker must still be at work,
            or just done with its last draw, when step T - 1 arrives.

    Example:
        >>> times = [[1.0, 1.0, 1.0], [2.5, 2.5, 2.5]]
        >>> schedule = from_compute_times(times, num_steps=4)
        >>> schedule.worker, schedule.staleness
        (array([0, 0, 1, 0], dtype=int32), array([0, 0, 2, 1], dtype=int32))
        >>> schedule.clock
        array([1. , 2. , 2.5, 3. ])
        >>> synchronous = from_compute_times(times, num_steps=4, wait_for=2)
        >>> synchronous.staleness, synchronous.clock
        (array([0, 1, 0, 1], dtype=int32), array([1. , 2.5, 3.5, 5. ]))

    References:
        Chen et al., Revisiting Distributed Synchronous SGD, 2016
        (https://arxiv.org/abs/1604.00981), for backup workers; Begunov and Tyurin, Do We Need
        Asynchronous SGD? On the Near-Optimality of Synchronous Methods, 2026
        (https://arxiv.org/abs/2602.03802), for m-synchronous SGD.
    """
    times = np.asarray(compute_times, dtype=np.float64)
    if times.ndim != 2 or times.size == 0:
        raise ValueError(
            f"compute_times must be of shape [num_workers, draws], got shape {times.shape}."
        )
    if not (np.isfinite(times).all() and (times > 0).all()):
        raise ValueError("compute_times must be finite and positive.")
    check_protocol(len(times), num_steps, wait_for)
    losses = [None] * len(times) if lost is None else np.asarray(lost)
    if isinstance(losses, np.ndarray) and (losses.dtype, losses.shape) != (np.bool, times.shape):
        raise ValueError(
            f"lost must be bool and of the shape of compute_times, {times.shape}, got "
            f"{losses.dtype} of shape {losses.shape}."
        )
    if wait_for is None:
        lines = [Timeline(np.cumsum(time), loss) for time, loss in zip(times, losses, strict=True)]
        # After the first worker has used up its draws, the true order of events is unknown.
        known = min(float(line.end[-1]) for line in lines)
        schedule = _schedule_of_timelines(
            [timeline_until(line, known) for line in lines], num_steps
        )
    else:
        streams = [stream_of_attempts(time, loss) for time, loss in zip(times, losses, strict=True)]
        events = arrivals_in_rounds(streams, num_steps, wait_for=wait_for)
        schedule = _schedule_of_rounds(events, len(times), wait_for)
    if num_steps > schedule.worker.size:
        raise ValueError(
            f"these compute_times settle the first {schedule.worker.size} arrivals, not "
            f"{num_steps}: draw more than {times.shape[1]} for each worker."
        )
    return schedule


def from_streams(streams: Sequence[Stream], num_steps: int, *, wait_for: int | None) -> Schedule:
    """The arrivals that endless streams of computations lead to, drawn as far as is needed."""
    if wait_for is None:
        return _schedule_of_timelines(draw_timelines(streams, num_steps), num_steps)
    return _schedule_of_rounds(
        arrivals_in_rounds(streams, num_steps, wait_for=wait_for), len(streams), wait_for
    )


def from_arrivals(
    worker: ArrayLike,
    clock: ArrayLike,
    *,
    num_workers: int | None = None,
    staleness: ArrayLike | None = None,
) -> Schedule:
    """A schedule from a recorded trace of arrivals.

    Args:
        worker: whose gradient arrives at each server step; whole numbers, shape [num_steps].
        clock: when, in seconds; >= 0 and never descending, shape [num_steps].
        num_workers: M; None for one more than the largest worker. Workers that never report hold
            the first weights for ever.
        staleness: server steps since the weights that each gradient was taken at; whole numbers,
            shape [num_steps]. A worker's next gradient is taken at weights pulled after its last
            arrival, or at the same as the last. None: every worker pulled the weights at step 0,
            and pulls them again right after each of its arrivals.

    Returns:
        The schedule.

    Raises:
        ValueError: if the columns do not fit each other or an entry is out of range.

    Example:
        >>> from_arrivals([0, 0, 1], [0.5, 1.0, 1.2]).staleness
        array([0, 0, 2], dtype=int32)
        >>> from_arrivals([0, 0, 1], [0.5, 1.0, 1.2], staleness=[0, 0, 1]).reads  # 1 came later
        array([0, 1, 1], dtype=int32)
    """
    worker, clock = _whole_numbers(worker), np.asarray(clock, dtype=np.float64)
    if worker.ndim != 1 or worker.shape != clock.shape:
        raise ValueError(
            "worker and clock must be of one shape [num_steps], got shapes "
            f"{worker.shape} and {clock.shape}."
        )
    if not np.issubdtype(worker.dtype, np.integer):
        raise ValueError(f"worker must hold whole numbers, got dtype {worker.dtype}.")
    if num_workers is None:
        num_workers = int(worker.max(initial=0)) + 1
    check_protocol(num_workers, worker.size, None)
    check_workers(worker, num_workers)
    check_clock(clock)
    last, _ = neighbours(worker)
    upon_arrival = np.arange(worker.size) - (last + 1)  # pulled right after the last arrival
    schedule = Schedule(
        worker=worker.astype(np.int32),
        staleness=upon_arrival.astype(np.int32),
        clock=clock,
        num_workers=num_workers,
    )
    if staleness is None:
        return schedule
    staleness = _whole_numbers(staleness)
    if staleness.shape != worker.shape or not np.issubdtype(staleness.dtype, np.integer):
        raise ValueError(
            f"staleness must hold whole numbers, shape {worker.shape}, got {staleness.dtype} of "
            f"shape {staleness.shape}."
        )
    staleness = staleness.astype(np.int64)
    check_staleness(worker, staleness)
    if (staleness == upon_arrival).all():
        return schedule
    reads, writes = slots_of_trace(staleness, num_workers)
    return dataclasses.replace(
        schedule, staleness=staleness.astype(np.int32), reads=reads, writes=writes
    )


def _whole_numbers(column: ArrayLike) -> np.ndarray:
    """A column as an array; an empty one, which NumPy takes for float64, as whole numbers."""
    array = np.asarray(column)
    return array if array.size else array.astype(np.int32)


def _schedule_of_timelines(lines: Sequence[Timeline], num_steps: int) -> Schedule:
    """The first arrivals of workers that wait for nobody, as a schedule."""
    events, pulls = arrivals_without_waiting(lines, num_steps)
    schedule = from_arrivals(*events, num_workers=len(lines))
    if pulls is None:
        return schedule
    staleness, reads, writes = (column.astype(np.int32) for column in pulls)
    return dataclasses.replace(schedule, staleness=staleness, reads=reads, writes=writes)


def _schedule_of_rounds(events: Events, num_workers: int, wait_for: int) -> Schedule:
    """Arrivals in rounds, as a schedule: everyone pulls at the round's beginning, from one slot."""
    place = np.arange(events.worker.size, dtype=np.int32) % wait_for
    return Schedule(
        worker=events.worker.astype(np.int32),
        staleness=place.astype(np.int32),
        clock=events.clock,
        num_workers=num_workers,
        reads=np.zeros_like(place),
        writes=np.where(place == wait_for - 1, 0, num_workers).astype(np.int32),
    )

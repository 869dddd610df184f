"""The simplest engine: one event at a time, one slot for each worker's snapshot."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from dcasgd_jax.rules.sending import SendingRule
from dcasgd_jax.schedules.schedule import Schedule
from dcasgd_jax.simulator.batches import Source, keeping, source, traced
from dcasgd_jax.simulator.checks import check_schedule
from dcasgd_jax.simulator.loops import Loop, check_loop, convolution_finder, is_driven
from dcasgd_jax.simulator.state import (
    Arrival,
    Batches,
    GradFn,
    Merge,
    Simulator,
    SimulatorLog,
    SimulatorState,
    arrive,
    columns,
    empty_log,
    evaluate,
    held,
    initial_state,
    make_server,
)


def slot_simulator(
    grad_fn: GradFn,
    tx: optax.GradientTransformation | SendingRule,
    num_workers: int,
    *,
    merge: Merge | None = None,
    snapshot_dtype: DTypeLike | None = None,
    loop: Loop = "auto",
    log_distance: bool = True,
) -> Simulator:
    """The simulation one stretch at a time: evaluate, checkpoint or stop between stretches.

    `run` takes the simulation through a stretch of a schedule from any state. A state is a pytree
    of arrays and all there is to keep: runs cut anywhere, and resumed from a checkpoint of it, go
    on to the bit, given that the same `run` is compiled alike (jitted throughout, or throughout
    not).

    Memory: w, one snapshot a worker, the rule's own state, and one gradient.

    Args:
        grad_fn: as in `simulate`.
        tx: as in `simulate`.
        num_workers: M, the number of snapshots.
        merge: as in `simulate`.
        snapshot_dtype: as in `simulate`.
        loop: as in `simulate`.
        log_distance: as in `simulate`.

    Returns:
        `init(params)`, the state in which every worker holds `params`; and
        `run(state, schedule, batches)`, the state and the log after a stretch. Where steps are
        scanned, the columns of the schedule may be traced: stretches can be scanned over, and
        delays vmapped over. `staleness` and `clock` are not read: the staleness is counted anew.

    Raises:
        ValueError: from `run`, as `simulate`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from dcasgd_jax import round_robin, slot_simulator
        >>> simulator = slot_simulator(jax.grad(lambda w, x: (w - x) ** 2), optax.sgd(0.1), 4)
        >>> run, state = jax.jit(simulator.run), simulator.init(jnp.array(1.0))
        >>> schedule, batches = round_robin(4, 60), jnp.zeros(60)
        >>> for start in range(0, 60, 20):
        ...     stretch = jax.tree.map(lambda x: x[start : start + 20], (schedule, batches))
        ...     state, log = run(state, *stretch)
        ...     print(int(state.step), f"{state.params:.3f}")
        20 0.038
        40 0.001
        60 0.000
    """
    check_loop(loop)
    server = make_server(
        tx,
        num_workers,
        merge=merge,
        snapshot_dtype=snapshot_dtype,
        log_distance=log_distance,
    )

    def init(params: optax.Params, model_state: Any = ()) -> SimulatorState:
        return initial_state(server, params, model_state)

    def event(
        state: SimulatorState, read: Any, write: Any, worker: Any, batch: Any
    ) -> tuple[SimulatorState, SimulatorLog]:
        snapshot, pulled = held(server, state, read)
        gradients, pushed = evaluate(grad_fn, state, snapshot, pulled, batch)
        return arrive(server, state, Arrival(read, write, worker, gradients, pushed, batch))

    driven_event = jax.jit(event, donate_argnums=0)
    convolves_with = convolution_finder(event)

    def run(
        state: SimulatorState, schedule: Schedule, batches: Batches
    ) -> tuple[SimulatorState, SimulatorLog]:
        check_schedule(schedule, num_workers)
        events = tuple(jnp.asarray(column) for column in columns(schedule))
        num_steps = schedule.worker.shape[0]
        given = source(batches, num_steps)
        if num_steps == 0:
            return state, empty_log(server, state.params, 0)

        def convolves() -> bool:
            one = jax.eval_shape(lambda s: given.example(s.step), state)
            return convolves_with(state, *(column[0] for column in events), one)

        if is_driven(
            loop,
            on_host=given.on_host,
            in_trace=traced(state, schedule, () if given.on_host else batches),
            better=convolves,
        ):
            return _drive(driven_event, state, columns(schedule), given)

        def step(carry: SimulatorState, xs: tuple[Any, ...]) -> tuple[SimulatorState, SimulatorLog]:
            index, read, write, worker = xs
            return event(carry, read, write, worker, _first(given, index, carry.step))

        return jax.lax.scan(step, state, (jnp.arange(num_steps), *events))

    return Simulator(init=init, run=run)


def _first(given: Source, index: Any, step: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], given.take(index, 1, step))


def _drive(
    event: Any, state: SimulatorState, events: tuple[Any, ...], given: Source
) -> tuple[SimulatorState, SimulatorLog]:
    """One compiled event after another, their logs fetched at the end."""
    state = jax.tree.map(jnp.copy, state)  # each event donates its input; the caller keeps theirs
    on_host = [np.asarray(column, np.int32) for column in events]
    first, logs = int(state.step), []
    for i in range(len(on_host[0])):
        with keeping(state):
            batch = _first(given, i, np.int32(first + i))
        state, log = event(state, *(column[i] for column in on_host), batch)
        logs.append(log)
    return state, jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *jax.device_get(logs))

"""The simplest engine: one event at a time, one slot for each worker's snapshot."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from dcasgd_jax.rules.sending import SendingRule
from dcasgd_jax.schedules.schedule import Schedule
from dcasgd_jax.simulator.batches import BatchSource, any_traced, batch_source
from dcasgd_jax.simulator.checks import check_schedule
from dcasgd_jax.simulator.chunks import single_steps
from dcasgd_jax.simulator.drive import ChunkRunner, drive
from dcasgd_jax.simulator.options import Loop, Options, check_options
from dcasgd_jax.simulator.plan import choose_plan, convolution_finder, observe
from dcasgd_jax.simulator.server import compute_gradient, empty_log, make_server
from dcasgd_jax.simulator.stacked_snapshots import apply_gradient, initial_state, read_slots
from dcasgd_jax.simulator.state import (
    Batches,
    GradFn,
    Merge,
    Simulator,
    SimulatorLog,
    SimulatorState,
    SlotColumns,
    slot_columns,
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
        grad_fn: (params, batch) -> gradients of one batch's loss, as from `jax.grad`; with a model
            state, (params, model_state, batch) -> (gradients, pushed).
        tx: the server's rule, an optax transformation or a `SendingRule`.
        num_workers: M, the number of snapshots.
        merge: (the server's model state, what was pushed) -> the next; None for the latter.
        snapshot_dtype: the dtype that snapshots are kept in and gradients are taken at; None for
            the parameters' own.
        loop: "scan", "driven" from Python, or "auto"; see `Loop`.
        log_distance: whether |w - snapshot| is computed at every step.

    Returns:
        `init(params, model_state=())`, the state in which every worker holds `params`; and
        `run(state, schedule, batches)`, the state and the log after a stretch. Where steps are
        scanned, the columns of the schedule may be traced: stretches can be scanned over, and
        delays vmapped over. `staleness` and `clock` are not read: the staleness is counted anew.

    Raises:
        TypeError: from `init`, if `params` holds anything but real floating-point arrays.
        ValueError: here, if an option is out of its range; from `run`, if the schedule is for
            another number of workers or names some that it does not have, the batches are not as
            many as its steps, or `grad_fn` returns something that is not structured like `params`.

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
    options = Options(
        merge=merge, snapshot_dtype=snapshot_dtype, loop=loop, log_distance=log_distance
    )
    return simulator_by_slots(grad_fn, tx, num_workers, options)


def simulator_by_slots(
    grad_fn: GradFn,
    tx: optax.GradientTransformation | SendingRule,
    num_workers: int,
    options: Options,
) -> Simulator:
    """`slot_simulator`, its options in one tuple."""
    check_options(options, num_workers)
    server = make_server(tx, num_workers, options)

    def init(params: optax.Params, model_state: Any = ()) -> SimulatorState:
        return initial_state(server, params, model_state)

    def take_event(
        state: SimulatorState, event: SlotColumns, batch: Any
    ) -> tuple[SimulatorState, SimulatorLog]:
        pulled = read_slots(server, state, event.read)
        computed = compute_gradient(grad_fn, state, *pulled, batch)
        return apply_gradient(server, state, event, computed, batch)

    compiled_event = jax.jit(take_event, donate_argnums=0)
    convolves_with = convolution_finder(take_event)

    def run(
        state: SimulatorState, schedule: Schedule, batches: Batches
    ) -> tuple[SimulatorState, SimulatorLog]:
        check_schedule(schedule, num_workers)
        columns = slot_columns(schedule)
        num_steps = schedule.worker.shape[0]
        source = batch_source(batches, num_steps)
        if num_steps == 0:
            return state, empty_log(server, state.params, 0)

        def convolves() -> bool:
            batch = jax.eval_shape(lambda s: source.example(s.step), state)
            return convolves_with(state, jax.tree.map(lambda c: jnp.asarray(c)[0], columns), batch)

        in_trace = any_traced(state, schedule, () if source.iterated else batches)
        plan = choose_plan(
            options, observe(options, state, source, convolves, in_trace=in_trace), schedule
        )
        if plan.loop == "driven":
            return drive(_runner(compiled_event, columns, source), state, single_steps(num_steps))

        def step(
            carry: SimulatorState, xs: tuple[jax.Array, SlotColumns]
        ) -> tuple[SimulatorState, SimulatorLog]:
            index, event = xs
            return take_event(carry, event, _single(source.stacked(index, 1, carry.step)))

        return jax.lax.scan(
            step, state, (jnp.arange(num_steps), jax.tree.map(jnp.asarray, columns))
        )

    return Simulator(init=init, run=run)


def _single(stacked: Any) -> Any:
    """The batch of a stack of one."""
    return jax.tree.map(lambda leaf: leaf[0], stacked)


def _runner(compiled_event: Any, columns: SlotColumns, source: BatchSource) -> ChunkRunner:
    """Chunks of one step each."""
    on_host = jax.tree.map(lambda column: np.asarray(column, np.int32), columns)
    return ChunkRunner(
        begin=lambda state: jax.tree.map(jnp.copy, state),  # each event donates its input
        batches=lambda chunk, step: _single(source.stacked(chunk.start, 1, np.int32(step))),
        run=lambda state, chunk, batch: compiled_event(
            state, jax.tree.map(lambda column: column[chunk.start], on_host), batch
        ),
        end=lambda state: state,
    )

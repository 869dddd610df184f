"""The simplest engine: one event at a time, one slot for each worker's snapshot."""

from collections.abc import Callable
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
from dcasgd_jax.simulator.server import (
    Job,
    compute_gradient,
    empty_log,
    make_server,
    portable_job,
)
from dcasgd_jax.simulator.stacked_snapshots import apply_gradient, initial_state, read_slots
from dcasgd_jax.simulator.state import (
    Batches,
    GradFn,
    Merge,
    Simulator,
    SimulatorLog,
    SimulatorState,
    SlotColumns,
    check_slots,
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
    log_distance: bool = False,
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
    job = Job(make_server(tx, num_workers, options), grad_fn)
    convolves = convolution_finder(grad_fn)

    def run(
        state: SimulatorState, schedule: Schedule, batches: Batches
    ) -> tuple[SimulatorState, SimulatorLog]:
        return run_slots(job, options, convolves, state, schedule, batches)

    return Simulator(
        init=lambda params, model_state=(): initial_state(job.server, params, model_state), run=run
    )


def run_slots(
    job: Job,
    options: Options,
    convolves: Callable[..., bool],
    state: SimulatorState,
    schedule: Schedule | tuple[Schedule, ...],
    batches: Batches,
    *,
    compiled: bool = False,
) -> tuple[SimulatorState, SimulatorLog]:
    """A stretch; `compiled`: by a program for all jobs alike, to which the state is donated."""
    grouped = isinstance(schedule, tuple)
    for one in schedule if grouped else (schedule,):
        check_schedule(one, one.num_workers if grouped else job.server.num_workers)
        check_slots(one, state)
    columns = slot_columns(schedule)
    num_steps = jax.tree.leaves(columns)[0].shape[0]
    empty = empty_log(job.server, state.params, 0)
    source = batch_source(batches, num_steps, (state, empty))
    if num_steps == 0:
        return state, empty
    traced = any_traced(job, state, schedule, () if source.iterated else batches)
    meets = observe(options, state, source, convolves, in_trace=traced)
    if choose_plan(options, meets, schedule).loop == "driven":
        runner = _runner(portable_job(job), columns, source)
        return drive(runner, state, single_steps(num_steps), empty=empty)
    if compiled:
        columns = jax.tree.map(lambda column: np.asarray(column, np.int32), columns)
        return _compiled_scan(portable_job(job), state, columns, batches)
    return _scan(job, state, columns, batches)


def _take_event(
    job: Job, state: SimulatorState, event: SlotColumns, batch: Any
) -> tuple[SimulatorState, SimulatorLog]:
    """One server step, with the gradient that it applies."""
    pulled = read_slots(job.server, state, event.read)
    computed = compute_gradient(job.grad_fn, state, *pulled, batch)
    return apply_gradient(job.server, state, event, computed, batch)


_compiled_event = jax.jit(_take_event, donate_argnums=1)


def _scan(
    job: Job, state: SimulatorState, columns: SlotColumns, batches: Batches
) -> tuple[SimulatorState, SimulatorLog]:
    """All steps in one loop."""
    num_steps = jax.tree.leaves(columns)[0].shape[0]
    source = batch_source(batches, num_steps)

    def step(
        carry: SimulatorState, xs: tuple[jax.Array, SlotColumns]
    ) -> tuple[SimulatorState, SimulatorLog]:
        index, event = xs
        return _take_event(job, carry, event, _single(source.stacked(index, 1, carry.step)))

    return jax.lax.scan(step, state, (jnp.arange(num_steps), jax.tree.map(jnp.asarray, columns)))


_compiled_scan = jax.jit(_scan, donate_argnums=1)


def _single(stacked: Any) -> Any:
    """The batch of a stack of one."""
    return jax.tree.map(lambda leaf: leaf[0], stacked)


def _runner(job: Job, columns: SlotColumns, source: BatchSource) -> ChunkRunner:
    """Chunks of one step each."""
    on_host = jax.tree.map(lambda column: np.asarray(column, np.int32), columns)
    return ChunkRunner(
        begin=lambda state: jax.tree.map(jnp.copy, state),  # each event donates its input
        batches=lambda chunk, step: _single(source.stacked(chunk.start, 1, np.int32(step))),
        run=lambda state, chunk, batch: _compiled_event(
            job, state, jax.tree.map(lambda column: column[chunk.start], on_host), batch
        ),
        end=lambda state: state,
    )

"""The fast engine: gradients that do not depend on each other are computed together."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.typing import DTypeLike

from dcasgd_jax.rules.sending import SendingRule
from dcasgd_jax.schedules.schedule import Schedule
from dcasgd_jax.simulator import separate_snapshots
from dcasgd_jax.simulator.batches import BatchSource, any_traced, batch_source
from dcasgd_jax.simulator.checks import check_schedule
from dcasgd_jax.simulator.chunk_gradients import compute_together
from dcasgd_jax.simulator.chunks import (
    ALL_SLOTS,
    ONE_SLOT,
    Chunk,
    ChunkColumns,
    ChunkKind,
    chunk_columns,
)
from dcasgd_jax.simulator.drive import ChunkRunner, drive
from dcasgd_jax.simulator.options import How, Loop, Options, Together, check_options
from dcasgd_jax.simulator.plan import Plan, choose_plan, convolution_finder, observe
from dcasgd_jax.simulator.server import (
    Job,
    Server,
    compute_gradient,
    empty_log,
    make_server,
    portable_job,
)
from dcasgd_jax.simulator.stacked_snapshots import (
    apply_gradient,
    initial_state,
    place_state,
    read_slots,
    shardings,
)
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


def wavefront_simulator(
    grad_fn: GradFn,
    tx: optax.GradientTransformation | SendingRule,
    num_workers: int,
    *,
    merge: Merge | None = None,
    snapshot_dtype: DTypeLike | None = None,
    loop: Loop = "auto",
    log_distance: bool = False,
    together: How | Together = "auto",
    mesh: Mesh | None = None,
    shard_snapshots: bool = False,
) -> Simulator:
    """The simulation of `slot_simulator`, a wave of gradients at a time: the same run.

    A wave (`waves`) is a run of steps whose snapshots are all known at its beginning. Its gradients
    are computed together, and the server's rule is then scanned over them in order: the same
    sequence of the same operations. Where gradients are the same to the bit when computed
    together, so is the run: with `together="unrolled"` they are; vectorised mostly not; and what
    "auto" unrolls is compiled with the server's steps, which may round a last digit differently.

    Waves are cut into chunks of a whole wave's width or of powers of two, so that few programs are
    compiled and no gradient is computed in vain. The schedule is planned on the host: it must not
    be traced. State, batches and hyperparameters may be.

    Stretches cut at the beginnings of waves, `waves(schedule).start`, and resumed from a
    checkpoint, go on to the bit; cut elsewhere, a wave is computed in other parts, and rounding
    may differ.

    Memory: w, one snapshot a worker, the rule's own state, and for each step of the widest chunk a
    gradient, the activations of one batch, and a copy of its snapshot (but for chunks that read
    every slot once, or all the same one). `Together(longest=...)` bounds it.

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
        together: "vmap", "pmap", "unrolled" or "auto", how gradients are computed together; or
            `Together(how, longest)`, which also bounds how many are.
        mesh: devices to share the gradients of a chunk, a mesh of one axis; None for one device.
            It may span processes: each then calls `init` and `run` with the same arguments.
        shard_snapshots: whether each device of the mesh keeps its share of the snapshots alone;
            the number of workers must be a multiple of the number of devices.

    Returns:
        `init(params, model_state=())`, the state in which every worker holds `params`; and
        `run(state, schedule, batches)`, the state and the log after a stretch.

    Raises:
        TypeError: from `init`, if `params` holds anything but real floating-point arrays.
        ValueError: here, if an option is out of its range; from `run`, if the schedule is traced,
            is for another number of workers or names some that it does not have, the batches are
            not as many as its steps, or `grad_fn` returns something that is not structured like
            `params`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from dcasgd_jax import round_robin, wavefront_simulator
        >>> simulator = wavefront_simulator(jax.grad(lambda w, x: (w - x) ** 2), optax.sgd(0.1), 4)
        >>> state, log = simulator.run(
        ...     simulator.init(jnp.array(1.0)), round_robin(4, 60), jnp.zeros(60)
        ... )
        >>> f"{state.params:.3f}"
        '0.000'
    """
    together = together if isinstance(together, Together) else Together(together)
    options = Options(
        engine="wavefront",
        merge=merge,
        snapshot_dtype=snapshot_dtype,
        loop=loop,
        log_distance=log_distance,
        together=together.how,
        longest=together.longest,
        mesh=mesh,
        shard_snapshots=shard_snapshots,
    )
    return simulator_by_waves(grad_fn, tx, num_workers, options)


def simulator_by_waves(
    grad_fn: GradFn,
    tx: optax.GradientTransformation | SendingRule,
    num_workers: int,
    options: Options,
) -> Simulator:
    """`wavefront_simulator`, its options in one tuple."""
    check_options(options, num_workers)
    job = Job(make_server(tx, num_workers, options), grad_fn)
    convolves = convolution_finder(grad_fn)

    def init(params: optax.Params, model_state: Any = ()) -> SimulatorState:
        return place_state(initial_state(job.server, params, model_state), options)

    def run(
        state: SimulatorState, schedule: Schedule, batches: Batches
    ) -> tuple[SimulatorState, SimulatorLog]:
        return run_waves(job, options, convolves, state, schedule, batches)

    return Simulator(init=init, run=run)


def run_waves(
    job: Job,
    options: Options,
    convolves: Callable[..., bool],
    state: SimulatorState,
    schedule: Schedule,
    batches: Batches,
    *,
    compiled: bool = False,
) -> tuple[SimulatorState, SimulatorLog]:
    """A stretch; `compiled`: by a program for all jobs alike, to which the state is donated."""
    if any_traced(schedule):
        raise ValueError(
            "the wavefront engine plans its waves on the host, before anything is traced: let "
            "the jitted function close over the schedule, or use engine='slots'."
        )
    check_schedule(schedule, job.server.num_workers)
    check_slots(schedule, state)
    num_steps = schedule.worker.shape[0]
    empty = empty_log(job.server, state.params, 0)
    source = batch_source(batches, num_steps, (state, empty))
    if num_steps == 0:
        return state, empty
    traced = any_traced(job, state, () if source.iterated else batches)
    meets = observe(options, state, source, convolves, in_trace=traced)
    plan = choose_plan(options, meets, schedule)
    columns = slot_columns(schedule)
    if options.mesh is not None and columns.write is None:
        # Slots shared by devices are written by a scatter, for which none has to gather them.
        columns = columns._replace(write=columns.worker)
    columns = jax.tree.map(lambda column: np.asarray(column, np.int32), columns)
    if plan.loop == "driven":
        if plan.separate_snapshots:
            runner = separate_snapshots.chunk_runner(portable_job(job), columns, source, batches)
        else:
            runner = _runner(portable_job(job), columns, source, how=_how(plan, options))
        return drive(runner, state, plan.chunks, empty=empty)
    kinds, chunks = chunk_columns(plan.chunks, padded=compiled)
    scan, job = (_compiled_scan, portable_job(job)) if compiled else (_scan, job)
    return scan(job, state, columns, chunks, batches, kinds=kinds, how=_how(plan, options))


class Way(NamedTuple):
    """How the gradients of a chunk are computed, and where."""

    together: str
    mesh: Mesh | None
    shard_snapshots: bool


def _how(plan: Plan, options: Options) -> Way:
    """What of a plan and of the options a compiled program depends on."""
    return Way(plan.together, options.mesh, options.shard_snapshots)


def _take_chunk(
    job: Job,
    state: SimulatorState,
    columns: SlotColumns,
    batches: Any,
    *,
    kind: ChunkKind,
    how: Way,
) -> tuple[SimulatorState, SimulatorLog]:
    """The gradients of a chunk together, then its server steps in order."""
    server = job.server

    def gradient(params: Any, model_state: Any, batch: Any) -> tuple[Any, Any]:
        return compute_gradient(job.grad_fn, state, params, model_state, batch)

    columns = jax.tree.map(jnp.asarray, columns)
    in_slots = kind.reads == ALL_SLOTS and how.together != "unrolled"
    if in_slots:
        inputs, place = _inputs_of_all_slots(server, state, columns, batches)
    else:
        slots = columns.read[0] if kind.reads == ONE_SLOT else columns.read
        inputs, place = (*read_slots(server, state, slots), batches), jnp.arange(kind.width)
    axes = (None, None, 0) if kind.reads == ONE_SLOT else (0, 0, 0)
    computed = compute_together(
        gradient, inputs, axes, kind.width, together=how.together, mesh=how.mesh
    )
    state, log = _apply_in_order(server, state, columns, (computed, place), batches)
    if how.mesh is not None:
        state = jax.lax.with_sharding_constraint(state, shardings(state, how))
    return state, log


_compiled_chunk = jax.jit(_take_chunk, static_argnames=("kind", "how"), donate_argnums=1)


def _inputs_of_all_slots(
    server: Server, state: SimulatorState, columns: SlotColumns, batches: Any
) -> tuple[tuple[Any, Any, Any], jax.Array]:
    """Inputs in the order of the slots, so that no snapshot is copied; each step's place."""
    steps = jnp.arange(columns.read.size).astype(columns.read.dtype)
    step_of_slot = jnp.zeros_like(columns.read).at[columns.read].set(steps)
    in_slot_order = jax.tree.map(lambda leaf: leaf[step_of_slot], batches)
    return (*read_slots(server, state, slice(None)), in_slot_order), columns.read


def _apply_in_order(
    server: Server,
    state: SimulatorState,
    columns: SlotColumns,
    computed_and_place: tuple[Any, jax.Array],
    batches: Any,
) -> tuple[SimulatorState, SimulatorLog]:
    """The server steps of a chunk, each with the gradient at its place; logs [width]."""
    computed, place = computed_and_place

    def step(
        carry: SimulatorState, xs: tuple[jax.Array, SlotColumns, Any]
    ) -> tuple[SimulatorState, SimulatorLog]:
        index, event, batch = xs
        gradient = jax.tree.map(lambda leaf: leaf[index], computed)
        return apply_gradient(server, carry, event, gradient, batch)

    if place.size == 1:
        state, log = step(state, jax.tree.map(lambda x: x[0], (place, columns, batches)))
        return state, jax.tree.map(lambda leaf: leaf[None], log)
    return jax.lax.scan(step, state, (place, columns, batches))


def _runner(job: Job, columns: SlotColumns, source: BatchSource, *, how: Way) -> ChunkRunner:
    """One compiled chunk after another, all snapshots in one array a leaf."""

    def run(
        state: SimulatorState, chunk: Chunk, batches: Any
    ) -> tuple[SimulatorState, SimulatorLog]:
        events = jax.tree.map(lambda column: column[chunk.steps], columns)
        return _compiled_chunk(job, state, events, batches, kind=chunk.kind, how=how)

    return ChunkRunner(
        begin=lambda state: jax.tree.map(jnp.copy, state),  # each chunk donates its input
        batches=lambda chunk, step: source.stacked(chunk.start, chunk.kind.width, np.int32(step)),
        run=run,
        end=lambda state: state,
    )


def _scan(
    job: Job,
    state: SimulatorState,
    columns: SlotColumns,
    chunks: ChunkColumns,
    batches: Any,
    *,
    kinds: tuple[ChunkKind, ...],
    how: Way,
) -> tuple[SimulatorState, SimulatorLog]:
    """All chunks in one compiled loop, with a branch for each kind; fills the logs."""
    columns = jax.tree.map(jnp.asarray, columns)
    num_steps = columns.worker.shape[0]
    source = batch_source(batches, num_steps)

    def branch(kind: ChunkKind) -> Callable[..., Any]:
        def take(carry: tuple[SimulatorState, SimulatorLog], start: jax.Array) -> Any:
            state, logs = carry
            events = jax.tree.map(
                lambda column: jax.lax.dynamic_slice_in_dim(column, start, kind.width), columns
            )
            rows = source.stacked(start, kind.width, state.step)
            state, log = _take_chunk(job, state, events, rows, kind=kind, how=how)
            return state, jax.tree.map(
                lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, start, 0),
                logs,
                log,
            )

        return take

    branches = [*map(branch, kinds), lambda carry, start: carry]

    def step(carry: Any, chunk: ChunkColumns) -> tuple[Any, None]:
        if len(kinds) == 1 and not padded:
            return branches[0](carry, chunk.start), None
        return jax.lax.switch(chunk.kind, branches, carry, chunk.start), None

    padded = chunks.start.shape[0] * max(kind.width for kind in kinds) > num_steps
    carry = state, empty_log(job.server, state.params, num_steps)
    carry, _ = jax.lax.scan(step, carry, jax.tree.map(jnp.asarray, chunks))
    return carry


_compiled_scan = jax.jit(_scan, static_argnames=("kinds", "how"), donate_argnums=1)

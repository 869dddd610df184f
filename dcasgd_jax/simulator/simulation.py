"""A parameter server and its workers, simulated exactly."""

import dataclasses
from typing import Any, NamedTuple, TypeVar, cast, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from dcasgd_jax.rules.sending import SendingRule
from dcasgd_jax.schedules.schedule import Schedule
from dcasgd_jax.simulator.batches import BatchesEndedError, any_traced, batch_source, is_iterated
from dcasgd_jax.simulator.checks import check_choice, check_params, check_schedule
from dcasgd_jax.simulator.options import Engine, EngineName, Options, check_options
from dcasgd_jax.simulator.plan import convolution_finder, faster_engine
from dcasgd_jax.simulator.server import (
    Job,
    Server,
    checked_gradient,
    gradient_arguments,
    keep_pushed,
    make_server,
    portable_job,
    send_weights,
)
from dcasgd_jax.simulator.slot_engine import run_slots
from dcasgd_jax.simulator.stacked_snapshots import initial_state, place_state
from dcasgd_jax.simulator.state import (
    Batches,
    GradFn,
    Merge,
    ServerState,
    SimulatorLog,
    SimulatorState,
    slots_needed,
)
from dcasgd_jax.simulator.traced_functions import on_explicit_axes, shapes_of, trace
from dcasgd_jax.simulator.wavefront_engine import run_waves

P = TypeVar("P")
"""A tree of arrays."""


class SimulationInfo(NamedTuple):
    """What `simulate` returns beside the final weights."""

    staleness: Any  # shape=(num_steps,), dtype=int32: steps since the snapshot was w; like clock, a
    # tree of columns where the schedule is a tree
    distance: jax.Array | None  # shape=(num_steps,), float32 or wider: |w - snapshot|, Euclidean
    clock: Any  # shape=(num_steps,), dtype=float64: simulated seconds, from the schedule
    state: SimulatorState  # after the last step: what a further stretch would start from


def simulate(
    grad_fn: GradFn,
    params: P,
    tx: optax.GradientTransformation | SendingRule,
    schedule: Schedule | Any,
    batches: Batches,
    *,
    engine: EngineName | Engine = "auto",
    model_state: Any = (),
    merge: Merge | None = None,
    snapshot_dtype: DTypeLike | None = None,
    log_distance: bool = False,
) -> tuple[P, SimulationInfo]:
    """Trains asynchronously: each gradient is taken at its worker's snapshot, applied at w.

    All workers start with `params`. At server step t, with m = schedule.worker[t]:

        g = grad_fn(snapshot_m, batches[t])
        w ← w + tx.update(g, ..., w, stale_params=snapshot_m, staleness=τ, worker=m, batch=...)
        snapshot_m ← w

    (The last line as the schedule has it: where workers wait for each other, or come back after a
    failure, its columns `reads` and `writes` say who holds which weights. A `SendingRule` writes
    what it sends instead of w.)

    Any optax transformation is a server rule: `dcasgd(0.1, 0.04)` is DC-ASGD-c, plain
    `optax.sgd(0.1)` is ASGD, and `round_robin(1, T)` makes either of them sequential SGD. In
    rounds, by schedules with `wait_for=M`, `optax.MultiSteps(tx, M).gradient_transformation()` is
    synchronous SGD, and `dcasgd(0.1 / M, 0.04)` is DC-SSGD. Momentum, weight decay and schedules
    of the learning rate belong to the server; a schedule's argument is the server step, so one by
    epochs of n batches is `lambda step: by_epoch(step // n)`.

    **Parts of the network with schedules of their own**, as the stages of a pipeline: where
    `schedule` is a tree prefix of schedules, one for each part of `params`, the snapshot of step t
    is put together leaf by leaf, each read and written as its own schedule says. The gradient is
    taken at this mixture, and applied to all leaves at once. `staleness` is then a tree of scalars
    like `params`, `worker` is not passed, and a leaf has as many versions kept as its schedule has
    workers: one of delay d, `round_robin(d + 1, T)`, has d + 1. See `pipeline_delays`.

    With networks that keep running averages, `model_state` is theirs at first and `grad_fn` takes
    it and returns what it became: `(params, model_state, batch) -> (gradients, pushed)`. Workers
    pull it with the weights; on arrival the server keeps `merge(model_state, pushed)`, by default
    what was pushed. `running_average(0.9)`, for a network that pushes the batch's own statistics,
    folds every batch in, whatever its delay.

    Called as it is, a run is compiled here, and only once for all calls that are alike: functions
    are traced at every call, some hundredths of a second, and compared by what they do. What a call
    may change and compile nothing: the weights, the batches, the schedule (of as many workers and
    steps), every array that a function closes over (a data set, a random key), and the numbers of
    `tx`, such as a learning rate. A number within the loss, or deep within a rule (inside a
    `lax.cond`, say), is part of the program: hand it over as an array, or by
    `optax.inject_hyperparams`. An iterable of batches compiles anew unless the functions are the
    same objects. Inside the caller's own jit or vmap, the run belongs to that program; it is pure
    where steps are scanned, so it can be jitted, and vmapped over weights, batches and the
    hyperparameters inside `tx`.

    Args:
        grad_fn: gradients of one batch's loss, as from `jax.grad`.
        params: the first weights, a pytree of floating-point arrays.
        tx: the server's rule. If it takes extra arguments, the simulator passes `stale_params`,
            `staleness` and `worker` (int32 scalars), and `batch`, which the gradient was taken on.
        schedule: who arrives when, from `round_robin` and its siblings; or a tree prefix of
            schedules of one length.
        batches: pytree of arrays, each of shape [num_steps, ...], entry t the batch of the
            gradient that arrives at step t; or a function of t (int32 scalar, traced) that gives
            it, as one that draws from a key folded with t; or an iterable of batches, one a
            step, for data that do not fit into memory.
        engine: how it is computed. "slots": one event at a time. "wavefront": gradients that do
            not depend on each other together; see `wavefront_simulator`. "auto": slots on CPU,
            waves on accelerators unless they are narrower than two steps on average, and on a
            mesh. `Engine(name, loop, mesh)` also says whether one compiled loop runs all steps,
            and which devices share a wave.
        model_state: running averages and the like; () for none.
        merge: (the server's model state, what was pushed) -> the next; None for the latter.
        snapshot_dtype: bfloat16, say, halves the memory of M snapshots: gradients are taken at the
            rounded weights, which are `stale_params` too. None keeps the parameters' dtypes.
        log_distance: whether |w - snapshot| is computed at every step. Off, as it reads all
            weights twice more, which for small networks is as long as half a gradient.

    Returns:
        The weights after the last step, in the dtypes of `params`, and the log of the run.

    Raises:
        TypeError: if `params` holds anything but real floating-point arrays.
        BatchesEndedError: if an iterable of batches ends early; it holds the state by then, and the
            log of the steps that were taken.
        ValueError: if the engine is unknown or does not take an option, the schedule names workers
            it does not have, the batches are not as many as its steps, or `grad_fn` returns
            something that is not structured like `params`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from dcasgd_jax import dcasgd, round_robin, simulate
        >>> def loss(w, target):
        ...     return 0.5 * jnp.sum((w - target) ** 2)
        >>> targets = jax.random.normal(jax.random.key(0), (200, 3))
        >>> w, info = simulate(
        ...     jax.grad(loss), jnp.zeros(3), dcasgd(0.1, 0.04), round_robin(8, 200), targets,
        ...     engine="wavefront",
        ... )
        >>> int(info.staleness.max()), float(info.clock[-1])
        (7, 25.0)
    """
    engine = engine if isinstance(engine, Engine) else Engine(engine)
    check_choice("engine", engine.name, get_args(EngineName))
    if engine.mesh is not None and engine.name == "slots":
        raise ValueError(
            f"engine={engine.name!r} computes on one device; leave out its mesh, or use the engine "
            "'wavefront'."
        )
    check_params(params)
    plan = schedule if isinstance(schedule, Schedule) else _grouped(schedule, params, model_state)
    one = plan if isinstance(plan, Schedule) else plan.schedules[0]
    options = Options(
        engine=_choose_engine(engine, plan),
        snapshot_dtype=snapshot_dtype,
        loop=engine.loop,
        log_distance=log_distance,
        mesh=engine.mesh,
    )
    check_options(options, one.num_workers)
    server = make_server(tx, one.num_workers, options._replace(merge=merge))
    if isinstance(plan, Schedule):
        state, log = _run(Job(server, grad_fn), options, (params, model_state), plan, batches)
        # Of the structure, shapes and dtypes of the first ones.
        return cast(P, state.params), SimulationInfo(*log, clock=plan.clock, state=state)
    workers = tuple(each.num_workers for each in plan.schedules)
    server = dataclasses.replace(server, num_workers=workers, groups=plan.groups)
    first = params, model_state
    try:
        state, log = _run(Job(server, grad_fn), options, first, plan.schedules, batches)
    except BatchesEndedError as error:
        error.log = error.log._replace(staleness=plan.structure.unflatten(error.log.staleness))
        raise
    log = log._replace(staleness=plan.structure.unflatten(log.staleness))
    clock = plan.structure.unflatten([each.clock for each in plan.schedules])
    return cast(P, state.params), SimulationInfo(*log, clock=clock, state=state)


_ENGINES = {"slots": run_slots, "wavefront": run_waves}


class _Grouped(NamedTuple):
    """Schedules of groups of leaves."""

    schedules: tuple[Schedule, ...]
    groups: tuple[int, ...]  # of each leaf of the parameters, in order
    structure: Any  # of the user's tree, with a leaf for each schedule


def _grouped(schedule: Any, params: Any, model_state: Any) -> _Grouped:
    """A tree prefix of schedules, taken apart; refuses what is none."""
    leaves, structure = jax.tree.flatten(schedule, is_leaf=lambda x: isinstance(x, Schedule))
    if not leaves or not all(isinstance(leaf, Schedule) for leaf in leaves):
        raise ValueError(
            "schedule must be a Schedule, or a tree prefix of the parameters with a Schedule for "
            f"each part, got {schedule!r}; make them with round_robin and its siblings."
        )
    lengths = sorted({leaf.worker.shape[0] for leaf in leaves})
    if len(lengths) > 1:
        raise ValueError(
            f"all parts take every server step, but their schedules have {lengths[0]} to "
            f"{lengths[-1]} steps; make them equally long."
        )
    if jax.tree.leaves(model_state):
        raise ValueError(
            "a model state is pulled as a whole, and parts with schedules of their own never "
            "are; leave model_state out, or give one schedule."
        )
    numbers = structure.unflatten(range(len(leaves)))
    try:
        groups = jax.tree.map(lambda i, part: jax.tree.map(lambda _: i, part), numbers, params)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "a tree of schedules must be a tree prefix of the parameters, got "
            f"{jax.tree.structure(numbers)} for {jax.tree.structure(params)}."
        ) from error
    return _Grouped(tuple(leaves), tuple(jax.tree.leaves(groups)), structure)


def _choose_engine(engine: Engine, schedule: Schedule | _Grouped) -> EngineName:
    """The engine that was asked for; for "auto" the faster."""
    if isinstance(schedule, _Grouped):
        if engine.name == "wavefront" or engine.mesh is not None:
            raise ValueError(
                "a tree of schedules is simulated by slots: leave engine at 'auto', without a mesh."
            )
        return "slots"
    if engine.name != "auto":
        return engine.name
    if engine.mesh is not None:
        return "wavefront"
    return faster_engine(schedule, on_cpu=jax.default_backend() == "cpu")


def _run(
    job: Job, options: Options, first: tuple[Any, Any], schedule: Any, batches: Batches
) -> tuple[SimulatorState, SimulatorLog]:
    """All steps from the first weights and model state."""
    run: Any = _ENGINES[options.engine]
    every = schedule if isinstance(schedule, tuple) else (schedule,)
    # Versions of the weights are kept once, and no slot is made that is never used.
    slots: Any = tuple(map(slots_needed, every))
    slots = slots if isinstance(schedule, tuple) else slots[0]
    # What is inside a jit, vmap or grad of the caller's is compiled there. An iterable may bring
    # batches of several shapes, and devices that share a wave want the state placed.
    iterated = is_iterated(batches)
    data = first, schedule, () if iterated else batches
    inside = any_traced(data, jnp.zeros([])) or on_explicit_axes(data)
    if inside or iterated or options.mesh is not None or not every[0].worker.size:
        state = place_state(_begin(job.server, *first, slots=slots), options)
        return run(job, options, convolution_finder(job.grad_fn), state, schedule, batches)
    for one in every:
        check_schedule(one, one.num_workers)
    batch_source(batches, every[0].worker.shape[0])  # for what it refuses
    job, batches = _trace_job(job, *first, batches)
    if any_traced(job, batches):  # an outer vmap's numbers, which only the functions hold
        state = _begin(job.server, *first, slots=slots)
        return run(job, options, convolution_finder(job.grad_fn), state, schedule, batches)
    state = _compiled_begin(portable_job(job).server, *first, slots=slots)
    convolves = convolution_finder(job.grad_fn)
    return run(job, options, convolves, state, schedule, batches, compiled=True)


def _begin(server: Server, params: Any, model_state: Any, *, slots: Any) -> SimulatorState:
    """The first state, with so many slots for snapshots."""
    return initial_state(dataclasses.replace(server, num_workers=slots), params, model_state)


_compiled_begin = jax.jit(_begin, static_argnames="slots")


def _trace_job(
    job: Job, params: optax.Params, model_state: Any, batches: Batches
) -> tuple[Job, Batches]:
    """The job and, where batches are drawn by a function, that function: as data, traced.

    Two jobs whose functions do the same are of one structure. What they differ in, the numbers of
    the rule and whatever the functions close over, are their leaves.
    """
    server = job.server
    index: Any = jax.ShapeDtypeStruct((), jnp.int32)
    if callable(batches):
        batches, batch = trace(batches, index)
    else:
        batch = shapes_of(batches, without=1)
    params, model_state = shapes_of((params, model_state))
    init, opt_state = trace(server.rule.init, params, lift_numbers=True)
    state = ServerState(params, opt_state, index, model_state)
    grad_fn, result = trace(job.grad_fn, *gradient_arguments(params, model_state, batch))
    gradients, pushed = checked_gradient(state, result)
    alike = server.groups is None  # all leaves: else each has a staleness, and there is no worker
    update, _ = trace(
        server.rule.update,
        gradients,
        opt_state,
        params,
        stale_params=params,
        staleness=index if alike else jax.tree.map(lambda _: index, params),
        worker=index if alike else None,
        batch=batch,
        lift_numbers=True,
    )
    send, merge = server.send, server.merge
    if send is not send_weights:
        send, _ = trace(send, params, opt_state, lift_numbers=True)
    if merge is not keep_pushed:
        merge, _ = trace(merge, model_state, pushed, lift_numbers=True)
    rule = optax.GradientTransformationExtraArgs(init, update)
    traced = dataclasses.replace(server, rule=rule, send=send, merge=merge)
    return Job(traced, grad_fn), batches

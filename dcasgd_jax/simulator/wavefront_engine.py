"""The fast engine: gradients that do not depend on each other are computed together."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from dcasgd_jax.rules.sending import SendingRule
from dcasgd_jax.schedules.schedule import Schedule
from dcasgd_jax.simulator import slots_apart
from dcasgd_jax.simulator.batches import Source, keeping, source, traced
from dcasgd_jax.simulator.checks import check_schedule
from dcasgd_jax.simulator.loops import Loop, check_loop, convolution_finder, is_driven
from dcasgd_jax.simulator.plan import SHARED, WHOLE, Kind, Piece, pieces
from dcasgd_jax.simulator.state import (
    Arrival,
    Batches,
    GradFn,
    Merge,
    Server,
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

Together = str
"""How gradients are computed together: "vmap", vectorised; "pmap", vectorised and shared by the
local devices; "unrolled", side by side in one program. "auto" vectorises, but on CPU not always:
convolutions with a kernel for each worker become grouped convolutions there, which XLA runs many
times slower, so they are unrolled; and so are gradients at weights that fill the caches, which are
better used one worker after another. What "auto" unrolls and drives from Python also keeps every
snapshot apart and copies none."""

UNROLLED, UNROLLED_CONVOLUTIONS = 8, 4
"""The widest piece that is unrolled by itself: programs grow with it, and so does compiling."""

WORTHWHILE = 4
"""Steps that a call from Python must take on average, where one compiled loop would do too."""

CACHED = 2**17
"""Parameters up to which gradients are vectorised on CPU. On two cores, perceptrons at batch 32
were faster by it up to some 120,000 parameters (1.2 times) and slower from 270,000 on (0.8)."""


def wavefront_simulator(
    grad_fn: GradFn,
    tx: optax.GradientTransformation | SendingRule,
    num_workers: int,
    *,
    merge: Merge | None = None,
    snapshot_dtype: DTypeLike | None = None,
    loop: Loop = "auto",
    log_distance: bool = True,
    together: Together = "auto",
    longest: int | None = None,
    mesh: Mesh | None = None,
    shard_snapshots: bool = False,
) -> Simulator:
    """The simulation of `slot_simulator`, a wave of gradients at a time: the same run.

    A wave (`waves`) is a run of steps whose snapshots are all known at its beginning. Its gradients
    are computed together, and the server's rule is then scanned over them in order: the same
    sequence of the same operations. Where gradients are the same to the bit when computed
    together, so is the run: with `together="unrolled"` they are; vectorised mostly not; and what
    "auto" unrolls is compiled with the server's steps, which may round a last digit differently.

    Waves are cut into pieces of a whole wave's width or of powers of two, so that few programs are
    compiled and no gradient is computed in vain. The schedule is planned on the host: it must not
    be traced. State, batches and hyperparameters may be.

    Stretches cut at the beginnings of waves, `waves(schedule).start`, and resumed from a
    checkpoint, go on to the bit; cut elsewhere, a wave is computed in other parts, and rounding
    may differ.

    Memory: w, one snapshot a worker, the rule's own state, and for each step of the widest piece a
    gradient, the activations of one batch, and a copy of its snapshot (but for pieces that read
    every slot once, or all the same one). `longest` bounds it.

    Args:
        grad_fn: as in `simulate`.
        tx: as in `simulate`.
        num_workers: M, the number of snapshots.
        merge: as in `simulate`.
        snapshot_dtype: as in `simulate`.
        loop: as in `simulate`.
        log_distance: as in `simulate`.
        together: see `Together`.
        longest: no more gradients than this are computed together, at least 1; None for no bound.
        mesh: devices to share the gradients of a piece, a mesh of one axis; None for one device.
            It may span processes: each then calls `init` and `run` with the same arguments.
        shard_snapshots: whether each device of the mesh keeps its share of the snapshots alone;
            the number of workers must be a multiple of that of devices.

    Returns:
        As `slot_simulator`.

    Raises:
        ValueError: here, if an option is out of its range; from `run`, as `simulate`, and if the
            schedule is traced.

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
    check_loop(loop)
    if together not in ("auto", "vmap", "pmap", "unrolled"):
        raise ValueError(
            f"together must be 'auto', 'vmap', 'pmap' or 'unrolled', got {together!r}."
        )
    if together == "pmap" and mesh is not None:
        raise ValueError("together='pmap' uses the local devices by itself; pass no mesh.")
    _check_mesh(mesh, num_workers, shard_snapshots=shard_snapshots)
    server = make_server(
        tx,
        num_workers,
        merge=merge,
        snapshot_dtype=snapshot_dtype,
        log_distance=log_distance,
    )

    def init(params: optax.Params, model_state: Any = ()) -> SimulatorState:
        state = initial_state(server, params, model_state)
        if mesh is None:
            return state
        return jax.device_put(state, _shardings(state, mesh, shard_snapshots=shard_snapshots))

    def piece(
        state: SimulatorState, events: tuple[Any, ...], batch: Any, kind: Kind, *, how: Together
    ) -> tuple[SimulatorState, SimulatorLog]:
        state, log = _piece(server, grad_fn, state, events, batch, kind, how=how, mesh=mesh)
        if mesh is not None:
            shardings = _shardings(state, mesh, shard_snapshots=shard_snapshots)
            state = jax.lax.with_sharding_constraint(state, shardings)
        return state, log

    driven_piece = jax.jit(piece, static_argnames=("kind", "how"), donate_argnums=0)
    apart_piece = slots_apart.piece_function(server, grad_fn)
    convolves_with = convolution_finder(lambda s, p, m, b: evaluate(grad_fn, s, p, m, b))

    def run(
        state: SimulatorState, schedule: Schedule, batches: Batches
    ) -> tuple[SimulatorState, SimulatorLog]:
        if traced(schedule):
            raise ValueError(
                "the wavefront engine plans its waves on the host, before anything is traced: let "
                "the jitted function close over the schedule, or use engine='slots'."
            )
        check_schedule(schedule, num_workers)
        num_steps = schedule.worker.shape[0]
        given = source(batches, num_steps)
        if num_steps == 0:
            return state, empty_log(server, state.params, 0)

        def convolves() -> bool:
            one = jax.eval_shape(lambda s: given.example(s.step), state)
            pulled = jax.eval_shape(lambda s: held(server, s, 0), state)
            return convolves_with(state, *pulled, one)

        in_trace = traced(state, () if given.on_host else batches)
        on_cpu = jax.default_backend() == "cpu"
        convolution_on_cpu = on_cpu and convolves()
        large = sum(w.size for w in jax.tree.leaves(state.params)) > CACHED
        events = tuple(np.asarray(column, np.int32) for column in columns(schedule))

        def planned(how: Together, widest: int | None) -> list[Piece]:
            shares = mesh.size if mesh else jax.local_device_count() if how == "pmap" else 1
            longest_piece = longest if longest is not None else widest
            return pieces(schedule, events[0], longest=longest_piece, multiple=shares)

        apart_on_cpu = False
        how, widest = together, None
        if together == "auto":
            how = "vmap"
            if convolution_on_cpu:
                how, widest = "unrolled", None if mesh else UNROLLED_CONVOLUTIONS
            elif on_cpu and large and mesh is None:
                wide = planned("unrolled", UNROLLED)
                # Calls from Python have to pay: many steps each.
                if loop != "scan" and not in_trace and num_steps >= WORTHWHILE * len(wide):
                    how, widest, apart_on_cpu = "unrolled", UNROLLED, True
                else:
                    widest = 1
        plan = planned(how, widest)
        driven = is_driven(
            loop,
            on_host=given.on_host,
            in_trace=in_trace,
            better=lambda: convolution_on_cpu or apart_on_cpu,
        )
        if driven and together == "auto" and how == "unrolled" and mesh is None:
            return slots_apart.drive(apart_piece, state, events, plan, given, batches)
        if driven:
            return _drive(driven_piece, state, events, plan, given, how=how)

        def scanned(
            state: SimulatorState, events: tuple[Any, ...], batch: Any, kind: Kind
        ) -> tuple[SimulatorState, SimulatorLog]:
            return piece(state, events, batch, kind, how=how)

        return _scan(server, scanned, state, events, plan, given)

    return Simulator(init=init, run=run)


def _piece(
    server: Server,
    grad_fn: GradFn,
    state: SimulatorState,
    events: tuple[Any, ...],
    batch: Any,
    kind: Kind,
    *,
    how: Together,
    mesh: Mesh | None,
) -> tuple[SimulatorState, SimulatorLog]:
    """The gradients of a piece together, then its server steps in order; logs [width]."""
    reads, writes, workers = (jnp.asarray(column) for column in events)

    def one(params: Any, model_state: Any, batch: Any) -> tuple[Any, Any]:
        return evaluate(grad_fn, state, params, model_state, batch)

    order = jnp.arange(kind.width)
    if kind.reads == WHOLE and how != "unrolled":
        # In the order of the slots, so that the snapshots are read where they are.
        pulled = held(server, state, slice(None))
        event_of_slot = jnp.zeros_like(reads).at[reads].set(order.astype(reads.dtype))
        inputs = (*pulled, jax.tree.map(lambda leaf: leaf[event_of_slot], batch))
        at = reads
    else:
        inputs = (*held(server, state, reads[0] if kind.reads == SHARED else reads), batch)
        at = order
    shared = (None, None, 0) if kind.reads == SHARED else (0, 0, 0)
    computed = _together(one, inputs, shared, kind.width, how=how, mesh=mesh)

    def event(carry: SimulatorState, xs: tuple[Any, ...]) -> tuple[SimulatorState, SimulatorLog]:
        index, read, write, worker, own = xs
        gradients, pushed = jax.tree.map(lambda leaf: leaf[index], computed)
        return arrive(server, carry, Arrival(read, write, worker, gradients, pushed, own))

    if kind.width == 1:
        state, log = event(state, jax.tree.map(lambda x: x[0], (at, reads, writes, workers, batch)))
        return state, jax.tree.map(lambda leaf: leaf[None], log)
    return jax.lax.scan(event, state, (at, reads, writes, workers, batch))


def _together(
    one: Callable[..., Any],
    inputs: tuple[Any, ...],
    axes: tuple[Any, ...],
    width: int,
    *,
    how: Together,
    mesh: Mesh | None,
) -> Any:
    """`one` of every member of a piece, stacked; axis None: the same for all."""
    if mesh is not None and width % mesh.size == 0 and width > 1:
        (axis,) = mesh.axis_names
        specs = tuple(PartitionSpec() if a is None else PartitionSpec(axis) for a in axes)

        def share(*own: Any) -> Any:
            mine = _together(one, own, axes, width // mesh.size, how=how, mesh=None)
            return jax.lax.all_gather(mine, axis, tiled=True)

        spread = jax.shard_map(
            share, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
        )
        return spread(*inputs)
    if width > 1 and how == "pmap" and width % jax.local_device_count() == 0:
        return _on_local_devices(one, inputs, axes)
    if width > 1 and how != "unrolled":
        return jax.vmap(one, in_axes=axes)(*inputs)

    def member(i: int) -> Any:
        return one(
            *(
                tree if axis is None else jax.tree.map(lambda leaf: leaf[i], tree)
                for tree, axis in zip(inputs, axes, strict=True)
            )
        )

    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(member(i) for i in range(width)))


def _on_local_devices(one: Callable[..., Any], inputs: tuple[Any, ...], axes: Any) -> Any:
    """`one` of every member, an equal share on each device."""
    devices = jax.local_device_count()
    shares = tuple(
        tree
        if axis is None
        else jax.tree.map(lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), tree)
        for tree, axis in zip(inputs, axes, strict=True)
    )
    found = jax.pmap(jax.vmap(one, in_axes=axes), in_axes=axes)(*shares)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)


def _drive(
    piece: Callable[..., Any],
    state: SimulatorState,
    events: tuple[np.ndarray, ...],
    plan: list[Piece],
    given: Source,
    *,
    how: Together,
) -> tuple[SimulatorState, SimulatorLog]:
    """One compiled piece after another, their logs fetched at the end."""
    state = jax.tree.map(jnp.copy, state)  # each piece donates its input; the caller keeps theirs
    first, logs = int(state.step), []
    for start, kind in plan:
        own = tuple(column[start : start + kind.width] for column in events)
        with keeping(state):
            batch = given.take(start, kind.width, np.int32(first + start))
        state, log = piece(state, own, batch, kind=kind, how=how)
        logs.append(log)
    logs = jax.device_get(logs)
    return state, jax.tree.map(lambda *leaves: jnp.asarray(np.concatenate(leaves)), *logs)


def _scan(
    server: Server,
    piece: Callable[..., Any],
    state: SimulatorState,
    events: tuple[np.ndarray, ...],
    plan: list[Piece],
    given: Source,
) -> tuple[SimulatorState, SimulatorLog]:
    """All pieces in one compiled loop, with a branch for each kind."""
    kinds = sorted({kind for _, kind in plan})
    columns_ = tuple(jnp.asarray(column) for column in events)
    logs = empty_log(server, state.params, len(events[0]))

    def branch(kind: Kind) -> Callable[..., Any]:
        def take(carry: Any, start: jax.Array) -> Any:
            state, logs = carry
            own = tuple(
                jax.lax.dynamic_slice_in_dim(column, start, kind.width) for column in columns_
            )
            state, log = piece(state, own, given.take(start, kind.width, state.step), kind)
            return state, jax.tree.map(
                lambda every, part: jax.lax.dynamic_update_slice_in_dim(every, part, start, 0),
                logs,
                log,
            )

        return take

    def step(carry: Any, xs: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        start, which = xs
        if len(kinds) == 1:
            return branch(kinds[0])(carry, start), None
        return jax.lax.switch(which, [branch(kind) for kind in kinds], carry, start), None

    xs = (
        jnp.asarray([start for start, _ in plan], jnp.int32),
        jnp.asarray([kinds.index(kind) for _, kind in plan], jnp.int32),
    )
    (state, logs), _ = jax.lax.scan(step, (state, logs), xs)
    return state, logs


def _shardings(state: SimulatorState, mesh: Mesh, *, shard_snapshots: bool) -> Any:
    """Everything everywhere, but for snapshots if they are to be shared out."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    shardings = jax.tree.map(lambda _: everywhere, state)
    if not shard_snapshots:
        return shardings
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    return shardings._replace(
        snapshots=jax.tree.map(lambda _: rows, state.snapshots),
        model_snapshots=jax.tree.map(lambda _: rows, state.model_snapshots),
    )


def _check_mesh(mesh: Mesh | None, num_workers: int, *, shard_snapshots: bool) -> None:
    if mesh is None:
        if shard_snapshots:
            raise ValueError("shard_snapshots needs a mesh to share them out over; pass one.")
        return
    if len(mesh.axis_names) != 1:
        raise ValueError(f"mesh must have one axis, got {mesh.axis_names}; flatten its devices.")
    if shard_snapshots and num_workers % mesh.size:
        raise ValueError(
            "to shard snapshots, the number of workers must be a multiple of that of devices, got "
            f"{num_workers} workers on {mesh.size} devices."
        )

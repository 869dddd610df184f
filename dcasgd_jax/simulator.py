"""A parameter server and its workers, simulated exactly as one pure function."""

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from dcasgd_jax.precision import cast, working_dtype
from dcasgd_jax.schedule import Column, Schedule, check_workers

Batches = Any
"""A pytree of arrays whose leading axis is the server step."""

GradFn = Callable[[optax.Params, Any], optax.Updates]
"""(params, one batch) -> gradients of the structure and shapes of params."""


class SimulatorState(NamedTuple):
    """The server and what its workers hold, between two server steps."""

    params: optax.Params  # the server's weights w
    opt_state: optax.OptState  # of the server's rule
    snapshots: optax.Params  # like params with a leading axis [num_workers]: what workers hold
    pulled: jax.Array  # shape=(num_workers,), dtype=int32: how many steps made each snapshot
    step: jax.Array  # shape=(), dtype=int32: server steps taken


class SimulatorLog(NamedTuple):
    """What was measured at each server step, before the weights moved."""

    staleness: jax.Array  # shape=(num_steps,), dtype=int32: steps since the snapshot was w
    distance: jax.Array  # shape=(num_steps,), float32 or wider: |w - snapshot|, Euclidean


class Simulator(NamedTuple):
    """The two pure functions that `slot_simulator` makes."""

    init: Callable[[optax.Params], SimulatorState]
    run: Callable[[SimulatorState, Schedule, Batches], tuple[SimulatorState, SimulatorLog]]


class SimulationInfo(NamedTuple):
    """What `simulate` returns beside the final weights."""

    staleness: jax.Array  # shape=(num_steps,), dtype=int32: steps since the snapshot was w
    distance: jax.Array  # shape=(num_steps,), float32 or wider: |w - snapshot|, Euclidean
    clock: Column  # shape=(num_steps,), dtype=float64: simulated seconds, from the schedule
    state: SimulatorState  # after the last step: what a further stretch would start from


def simulate(
    grad_fn: GradFn,
    params: optax.Params,
    tx: optax.GradientTransformation,
    schedule: Schedule,
    batches: Batches,
    *,
    engine: str = "slots",
) -> tuple[optax.Params, SimulationInfo]:
    """Trains asynchronously: each gradient is taken at its worker's snapshot, applied at w.

    All workers start with `params`. At server step t, with m = schedule.worker[t]:

        g = grad_fn(snapshot_m, batches[t])
        w ← w + tx.update(g, ..., w, stale_params=snapshot_m, staleness=τ)
        snapshot_m ← w

    (The last line as the schedule has it: where workers wait for each other, or come back after a
    failure, its columns `reads` and `writes` say who holds which weights.)

    Any optax transformation is a server rule: `dcasgd(0.1, 0.04)` is DC-ASGD-c, plain
    `optax.sgd(0.1)` is ASGD, and `round_robin(1, T)` makes either of them sequential SGD (with
    the batches of M workers joined into one: synchronous SGD over M workers).

    Pure: it can be jitted, and vmapped over weights, batches and the hyperparameters inside `tx`.
    Convolutions have slow gradients inside a loop on CPU; see jax issue 12868.

    Args:
        grad_fn: gradients of one batch's loss, as from `jax.grad`.
        params: the first weights, a pytree of floating-point arrays.
        tx: the server's rule. It is given `stale_params` and `staleness` (int32 scalar) if it
            takes extra arguments.
        schedule: who arrives when, from `round_robin` and its siblings.
        batches: pytree of arrays, each of shape [num_steps, ...]; entry t is the batch of the
            gradient that arrives at step t.
        engine: how it is computed. "slots": one event at a time, one snapshot a worker.

    Returns:
        The weights after the last step, in the dtypes of `params`, and the log of the run.

    Raises:
        ValueError: if the engine is unknown, the schedule names workers it does not have, the
            batches' leading axes are not as long as the schedule, or `grad_fn` returns something
            that is not structured like `params`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from dcasgd_jax import dcasgd, round_robin, simulate
        >>> def loss(w, target):
        ...     return 0.5 * jnp.sum((w - target) ** 2)
        >>> targets = jax.random.normal(jax.random.key(0), (200, 3))
        >>> w, info = simulate(
        ...     jax.grad(loss), jnp.zeros(3), dcasgd(0.1, 0.04), round_robin(8, 200), targets
        ... )
        >>> int(info.staleness.max()), float(info.clock[-1])
        (7, 25.0)
    """
    if engine not in _ENGINES:
        near = difflib.get_close_matches(str(engine), _ENGINES, n=1, cutoff=0.0)
        raise ValueError(
            f"no engine is called {engine!r}: did you mean {near[0]!r}? "
            f"Known: {', '.join(_ENGINES)}."
        )
    simulator = _ENGINES[engine](grad_fn, tx, schedule.num_workers)
    state, log = simulator.run(simulator.init(params), schedule, batches)
    return state.params, SimulationInfo(*log, clock=schedule.clock, state=state)


def slot_simulator(
    grad_fn: GradFn, tx: optax.GradientTransformation, num_workers: int
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

    Returns:
        `init(params)`, the state in which every worker holds `params`; and
        `run(state, schedule, batches)`, the state and the log after a stretch. The columns of
        the schedule may be traced: stretches can be scanned over, and delays vmapped over.
        `staleness` and `clock` are not read: the staleness is counted anew.

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
    rule = optax.with_extra_args_support(tx)

    def init(params: optax.Params) -> SimulatorState:
        # A copy in the same dtype, never weakly typed: donating the state leaves the caller's
        # weights alone, and the types of the state are the same before and after a step.
        params = jax.tree.map(lambda w: jnp.array(w, dtype=jnp.result_type(w)), params)
        return SimulatorState(
            params=params,
            opt_state=rule.init(params),
            snapshots=jax.tree.map(lambda w: jnp.broadcast_to(w, (num_workers, *w.shape)), params),
            pulled=jnp.zeros(num_workers, jnp.int32),
            step=jnp.zeros([], jnp.int32),
        )

    def event(
        state: SimulatorState, arrival: tuple[jax.Array, jax.Array, Any]
    ) -> tuple[SimulatorState, SimulatorLog]:
        read, write, batch = arrival
        snapshot = jax.tree.map(lambda s: s[read], state.snapshots)
        gradients = grad_fn(snapshot, batch)
        _check_gradients(gradients, state.params)
        staleness = state.step - state.pulled[read]
        updates, opt_state = rule.update(
            gradients,
            state.opt_state,
            state.params,
            stale_params=snapshot,
            staleness=staleness,
        )
        params = optax.apply_updates(state.params, updates)
        log = SimulatorLog(staleness=staleness, distance=_distance(state.params, snapshot))
        step = jnp.asarray(optax.safe_increment(state.step))
        return SimulatorState(
            params=params,
            opt_state=opt_state,
            # Where nobody pulls, `write` is no slot, and the write is dropped.
            snapshots=jax.tree.map(
                lambda s, w: s.at[write].set(w, mode="drop"), state.snapshots, params
            ),
            pulled=state.pulled.at[write].set(step, mode="drop"),
            step=step,
        ), log

    def run(
        state: SimulatorState, schedule: Schedule, batches: Batches
    ) -> tuple[SimulatorState, SimulatorLog]:
        _check_schedule(schedule, num_workers)
        _check_batches(batches, schedule.worker.shape[0])
        own = schedule.worker
        reads = jnp.asarray(own if schedule.reads is None else schedule.reads)
        writes = jnp.asarray(own if schedule.writes is None else schedule.writes)
        return jax.lax.scan(event, state, (reads, writes, batches))

    return Simulator(init=init, run=run)


_ENGINES: dict[str, Callable[..., Simulator]] = {"slots": slot_simulator}


def _distance(params: optax.Params, snapshot: optax.Params) -> jax.Array:
    """|params - snapshot| over all leaves, in float32 or the widest dtype among them."""
    leaves = list(zip(jax.tree.leaves(params), jax.tree.leaves(snapshot), strict=True))
    dtype = working_dtype(*(w for w, _ in leaves))
    squares = [jnp.sum((cast(w, dtype) - cast(s, dtype)) ** 2) for w, s in leaves]
    return jnp.sqrt(sum(squares, start=jnp.zeros([], dtype)))


def _check_gradients(gradients: optax.Updates, params: optax.Params) -> None:
    got, due = jax.tree.structure(gradients), jax.tree.structure(params)
    if got != due:
        raise ValueError(
            f"grad_fn must return gradients alone, structured like the parameters ({due}), got "
            f"{got}; use jax.grad, not jax.value_and_grad, and no auxiliary output."
        )


def _check_schedule(schedule: Schedule, num_workers: int) -> None:
    worker = schedule.worker
    if schedule.num_workers != num_workers:
        raise ValueError(
            f"the schedule is for {schedule.num_workers} workers, the simulator for "
            f"{num_workers}; make both for the same number."
        )
    if jnp.ndim(worker) != 1 or not jnp.issubdtype(jnp.result_type(worker), jnp.integer):
        raise ValueError(
            "schedule.worker must hold whole numbers, shape [num_steps], got "
            f"{jnp.result_type(worker)} of shape {jnp.shape(worker)}; make it with round_robin, "
            "from_compute_times or from_arrivals."
        )
    if not isinstance(worker, Tracer):
        check_workers(np.asarray(worker), num_workers)
    for name, column, strangers in (
        ("reads", schedule.reads, 0),
        ("writes", schedule.writes, 1),  # one more slot, for nobody
    ):
        if column is None or isinstance(column, Tracer):
            continue
        if jnp.shape(column) != jnp.shape(worker) or not np.all(
            (np.asarray(column) >= 0) & (np.asarray(column) < num_workers + strangers)
        ):
            raise ValueError(
                f"schedule.{name} must be None, or hold slots in [0, {num_workers + strangers}), "
                f"one a step; got shape {jnp.shape(column)}. Leave it as the schedule was made."
            )


def _check_batches(batches: Batches, num_steps: int) -> None:
    leaves = jax.tree_util.tree_leaves_with_path(batches)
    if not leaves:
        raise ValueError(
            "batches must hold an array at least; for a loss that reads no data, pass "
            "jnp.arange(num_steps) and let grad_fn ignore it."
        )
    for path, leaf in leaves:
        if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] != num_steps:
            raise ValueError(
                f"the leading axis of batches is the server step, {num_steps} of them, got "
                f"shape {jnp.shape(leaf)} at batches{jax.tree_util.keystr(path)}."
            )

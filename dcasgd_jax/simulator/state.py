"""What the engines of the simulator share: states, logs, and what a server does upon an arrival.

An engine differs from another in when and where gradients are computed, and in nothing else.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from dcasgd_jax._precision import cast, working_dtype
from dcasgd_jax.rules.sending import SendingRule
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
    snapshots: optax.Params  # like params with a leading axis [num_workers]: what workers hold
    pulled: jax.Array  # shape=(num_workers,), dtype=int32: how many steps made each snapshot
    step: jax.Array  # shape=(), dtype=int32: server steps taken
    model_state: Any = ()  # the server's, such as running averages; () for none
    model_snapshots: Any = ()  # like model_state with a leading axis [num_workers]


class ServerState(NamedTuple):
    """What the server knows without its workers."""

    params: optax.Params
    opt_state: optax.OptState
    step: jax.Array
    model_state: Any


class SimulatorLog(NamedTuple):
    """What was measured at each server step, before the weights moved."""

    staleness: jax.Array  # shape=(num_steps,), dtype=int32: steps since the snapshot was w
    distance: jax.Array | None  # shape=(num_steps,), float32 or wider: |w - snapshot|, Euclidean;
    # None where it was not asked for


class Simulator(NamedTuple):
    """The two functions that `slot_simulator` and `wavefront_simulator` make."""

    init: Callable[..., SimulatorState]
    """(params, model_state=()) -> the state in which every worker holds them."""
    run: Callable[[SimulatorState, Schedule, Batches], tuple[SimulatorState, SimulatorLog]]
    """(state, schedule, batches) -> the state and the log after a stretch of the schedule."""


class Server(NamedTuple):
    """A parameter server: its rule, and how it keeps what its workers hold."""

    rule: optax.GradientTransformationExtraArgs
    send: Callable[[optax.Params, optax.OptState], optax.Params]
    merge: Merge
    num_workers: int
    snapshot_dtype: DTypeLike | None
    log_distance: bool


class Arrival(NamedTuple):
    """One gradient reaching the server."""

    read: jax.Array  # shape=(), int32: the slot of the snapshot it was taken at
    write: jax.Array  # shape=(), int32: the slot that takes the weights after; M for none
    worker: jax.Array  # shape=(), int32: whose it is
    gradients: optax.Updates
    pushed: Any  # of the model state
    batch: Any  # what the gradient was taken on


class Step(NamedTuple):
    """All that a server step depends on, beside the server's state."""

    snapshot: optax.Params  # that the gradient was taken at, in the parameters' dtypes
    staleness: jax.Array  # shape=(), dtype=int32: of the snapshot
    worker: jax.Array  # shape=(), int32
    gradients: optax.Updates
    pushed: Any  # of the model state
    batch: Any


def make_server(
    tx: optax.GradientTransformation | SendingRule,
    num_workers: int,
    *,
    merge: Merge | None = None,
    snapshot_dtype: DTypeLike | None = None,
    log_distance: bool = True,
) -> Server:
    """A server from what a user hands to `simulate`.

    Args:
        tx: its rule.
        num_workers: M.
        merge: of model states; None takes what was pushed last.
        snapshot_dtype: of the snapshots' floating-point leaves; None for the parameters' own.
        log_distance: whether |w - snapshot| is computed at every step.

    Raises:
        ValueError: if the dtype is none for weights.
    """
    if snapshot_dtype is not None and not jnp.issubdtype(snapshot_dtype, jnp.floating):
        raise ValueError(
            f"snapshot_dtype must be None or a floating-point dtype, got {snapshot_dtype}."
        )
    sending = isinstance(tx, SendingRule)
    return Server(
        rule=optax.with_extra_args_support(tx.tx if sending else tx),
        send=tx.send if sending else lambda params, _: params,
        merge=merge or (lambda _, pushed: pushed),
        num_workers=num_workers,
        snapshot_dtype=snapshot_dtype,
        log_distance=log_distance,
    )


def initial_state(server: Server, params: optax.Params, model_state: Any = ()) -> SimulatorState:
    """The state in which every worker holds the first weights.

    Args:
        server: whose.
        params: the first weights.
        model_state: the first model state; () for none.
    """
    # A copy in the same dtype, never weakly typed: donating the state leaves the caller's
    # weights alone, and the types of the state are the same before and after a step.
    params, model_state = jax.tree.map(
        lambda w: jnp.array(w, dtype=jnp.result_type(w)), (params, model_state)
    )
    opt_state = server.rule.init(params)
    sent = sending(server, params, opt_state)

    def for_each(tree: Any) -> Any:
        shape = (server.num_workers,)
        return jax.tree.map(lambda w: jnp.broadcast_to(w, (*shape, *w.shape)).copy(), tree)

    return SimulatorState(
        params=params,
        opt_state=opt_state,
        snapshots=for_each(sent),
        pulled=jnp.zeros(server.num_workers, jnp.int32),
        step=jnp.zeros([], jnp.int32),
        model_state=model_state,
        model_snapshots=for_each(model_state),
    )


def sending(server: Server, params: optax.Params, opt_state: optax.OptState) -> optax.Params:
    """The weights that a worker which pulls now holds, as they are kept.

    Args:
        server: its rule and the dtype of its snapshots.
        params: its weights.
        opt_state: its rule's state.
    """
    sent = server.send(params, opt_state)
    if server.snapshot_dtype is None:
        return sent
    return jax.tree.map(lambda w: w.astype(server.snapshot_dtype), sent)


def held(server: Server, state: SimulatorState, slot: Any) -> tuple[optax.Params, Any]:
    """What is in one slot, or in several: weights in the parameters' dtypes, and model state.

    Args:
        server: whose.
        state: between two server steps.
        slot: an int32 scalar; or [k], for a leading axis k; or a full slice, for all slots.
    """
    snapshots = jax.tree.map(lambda s: s[slot], state.snapshots)
    pulled = jax.tree.map(lambda s: s[slot], state.model_snapshots)
    return in_params_dtype(server, snapshots, state.params), pulled


def in_params_dtype(server: Server, snapshot: optax.Params, params: optax.Params) -> optax.Params:
    """A snapshot, or several, as gradients are taken at it.

    Args:
        server: which tells whether snapshots are kept in another dtype.
        snapshot: as it is kept.
        params: whose dtypes it is to have.
    """
    if server.snapshot_dtype is None:
        return snapshot
    return jax.tree.map(lambda s, w: s.astype(w.dtype), snapshot, params)


def evaluate(
    grad_fn: GradFn,
    state: SimulatorState | ServerState,
    params: optax.Params,
    model_state: Any,
    batch: Any,
) -> tuple[optax.Updates, Any]:
    """One gradient, and what is pushed of the model state.

    Args:
        grad_fn: the user's.
        state: which tells whether there is a model state, and what gradients must look like.
        params: the snapshot.
        model_state: pulled with it.
        batch: one batch.

    Raises:
        ValueError: if the gradients have not the structure and the shapes of the parameters.
    """
    if not jax.tree.leaves(state.model_state):
        gradients, pushed = grad_fn(params, batch), ()
        remedy = "use jax.grad, not jax.value_and_grad, and no auxiliary output"
    else:
        result = grad_fn(params, model_state, batch)
        remedy = "with a model state it returns (gradients, pushed)"
        if not isinstance(result, tuple) or len(result) != 2:
            raise ValueError(
                "with a model state, grad_fn must return a pair (gradients, pushed), got "
                f"{jax.tree.structure(result)}; use jax.grad(..., has_aux=True)."
            )
        gradients, pushed = result
    got, due = jax.tree.structure(gradients), jax.tree.structure(state.params)
    if got != due:
        raise ValueError(
            f"grad_fn must return gradients alone, structured like the parameters ({due}), got "
            f"{got}; {remedy}."
        )
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    for (path, w), g in zip(leaves, jax.tree.leaves(gradients), strict=True):
        if jnp.shape(g) != jnp.shape(w):
            raise ValueError(
                f"gradients must have the shapes of the parameters, but that of "
                f"params{jax.tree_util.keystr(path)}, {jnp.shape(w)}, has {jnp.shape(g)}; take the "
                "gradient of one scalar loss."
            )
    return gradients, pushed


def advance(
    server: Server, state: ServerState, step: Step
) -> tuple[ServerState, optax.Params, jax.Array | None]:
    """What the server does with one gradient.

    Args:
        server: its rule.
        state: before.
        step: the gradient, and what is known of it.

    Returns:
        The state after; the weights that workers which pull then hold, as they are kept; and
        |w - snapshot| before the step, or None.
    """
    updates, opt_state = server.rule.update(
        step.gradients,
        state.opt_state,
        state.params,
        stale_params=step.snapshot,
        staleness=step.staleness,
        worker=step.worker,
        batch=step.batch,
    )
    params = optax.apply_updates(state.params, updates)
    after = ServerState(
        params=params,
        opt_state=opt_state,
        step=jnp.asarray(optax.safe_increment(state.step)),
        model_state=server.merge(state.model_state, step.pushed),
    )
    distance = _distance(state.params, step.snapshot) if server.log_distance else None
    return after, sending(server, params, opt_state), distance


def arrive(
    server: Server, state: SimulatorState, arrival: Arrival
) -> tuple[SimulatorState, SimulatorLog]:
    """What the server does with one gradient, and what the workers that pull then hold.

    Args:
        server: its rule.
        state: before.
        arrival: the gradient, and where it comes from.

    Returns:
        The state after, and the log of this step, its fields scalars.
    """
    snapshot, _ = held(server, state, arrival.read)
    staleness = state.step - state.pulled[arrival.read]
    before = ServerState(state.params, state.opt_state, state.step, state.model_state)
    step = Step(
        snapshot, staleness, arrival.worker, arrival.gradients, arrival.pushed, arrival.batch
    )
    after, sent, distance = advance(server, before, step)
    write = arrival.write
    if distance is not None:
        # A slot is written after it was read: where the rule does not look at the snapshot, nothing
        # else says so, and XLA would copy all slots at every step to be on the safe side. (A
        # distance is never negative, but XLA does not know.)
        write += (distance < 0).astype(jnp.int32)

    def written(every: Any, one: Any) -> Any:
        # Where nobody pulls, `write` is no slot, and the write is dropped.
        return jax.tree.map(lambda s, w: s.at[write].set(w, mode="drop"), every, one)

    return SimulatorState(
        params=after.params,
        opt_state=after.opt_state,
        snapshots=written(state.snapshots, sent),
        pulled=state.pulled.at[write].set(after.step, mode="drop"),
        step=after.step,
        model_state=after.model_state,
        model_snapshots=written(state.model_snapshots, after.model_state),
    ), SimulatorLog(staleness=staleness, distance=distance)


def columns(schedule: Schedule) -> tuple[Column, Column, Column]:
    """Of each step: the slot that is read, the slot that is written, the worker.

    Args:
        schedule: any.
    """
    own = schedule.worker
    reads = own if schedule.reads is None else schedule.reads
    writes = own if schedule.writes is None else schedule.writes
    return reads, writes, own


def empty_log(server: Server, params: optax.Params, num_steps: int) -> SimulatorLog:
    """A log of zeros.

    Args:
        server: which tells what is logged.
        params: the weights.
        num_steps: its length.
    """
    return SimulatorLog(
        staleness=jnp.zeros(num_steps, jnp.int32),
        distance=jnp.zeros(num_steps, _log_dtype(params)) if server.log_distance else None,
    )


def _log_dtype(params: optax.Params) -> jnp.dtype:
    return working_dtype(*jax.tree.leaves(params))


def _distance(params: optax.Params, snapshot: optax.Params) -> jax.Array:
    """|params - snapshot| over all leaves, in float32 or the widest dtype among them."""
    leaves = list(zip(jax.tree.leaves(params), jax.tree.leaves(snapshot), strict=True))
    dtype = _log_dtype(params)
    moved = [jnp.atleast_2d(cast(w, dtype) - cast(s, dtype)) for w, s in leaves]

    def columns(m: jax.Array) -> jax.Array:
        # Columns are added up by a product with ones: a plain sum XLA takes on CPU one number after
        # another, and at every step that is a large part of a small network's time. The leading
        # axes are not made one, for which a leaf sharded along the last of them would be gathered.
        leading = tuple(range(m.ndim - 1))
        over = ((tuple(range(1, m.ndim)), leading), ((), ()))
        ones = jnp.ones((1, *m.shape[:-1]), dtype)
        return jax.lax.dot_general(ones, m * m, over, precision="highest")

    squares = [jnp.sum(columns(m)) for m in moved]
    return jnp.sqrt(sum(squares, start=jnp.zeros([], dtype)))

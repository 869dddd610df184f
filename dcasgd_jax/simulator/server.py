"""The server's side of every engine: one gradient evaluated, one gradient applied.

An engine differs from another in when and where gradients are computed, and in nothing else.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from dcasgd_jax._precision import cast, working_dtype
from dcasgd_jax.rules.sending import SendingRule
from dcasgd_jax.simulator.options import Options
from dcasgd_jax.simulator.state import GradFn, Merge, ServerState, SimulatorLog, SimulatorState
from dcasgd_jax.simulator.traced_functions import portable


@dataclasses.dataclass(frozen=True)
class Server:
    """A parameter server: its rule, and how it keeps what its workers hold.

    A pytree if its functions are pytrees (`portable_server`): an argument of compiled programs.
    """

    rule: optax.GradientTransformationExtraArgs
    send: Callable[[optax.Params, optax.OptState], optax.Params]
    merge: Merge
    num_workers: Any
    """An int, the slots of snapshots; where leaves are in groups, a tuple with those of each."""
    snapshot_dtype: DTypeLike | None
    log_distance: bool
    groups: tuple[int, ...] | None = None
    """The group of each leaf, in the order of `jax.tree.leaves`; None: one schedule for all."""


jax.tree_util.register_dataclass(
    Server,
    data_fields=["rule", "send", "merge"],
    meta_fields=["num_workers", "snapshot_dtype", "log_distance", "groups"],
)


class Push(NamedTuple):
    """All that a server step depends on beside the server's state: one gradient and its origin."""

    snapshot: optax.Params  # that the gradient was taken at, in the parameters' dtypes
    staleness: Any  # shape=(), dtype=int32: of the snapshot; a tree of them where leaves differ
    worker: jax.Array | None  # shape=(), int32; None where leaves have schedules of their own
    gradients: optax.Updates
    model_state: Any  # what the worker pushes of it
    batch: Any  # that the gradient was taken on


def make_server(
    tx: optax.GradientTransformation | SendingRule, num_workers: int, options: Options
) -> Server:
    """A server from what a user hands to `simulate`."""
    dtype = options.snapshot_dtype
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"snapshot_dtype must be None or a floating-point dtype, got {dtype}.")
    sends = isinstance(tx, SendingRule)
    if not sends and not (hasattr(tx, "init") and hasattr(tx, "update")):
        raise TypeError(
            "the server's rule must be an optax transformation or a SendingRule, got "
            f"{type(tx).__name__}; optax.sgd(0.1), say."
        )
    return Server(
        rule=optax.with_extra_args_support(tx.tx if sends else tx),
        send=tx.send if sends else send_weights,
        merge=options.merge or keep_pushed,
        num_workers=num_workers,
        snapshot_dtype=dtype,
        log_distance=options.log_distance,
    )


def send_weights(params: optax.Params, opt_state: optax.OptState) -> optax.Params:
    """The weights as they are."""
    del opt_state
    return params


def keep_pushed(model_state: Any, pushed: Any) -> Any:
    """The model state as it was pushed last."""
    del model_state
    return pushed


def sent_weights(server: Server, params: optax.Params, opt_state: optax.OptState) -> optax.Params:
    """The weights that a worker which pulls now holds, in the dtype that snapshots are kept in."""
    sent = server.send(params, opt_state)
    if server.snapshot_dtype is None:
        return sent
    return jax.tree.map(lambda w: w.astype(server.snapshot_dtype), sent)


def in_params_dtype(server: Server, snapshot: optax.Params, params: optax.Params) -> optax.Params:
    """A snapshot as kept, or several, in the dtypes of the parameters."""
    if server.snapshot_dtype is None:
        return snapshot
    return jax.tree.map(lambda s, w: s.astype(w.dtype), snapshot, params)


class Job(NamedTuple):
    """What a simulation is made of beside its data."""

    server: Server
    grad_fn: GradFn


def portable_job(job: Job) -> Job:
    """The job as a pytree, which says by its structure which functions it has."""
    server = job.server
    return Job(
        dataclasses.replace(
            server,
            rule=optax.GradientTransformationExtraArgs(*map(portable, server.rule)),
            send=portable(server.send),
            merge=portable(server.merge),
        ),
        portable(job.grad_fn),
    )


def gradient_arguments(params: Any, model_state: Any, batch: Any) -> tuple[Any, ...]:
    """What the user's gradient function takes: without a model state, none is passed."""
    return (params, model_state, batch) if jax.tree.leaves(model_state) else (params, batch)


def compute_gradient(
    grad_fn: GradFn,
    state: SimulatorState | ServerState,
    params: optax.Params,
    model_state: Any,
    batch: Any,
) -> tuple[optax.Updates, Any]:
    """Gradients at a snapshot, and what is pushed of its model state; `state` says what is due."""
    return checked_gradient(state, grad_fn(*gradient_arguments(params, model_state, batch)))


def checked_gradient(state: SimulatorState | ServerState, result: Any) -> tuple[optax.Updates, Any]:
    """Gradients and what is pushed, of what the user's function returned; arrays or shapes."""
    if not jax.tree.leaves(state.model_state):
        gradients, pushed = result, ()
        remedy = "use jax.grad, not jax.value_and_grad, and no auxiliary output"
    else:
        remedy = "with a model state it returns (gradients, pushed)"
        if not isinstance(result, tuple) or len(result) != 2:
            raise ValueError(
                "with a model state, grad_fn must return a pair (gradients, pushed), got "
                f"{jax.tree.structure(result)}; use jax.grad(..., has_aux=True)."
            )
        gradients, pushed = result
    _check_gradients(gradients, state.params, remedy)
    return gradients, pushed


def _check_gradients(gradients: Any, params: optax.Params, remedy: str) -> None:
    """Refuses gradients that have not the structure and the shapes of the parameters."""
    structure, wanted = jax.tree.structure(gradients), jax.tree.structure(params)
    if structure != wanted:
        raise ValueError(
            f"grad_fn must return gradients alone, structured like the parameters ({wanted}), got "
            f"{structure}; {remedy}."
        )
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for (path, w), g in zip(leaves, jax.tree.leaves(gradients), strict=True):
        if jnp.shape(g) != jnp.shape(w):
            raise ValueError(
                f"gradients must have the shapes of the parameters, but "
                f"params{jax.tree_util.keystr(path)} has shape {jnp.shape(w)} and its gradient "
                f"{jnp.shape(g)}; take the gradient of one scalar loss."
            )


def advance(
    server: Server, state: ServerState, push: Push
) -> tuple[ServerState, optax.Params, jax.Array | None]:
    """One server step: the next state, the weights that it sends, and |w - snapshot| or None."""
    updates, opt_state = server.rule.update(
        push.gradients,
        state.opt_state,
        state.params,
        stale_params=push.snapshot,
        staleness=push.staleness,
        worker=push.worker,
        batch=push.batch,
    )
    params = optax.apply_updates(state.params, updates)
    after = ServerState(
        params=params,
        opt_state=opt_state,
        step=jnp.asarray(optax.safe_increment(state.step)),
        model_state=server.merge(state.model_state, push.model_state),
    )
    # Of the weights that the gradient meets, which are those before the step.
    distance = _distance(state.params, push.snapshot) if server.log_distance else None
    return after, sent_weights(server, params, opt_state), distance


def empty_log(server: Server, params: optax.Params, num_steps: int) -> SimulatorLog:
    """A log of zeros, of this length."""
    return SimulatorLog(
        staleness=jax.tree.map(lambda _: jnp.zeros(num_steps, jnp.int32), server.num_workers),
        distance=jnp.zeros(num_steps, _log_dtype(params)) if server.log_distance else None,
    )


def _log_dtype(params: optax.Params) -> jnp.dtype:
    """Of distances."""
    return working_dtype(*jax.tree.leaves(params))


def _distance(params: optax.Params, snapshot: optax.Params) -> jax.Array:
    """|params - snapshot| over all leaves, in float32 or the widest dtype among them."""
    leaves = list(zip(jax.tree.leaves(params), jax.tree.leaves(snapshot), strict=True))
    dtype = _log_dtype(params)
    moved = [jnp.atleast_2d(cast(w, dtype) - cast(s, dtype)) for w, s in leaves]

    def column_sums(m: jax.Array) -> jax.Array:
        # Columns are added up by a product with ones: a plain sum XLA takes on CPU one number after
        # another, and at every step that is a large part of a small network's time. The leading
        # axes are not made one, for which a leaf sharded along the last of them would be gathered.
        leading = tuple(range(m.ndim - 1))
        contracted = ((tuple(range(1, m.ndim)), leading), ((), ()))
        ones = jnp.ones((1, *m.shape[:-1]), dtype)
        return jax.lax.dot_general(ones, m * m, contracted, precision="highest")

    squares = [jnp.sum(column_sums(m)) for m in moved]
    return jnp.sqrt(sum(squares, start=jnp.zeros([], dtype)))

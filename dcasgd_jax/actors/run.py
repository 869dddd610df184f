"""Asynchronous training by real workers, recorded so that the simulator can repeat it."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from dcasgd_jax._arguments import check_number
from dcasgd_jax.actors.coordinator import Coordinator, Plan
from dcasgd_jax.actors.process import engine
from dcasgd_jax.actors.recording import Columns, restore
from dcasgd_jax.actors.shards import plan as plan_shards
from dcasgd_jax.actors.wire import from_host, shapes, to_host
from dcasgd_jax.actors.worker import Task
from dcasgd_jax.rules.sending import SendingRule
from dcasgd_jax.schedules.schedule import Schedule
from dcasgd_jax.simulator.batches import iterates, one_batch, source
from dcasgd_jax.simulator.state import (
    Batches,
    GradFn,
    Merge,
    Server,
    ServerState,
    Step,
    advance,
    evaluate,
    initial_state,
    make_server,
)


class AsynchronousInfo(NamedTuple):
    """What `run_asynchronously` returns beside the final weights."""

    schedule: Schedule  # who arrived when, and how stale: the trace; its clock is real seconds
    batch: np.ndarray  # shape=(num_steps,), dtype=int32: which batch each gradient was taken on
    distance: np.ndarray | None  # shape=(num_steps,), float64: |w - snapshot|, Euclidean
    state: ServerState  # after the last step
    replaced: int  # workers that died and were replaced, in this call
    restored: int  # times that servers died and were restored, in this call


def run_asynchronously(
    grad_fn: GradFn,
    params: optax.Params,
    tx: optax.GradientTransformation | SendingRule,
    batches: Batches,
    *,
    num_workers: int,
    num_steps: int,
    num_servers: int = 1,
    model_state: Any = (),
    merge: Merge | None = None,
    snapshot_dtype: DTypeLike | None = None,
    log_distance: bool = True,
    check_finite: bool = True,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    worker_options: Mapping[str, Any] | None = None,
    server_options: Mapping[str, Any] | None = None,
    start_timeout: float = 120.0,
    on_step: Callable[[int], object] | None = None,
) -> tuple[optax.Params, AsynchronousInfo]:
    r"""Trains asynchronously with real workers: `simulate`, but processes decide who arrives when.

    M workers, each an actor of Ray in a process of its own, take gradients at the weights they
    hold; a parameter server, an actor too, applies each as it arrives. At server step t, when a
    gradient of worker m comes that was taken at w_v on batch n:

        w ← w + tx.update(g, ..., w, stale_params=w_v, staleness=t - v, worker=m, batch=batch_n)

    and worker m goes on at the new w. It is the same server step and the same gradient function as
    in the simulator, and what happened is recorded, so the simulator can repeat the run:

        repeated, _ = simulate(
            grad_fn, params, tx, info.schedule, reorder_batches(batches, info.batch)
        )

    gives the same weights to rounding (on CPU, often to the bit). `write_trace(info.schedule,
    path, batch=info.batch)` keeps the trace as text.

    **Batches.** Entry n of `batches` goes to the n-th request for work, whoever asks; each of the
    `num_steps` entries is used exactly once. A gradient that is lost gives its batch back, and
    the next worker that asks gets it; that is why batches cannot be an iterable.

    **Failures.** A worker that dies is replaced: the new one holds the weights of that moment, as
    a worker that comes back does in `failure_times`. Servers that die are restored to the last
    checkpoint (without one, to where this call began), the trace is cut to it, and the run goes
    on. With `checkpoint`, a run that was stopped, killed or cut off in any way goes on when it is
    called again with the same arguments; all steps of the last checkpoint are kept. Upon Ctrl-C
    the steps so far are checkpointed before KeyboardInterrupt is raised.

    **Several servers.** With `num_servers=K` the leaves of the parameters, and of the rule's
    state, are spread over K actors. All take the same steps in the same order, so nothing changes
    but where things are held. Leaves that the rule takes together (all, for a global norm or in
    path space) cannot be apart; this is read off the rule, and refused.

    **Where it runs.** On this machine, if Ray is not initialised (and it is shut down again after
    the run), on as many workers as there are cores. On a cluster, start Ray on every machine and
    call `ray.init` first::

        ray start --head --port=6379                  # on one machine
        ray start --address=HEAD:6379                 # on each of the others
        python train.py                               # on the first; train.py begins with
                                                      #   ray.init(address="auto")

    Every machine needs the same versions of Python and of these packages, and the modules that
    `grad_fn` and `batches` come from (a `runtime_env` of `ray.init` can bring them). Functions
    and arrays go from process to process by Ray's own pickling (cloudpickle), over a network that
    must be trusted, as Ray's always must; from disk only numbers are read, nothing is unpickled.

    Args:
        grad_fn: gradients of one batch's loss, as from `jax.grad`, of the structure, shapes and
            dtypes of the parameters; with a model state as in `simulate`. Compiled by each worker.
        params: the first weights, a pytree of floating-point arrays.
        tx: the server's rule, as in `simulate`.
        batches: pytree of arrays, each of shape [num_steps, ...]; or a function from the number of
            a batch (int32 scalar, traced) to it. A function that reads from disk is a
            `jax.pure_callback` with `vmap_method="sequential"`; the worker's own machine runs it.
        num_workers: M >= 1.
        num_steps: server steps T >= 0. A checkpoint of fewer can be gone on from.
        num_servers: K >= 1.
        model_state: running averages and the like; () for none. It is on the first server.
        merge: (the server's model state, what was pushed) -> the next; None for the latter.
        snapshot_dtype: bfloat16, say, halves what is sent to workers: gradients are taken at the
            rounded weights, which are `stale_params` too. None keeps the parameters' dtypes.
        log_distance: whether |w - snapshot| is computed at every step.
        check_finite: whether NaN and infinity in a gradient end the run. False hands them to the
            rule, as for `optax.apply_if_finite`.
        checkpoint: path of a file; None for none.
        checkpoint_every: server steps between two checkpoints.
        worker_options: of each worker's actor, as for `options` of Ray; by default
            {"num_cpus": 1}. Workers compute on CPU unless num_gpus or resources, as of a TPU, are
            asked for here.
        server_options: of each server's actor, likewise; by default {"num_cpus": 0}.
        start_timeout: seconds that all actors together may take to start.
        on_step: called in this process with t when gradient t has been handed to the server, for
            progress; with some t anew after a restoration.

    Returns:
        The weights after the last step, in the dtypes of `params`, and the log of the run.

    Raises:
        ImportError: if Ray is not installed.
        ValueError: before anything is started, if numbers are out of range, the batches are not
            as many as the steps, `grad_fn` returns something that is not like the parameters, the
            rule cannot be spread over so many servers, or the checkpoint is damaged or of another
            run.
        TimeoutError: if actors cannot be started, as where fewer cores are free than asked for.
        FloatingPointError: if a gradient is not finite, naming worker, step and batch; the last
            checkpoint stays as it is.
        RuntimeError: if a worker, or the servers, die again and again.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from dcasgd_jax import dcasgd, simulate
        >>> from dcasgd_jax.actors import reorder_batches, run_asynchronously
        >>> def loss(w, target):
        ...     return 0.5 * jnp.sum((w - target) ** 2)
        >>> def batches(n):
        ...     return jax.random.normal(jax.random.fold_in(jax.random.key(0), n), (3,))
        >>> job = jax.grad(loss), jnp.zeros(3), dcasgd(0.1, 0.04)
        >>> w, info = run_asynchronously(
        ...     *job, batches, num_workers=8, num_steps=1000
        ... )  # doctest: +SKIP
        >>> again, _ = simulate(
        ...     *job, info.schedule, reorder_batches(batches, info.batch)
        ... )  # doctest: +SKIP
        >>> bool(jnp.allclose(w, again))  # doctest: +SKIP
        True
    """
    ray = engine()
    _check_numbers(num_workers, num_steps, num_servers, checkpoint_every, start_timeout)
    if iterates(batches):
        raise ValueError(
            "real workers need batches that can be asked for again when a gradient is lost: pass "
            "arrays, or a function from the batch's number to the batch, not an iterable."
        )
    source(batches, num_steps)  # refuses arrays that are not as many as the steps
    path = None if checkpoint is None else Path(checkpoint).absolute()
    if path is not None and not path.parent.is_dir():
        raise ValueError(f"the checkpoint's folder {path.parent} is missing; create it first.")
    server = make_server(
        tx, num_workers, merge=merge, snapshot_dtype=snapshot_dtype, log_distance=log_distance
    )
    # Snapshots are held by workers here, so that of M only one is made.
    first = initial_state(server._replace(num_workers=1), params, model_state)
    state = ServerState(first.params, first.opt_state, first.step, first.model_state)
    template = shapes(state)
    batch = jax.eval_shape(lambda: one_batch(batches, *2 * (jnp.zeros([], jnp.int32),)))
    _check_step(server, grad_fn, template, batch)
    task = Task(
        grad_fn=grad_fn,
        template=template,
        shards=plan_shards(server, template, batch, num_servers),
        check_finite=check_finite,
    )
    kept, columns = to_host(state), Columns(num_workers)
    if path is not None and path.exists():
        kept, columns = restore(path, template)
        _check_recorded(path, columns, num_workers, num_steps)
    coordinator = Coordinator(
        Plan(
            server=server,
            task=task,
            batches=batches if callable(batches) else jax.tree.map(_on_host, batches),
            num_steps=num_steps,
            checkpoint=path,
            checkpoint_every=checkpoint_every,
            worker_options=dict(worker_options or {}),
            server_options=dict(server_options or {}),
            start_timeout=start_timeout,
            on_step=on_step,
        ),
        kept,
        columns,
    )
    if len(columns) < num_steps:
        _run(ray, coordinator)
    state = from_host(template, coordinator.kept)
    recording = columns.recording()
    return state.params, AsynchronousInfo(
        *recording, state=state, replaced=coordinator.replaced, restored=coordinator.restored
    )


def _run(ray: Any, coordinator: Coordinator) -> None:
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False)
    try:
        coordinator.run()
    except (KeyboardInterrupt, SystemExit):
        if coordinator.plan.checkpoint is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                coordinator.keep()
        raise
    finally:
        coordinator.stop()
        if ours:
            ray.shutdown()


def _check_numbers(
    num_workers: Any, num_steps: Any, num_servers: Any, checkpoint_every: Any, start_timeout: Any
) -> None:
    for name, value, least in (
        ("num_workers", num_workers, 1),
        ("num_steps", num_steps, 0),
        ("num_servers", num_servers, 1),
        ("checkpoint_every", checkpoint_every, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an int >= {least}, got {value!r}.")
    check_number("start_timeout", start_timeout, positive=True)


def _check_step(server: Server, grad_fn: GradFn, state: ServerState, batch: Any) -> None:
    """Refuses gradients and rules of which a server step cannot be made."""
    gradients, pushed = jax.eval_shape(
        lambda params, own, one: evaluate(grad_fn, state, params, own, one),
        state.params,
        state.model_state,
        batch,
    )
    _same("grad_fn must return gradients like the parameters", gradients, state.params)

    def step(before: ServerState, gradients: Any, pushed: Any, batch: Any) -> ServerState:
        number = jnp.zeros([], jnp.int32)
        arrived = Step(before.params, number, number, gradients, pushed, batch)
        return advance(server, before, arrived)[0]

    after = jax.eval_shape(step, state, gradients, pushed, batch)
    _same("a server step must leave its state's types as they are", after, state)


def _same(rule: str, got: Any, due: Any) -> None:
    if jax.tree.structure(got) != jax.tree.structure(due):
        raise ValueError(f"{rule}: got {jax.tree.structure(got)}, not {jax.tree.structure(due)}.")
    for (path, leaf), wanted in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(due), strict=True
    ):
        if (leaf.shape, leaf.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(
                f"{rule}: {jax.tree_util.keystr(path) or 'it'} is {leaf.dtype} of shape "
                f"{leaf.shape}, not {wanted.dtype} of shape {wanted.shape}."
            )


def _check_recorded(path: Path, columns: Columns, num_workers: int, num_steps: int) -> None:
    if columns.num_workers != num_workers:
        raise ValueError(
            f"{path} is of a run with {columns.num_workers} workers, not {num_workers}; go on with "
            "as many, or name another file."
        )
    least = max(columns.columns["batch"], default=-1) + 1
    if num_steps < least:
        raise ValueError(
            f"{path} has used {least} batches, one a step, which {num_steps} steps do not have; "
            f"go on with num_steps >= {least}, or name another file."
        )


def _on_host(leaf: Any) -> Any:
    return leaf if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key) else np.asarray(leaf)

"""Asynchronous training by real workers, recorded so that the simulator can repeat it."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dcasgd_jax.actors.coordinator import Coordinator
from dcasgd_jax.actors.host_arrays import from_host, shapes, to_host
from dcasgd_jax.actors.process import load_ray, ray_on_this_machine
from dcasgd_jax.actors.recording import TraceColumns, clear_parts, restore
from dcasgd_jax.actors.settings import (
    Checkpoint,
    Cluster,
    Monitoring,
    absolute_checkpoint,
    check_cluster,
    check_whole_number,
)
from dcasgd_jax.actors.shards import assign_leaves
from dcasgd_jax.actors.staff import Job
from dcasgd_jax.actors.worker import Task
from dcasgd_jax.rules.sending import SendingRule
from dcasgd_jax.schedules.schedule import Schedule
from dcasgd_jax.simulator.batches import batch_source, is_iterated, one_batch
from dcasgd_jax.simulator.options import Options
from dcasgd_jax.simulator.server import Push, Server, advance, compute_gradient, make_server
from dcasgd_jax.simulator.stacked_snapshots import initial_state
from dcasgd_jax.simulator.state import Batches, GradFn, Merge, ServerState, server_part


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
    cluster: Cluster,
    num_steps: int,
    model_state: Any = (),
    merge: Merge | None = None,
    checkpoint: Checkpoint | str | Path | None = None,
    monitoring: Monitoring = Monitoring(),  # noqa: B008 (immutable)
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

    **Failures.** A worker that dies is replaced: the new one begins, when it is ready, at the
    weights of that moment, as a worker that comes back does in `failure_times`; until then, and
    where there is no room for it, the others do its work. Servers that die are restored to the last
    checkpoint (without one, to where this call began), the trace is cut to it, and the run goes
    on. With `checkpoint`, a run that was stopped, killed or cut off in any way goes on when it is
    called again with the same arguments; all steps of the last checkpoint are kept. Upon Ctrl-C
    the steps so far are checkpointed before KeyboardInterrupt is raised.

    **Several servers.** With `Cluster(M, num_servers=K)` the leaves of the parameters, and of the
    rule's state, are spread over K actors. All take the same steps in the same order, so nothing
    changes but where things are held. Leaves that the rule takes together (all, for a global norm
    or in path space) cannot be apart; this is read off the rule, and refused.

    **Where it runs.** On this machine, if Ray is not initialised (and it is shut down again after
    the run), on as many workers as there are cores; Ray then listens on 127.0.0.1 alone, where no
    other machine can reach it. On a cluster, start Ray on every machine and
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
            dtypes of the parameters; with a model state, (params, model_state, batch) ->
            (gradients, pushed). Compiled by each worker.
        params: the first weights, a pytree of floating-point arrays.
        tx: the server's rule, an optax transformation or a `SendingRule`.
        batches: pytree of arrays, each of shape [num_steps, ...]; or a function from the number of
            a batch (int32 scalar, traced) to it. A function that reads from disk is a
            `jax.pure_callback` with `vmap_method="sequential"`; the worker's own machine runs it.
        cluster: how many workers and servers there are, what they ask Ray for, and in which dtype
            weights are sent.
        num_steps: server steps T >= 0. A checkpoint of fewer can be gone on from.
        model_state: running averages and the like; () for none. It is on the first server.
        merge: (the server's model state, what was pushed) -> the next; None for the latter.
        checkpoint: the file that state and trace are kept in, every 100 steps, or as often as
            `Checkpoint(path, every)` says; None for none.
        monitoring: whether distances are logged, whether gradients are checked to be finite, and
            what is called at every step.

    Returns:
        The weights after the last step, in the dtypes of `params`, and the log of the run.

    Raises:
        ImportError: if Ray is not installed.
        ValueError: before anything is started, if numbers are out of range, the batches are not
            as many as the steps, `grad_fn` returns something that is not like the parameters, the
            rule cannot be spread over so many servers, or the checkpoint is damaged or of another
            run.
        TimeoutError: if actors cannot be started, as where fewer cores are free than asked for, or
            none that could take the place of servers or of all workers, which died.
        FloatingPointError: if a gradient is not finite, naming worker, step and batch; the last
            checkpoint stays as it is.
        RuntimeError: if a worker, or the servers, die again and again, or workers on one batch.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from dcasgd_jax import dcasgd, simulate
        >>> from dcasgd_jax.actors import Cluster, reorder_batches, run_asynchronously
        >>> def loss(w, target):
        ...     return 0.5 * jnp.sum((w - target) ** 2)
        >>> def batches(n):
        ...     return jax.random.normal(jax.random.fold_in(jax.random.key(0), n), (3,))
        >>> job = jax.grad(loss), jnp.zeros(3), dcasgd(0.1, 0.04)
        >>> w, info = run_asynchronously(
        ...     *job, batches, cluster=Cluster(num_workers=8), num_steps=1000
        ... )  # doctest: +SKIP
        >>> again, _ = simulate(
        ...     *job, info.schedule, reorder_batches(batches, info.batch)
        ... )  # doctest: +SKIP
        >>> bool(jnp.allclose(w, again))  # doctest: +SKIP
        True
    """
    ray = load_ray()
    check_cluster(cluster)
    check_whole_number("num_steps", num_steps, least=0)
    _check_batches(batches, num_steps)
    checkpoint = absolute_checkpoint(checkpoint)
    options = Options(
        merge=merge,
        snapshot_dtype=cluster.snapshot_dtype,
        log_distance=monitoring.log_distance,
    )
    server = make_server(tx, cluster.num_workers, options)
    # Snapshots are held by workers here, so that of M only one is made.
    state = server_part(
        initial_state(dataclasses.replace(server, num_workers=1), params, model_state)
    )
    template = shapes(state)
    batch = jax.eval_shape(lambda: one_batch(batches, *2 * (jnp.zeros([], jnp.int32),)))
    _check_step(server, grad_fn, template, batch)
    shards = assign_leaves(server, template, batch, cluster.num_servers)
    job = Job(
        server=server,
        task=Task(grad_fn, template, shards, monitoring.check_finite),
        batches=batches if callable(batches) else jax.tree.map(_on_host, batches),
        num_steps=num_steps,
        cluster=cluster,
        checkpoint=checkpoint,
        on_step=monitoring.on_step,
    )
    coordinator = Coordinator(job, *_begin_or_restore(job, state))
    if len(coordinator.columns) < num_steps:
        _run(ray, coordinator)
    state = from_host(template, coordinator.kept_state)
    return state.params, AsynchronousInfo(
        *coordinator.columns.recording(),
        state=state,
        replaced=coordinator.replaced,
        restored=coordinator.restored,
    )


def _check_batches(batches: Batches, num_steps: int) -> None:
    """Refuses batches that cannot be asked for again, or are not as many as the steps."""
    if is_iterated(batches):
        raise ValueError(
            "real workers need batches that can be asked for again when a gradient is lost: pass "
            "arrays, or a function from the batch's number to the batch, not an iterable."
        )
    batch_source(batches, num_steps)


def _begin_or_restore(job: Job, state: ServerState) -> tuple[ServerState, TraceColumns]:
    """The servers' state on the host and the trace up to it: of the checkpoint, or the first."""
    checkpoint = job.checkpoint
    if checkpoint is not None:
        clear_parts(checkpoint.path)
    if checkpoint is None or not Path(checkpoint.path).exists():
        return to_host(state), TraceColumns(job.cluster.num_workers)
    state, columns = restore(checkpoint.path, job.task.template)
    _check_recorded(checkpoint.path, columns, job.cluster.num_workers, job.num_steps)
    return state, columns


def _run(ray: Any, coordinator: Coordinator) -> None:
    """Runs all steps, on a Ray of our own where the caller has started none."""
    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            stack.enter_context(ray_on_this_machine(ray))
        try:
            coordinator.run()
        except (KeyboardInterrupt, SystemExit, TimeoutError):
            with contextlib.suppress(ray.exceptions.RayError):
                coordinator.keep_what_is_new()
            raise
        finally:
            coordinator.stop()


def _check_step(server: Server, grad_fn: GradFn, state: ServerState, batch: Any) -> None:
    """Refuses gradients and rules of which a server step cannot be made."""
    gradients, pushed = jax.eval_shape(
        lambda params, model_state, batch: compute_gradient(
            grad_fn, state, params, model_state, batch
        ),
        state.params,
        state.model_state,
        batch,
    )
    _check_same_types("grad_fn must return gradients like the parameters", gradients, state.params)

    def step(before: ServerState, gradients: Any, pushed: Any, batch: Any) -> ServerState:
        number = jnp.zeros([], jnp.int32)
        push = Push(before.params, number, number, gradients, pushed, batch)
        return advance(server, before, push)[0]

    after = jax.eval_shape(step, state, gradients, pushed, batch)
    _check_same_types("a server step must leave its state's types as they are", after, state)


def _check_same_types(rule: str, tree: Any, template: Any) -> None:
    """Refuses a tree of other structure, shapes or dtypes than its template."""
    structure, wanted = jax.tree.structure(tree), jax.tree.structure(template)
    if structure != wanted:
        raise ValueError(f"{rule}: got {structure}, not {wanted}.")
    for (path, leaf), like in zip(
        jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(template), strict=True
    ):
        if (leaf.shape, leaf.dtype) != (like.shape, like.dtype):
            raise ValueError(
                f"{rule}: {jax.tree_util.keystr(path) or 'it'} is {leaf.dtype} of shape "
                f"{leaf.shape}, not {like.dtype} of shape {like.shape}."
            )


def _check_recorded(
    path: str | Path, columns: TraceColumns, num_workers: int, num_steps: int
) -> None:
    """Refuses the checkpoint of another number of workers, or of more batches than there are."""
    if columns.num_workers != num_workers:
        raise ValueError(
            f"{path} is of a run with {columns.num_workers} workers, not {num_workers}; go on with "
            "as many, or name another file."
        )
    num_used = max(columns.columns["batch"], default=-1) + 1
    if num_steps < num_used:
        raise ValueError(
            f"{path} has used {num_used} batches, one a step, which {num_steps} steps do not have; "
            f"go on with num_steps >= {num_used}, or name another file."
        )


def _on_host(leaf: Any) -> Any:
    """An array of numbers in NumPy; random keys as they are."""
    return leaf if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key) else np.asarray(leaf)

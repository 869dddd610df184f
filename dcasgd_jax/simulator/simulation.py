"""A parameter server and its workers, simulated exactly."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast, get_args

import jax
import optax
from jax.typing import DTypeLike

from dcasgd_jax.rules.sending import SendingRule
from dcasgd_jax.schedules.schedule import Column, Schedule
from dcasgd_jax.simulator.checks import check_choice
from dcasgd_jax.simulator.options import Engine, EngineName, Options
from dcasgd_jax.simulator.slot_engine import simulator_by_slots
from dcasgd_jax.simulator.state import Batches, GradFn, Merge, Simulator, SimulatorState
from dcasgd_jax.simulator.wavefront_engine import simulator_by_waves

P = TypeVar("P")
"""A tree of arrays."""


class SimulationInfo(NamedTuple):
    """What `simulate` returns beside the final weights."""

    staleness: jax.Array  # shape=(num_steps,), dtype=int32: steps since the snapshot was w
    distance: jax.Array | None  # shape=(num_steps,), float32 or wider: |w - snapshot|, Euclidean
    clock: Column  # shape=(num_steps,), dtype=float64: simulated seconds, from the schedule
    state: SimulatorState  # after the last step: what a further stretch would start from


def simulate(
    grad_fn: GradFn,
    params: P,
    tx: optax.GradientTransformation | SendingRule,
    schedule: Schedule,
    batches: Batches,
    *,
    engine: EngineName | Engine = "slots",
    model_state: Any = (),
    merge: Merge | None = None,
    snapshot_dtype: DTypeLike | None = None,
    log_distance: bool = True,
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

    With networks that keep running averages, `model_state` is theirs at first and `grad_fn` takes
    it and returns what it became: `(params, model_state, batch) -> (gradients, pushed)`. Workers
    pull it with the weights; on arrival the server keeps `merge(model_state, pushed)`, by default
    what was pushed. `running_average(0.9)`, for a network that pushes the batch's own statistics,
    folds every batch in, whatever its delay.

    Pure where steps are scanned: it can then be jitted, and vmapped over weights, batches and the
    hyperparameters inside `tx`.

    Args:
        grad_fn: gradients of one batch's loss, as from `jax.grad`.
        params: the first weights, a pytree of floating-point arrays.
        tx: the server's rule. If it takes extra arguments, the simulator passes `stale_params`,
            `staleness` and `worker` (int32 scalars), and `batch`, which the gradient was taken on.
        schedule: who arrives when, from `round_robin` and its siblings.
        batches: pytree of arrays, each of shape [num_steps, ...], entry t the batch of the
            gradient that arrives at step t; or a function of t (int32 scalar, traced) that gives
            it, as one that draws from a key folded with t; or an iterable of batches, one a
            step, for data that do not fit into memory.
        engine: how it is computed. "slots": one event at a time. "wavefront": gradients that do
            not depend on each other together; see `wavefront_simulator`. `Engine(name, loop, mesh)`
            also says whether one compiled loop runs all steps, and which devices share a wave.
        model_state: running averages and the like; () for none.
        merge: (the server's model state, what was pushed) -> the next; None for the latter.
        snapshot_dtype: bfloat16, say, halves the memory of M snapshots: gradients are taken at the
            rounded weights, which are `stale_params` too. None keeps the parameters' dtypes.
        log_distance: whether |w - snapshot| is computed at every step; reading all weights twice
            more, it is what a simulated step costs most beside its gradient.

    Returns:
        The weights after the last step, in the dtypes of `params`, and the log of the run.

    Raises:
        TypeError: if `params` holds anything but real floating-point arrays.
        BatchesEndedError: if an iterable of batches ends early; it holds the state by then.
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
    if engine.mesh is not None and engine.name != "wavefront":
        raise ValueError(
            f"engine={engine.name!r} computes on one device; leave out its mesh, or use the engine "
            "'wavefront'."
        )
    options = Options(
        engine=engine.name,
        merge=merge,
        snapshot_dtype=snapshot_dtype,
        loop=engine.loop,
        log_distance=log_distance,
        mesh=engine.mesh,
    )
    simulator = _ENGINES[engine.name](grad_fn, tx, schedule.num_workers, options)
    state, log = simulator.run(simulator.init(params, model_state), schedule, batches)
    trained = cast(P, state.params)  # of the structure, shapes and dtypes of the first ones
    return trained, SimulationInfo(*log, clock=schedule.clock, state=state)


_ENGINES: dict[EngineName, Callable[..., Simulator]] = {
    "slots": simulator_by_slots,
    "wavefront": simulator_by_waves,
}

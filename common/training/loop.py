"""Training: a pure step, and the loop that takes it over epochs of a data set held on the device.

The loop is one function, `fit`. It resumes to the bit from a checkpoint, stops on a loss that is
not finite and says at which step, and trains many runs at once when it is given many keys.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from common.data.batches import leading_axis
from common.data.dataset import check_finite
from common.progress import Bar
from common.training.checkpoints import Checkpoints, leaves_with_nan
from common.training.epochs import Loop, advancing, programs
from common.training.layouts import layout, place

ModelState = chex.ArrayTree
Batch = chex.ArrayTree
LossFn = Callable[
    [optax.Params, ModelState, Batch, jax.Array], tuple[jax.Array, tuple[ModelState, Any]]
]
"""`(params, model_state, batch, key) -> (loss, (model_state, metrics))`, metrics a flat mapping."""


class TrainState(NamedTuple):
    """All that training carries from step to step."""

    params: optax.Params
    model_state: ModelState
    """What the model updates by itself, such as running averages; () where there is nothing."""
    opt_state: optax.OptState
    step: jax.Array
    """Steps taken; int32, scalar."""


class StepInfo(NamedTuple):
    """What one step says about itself."""

    loss: jax.Array
    """The loss before the update; float32, scalar."""
    metrics: Mapping[str, jax.Array]
    """What the loss function returned beside it; scalars."""


Step = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, StepInfo]]


def init_state(
    params: optax.Params, tx: optax.GradientTransformation, model_state: ModelState = ()
) -> TrainState:
    """The state before the first step.

    Args:
        params: initial parameters.
        tx: the transformation that `train_step` is given.
        model_state: the model's own initial state.
    """
    return TrainState(params, model_state, tx.init(params), jnp.zeros([], jnp.int32))


def train_step(loss_fn: LossFn, tx: optax.GradientTransformation) -> Step:
    """A pure training step: gradient, transformation, update.

    Args:
        loss_fn: see `LossFn`.
        tx: any optax transformation; one that takes extra arguments is given `value`, the loss.

    Returns:
        `(state, batch, key) -> (state, info)`; compose it with `jax.jit`, `jax.vmap`, `lax.scan`.
    """
    extended = optax.with_extra_args_support(tx)

    def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, StepInfo]:
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (model_state, metrics)), grads = grad_fn(state.params, state.model_state, batch, key)
        updates, opt_state = extended.update(grads, state.opt_state, state.params, value=loss)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, model_state, opt_state, state.step + 1), StepInfo(loss, metrics)

    return step


class DivergedError(ArithmeticError):
    """A run whose loss is not finite; the last checkpoint is of before that."""

    step: int
    """The first step, counted from 0, whose loss was not finite."""

    def __init__(self, step: int):
        """Says which step it was."""
        self.step = step
        super().__init__(
            f"the loss must stay finite, and at step {step} (counted from 0) it is not; take a "
            "smaller learning rate or clip gradients. A checkpoint of before it is kept, if any "
            "were asked for."
        )


class Fit(NamedTuple):
    """What `fit` returns. With many runs at once, arrays have a leading axis [runs]."""

    state: TrainState
    curve: dict[str, np.ndarray]
    """Columns of shape [epochs] or [epochs, runs]: epoch (1, 2, ...; shape [epochs] always), loss
    (mean over the epoch's steps), and what `evaluate` returned. NaN from divergence on."""
    diverged_at: np.ndarray
    """The first step, counted from 0, whose loss was not finite, or -1; int64, [] or [runs]."""


def fit(
    step: Step,
    state: TrainState,
    data: chex.ArrayTree,
    *,
    order: jax.Array,
    noise: jax.Array,
    batch_size: int,
    epochs: int,
    evaluate: Callable[[TrainState], Mapping[str, jax.Array | np.ndarray]] | None = None,
    loop: Loop = "auto",
    chunk: int = 250,
    at_once: int | None = None,
    bar: Bar | None = None,
    checkpoints: Checkpoints | None = None,
    on_divergence: Literal["stop", "raise"] = "stop",
    mesh: Mesh | None = None,
) -> Fit:
    """Trains for whole epochs, each a fresh permutation of the data, the last short batch dropped.

    Steps are taken in chunks: inside one `lax.scan`, or one jitted step after another. Chunks do
    not change a result. Between them the losses are looked at, the bar is moved and the state is
    checkpointed; where `checkpoints` holds a state already, training goes on from there and ends
    with the parameters, to the bit, of a run that was never interrupted. Called again with the same
    step function, it compiles nothing anew.

    On a mesh each batch is shared out over its first axis, and a mean over the batch is one over
    all shares: the run of one device, but for rounding. Leaves of the state that lie on the mesh
    already stay as they are, whole or shared out; all else is put on every device. The mesh may
    span processes: each makes the same call with the same arguments, and gets the same answer.

    Args:
        step: as `train_step` returns it.
        state: where to start; for many runs at once, every leaf has a leading axis [runs].
        data: a pytree of arrays that share their leading axis, [n, ...]; shared by all runs.
        order: key of the data order, folded with the epoch; scalar, or [runs] for many runs.
        noise: key handed to the loss function, folded with the step; of the same shape as `order`.
        batch_size: examples a step.
        epochs: passes over the data, counted from the beginning also when resuming.
        evaluate: called with the state after each epoch; its figures, [] or [runs], join the curve.
        loop: "scan", "driven", or "auto", which chooses by backend; see `Loop`.
        chunk: at most so many steps between two looks at the losses.
        at_once: at most so many of many runs are trained side by side, as many as fit into memory;
            group after group, of sizes as even as can be. None for all of them. `evaluate` is
            called with one group's states. Not together with `checkpoints`.
        bar: advanced by 1 an epoch in fractions.
        checkpoints: where to save after each chunk and to resume from; with a mesh that spans
            processes, a folder that all of them see. The state of a single run is not saved any
            more once there is NaN in it: the last good one stays.
        on_divergence: "stop" makes a loss that is not finite a result, as in a search of learning
            rates; "raise" makes it an error, of the first run that diverges.
        mesh: devices to train on, its axes automatic; None for one device.

    Returns:
        Final state, curve and divergence. A single run stops at its first loss that is not finite;
        many runs go on until all have diverged, the figures of those that have being NaN.

    Raises:
        ValueError: if shapes do not fit, the data hold NaN or infinity, the batch is larger than
            the data or cannot be shared out equally, or the checkpoint found belongs to a run with
            another batch size, data set size, chunk or key.
        DivergedError: if asked for.
    """
    if on_divergence not in ("stop", "raise"):
        raise ValueError(f"on_divergence must be 'stop' or 'raise', got {on_divergence!r}.")
    plan = _plan(data, order, noise, batch_size=batch_size, chunk=chunk)
    laid_out = None
    if mesh is not None:
        state, data = place((state, data), mesh)
        laid_out = layout(state, mesh, batch_size=batch_size)
    runs = order.shape  # () or (runs,)
    parts = groups(runs[0] if runs else 1, at_once)
    if len(parts) > 1:
        if checkpoints is not None:
            raise ValueError(
                f"checkpoints hold runs that are trained side by side, got {runs[0]} runs of which "
                f"{at_once} are: leave at_once at None, or call fit for each group."
            )
        return _joined(
            [
                fit(
                    step,
                    jax.tree.map(lambda leaf, own=own: leaf[own], state),
                    data,
                    order=order[own],
                    noise=noise[own],
                    batch_size=batch_size,
                    epochs=epochs,
                    evaluate=evaluate,
                    loop=loop,
                    chunk=chunk,
                    on_divergence=on_divergence,
                    bar=None if bar is None else _Share(bar, (own.stop - own.start) / runs[0]),
                    mesh=mesh,
                )
                for own in parts
            ]
        )
    check_finite(data)
    compiled = programs(step, plan.size, batch_size, many_runs=bool(runs), layout=laid_out)
    advance = advancing(compiled, state, data, order=order, noise=noise, loop=loop)
    state = jax.tree.map(jnp.copy, state)  # the loop donates its input; the caller keeps theirs
    diverged_at = np.full(runs, -1, np.int64)
    rows: list[dict[str, np.ndarray]] = []
    losses: list[np.ndarray] = []  # of the epoch under way, a [steps, *runs] array a chunk

    many = order.ndim == 1  # of which some may have diverged, and the others go on
    if (
        checkpoints is not None
        and (found := checkpoints.restore(state, allow_nan=many)) is not None
    ):
        _check_fingerprint(found.notes["fingerprint"], plan.fingerprint)
        state = found.state
        diverged_at = np.asarray(found.notes["diverged_at"], np.int64)
        rows = [_from_json(row) for row in found.notes["rows"]]
        losses = [np.asarray(part, np.float32) for part in found.notes["losses"]]
    done = sum(map(len, losses)) + len(rows) * plan.steps_per_epoch
    if bar is not None:
        bar.advance(min(done / plan.steps_per_epoch, epochs))

    while len(rows) < epochs and not np.all(diverged_at >= 0):
        epoch, position = divmod(done, plan.steps_per_epoch)
        length = min(plan.chunk, plan.steps_per_epoch - position)
        state, chunk_losses = advance(state, epoch, position, length)
        diverged_at = _first_not_finite(chunk_losses, done, diverged_at)
        if on_divergence == "raise" and np.any(diverged_at >= 0):
            raise DivergedError(int(diverged_at[diverged_at >= 0].min()))
        losses.append(chunk_losses)
        done += length
        if position + length == plan.steps_per_epoch:
            figures = {} if evaluate is None else evaluate(state)
            rows.append(_row(np.concatenate(losses), figures, diverged_at))
            losses = []
        if bar is not None:
            bar.advance(length / plan.steps_per_epoch, _note(rows, diverged_at))
        if checkpoints is not None and (many or not leaves_with_nan(state)):
            notes = {
                "fingerprint": plan.fingerprint,
                "diverged_at": diverged_at.tolist(),
                "rows": [{name: value.tolist() for name, value in row.items()} for row in rows],
                "losses": [part.tolist() for part in losses],
            }
            checkpoints.save(done, state, notes, allow_nan=many)

    if len(rows) < epochs:  # every run diverged: the rest of the curve is NaN
        if bar is not None:
            bar.advance(epochs - done / plan.steps_per_epoch, _note(rows, diverged_at))
        names = rows[0] if rows else {"loss": None, **(evaluate(state) if evaluate else {})}
        rows += [dict.fromkeys(names, np.full(runs, np.nan)) for _ in range(epochs - len(rows))]
    curve = {name: np.stack([row[name] for row in rows]) for name in rows[0]} if rows else {}
    return Fit(state, {"epoch": np.arange(1, len(rows) + 1), **curve}, diverged_at)


def groups(runs: int, at_once: int | None) -> list[slice]:
    """Consecutive runs that are trained side by side, in groups of sizes as even as can be.

    Args:
        runs: how many, at least 1.
        at_once: at most so many in a group; None for one group.

    Raises:
        ValueError: if there would be none in a group.

    Example:
        >>> [(own.start, own.stop) for own in groups(7, 3)]
        [(0, 2), (2, 5), (5, 7)]
    """
    if at_once is not None and at_once < 1:
        raise ValueError(f"at_once must be None or at least 1 run, got {at_once}.")
    number = 1 if at_once is None else math.ceil(runs / at_once)
    ends = np.linspace(0, runs, number + 1).round().astype(int).tolist()
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def at_once_with_convolutions(at_once: int) -> int:
    """How many runs of a network with convolutions to train side by side: on CPU one.

    Convolutions with a kernel for each run are grouped ones, which XLA runs many times slower there
    than one after another.

    Args:
        at_once: how many fit into an accelerator's memory.
    """
    return 1 if jax.default_backend() == "cpu" else at_once


class _Share(NamedTuple):
    """A bar of which only a part is one group's."""

    bar: Bar
    part: float

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self.bar.advance(amount * self.part, note)


def _joined(parts: list[Fit]) -> Fit:
    """Groups of runs as if they had been trained at once."""
    curve = {
        name: column
        if name == "epoch"
        else np.concatenate([part.curve[name] for part in parts], axis=1)
        for name, column in parts[0].curve.items()
    }
    state = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(part.state for part in parts))
    return Fit(state, curve, np.concatenate([part.diverged_at for part in parts]))


class _Plan(NamedTuple):
    size: int
    batch_size: int
    steps_per_epoch: int
    chunk: int
    fingerprint: dict[str, Any]


def _plan(
    data: chex.ArrayTree, order: jax.Array, noise: jax.Array, *, batch_size: int, chunk: int
) -> _Plan:
    size = leading_axis(data)
    if not 1 <= batch_size <= size:
        raise ValueError(
            f"batch_size must lie between 1 and the {size} examples there are, got {batch_size}: "
            "take smaller batches."
        )
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 step, got {chunk}.")
    if order.shape != noise.shape or order.ndim > 1:
        raise ValueError(
            "order and noise must both be one key, or both an array of keys [runs], "
            f"got shapes {order.shape} and {noise.shape}."
        )
    steps = size // batch_size
    # Equal chunks, so that only an epoch's last one can need a compilation of its own.
    even = math.ceil(steps / math.ceil(steps / chunk))
    fingerprint = {
        "batch_size": batch_size,
        "examples": size,
        "chunk": even,
        "order": jax.random.key_data(order).tolist(),
        "noise": jax.random.key_data(noise).tolist(),
    }
    return _Plan(size, batch_size, steps, even, fingerprint)


def _check_fingerprint(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    different = [f"{k} {found.get(k)} (now {v})" for k, v in wanted.items() if found.get(k) != v]
    if different:
        raise ValueError(
            "the checkpoint belongs to another run, which had "
            + ", ".join(different)
            + ". Resume with the settings it was made with, or give this run a folder of its own."
        )


def _first_not_finite(losses: np.ndarray, offset: int, known: np.ndarray) -> np.ndarray:
    """Adds the runs that diverged in this chunk, losses [steps, *runs], to those known."""
    bad = ~np.isfinite(losses)
    first = offset + bad.argmax(axis=0)
    return np.where((known < 0) & bad.any(axis=0), first, known)


def _row(
    losses: np.ndarray, figures: Mapping[str, Any], diverged_at: np.ndarray
) -> dict[str, np.ndarray]:
    """One epoch's figures; those of diverged runs NaN, also where a NaN network has an accuracy."""
    with np.errstate(invalid="ignore", over="ignore"):
        every = {"loss": losses.mean(axis=0, dtype=np.float64), **figures}
    return {
        name: np.where(diverged_at >= 0, np.nan, np.asarray(value, np.float64))
        for name, value in every.items()
    }


def _from_json(row: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value, np.float64) for name, value in row.items()}


def _note(rows: list[dict[str, np.ndarray]], diverged_at: np.ndarray) -> str:
    """How things stand, for the end of the bar."""
    if diverged_at.ndim:
        return f"{diverged_at.size} runs, {np.sum(diverged_at >= 0)} diverged"
    if diverged_at >= 0:
        return f"loss not finite at step {diverged_at}"
    latest = rows[-1] if rows else {}
    return ", ".join(f"{name} {float(value):.4g}" for name, value in latest.items())

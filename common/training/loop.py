"""The training loop: a step taken over epochs of a data set held on the device.

It is one function, `fit`. It resumes to the bit from a checkpoint, stops on a loss that is not
finite and says at which step, and trains many runs at once when it is given many keys.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from common.data.batches import leading_axis
from common.data.dataset import check_finite
from common.progress import Bar
from common.training.checkpoints import Checkpoints, leaves_with_nan
from common.training.course import Course
from common.training.epochs import advancing, programs
from common.training.execution import Execution, Keys, groups
from common.training.layouts import Layout, layout, place
from common.training.step import Step, TrainState

Evaluate = Callable[[TrainState], Mapping[str, jax.Array | np.ndarray]]
"""`state -> figures`, each [] or [runs]."""


class DivergedError(ArithmeticError):
    """A run whose loss is not finite; the last checkpoint is of before that."""

    step: int
    """The first step, counted from 0, whose loss was not finite."""

    def __init__(self, step: int):
        """Says which step it was."""
        self.step = step
        super().__init__(
            f"the loss must stay finite, and at step {step} (counted from 0) it is not; take a "
            "smaller learning rate or clip gradients. The last checkpoint from before that step "
            "is kept, if checkpoints were asked for."
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
    keys: Keys,
    batch_size: int,
    epochs: int,
    evaluate: Evaluate | None = None,
    bar: Bar | None = None,
    checkpoints: Checkpoints | None = None,
    execution: Execution = Execution(),  # noqa: B008 (immutable)
) -> Fit:
    """Trains for whole epochs, each a fresh permutation of the data, the last short batch dropped.

    Steps are taken in chunks: inside one `lax.scan`, or one jitted step after another. Chunks do
    not change a result. Between them the losses are checked, the bar is moved and the state is
    checkpointed; where `checkpoints` holds a state already, training goes on from there and ends
    with the parameters, to the bit, of a run that was never interrupted. Called again with the same
    step function, it compiles nothing anew.

    On a mesh each batch is shared out over its first axis, and a mean over the batch is one over
    all shares: the run of one device, but for rounding. Leaves of the state that lie on the mesh
    already stay as they are, whole or shared out; all else is put on every device. The mesh may
    span processes: each makes the same call with the same arguments, and gets the same answer.

    Args:
        step: a training step, which `train_step` makes.
        state: where to start; for many runs at once, every leaf has a leading axis [runs].
        data: a pytree of arrays that share their leading axis, [n, ...]; shared by all runs.
        keys: of the data order and of the loss function's noise; scalars, or [runs] for many runs.
        batch_size: examples per step.
        epochs: passes over the data, counted from the beginning also when resuming.
        evaluate: called with the state after each epoch; its figures, [] or [runs], join the curve.
            Where runs are trained group by group, it is called with one group's states.
        bar: advanced by 1 an epoch in fractions.
        checkpoints: where to save after each chunk and to resume from; with a mesh that spans
            processes, a folder that all of them see. The state of a single run is not saved any
            more once there is NaN in it: the last good one stays. Not for runs trained in groups.
        execution: in which pieces, on what, and how many runs side by side.

    Returns:
        Final state, curve and divergence. A single run stops at its first loss that is not finite;
        many runs go on until all have diverged, the figures of those that have being NaN.

    Raises:
        ValueError: if shapes do not fit, the data hold NaN or infinity, the batch is larger than
            the data or cannot be shared out equally, or the checkpoint found belongs to a run with
            another batch size, data set size, chunk or key.
        DivergedError: if `execution` asks for it.
    """
    plan = _plan(data, keys, batch_size=batch_size, chunk=execution.chunk)
    if execution.mesh is not None:
        state, data = place((state, data), execution.mesh)
        plan = plan._replace(layout=layout(state, execution.mesh, batch_size=batch_size))
    runs = keys.order.shape[0] if plan.many else 1
    parts = groups(runs, execution.at_once)
    if len(parts) == 1:
        check_finite(data)
        watch = _Watch(evaluate, bar, checkpoints)
        return _train(step, state, data, plan, keys=keys, epochs=epochs, watch=watch, how=execution)
    if checkpoints is not None:
        raise ValueError(
            f"checkpoints hold runs that are trained side by side, got {runs} runs of which "
            f"{execution.at_once} are: leave at_once at None, or call fit for each group."
        )
    return _joined(
        [
            fit(
                step,
                jax.tree.map(lambda leaf, part=part: leaf[part], state),
                data,
                keys=Keys(keys.order[part], keys.noise[part]),
                batch_size=batch_size,
                epochs=epochs,
                evaluate=evaluate,
                bar=None if bar is None else _Share(bar, (part.stop - part.start) / runs),
                execution=dataclasses.replace(execution, at_once=None),
            )
            for part in parts
        ]
    )


class _Watch(NamedTuple):
    """What looks at a run while it goes on."""

    evaluate: Evaluate | None
    bar: Bar | None
    checkpoints: Checkpoints | None


class _Plan(NamedTuple):
    """What follows from the arguments of `fit` before anything is compiled."""

    size: int
    batch_size: int
    steps_per_epoch: int
    chunk: int
    many: bool
    """Whether there are many runs: some may then diverge, and the others go on."""
    fingerprint: dict[str, Any]
    """What a checkpoint must agree with to be resumed from."""
    layout: Layout | None = None


def _train(
    step: Step,
    state: TrainState,
    data: chex.ArrayTree,
    plan: _Plan,
    *,
    keys: Keys,
    epochs: int,
    watch: _Watch,
    how: Execution,
) -> Fit:
    """One run, or many side by side."""
    evaluate, bar, checkpoints = watch
    compiled = programs(step, plan.size, plan.batch_size, many_runs=plan.many, layout=plan.layout)
    advance = advancing(compiled, state, data, order=keys.order, noise=keys.noise, loop=how.loop)
    state = jax.tree.map(jnp.copy, state)  # the loop donates its input; the caller keeps theirs
    course = Course(plan.steps_per_epoch, np.full(keys.order.shape, -1, np.int64))
    if checkpoints is not None:
        state, course = _resumed(checkpoints, state, course, plan)
        if course.steps > epochs * plan.steps_per_epoch:
            raise ValueError(
                f"the checkpoint is of {course.steps / plan.steps_per_epoch:g} epochs, more than "
                f"the {epochs} asked for; ask for as many, or give this run a folder of its own."
            )
    if bar is not None:
        bar.advance(min(course.steps / plan.steps_per_epoch, epochs))

    while len(course.rows) < epochs and not course.diverged.all():
        epoch, position = divmod(course.steps, plan.steps_per_epoch)
        length = min(plan.chunk, plan.steps_per_epoch - position)
        state, losses = advance(state, epoch, position, length)
        course.add(losses)
        ended = position + length == plan.steps_per_epoch
        if ended:  # losses are those before a step: the last one may have broken the weights
            course.mark_broken(np.asarray(_broken(state.params, plan.many)))
        if how.on_divergence == "raise" and course.diverged.any():
            raise DivergedError(int(course.diverged_at[course.diverged].min()))
        if ended:
            course.end_epoch({} if evaluate is None else evaluate(state))
        if bar is not None:
            bar.advance(length / plan.steps_per_epoch, course.summary())
        # Many runs are saved with those among them that have diverged, since the others go on.
        if checkpoints is not None and (plan.many or not leaves_with_nan(state)):
            notes = {"fingerprint": plan.fingerprint, **course.notes()}
            checkpoints.save(course.steps, state, notes, allow_nan=plan.many)

    columns: Mapping[str, Any] = {}
    if len(course.rows) < epochs:  # every run has diverged
        if bar is not None:
            bar.advance(epochs - course.steps / plan.steps_per_epoch, course.summary())
        if not course.rows:
            columns = {"loss": None, **({} if evaluate is None else evaluate(state))}
    return Fit(state, course.curve(epochs, columns), course.diverged_at)


@functools.partial(jax.jit, static_argnums=1)
def _broken(params: Any, many: bool) -> jax.Array:
    """Whether a weight is no number; bool, [] or, of many runs, [runs]."""
    if many:
        return jax.vmap(lambda one: _broken(one, many=False))(params)
    floats = [w for w in jax.tree.leaves(params) if jnp.issubdtype(w.dtype, jnp.floating)]
    return ~jnp.stack([jnp.asarray(True), *(jnp.isfinite(w).all() for w in floats)]).all()


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


def _plan(data: chex.ArrayTree, keys: Keys, *, batch_size: int, chunk: int) -> _Plan:
    size = leading_axis(data)
    if not 1 <= batch_size <= size:
        raise ValueError(
            f"batch_size must lie between 1 and the {size} examples there are, got {batch_size}: "
            "take smaller batches."
        )
    if keys.order.shape != keys.noise.shape or keys.order.ndim > 1:
        raise ValueError(
            "order and noise must both be one key, or both an array of keys [runs], "
            f"got shapes {keys.order.shape} and {keys.noise.shape}."
        )
    steps = size // batch_size
    # Equal chunks, so that only an epoch's last one can need a compilation of its own.
    even = math.ceil(steps / math.ceil(steps / chunk))
    fingerprint = {
        "batch_size": batch_size,
        "examples": size,
        "chunk": even,
        "order": jax.random.key_data(keys.order).tolist(),
        "noise": jax.random.key_data(keys.noise).tolist(),
    }
    return _Plan(size, batch_size, steps, even, keys.order.ndim == 1, fingerprint)


def _resumed(
    checkpoints: Checkpoints, state: TrainState, course: Course, plan: _Plan
) -> tuple[TrainState, Course]:
    """State and course of the newest checkpoint, or those given where there is none."""
    restored = checkpoints.restore(state, allow_nan=plan.many)
    if restored is None:
        return state, course
    saved = restored.notes["fingerprint"]
    different = [
        f"{name} {saved.get(name)} (now {value})"
        for name, value in plan.fingerprint.items()
        if saved.get(name) != value
    ]
    if different:
        raise ValueError(
            "the checkpoint belongs to another run, which had "
            + ", ".join(different)
            + ". Resume with the settings it was made with, or give this run a folder of its own."
        )
    return restored.state, Course.from_notes(restored.notes, plan.steps_per_epoch)

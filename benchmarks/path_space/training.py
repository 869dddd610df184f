"""Runs at many step sizes, side by side: one program serves all seeds and step sizes of a method.

A run's step sizes are carried in its state: as a hyperparameter, or with batch normalisation beside
the running averages.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from benchmarks.harness.images import Part
from common.data.augmentation import pad_crop_flip
from common.progress import Bar
from common.seeds import Streams, streams
from common.training import (
    Execution,
    Fit,
    Keys,
    LossFn,
    Step,
    StepInfo,
    TrainState,
    fit,
    init_state,
    train_step,
)
from common.training.classification import MetricsFn, evaluator, network_loss

Evaluator = Callable[[Any], dict[str, np.ndarray]]
"""From a state to its figures, of many runs or of one."""

CROSS_ENTROPIES = ("validation_cross_entropy", "test_cross_entropy")
"""Where they are not finite, a network's answers are none."""


class Runs(NamedTuple):
    """What tells runs apart that are trained side by side; one entry a run."""

    params: Any  # first weights, leaves [runs, ...]
    rates: jax.Array | np.ndarray  # [runs]
    seeds: Sequence[int]  # of the order of the examples, and of noise


class Objective(NamedTuple):
    """What is minimised on a batch, and what is measured on held-out examples."""

    loss: LossFn
    metrics: MetricsFn


def train_at_rates(
    make: Callable[[optax.Schedule], optax.GradientTransformation],
    factor: Callable[[jax.Array], jax.Array], runs: Runs, objective: Objective,
    parts: Sequence[Part], *, batch_size: int, epochs: int, bar: Bar, mesh: Mesh | None,
    evaluated: int = 1000,
) -> Fit:  # fmt: skip
    """Trains runs side by side, each at its own rate times a factor by the number of steps taken.

    `make` makes what steps from a schedule; the parts are trained, validated and tested on,
    `evaluated` examples at once.
    """

    def rule(learning_rate: float) -> optax.GradientTransformation:
        return make(lambda count: learning_rate * factor(jnp.asarray(count)))

    tunable = optax.inject_hyperparams(rule)

    def first(params: Any, rate: jax.Array) -> TrainState:
        return init_state(params, tunable(learning_rate=rate))

    train, *rest = parts
    validate, score = (
        evaluator(objective.metrics, part, batch_size=evaluated, prefix=prefix, many_runs=True)
        for part, prefix in zip(rest, ("validation_", "test_"), strict=True)
    )
    keys = [streams(seed) for seed in runs.seeds]
    return fit(
        train_step(objective.loss, tunable(learning_rate=0.0)),
        jax.jit(jax.vmap(first))(runs.params, jnp.asarray(runs.rates)), train,
        keys=Keys(jnp.stack([k.order for k in keys]), jnp.stack([k.noise for k in keys])),
        batch_size=batch_size, epochs=epochs,
        evaluate=lambda state: {**validate(state), **score(state)}, bar=bar,
        execution=Execution(mesh=mesh),
    )  # fmt: skip


class Setup(NamedTuple):
    """What tells one run from another, carried as the model's own state."""

    averages: Any
    rates: jax.Array  # of each step; float32, [steps]


def first_state(
    make: Callable[[Any], optax.GradientTransformation], averages: Any
) -> Callable[[Any], TrainState]:
    """From first weights to the state before the first step, which does not know the rate."""
    return jax.jit(lambda params: init_state(params, make(0.0), averages))


def with_rates(state: TrainState, rates: np.ndarray) -> TrainState:
    """The state with the step size of every step beside the model's own state."""
    return state._replace(model_state=Setup(state.model_state, jnp.asarray(rates)))


def step_by_rates(
    module: nn.Module, make: Callable[[Any], optax.GradientTransformation], *, augment: bool
) -> Step:
    """A step that finds its learning rate in the state, so that one program serves all of them."""
    loss = network_loss(module)

    def step(state: TrainState, batch: Any, key: jax.Array) -> tuple[TrainState, StepInfo]:
        setup: Any = state.model_state
        if augment:
            batch = pad_crop_flip(key, batch[0]), batch[1]
        rate = setup.rates[state.step]
        before = state._replace(model_state=setup.averages)
        after, info = train_step(loss, make(rate))(before, batch, key)
        return after._replace(model_state=setup._replace(averages=after.model_state)), info

    return step


def train_together(
    step: Step, states: Sequence[TrainState], train: Part, evaluators: Sequence[Evaluator],
    keys: Sequence[Streams], *, batch_size: int, epochs: int, mesh: Mesh | None,
) -> list[dict[str, list[float]]]:  # fmt: skip
    """The columns of each run's curve, one entry an epoch; NaN from the epoch it diverged in."""
    many = len(states) > 1

    def evaluate(state: TrainState) -> dict[str, np.ndarray]:
        answering = state._replace(opt_state=())
        return {k: v for evaluator in evaluators for k, v in evaluator(answering).items()}

    def stacked(leaves: Sequence[Any]) -> Any:
        return jnp.stack(leaves) if many else leaves[0]

    curve = fit(
        step,
        jax.tree.map(lambda *leaves: stacked(leaves), *states),
        train,
        keys=Keys(stacked([k.order for k in keys]), stacked([k.noise for k in keys])),
        batch_size=batch_size,
        epochs=epochs,
        evaluate=evaluate,
        execution=Execution(mesh=mesh),
    ).curve
    columns = {n: values.reshape(len(values), -1) for n, values in curve.items() if n != "epoch"}
    # Answers of a network whose outputs are not numbers are none, nor are those that follow.
    answers = np.stack([columns[name] for name in ("loss", *CROSS_ENTROPIES)])
    valid = np.logical_and.accumulate(np.isfinite(answers).all(0))
    return [
        {
            name: np.where(valid[:, i], columns[name][:, i], math.nan).tolist()
            for name in ("loss", "validation_accuracy", "test_accuracy")
        }
        for i in range(len(states))
    ]

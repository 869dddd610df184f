"""What stale gradients cost on digits, and how much of it delay compensation gives back.

A tanh perceptron on MNIST digits, trained by M simulated workers that take turns (staleness M - 1)
and by the synchronous methods that asynchrony has to beat:

- SGD: one worker, no staleness, M times as slow by the simulated clock;
- m-synchronous SGD with m = M: every step waits for all workers and averages their gradients;
- ASGD, DC-ASGD-c (constant lambda) and DC-ASGD-a (adaptive lambda).

All methods see the same gradients' worth of data in the same order, from the same initialisation.
Every one is run at every step size of one grid, the compensated ones at every lambda of another;
settings are chosen by mean validation accuracy over the seeds. Two protocols:

1. each rule at its own tuned step: the fair comparison;
2. for each M, all rules at one step that ASGD does not bear: the first of the grid, above its
   tuned one, at which its validation accuracy falls by ten points or a run diverges. Lambda is
   tuned at that step. This shows what compensation tolerates, not what it is best for.

Published, ResNet-20 on CIFAR-10, 8 workers, test error: SGD 8.65, ASGD 10.26, synchronous SGD
10.10, DC-ASGD-c 9.27, DC-ASGD-a 8.57 (Zheng et al., ICML 2017, https://arxiv.org/abs/1609.08326).

Cost: smoke 1 minute on two cores, cpu 2 on one, day 16; full, for one accelerator, was not run.
Command: python -m benchmarks dcasgd_digits --preset day --seeds 10
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.delay.report import (
    ADAPTIVE,
    ASGD,
    CONSTANT,
    SGD,
    STEPS_CAPTION,
    SYNCHRONOUS,
    TRAINING_CAPTION,
    plot_tolerance,
    plot_training,
    protocol_tables,
)
from benchmarks.harness.registry import Context
from common.data import as_float, epoch_order, load, pooled, train_validation_split
from common.networks import MLP
from common.results.records import Record
from common.seeds import streams
from dcasgd_jax import Schedule, dcasgd, round_robin, slot_simulator


@dataclasses.dataclass(frozen=True)
class DigitTask:
    """Digits and the perceptron that learns them, as all experiments with them have it."""

    data: str = "mnist5k"
    pool: int = 2
    """Images are reduced by averaging over squares of this side."""
    widths: tuple[int, ...] = (32, 32, 10)
    batch_size: int = 32
    """Of one gradient."""


@dataclasses.dataclass(frozen=True)
class Settings(DigitTask):
    """What the experiment depends on."""

    validation: float = 0.1
    """Share of the training images that steps and lambdas are chosen on."""
    train_sample: int = 2000
    """Training images that the training loss is measured on."""
    workers: tuple[int, ...] = (8, 16)
    epochs: int = 10
    evaluations: int = 1
    """Points of the curves, an epoch."""
    learning_rates: tuple[float, ...] = (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
    constant_lambdas: tuple[float, ...] = (0.04, 2.0, 20.0)
    """Of DC-ASGD-c; 0.04 is the published one."""
    adaptive_lambdas: tuple[float, ...] = (0.5, 2.0, 8.0)
    """Of DC-ASGD-a; 2 is the published one."""
    mean_square_decay: float = 0.95
    """Of DC-ASGD-a, as published."""


PRESETS = {
    "smoke": Settings(),
    "cpu": Settings(data="mnist", epochs=2, evaluations=2),
    "day": Settings(
        data="mnist", epochs=8, evaluations=2, constant_lambdas=(0.04, 2.0, 20.0, 100.0),
        adaptive_lambdas=(0.5, 2.0, 8.0, 32.0),
    ),
    "full": Settings(
        data="mnist", pool=1, widths=(256, 256, 10), workers=(4, 8, 16, 32), epochs=20,
        train_sample=10_000, learning_rates=tuple(0.00625 * 2.0**k for k in range(9)),
        constant_lambdas=(0.04, 0.4, 4.0, 40.0), adaptive_lambdas=(0.5, 1.0, 2.0, 4.0, 8.0),
    ),
}  # fmt: skip


class Images(NamedTuple):
    """Pixels in [0, 1] and labels; arrays [n, height, width, channels] and [n]."""

    pixels: jax.Array
    labels: jax.Array


class Data(NamedTuple):
    """What a program reads: handed in as an argument, since constants compile slowly."""

    train: Images
    sample: Images  # of train, for the training loss
    validation: Images
    test: Images


class Case(NamedTuple):
    """Runs that differ in numbers alone, and are trained at once."""

    method: str
    workers: int  # that gradients come from: M
    lambdas: tuple[float, ...]  # empty where there is nothing to compensate


def cases(settings: Settings) -> list[Case]:
    """Every method at every number of workers."""
    every = [Case(SGD, 1, ())]
    for workers in settings.workers:
        every += [
            Case(SYNCHRONOUS, workers, ()),
            Case(ASGD, workers, ()),
            Case(CONSTANT, workers, settings.constant_lambdas),
            Case(ADAPTIVE, workers, settings.adaptive_lambdas),
        ]
    return every


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each method, number of workers, step size, lambda and seed."""
    data = load_data(settings, context.data_dir)
    network = MLP(settings.widths, activation=jnp.tanh)
    todo = cases(settings)
    init = jax.jit(lambda key, images: network.init(key, images)["params"])
    with context.progress.task("asynchronous SGD", total=len(todo) * len(context.seeds)) as bar:
        for case in todo:
            train = trainer(case, settings, network, len(data.train.labels))

            def of_seed(seed: int, case: Case = case, train: Trainer = train) -> Iterator[Record]:
                begun, keys = time.perf_counter(), streams(seed)
                params = init(keys.init, data.train.pixels[:1])
                measured = train(params, keys.order, data)
                seconds = time.perf_counter() - begun
                return records_of(case, settings, seed, measured, len(data.train.labels), seconds)

            for seed in context.seeds:
                yield from context.stages.of(
                    f"{case.method}, M = {case.workers}, seed {seed}",
                    functools.partial(of_seed, seed),
                )
                bar.advance(note=f"{case.method}, M = {case.workers}")


def load_data(settings: Settings, data_dir: Path | None) -> Data:
    """All images on the device; the split into training and validation is the same for all."""
    whole = load(settings.data, "train", data_dir=data_dir)
    parts = train_validation_split(whole, streams(0).data, fraction=settings.validation)
    train, validation, test = (
        Images(pooled(as_float(part.images), settings.pool), jnp.asarray(part.labels))
        for part in (*parts, load(settings.data, "test", data_dir=data_dir))
    )
    sample = jax.tree.map(lambda leaf: leaf[: settings.train_sample], train)
    return Data(train, sample, validation, test)


class Classifier(NamedTuple):
    """Of a network, on images: mean cross-entropy, and the share of right answers."""

    loss: Callable[[Any, Images], jax.Array]
    accuracy: Callable[[Any, Images], jax.Array]


def classifier(network: MLP) -> Classifier:
    """What a network's parameters are trained and judged by."""

    def logits(params: Any, images: Images) -> Any:
        return network.apply({"params": params}, images.pixels)

    def loss(params: Any, images: Images) -> jax.Array:
        answers = logits(params, images)
        return optax.softmax_cross_entropy_with_integer_labels(answers, images.labels).mean()

    def accuracy(params: Any, images: Images) -> jax.Array:
        return (logits(params, images).argmax(axis=-1) == images.labels).mean()

    return Classifier(loss, accuracy)


class Measured(NamedTuple):
    """What training a case measured; each figure of shape [points, runs]."""

    train_loss: jax.Array
    validation_accuracy: jax.Array
    test_accuracy: jax.Array


Rule = Callable[[Case, Settings, jax.Array, jax.Array], optax.GradientTransformation]
"""(case, settings, step size, lambda) -> what the server does."""

Trainer = Callable[[optax.Params, jax.Array, Data], Measured]
"""From first weights, a key of the order and the data to all runs of a case."""


def trainer(
    case: Case, settings: Settings, network: MLP, num_train: int, *, rule: Rule | None = None
) -> Trainer:
    """A function that trains all step sizes and lambdas of a case at once, compiled once.

    `rule` is what the server does; None for what the case's method says.
    """
    schedule, (loss, accuracy) = _schedule(case, settings, num_train), classifier(network)
    rates, lambdas = (jnp.asarray(column) for column in zip(*_grid(case, settings), strict=True))

    def one_run(
        rate: jax.Array, lambda_: jax.Array, params: optax.Params, rows: jax.Array, data: Data
    ) -> Measured:
        def gradient(params: optax.Params, rows: jax.Array) -> optax.Updates:
            return jax.grad(loss)(params, jax.tree.map(lambda leaf: leaf[rows], data.train))

        server = (rule or _rule)(case, settings, rate, lambda_)
        simulator = slot_simulator(gradient, server, _snapshots(case))

        def stretch(state, part):
            state, _ = simulator.run(state, *part)
            return state, Measured(
                loss(state.params, data.sample),
                accuracy(state.params, data.validation),
                accuracy(state.params, data.test),
            )

        points = settings.epochs * settings.evaluations
        parts = jax.tree.map(lambda x: x.reshape(points, -1, *x.shape[1:]), (schedule, rows))
        return jax.lax.scan(stretch, simulator.init(params), parts)[1]

    many = jax.jit(jax.vmap(one_run, in_axes=(0, 0, None, None, None), out_axes=1))

    def train(params: optax.Params, order: jax.Array, data: Data) -> Measured:
        rows = _batches(case, settings, order, num_train)
        return jax.device_get(many(rates, lambdas, params, rows, data))

    return train


def _grid(case: Case, settings: Settings) -> list[tuple[float, float]]:
    """(step size, lambda) of every run; lambda 0 where there is nothing to compensate."""
    return [(rate, x) for x in case.lambdas or (0.0,) for rate in settings.learning_rates]


def _rule(
    case: Case, settings: Settings, rate: jax.Array, lambda_: jax.Array
) -> optax.GradientTransformation:
    if case.method == CONSTANT:
        return dcasgd(rate, lambda_)
    if case.method == ADAPTIVE:
        return dcasgd(rate, lambda_, mean_square_decay=settings.mean_square_decay)
    return optax.sgd(rate)


def _snapshots(case: Case) -> int:
    """Workers that the server tells apart: synchronous ones are one, with their batches joined."""
    return 1 if case.method == SYNCHRONOUS else case.workers


def _stretch(settings: Settings, num_train: int) -> int:
    """Gradients between two evaluations: a part of an epoch, in whole rounds of every M."""
    batches = num_train // (settings.batch_size * settings.evaluations)
    rounds = math.lcm(*settings.workers)
    if batches < rounds:
        raise ValueError(
            f"{settings.evaluations} evaluations an epoch leave {batches} batches for each, which "
            f"must be {rounds} at least to give every number of workers, {settings.workers}, a "
            "whole round; evaluate less often, or take smaller batches."
        )
    return batches - batches % rounds


def _schedule(case: Case, settings: Settings, num_train: int) -> Schedule:
    """The server's steps; a simulated second is the time of one worker's gradient."""
    gradients = settings.epochs * settings.evaluations * _stretch(settings, num_train)
    if case.method == SYNCHRONOUS:
        return round_robin(1, gradients // case.workers)
    return round_robin(case.workers, gradients)


def _batches(case: Case, settings: Settings, order: jax.Array, num_train: int) -> jax.Array:
    """Rows of the training images for each server step, [num_steps, images]."""
    per_epoch = settings.evaluations * _stretch(settings, num_train) * settings.batch_size
    rows = [
        epoch_order(order, num_train, epoch=epoch)[:per_epoch] for epoch in range(settings.epochs)
    ]
    joined = case.workers if case.method == SYNCHRONOUS else 1
    return jnp.asarray(np.concatenate(rows).reshape(-1, joined * settings.batch_size))


def records_of(
    case: Case, settings: Settings, seed: int, measured: Measured, num_train: int, seconds: float
) -> Iterator[Record]:
    """A record for every step size and lambda of a case, whose `seconds` are of all together."""
    gradients = np.arange(1, len(measured.train_loss) + 1) * _stretch(settings, num_train)
    for i, (rate, lambda_) in enumerate(_grid(case, settings)):
        loss, validation, test = (np.asarray(figure[:, i], dtype=float) for figure in measured)
        # An accuracy of weights that are not numbers is no accuracy.
        gone = ~np.isfinite(loss)
        validation, test = np.where(gone, np.nan, validation), np.where(gone, np.nan, test)
        yield Record(
            method=case.method,
            setting={"workers": case.workers, "learning_rate": rate}
            | ({"lambda": lambda_} if case.lambdas else {}),
            seed=seed,
            metrics={
                "train_loss": loss[-1],
                "validation_accuracy": validation[-1],
                "test_accuracy": test[-1],
                "simulated_seconds": gradients[-1] / case.workers,
            },
            curve={
                "gradients": gradients.tolist(),
                "simulated_seconds": (gradients / case.workers).tolist(),
                "train_loss": loss.tolist(),
                "test_accuracy": test.tolist(),
            },
            wall_time=seconds,
        )


tables = protocol_tables
CAPTIONS = {"dcasgd_digits_curves.png": TRAINING_CAPTION, "dcasgd_digits_steps.png": STEPS_CAPTION}


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Accuracy during training, against data and against time; and the steps each rule bears."""
    return [
        plot_training(records, out / "dcasgd_digits_curves.png"),
        plot_tolerance(records, out / "dcasgd_digits_steps.png"),
    ]

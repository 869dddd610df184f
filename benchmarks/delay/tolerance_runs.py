"""What runs of every rule measure of its tolerance of delay: on a quadratic, and with a network."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.delay import quadratic_limits
from benchmarks.delay.digits import Data, DigitTask, classifier
from benchmarks.delay.report import ADAPTIVE, ASGD, CONSTANT, SGD, SYNCHRONOUS
from benchmarks.delay.tolerance_report import HESSIAN, LOW_RANK, NETWORK, QUADRATIC, STALENESS
from benchmarks.harness.images import rows_in_order
from common.networks import MLP
from common.results.records import Record
from common.seeds import Streams, streams
from dcasgd_jax import (
    Schedule,
    curvature_compensation,
    dcasgd,
    gamma_times,
    hessian,
    low_rank_compensation,
    slot_simulator,
    stable_step,
    staleness_histogram,
    time_to,
)
from dcasgd_jax.diagnostics import distance_by_staleness


@dataclasses.dataclass(frozen=True)
class Settings(DigitTask):
    """What the experiment depends on."""

    delays: tuple[int, ...] = (0, 1, 7, 31)
    """On the quadratic."""
    dim: int = 16
    quadratic_steps: tuple[float, ...] = tuple(np.geomspace(0.03, 2.5, 32).tolist())
    quadratic_length: int = 800
    workers: tuple[int, ...] = (4, 32)
    variation: float = 0.1
    """Coefficient of variation of a machine's times."""
    gradients: int = 640
    """That every run gets."""
    points: int = 10
    """Of the curves."""
    learning_rates: tuple[float, ...] = (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)
    constant_lambdas: tuple[float, ...] = (0.04, 4.0)
    """0.04 is the published one."""
    adaptive_lambdas: tuple[float, ...] = (2.0, 8.0)
    """2 is the published one."""
    mean_square_decay: float = 0.95
    rank: int = 4
    target_loss: float = 0.7
    """Training loss that the simulated time is taken to."""

    def __post_init__(self):
        """Refuses lengths that do not divide into whole rounds."""
        rounds = self.points * max(self.workers)
        if self.gradients % rounds or any(max(self.workers) % m for m in self.workers):
            raise ValueError(
                f"gradients must be a multiple of {rounds} ({self.points} points of a round of the "
                f"most workers), got {self.gradients}, and every number of workers divide "
                f"{max(self.workers)}, got {self.workers}."
            )


RULES = (ASGD, CONSTANT, ADAPTIVE, LOW_RANK, HESSIAN)


def compensator(
    method: str, settings: Settings, lambda_: Any, grad_fn: Callable[..., Any]
) -> optax.GradientTransformation:
    """What one of `RULES` does to a stale gradient before the step."""
    if method == CONSTANT:
        return dcasgd(1.0, lambda_)
    if method == ADAPTIVE:
        return dcasgd(1.0, lambda_, mean_square_decay=settings.mean_square_decay)
    plain = optax.sgd(1.0)
    if method == LOW_RANK:
        return optax.chain(low_rank_compensation(settings.rank), plain)
    if method == HESSIAN:
        return optax.chain(curvature_compensation(hessian(grad_fn)), plain)
    return plain


def lambdas(method: str, settings: Settings) -> tuple[float, ...]:
    """The lambdas that a method is tried with; empty where it has none."""
    tried = {CONSTANT: settings.constant_lambdas, ADAPTIVE: settings.adaptive_lambdas}
    return tried.get(method, ())


def on_quadratic(method: str, settings: Settings, seeds: Sequence[int]) -> Iterator[Record]:
    """A record for each lambda, delay and seed on the quadratic."""
    valleys = [quadratic_limits.valley(seed, settings.dim) for seed in seeds]
    for lambda_ in lambdas(method, settings) or (0.0,):
        begun = time.perf_counter()

        def rule(rate: Any, matrix: Any, strength: float = lambda_) -> Any:
            gradient = quadratic_limits.gradient(matrix)
            return optax.chain(compensator(method, settings, strength, gradient), optax.scale(rate))

        largest = quadratic_limits.limits(
            rule, settings.delays, valleys, steps=np.array(settings.quadratic_steps),
            length=settings.quadratic_length,
        )  # fmt: skip
        seconds = time.perf_counter() - begun
        for delay, of_seeds in zip(settings.delays, largest, strict=True):
            for seed, limit in zip(seeds, of_seeds, strict=True):
                yield Record(
                    method=method,
                    setting={"problem": QUADRATIC, "delay": delay}
                    | ({"lambda": lambda_} if lambdas(method, settings) else {}),
                    seed=seed,
                    metrics={
                        "largest_stable_step": float(limit),
                        "closed_form": stable_step(delay),
                    },
                    wall_time=seconds,
                )


class Measured(NamedTuple):
    """What training measured, one a run: leading axis [runs]."""

    train_loss: jax.Array  # [points]
    validation_accuracy: jax.Array  # []: at the end
    test_accuracy: jax.Array  # []: likewise
    distance: jax.Array  # [points, gradients of a stretch]


def trainer(method: str, settings: Settings) -> Callable[[int, int, Data], Iterator[Record]]:
    """A function that trains all steps and lambdas of a method, compiled once for any M.

    All numbers of workers share one program, in which there are slots for the most; those that
    fewer workers leave over are never read. The method is one of `RULES`, or the synchronous one,
    which is SGD with one worker.
    """
    network = MLP(settings.widths, activation=jnp.tanh)
    slots = 1 if method == SYNCHRONOUS else max(settings.workers)
    grid = [(r, x) for x in lambdas(method, settings) or (0.0,) for r in settings.learning_rates]
    rates, strengths = (jnp.asarray(column) for column in zip(*grid, strict=True))
    one_run = _program(method, settings, network, slots)
    many = jax.jit(jax.vmap(one_run, in_axes=(0, 0, *[None] * 5)))
    start = jax.jit(lambda key, images: network.init(key, images)["params"])
    first_loss = jax.jit(classifier(network).loss)

    def train(workers: int, seed: int, data: Data) -> Iterator[Record]:
        begun, keys = time.perf_counter(), streams(seed)
        true = gamma_times(
            workers, settings.gradients, seed=seed, variation=settings.variation,
            wait_for=workers if method == SYNCHRONOUS else None,
        )  # fmt: skip
        order = np.zeros_like(true.worker) if method == SYNCHRONOUS else true.worker
        schedule = Schedule(order, true.staleness, true.clock, num_workers=slots)
        params = start(keys.init, data.train.pixels[:1])
        rows = batches(settings, keys, len(data.train.labels))
        measured = jax.device_get(
            many(rates, strengths, params, jnp.int32(workers), schedule, rows, data)
        )
        first = float(first_loss(params, data.sample))
        seconds = time.perf_counter() - begun
        for i, (rate, lambda_) in enumerate(grid):
            run = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i], float), measured)
            setting = {"workers": workers, "learning_rate": rate}
            setting |= {"lambda": lambda_} if lambdas(method, settings) else {}
            yield _record(
                SGD if workers == 1 else method, setting, seed, settings, run, true, first, seconds
            )
            if method == ASGD:
                yield _staleness_record(setting, seed, run, true, seconds)

    return train


def _program(method: str, settings: Settings, network: MLP, slots: int) -> Callable[..., Measured]:
    """From a step, a lambda, first weights, M, arrivals, rows and data to what a run measures."""
    loss, accuracy = classifier(network)

    def one_run(
        rate: jax.Array, strength: jax.Array, params: Any, workers: jax.Array, schedule: Schedule,
        rows: jax.Array, data: Data,
    ) -> Measured:  # fmt: skip
        def gradient(params: Any, rows: jax.Array) -> Any:
            return jax.grad(loss)(params, jax.tree.map(lambda leaf: leaf[rows], data.train))

        if method == SYNCHRONOUS:  # one worker, whose batches are joined to rounds of M
            joined = optax.MultiSteps(optax.sgd(rate), lambda _: workers)
            tx = joined.gradient_transformation()
        else:
            tx = optax.chain(compensator(method, settings, strength, gradient), optax.scale(rate))
        simulator = slot_simulator(gradient, tx, slots, log_distance=True)

        def stretch(state: Any, part: Any) -> tuple[Any, Any]:
            state, log = simulator.run(state, *part)
            return state, (loss(state.params, data.sample), log.distance)

        parts = jax.tree.map(
            lambda x: x.reshape(settings.points, -1, *x.shape[1:]), (schedule, rows)
        )
        state, (losses, distances) = jax.lax.scan(stretch, simulator.init(params), parts)
        answers = [accuracy(state.params, part) for part in (data.validation, data.test)]
        return Measured(losses, answers[0], answers[1], distances)

    return one_run


def batches(settings: Settings, keys: Streams, num_train: int) -> jax.Array:
    """Rows of the training images for each gradient, alike for all methods, [gradients, batch]."""
    count = settings.gradients * settings.batch_size
    rows = rows_in_order(keys.order, num_train, count)
    return jnp.asarray(rows.reshape(-1, settings.batch_size))


def _record(
    method: str, setting: dict[str, Any], seed: int, settings: Settings, measured: Measured,
    schedule: Schedule, first_loss: float, seconds: float,
) -> Record:  # fmt: skip
    every = settings.gradients // settings.points
    clock = schedule.clock[every - 1 :: every]
    # An accuracy of weights that are not numbers is no accuracy.
    valid = 1.0 if np.isfinite(measured.train_loss[-1]) else np.nan
    return Record(
        method=method,
        setting={"problem": NETWORK, **setting},
        seed=seed,
        metrics={
            "first_loss": first_loss,
            "train_loss": float(measured.train_loss[-1]),
            "validation_accuracy": valid * float(measured.validation_accuracy),
            "test_accuracy": valid * float(measured.test_accuracy),
            "simulated_seconds": float(clock[-1]),
            "seconds_to_target": time_to(measured.train_loss, clock, settings.target_loss),
            "target_loss": settings.target_loss,
        },
        curve={
            "gradients": np.arange(every, settings.gradients + 1, every).tolist(),
            "simulated_seconds": clock.tolist(),
            "train_loss": measured.train_loss.tolist(),
            "distance": np.sqrt(np.mean(measured.distance**2, axis=1)).tolist(),
        },
        wall_time=seconds,
    )


def _staleness_record(
    setting: dict[str, Any], seed: int, measured: Measured, schedule: Schedule, seconds: float
) -> Record:
    """How stale ASGD's gradients were, and how far the weights had moved by then."""
    counts = staleness_histogram(schedule.staleness)
    return Record(
        method=ASGD,
        setting={"problem": STALENESS, **setting},
        seed=seed,
        metrics={"mean_staleness": float(np.mean(schedule.staleness))},
        curve={
            "staleness": list(range(counts.size)),
            "gradients": counts.tolist(),
            "distance": distance_by_staleness(
                schedule.staleness, measured.distance.ravel()
            ).tolist(),
        },
        wall_time=seconds,
    )

"""How much delay each rule tolerates: its largest stable step, and its loss, against staleness.

ASGD on a quadratic of curvature h is stable for steps below 2 sin(pi / (2 (2 tau + 1))) / h, which
falls as 1/tau. What compensation buys should show here first, if anywhere. Two problems:

- a turned quadratic with one sharp direction (`quadratic_limits.py`), where the limit is
  searched for on a grid of steps, beside the closed form;
- a tanh perceptron on MNIST digits, trained by M machines whose times vary by a tenth (gamma
  distributed; mean staleness M - 1). Its largest stable step is the largest of the grid at which,
  and below which, every seed ends at a training loss below that of the start.

Rules: ASGD, DC-ASGD-c, DC-ASGD-a, the low-rank compensator, the exact Hessian of the batch; SGD
(one machine) and m-synchronous SGD (m = M), which wait instead. All get equally many gradients of
the same data in the same order. Two protocols: all at the step that is best for ASGD with the
middle one of the numbers of machines; and each rule at its own, by mean validation accuracy over
the seeds. Lambdas are tuned with either.

Refuted, that a rule tolerates delay better than ASGD: if its largest stable step is ASGD's.
Refuted, that this is worth anything: if at tuned steps it does not reach the target loss before
ASGD and m-synchronous SGD, or ends above them.

Cost: smoke 1 minute on two cores, cpu 5 on one; full is sized for one accelerator and was not run.
Command: python -m benchmarks dcasgd_delay_tolerance --preset cpu --seeds 3
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.delay import quadratic_limits
from benchmarks.delay.digits import Data, Images, load_data
from benchmarks.delay.digits import Settings as DigitSettings
from benchmarks.delay.report import ADAPTIVE, ASGD, CONSTANT, SGD, SYNCHRONOUS
from benchmarks.delay.tolerance_report import (
    HESSIAN,
    LOW_RANK,
    NETWORK,
    QUADRATIC,
    STALENESS,
    plot_diagnostics,
    plot_limits,
    tolerance_tables,
)
from benchmarks.harness.registry import Context
from common.data import epoch_order
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
class Settings:
    """What the experiment depends on."""

    delays: tuple[int, ...] = (0, 1, 7, 31)
    """On the quadratic."""
    dim: int = 16
    quadratic_steps: tuple[float, ...] = tuple(np.geomspace(0.03, 2.5, 32).tolist())
    quadratic_length: int = 800
    data: str = "mnist5k"
    pool: int = 2
    """Images are reduced by averaging over squares of this side."""
    widths: tuple[int, ...] = (32, 32, 10)
    batch_size: int = 32
    """Of one gradient."""
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


PRESETS = {
    "smoke": Settings(),
    "cpu": Settings(
        delays=(0, 1, 3, 7, 15, 31, 63),
        dim=32,
        quadratic_steps=tuple(np.geomspace(0.015, 2.5, 48).tolist()),
        quadratic_length=3200,
        data="mnist",
        workers=(2, 4, 8, 16, 32, 64),
        gradients=2560,
        points=20,
        learning_rates=(0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8),
        target_loss=0.35,
    ),
    "full": Settings(
        delays=(0, 1, 3, 7, 15, 31, 63),
        dim=32,
        quadratic_steps=tuple(np.geomspace(0.015, 2.5, 104).tolist()),
        quadratic_length=6400,
        data="mnist",
        pool=1,
        widths=(256, 256, 10),
        workers=(2, 4, 8, 16, 32, 64),
        gradients=20_480,
        points=20,
        learning_rates=tuple(0.0125 * 2 ** (k / 2) for k in range(15)),
        constant_lambdas=(0.04, 0.4, 4.0, 40.0),
        adaptive_lambdas=(0.5, 2.0, 8.0),
        target_loss=0.1,
    ),
}

RULES = (ASGD, CONSTANT, ADAPTIVE, LOW_RANK, HESSIAN)


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each rule and delay on the quadratic, and for each run of the network."""
    total = len(RULES) + (1 + len(RULES)) * len(context.seeds)
    with context.progress.task("delay tolerance", total=total) as bar:
        for rule in RULES:
            yield from context.stages.of(
                f"{rule}, quadratic",
                functools.partial(_on_quadratic, rule, settings, context.seeds),
            )
            bar.advance(note=f"{rule}, quadratic")
        data = load_data(DigitSettings(data=settings.data, pool=settings.pool), context.data_dir)
        for method in (SYNCHRONOUS, *RULES):
            train = trainer(method, settings)
            for seed in context.seeds:
                for workers in (
                    (1, *settings.workers) if method == SYNCHRONOUS else settings.workers
                ):
                    yield from context.stages.of(
                        f"{method}, M = {workers}, seed {seed}",
                        functools.partial(train, workers, seed, data),
                    )
                bar.advance(note=f"{method}, network")


def compensator(
    method: str, settings: Settings, lambda_: Any, grad_fn: Callable[..., Any]
) -> optax.GradientTransformation:
    """What a rule does to a stale gradient before the step.

    Args:
        method: one of `RULES`.
        settings: the experiment's.
        lambda_: of DC-ASGD.
        grad_fn: (params, batch) -> gradients, for the Hessian.
    """
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
    """The lambdas that a method is tried with; empty where it has none.

    Args:
        method: its name.
        settings: the experiment's.
    """
    tried = {CONSTANT: settings.constant_lambdas, ADAPTIVE: settings.adaptive_lambdas}
    return tried.get(method, ())


def _on_quadratic(method: str, settings: Settings, seeds: Sequence[int]) -> Iterator[Record]:
    valleys = [quadratic_limits.valley(seed, settings.dim) for seed in seeds]
    for lambda_ in lambdas(method, settings) or (0.0,):
        begun = time.perf_counter()

        def rule(rate: Any, matrix: Any, own: float = lambda_) -> optax.GradientTransformation:
            gradient = quadratic_limits.gradient(matrix)
            return optax.chain(compensator(method, settings, own, gradient), optax.scale(rate))

        found = quadratic_limits.limits(
            rule,
            settings.delays,
            valleys,
            steps=np.array(settings.quadratic_steps),
            length=settings.quadratic_length,
        )
        seconds = time.perf_counter() - begun
        for delay, of_seeds in zip(settings.delays, found, strict=True):
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


class Found(NamedTuple):
    """What training measured, one a run: leading axis [runs]."""

    train_loss: jax.Array  # [points]
    validation_accuracy: jax.Array  # []: at the end
    test_accuracy: jax.Array  # []: likewise
    distance: jax.Array  # [points, gradients of a stretch]


def trainer(method: str, settings: Settings) -> Callable[[int, int, Data], Iterator[Record]]:
    """A function that trains all steps and lambdas of a method, compiled once for any M.

    All numbers of workers share one program, in which there are slots for the most; those that
    fewer workers leave over are never read.

    Args:
        method: one of `RULES`, or the synchronous one, which is SGD with one worker.
        settings: the experiment's.
    """
    network = MLP(settings.widths, activation=jnp.tanh)
    slots = 1 if method == SYNCHRONOUS else max(settings.workers)
    grid = [(r, x) for x in lambdas(method, settings) or (0.0,) for r in settings.learning_rates]
    rates, strengths = (jnp.asarray(column) for column in zip(*grid, strict=True))

    def logits(params: Any, images: Images) -> Any:
        return network.apply({"params": params}, images.pixels)

    def loss(params: Any, images: Images) -> jax.Array:
        each = optax.softmax_cross_entropy_with_integer_labels(
            logits(params, images), images.labels
        )
        return each.mean()

    def accuracy(params: Any, images: Images) -> jax.Array:
        return (logits(params, images).argmax(axis=-1) == images.labels).mean()

    def one_run(
        rate: jax.Array,
        strength: jax.Array,
        params: Any,
        workers: jax.Array,
        schedule: Schedule,
        rows: jax.Array,
        data: Data,
    ) -> Found:
        def gradient(params: Any, rows: jax.Array) -> Any:
            return jax.grad(loss)(params, jax.tree.map(lambda leaf: leaf[rows], data.train))

        if method == SYNCHRONOUS:  # one worker, whose batches are joined to rounds of M
            joined = optax.MultiSteps(optax.sgd(rate), lambda _: workers)
            tx = joined.gradient_transformation()
        else:
            tx = optax.chain(compensator(method, settings, strength, gradient), optax.scale(rate))
        simulator = slot_simulator(gradient, tx, slots)

        def stretch(state: Any, part: Any) -> tuple[Any, Any]:
            state, log = simulator.run(state, *part)
            return state, (loss(state.params, data.sample), log.distance)

        parts = jax.tree.map(
            lambda x: x.reshape(settings.points, -1, *x.shape[1:]), (schedule, rows)
        )
        state, (losses, distances) = jax.lax.scan(stretch, simulator.init(params), parts)
        return Found(
            losses,
            accuracy(state.params, data.validation),
            accuracy(state.params, data.test),
            distances,
        )

    many = jax.jit(jax.vmap(one_run, in_axes=(0, 0, *[None] * 5)))
    start = jax.jit(lambda key, images: network.init(key, images)["params"])
    first_loss = jax.jit(loss)

    def train(workers: int, seed: int, data: Data) -> Iterator[Record]:
        begun, keys = time.perf_counter(), streams(seed)
        true = gamma_times(
            workers,
            settings.gradients,
            seed=seed,
            variation=settings.variation,
            wait_for=workers if method == SYNCHRONOUS else None,
        )
        order = np.zeros_like(true.worker) if method == SYNCHRONOUS else true.worker
        schedule = Schedule(order, true.staleness, true.clock, num_workers=slots)
        params = start(keys.init, data.train.pixels[:1])
        rows = batches(settings, keys, len(data.train.labels))
        found = jax.device_get(
            many(rates, strengths, params, jnp.int32(workers), schedule, rows, data)
        )
        first = float(first_loss(params, data.sample))
        seconds = time.perf_counter() - begun
        for i, (rate, lambda_) in enumerate(grid):
            own = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i], float), found)
            setting = {"workers": workers, "learning_rate": rate}
            setting |= {"lambda": lambda_} if lambdas(method, settings) else {}
            yield _record(
                SGD if workers == 1 else method, setting, seed, settings, own, true, first, seconds
            )
            if method == ASGD:
                yield _staleness_record(setting, seed, own, true, seconds)

    return train


def batches(settings: Settings, keys: Streams, num_train: int) -> jax.Array:
    """Rows of the training images for each gradient, the same for every method.

    Args:
        settings: the experiment's.
        keys: of the seed.
        num_train: training images.

    Returns:
        Shape [gradients, batch_size], int32.
    """
    needed, orders = settings.gradients * settings.batch_size, []
    while sum(map(len, orders)) < needed:
        orders.append(epoch_order(keys.order, num_train, epoch=len(orders)))
    return jnp.asarray(np.concatenate(orders)[:needed].reshape(-1, settings.batch_size))


def _record(
    method: str,
    setting: dict[str, Any],
    seed: int,
    settings: Settings,
    own: Found,
    schedule: Schedule,
    first_loss: float,
    seconds: float,
) -> Record:
    every = settings.gradients // settings.points
    clock = schedule.clock[every - 1 :: every]
    # An accuracy of weights that are not numbers is no accuracy.
    valid = 1.0 if np.isfinite(own.train_loss[-1]) else np.nan
    return Record(
        method=method,
        setting={"problem": NETWORK, **setting},
        seed=seed,
        metrics={
            "first_loss": first_loss,
            "train_loss": float(own.train_loss[-1]),
            "validation_accuracy": valid * float(own.validation_accuracy),
            "test_accuracy": valid * float(own.test_accuracy),
            "simulated_seconds": float(clock[-1]),
            "seconds_to_target": time_to(own.train_loss, clock, settings.target_loss),
            "target_loss": settings.target_loss,
        },
        curve={
            "gradients": np.arange(every, settings.gradients + 1, every).tolist(),
            "simulated_seconds": clock.tolist(),
            "train_loss": own.train_loss.tolist(),
            "distance": np.sqrt(np.mean(own.distance**2, axis=1)).tolist(),
        },
        wall_time=seconds,
    )


def _staleness_record(
    setting: dict[str, Any], seed: int, own: Found, schedule: Schedule, seconds: float
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
            "distance": distance_by_staleness(schedule.staleness, own.distance.ravel()).tolist(),
        },
        wall_time=seconds,
    )


def tables(records: Sequence[Record]) -> str:
    """Limits on both problems; then both protocols, against gradients and simulated time."""
    return tolerance_tables(records)


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Limits and losses against staleness; and what the diagnostics of the runs say."""
    return [
        plot_limits(records, out / "dcasgd_delay_tolerance.png"),
        plot_diagnostics(records, out / "dcasgd_delay_diagnostics.png"),
    ]

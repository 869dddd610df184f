"""G-SGD does not see how a ReLU network is scaled; does it also train one better than SGD?

A perceptron without biases, 784-64-64-64-64-10, on MNIST digits, as in the G-SGD paper's
experiment on fully connected networks. Every method gets the same grid of learning rates, chosen
by mean validation accuracy over the seeds, the same data order and, per row, the initialisation
that the row names. Each run is made twice: from the initialisation, and from a copy of it in which
every hidden unit is rescaled at random, which is the same function.

Rows: SGD from its usual initialisation (the bar to beat); SGD from the papers' initialisation,
skeleton weights at 1; G-SGD from that same initialisation, on directed paths; G-SGD from the usual
initialisation, by default, on the weights of its balanced copy. (Directed paths diverge from the
usual initialisation at every useful step: their skeleton is too small.)

Published, 60,000 images, one seed, after 300 epochs, both from the skeleton initialisation:
G-SGD 97.64, SGD 97.37 (logs beside https://github.com/MSRA-COLT/gsgd).

`day` is two hidden layers of 256 units; learning rates are tried by successive halving, from the
usual initialisation alone.

Cost: smoke 1 minute on two cores, cpu 2 minutes on one, day, ten seeds, 100 beside other work.
Estimated, not run: full 20 minutes on one accelerator.
Command: python -m benchmarks gsgd_mlp --preset day --seeds 10
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from benchmarks.harness.figures import plot_by, small_multiples
from benchmarks.harness.halving import (
    UNFINISHED,
    Halving,
    Rung,
    grid,
    halved,
    reported,
    runs,
    tuning_table,
)
from benchmarks.harness.images import ImageSettings, Part
from benchmarks.harness.registry import Context
from benchmarks.harness.reports import (
    best_by_method,
    by_method,
    by_setting,
    joined,
    marked,
    where,
)
from benchmarks.path_space.rates import Line
from benchmarks.path_space.training import Objective, Runs, train_at_rates
from common.networks import MLP
from common.progress import Bar
from common.results.plots import plot_curve
from common.results.records import Record
from common.results.tables import markdown, metric, percent
from common.seeds import streams
from common.training import Fit
from common.training.classification import (
    ApplyFn,
    classification_metrics,
    cross_entropy_loss,
)
from gsgd_jax import (
    Gauge,
    Skeleton,
    choose_skeleton,
    gsgd,
    mlp_gauge,
    skeleton_init,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(ImageSettings):
    """What the experiment depends on."""

    data: str = "mnist5k"
    widths: tuple[int, ...] = (64, 64, 64, 64, 10)
    batch_size: int = 64
    epochs: int = 10
    decay: float = 0.01
    """The learning rate is multiplied by exp(-decay) an epoch, as published."""
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    halving: Halving | None = None
    """How learning rates are tried; None to train at all of them from all seeds to the end."""
    rescaling: float = 0.5
    """Standard deviation of the log-scales of the rescaled copies."""
    bfloat16: bool = False
    """Whether networks compute in bfloat16; parameters stay float32."""


PRESETS = {
    "smoke": Settings(),
    "cpu": Settings(data="mnist", epochs=3),
    "day": Settings(
        data="mnist", widths=(256, 256, 10), epochs=18, decay=0.1, halving=Halving(seeds=3),
        learning_rates=(0.01, 0.03, 0.1, 0.3, 1.0),
    ),
    "full": Settings(data="mnist", epochs=300, learning_rates=(0.01, 0.03, 0.1, 0.3, 1.0)),
}  # fmt: skip

STARTS = ("initial", "rescaled")


class Method(NamedTuple):
    """One row: where it starts, and how it steps."""

    name: str
    in_path_space: bool
    """Whether steps are taken on path values; else on weights."""
    reset: bool = False
    """Whether it starts from the papers' initialisation, skeleton weights at 1."""


METHODS = (
    Method("SGD", in_path_space=False),
    Method("SGD, skeleton at 1", in_path_space=False, reset=True),
    Method("G-SGD, skeleton at 1", in_path_space=True, reset=True),
    Method("G-SGD", in_path_space=True),
)

LINES = {
    "SGD": Line("usual start", "on weights", 1),
    "G-SGD": Line("usual start", "in path space", 0),
    "SGD, skeleton at 1": Line("skeleton at 1", "on weights", 1),
    "G-SGD, skeleton at 1": Line("skeleton at 1", "in path space", 0),
}
"""Where each method is drawn: beside the one from the same weights."""


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each method, learning rate, start and seed."""
    dtype = jnp.bfloat16 if settings.bfloat16 else jnp.float32
    network = MLP(settings.widths, use_bias=False, dtype=dtype)
    train, validation, test, *_ = settings.load_images(context.data_dir)

    def apply_fn(params: Any, images: jax.Array) -> Any:
        return network.apply({"params": params}, images)

    init = jax.jit(lambda key: network.init(key, train[0][:1])["params"])
    usual = {seed: init(streams(seed).init) for seed in context.seeds}
    gauge = mlp_gauge(usual[context.seeds[0]])
    jobs = [_job(method, usual, gauge, settings) for method in METHODS]
    rates, epochs, halving = settings.learning_rates, settings.epochs, settings.halving
    total = sum(e for e, _ in runs(len(rates), epochs, len(usual), halving))
    with context.progress.task("SGD and G-SGD", total=len(jobs) * total) as bar:
        for job in jobs:

            def of_rung(rung: Rung, job: _Job = job) -> Iterator[tuple[str, Stage]]:
                seeds = ", ".join(map(str, rung.seeds))

                def make() -> Iterator[Record]:
                    begun = time.perf_counter()
                    parts = (train, validation, test)
                    trained = _train(job, rung, apply_fn, parts, settings, bar, context.mesh)
                    seconds = time.perf_counter() - begun
                    return _records(job, rung, trained, apply_fn, test, seconds)

                yield f"{job.method.name}, seeds {seeds}{rung.label}", make

            yield from halved(
                rates, context.seeds, epochs, halving, context.stages, of_rung,
                method=job.method.name, setting={"start": STARTS[0]},
            )  # fmt: skip


Stage = Callable[[], Iterator[Record]]


class _Job(NamedTuple):
    """A method's runs, which are trained at once: all starts and learning rates."""

    method: Method
    coordinates: Gauge | Skeleton
    """The group, for the coordinates that are the default; or the papers' skeleton."""
    starts: dict[int, tuple[optax.Params, optax.Params]]
    """For every seed its initialisation, and a rescaled copy of it."""


def _job(method: Method, usual: dict[int, optax.Params], gauge: Gauge, settings: Settings) -> _Job:
    """A method's runs."""
    coordinates, params = gauge, usual
    if method.reset:
        # The diagonal looks at no value.
        coordinates = choose_skeleton(gauge, next(iter(usual.values())), basis="paths")
        params = {seed: skeleton_init(p, coordinates) for seed, p in usual.items()}
    starts = {
        seed: (p, gauge.rescale(p, _fresh(seed), spread=settings.rescaling))
        for seed, p in params.items()
    }
    return _Job(method, coordinates, starts)


def _fresh(seed: int) -> jax.Array:
    """The key of a seed's rescaling."""
    return jax.random.fold_in(streams(seed).init, 1)


def _starts(rung: Rung) -> tuple[str, ...]:
    """Learning rates are tried from the initialisation alone."""
    return STARTS if rung.is_last else STARTS[:1]


def _train(
    job: _Job, rung: Rung, apply_fn: ApplyFn, parts: Sequence[Part], settings: Settings, bar: Bar,
    mesh: Mesh | None,
) -> Fit:  # fmt: skip
    """Trains every seed, start and learning rate of a rung at once; runs in that order."""
    steps = len(parts[0][1]) // settings.batch_size

    def make(schedule: optax.Schedule) -> optax.GradientTransformation:
        return gsgd(schedule, job.coordinates) if job.method.in_path_space else optax.sgd(schedule)

    def decay(count: jax.Array) -> jax.Array:
        return jnp.exp(-settings.decay * (count // steps).astype(jnp.float32))

    cases = [
        (params, seed, rate)
        for seed in rung.seeds
        for params in job.starts[seed][: len(_starts(rung))]
        for rate in rung.values
    ]
    params, seeds, rates = zip(*cases, strict=True)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    return train_at_rates(
        make, decay, Runs(stacked, np.asarray(rates), seeds),
        Objective(cross_entropy_loss(apply_fn), classification_metrics(apply_fn)), parts,
        batch_size=settings.batch_size, epochs=rung.epochs, bar=bar, mesh=mesh,
    )  # fmt: skip


def _records(
    job: _Job, rung: Rung, trained: Fit, apply_fn: ApplyFn, test: Part, wall_time: float,
) -> Iterator[Record]:  # fmt: skip
    """One record a run, with how far the two starts of a seed have come apart."""
    shape = (len(rung.seeds), len(_starts(rung)), len(rung.values))
    answers = jax.jit(jax.vmap(lambda params: apply_fn(params, test[0]).argmax(-1)))
    classes = np.asarray(answers(trained.state.params)).reshape(*shape, -1)
    apart = (classes[:, 0] != classes[:, -1]).mean(-1)  # [seeds, learning rates]
    curves = {
        name: values.reshape(-1, *shape)
        for name, values in trained.curve.items()
        if name != "epoch"
    }
    for i, seed in enumerate(rung.seeds):
        for j, start in enumerate(_starts(rung)):
            for k, rate in enumerate(rung.values):
                curve = {name: values[:, i, j, k].tolist() for name, values in curves.items()}
                metrics = {name: values[-1] for name, values in curve.items()}
                if rung.is_last:
                    # What a diverged network answers says nothing about scale.
                    metrics["changed_answers"] = float(apart[i, k] + 0 * metrics["loss"])
                setting = {"learning_rate": rate, "start": start, **rung.setting}
                yield Record(
                    method=job.method.name, setting=setting, seed=seed, metrics=metrics,
                    curve={"epoch": trained.curve["epoch"].tolist(), **curve}, wall_time=wall_time,
                )  # fmt: skip


CAPTIONS = {
    "curves.png": "Test accuracy during training, mean and one standard deviation over seeds. "
    "Below, from a rescaled copy of the same function: on weights the curves fall, in path "
    "space they stay.",
    "learning_rates.png": "Final test accuracy against the learning rate. At the largest, runs are "
    "lost on either side: on weights they leave the numbers and are not drawn; in path space, "
    "where weights stay within a bound, they end at chance and are.",
}


def _chosen(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Each method's runs from the initialisation, at its best learning rate on validation data."""
    return best_by_method(where(reported(records), start="initial"))


def tables(records: Sequence[Record]) -> str:
    """Test accuracy of each method at its chosen learning rate, from both starts."""
    # Rates were tried from the initialisation alone.
    rows, tried = [], where(records, start="initial")
    for method, chosen in _chosen(records).items():
        rate = chosen[0].setting["learning_rate"]
        rescaled = where(reported(records), method, start="rescaled", learning_rate=rate)
        rows.append(
            [
                method,
                marked("learning_rate", chosen, where(tried, method)),
                percent(metric(chosen, "test_accuracy")),
                percent(metric(rescaled, "test_accuracy")),
                percent(metric(rescaled, "changed_answers")),
            ]
        )
    header = ["method", "learning rate", "test accuracy %", "from a rescaled start %"]
    table = markdown([*header, "answers changed by rescaling %"], rows) if rows else UNFINISHED
    return joined(table, tuning_table(tried))


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Training curves at the chosen learning rates, and accuracy against the learning rate."""
    rates = {m: runs[0].setting["learning_rate"] for m, runs in _chosen(records).items()}
    columns = list(dict.fromkeys(line.panel for line in LINES.values()))
    paths = [out / "curves.png", out / "learning_rates.png"]
    abscissae = ["epoch", "learning rate"]
    if not rates:  # stopped in its search
        paths, abscissae = paths[1:], abscissae[1:]
    for path, abscissa in zip(paths, abscissae, strict=True):
        # With halving, all learning rates were tried on the smallest budget alone, from one start.
        curves = abscissa == "epoch"
        shown = reported(records) if curves else grid(records)
        starts = list(by_setting(shown, "start"))
        with small_multiples(
            path, starts, columns, labels=(abscissa, "test accuracy, %"), share="all",
            title=lambda start, panel: panel + ", rescaled" * (start == "rescaled"),
        ) as panels:  # fmt: skip
            for start, method in itertools.product(starts, rates or by_method(shown)):
                line, of = LINES[method], where(shown, method, start=start)
                axes = panels[start, line.panel]
                look: dict[str, Any] = {"label": line.label, "style": line.style}
                if curves:
                    best = where(of, learning_rate=rates[method])
                    plot_curve(axes, best, x="epoch", y="test_accuracy", scale=100, **look)
                else:
                    groups = by_setting(of, "learning_rate")
                    plot_by(axes, groups, "test_accuracy", scale=100, **look)
                    axes.set_xscale("log")
    return paths

"""plain-34 and ResNet-34 on CIFAR-10: does path space make the step size matter less?

Every method at every step size of its grid, from the same seeds: same batches, same budget, no
momentum or weight decay. As published, step sizes fall by ten after half and three quarters of the
epochs; at `day` they rise for a fifth of the steps and then fall to zero.
Reported: the accuracy at step 1.0, the published one; that at the step which validation images
choose; and the whole curve of accuracy against step size. SGD and its kin share one grid, Adam,
RMSProp and theirs another.

Rows, and what they start from. The usual initialisation: SGD; G-SGD, which steps on the weights of
the balanced copy; Path-SGD; ENorm; Adam and RMSProp, and the same in G-SGD's coordinates. The
papers' initialisation, skeleton weights at 1: SGD, and G-SGD on directed paths.
The networks have BatchNorm, as published. G-SGD from the usual initialisation runs in the exact
part of their group; from the papers', by the papers' treatment of BatchNorm, which is not
invariant. Path-SGD takes the norms for the fixed maps that they are by their first averages. Its
steps are in units of the harmonic mean of kappa at the start, so that on average it steps as far as
SGD does: kappa is a product over all layers, and no grid would serve it and the others.

Published, plain-34 at step 1.0, one seed: G-SGD 35.2, 62.4 and 80.4 percent after epochs 1, 5 and
9, finally 92.78; SGD, from the usual initialisation, 15.7, 38.7 and 50.9, where its log ends (logs
beside https://github.com/MSRA-COLT/gsgd).

`full` is both networks at full width, for 100 epochs of batches of 128. `cpu` is
ResNet-14 with a quarter of the channels, on few images at a quarter of the resolution, for 2
epochs of batches of 32: neither its accuracies nor, within their spread, the order of its methods
are to be compared with the published ones.

`day` is what reaches 80% soonest on two cores, on all images at full resolution: ResNet-8 with
twice the channels and a first convolution of stride 2, for 9 epochs of batches of 32; step sizes
are tried by successive halving, from three seeds. What decided, SGD from one seed: the course of
the step sizes (ResNet-8 as it is, 414 images a second of one core: 61% after 4 epochs of steps that
fall by ten, 67% after 3 of 4 epochs of steps that rise and fall); the stride (twice the images a
second, 74% after 4); batches of 32 instead of 64 (76% after 4, 81.7% after 9). Its 950 images a
second are 66% of what products of large matrices do, where 16 channels at full resolution are 31%,
and in bfloat16 no more. No better for their cost: one and a half times the channels, 64 in the
first stage, a maximum instead of the stride, and plain convolutions between maxima. Path-SGD,
ENorm, RMSProp and the papers' start are left to `full`.

Cost: smoke 3 minutes on two busy cores; cpu 3 on one, day three and a half hours of one. Full not
measured; it is sized for 80 GB: a run keeps 2.3 GB for its backward pass (counted from shapes,
before fusion; 1.7 in bfloat16), and the 15 runs of a method are trained side by side, 34 GB.
Command: python -m benchmarks gsgd_cifar10 --preset day --seeds 3
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from benchmarks.harness.courses import RateCourse, rates_of
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
from benchmarks.harness.images import Images, ImageSettings
from benchmarks.harness.registry import Context
from benchmarks.harness.reports import by_setting, joined
from benchmarks.path_space.methods import (
    LINES,
    METHODS,
    PAIRS,
    Grid,
    Method,
    Problem,
    named,
    path_sgd_unit,
    problem,
    transformation,
)
from benchmarks.path_space.rates import rate_figure, rate_tables
from benchmarks.path_space.training import (
    Evaluator,
    first_state,
    step_by_rates,
    train_together,
    with_rates,
)
from common.networks.resnet import Stem
from common.progress import Bar
from common.results.records import Record
from common.seeds import streams
from common.training import (
    Step,
    TrainState,
    at_once_with_convolutions,
    groups,
)
from common.training.classification import evaluator, network_metrics
from gsgd_jax import skeleton_init

PUBLISHED_RATE = 1.0
"""The papers', at which all methods made from SGD are shown."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(ImageSettings, Grid):
    """What the experiment depends on."""

    data: str = "cifar10"
    networks: tuple[str, ...] = ("plain-34", "ResNet-34")
    """Family and depth; with " without norm" behind them, networks without BatchNorm."""
    methods: tuple[str, ...] = tuple(method.name for method in METHODS)
    width: float = 1.0
    """Factor on the networks' channels."""
    stem: Stem = "3x3"
    """The networks' first convolution."""
    batch_size: int = 128
    epochs: int = 100
    course: RateCourse = "drops"
    """How step sizes change in training."""
    learning_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    adaptive_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    halving: Halving | None = None
    """How step sizes are tried; None to train at all of them from all seeds to the end."""
    augment: bool = True
    """Whether training images are padded, cropped and mirrored."""
    at_once: int = 15
    """Runs, of the seeds and step sizes of a method, that are trained side by side; on CPU one."""


_THIN = Settings(width=0.25, batch_size=32, augment=False)

PRESETS = {
    "smoke": dataclasses.replace(
        _THIN, data="digits8x8", networks=("plain-8",), epochs=2,
        methods=tuple(method.name for method in METHODS if method.rule != "rmsprop"),
        learning_rates=(0.1, 1.0), adaptive_rates=(0.003, 0.03),
    ),
    "cpu": dataclasses.replace(
        _THIN, networks=("ResNet-14",), pool=4, train_size=1280, test_size=1000, epochs=2,
        learning_rates=(0.1, 0.3, 1.0), adaptive_rates=(1e-3, 1e-2),
    ),
    "day": Settings(
        networks=("ResNet-8",), methods=("SGD", "G-SGD", "Adam", "G-Adam"), width=2.0,
        stem="3x3, stride 2", batch_size=32, epochs=9, course="rise and fall",
        halving=Halving(seeds=3), adaptive_rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    ),
    "full": Settings(),
}  # fmt: skip


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each network, method, learning rate and seed.

    Raises:
        ValueError: if a network or a method is unknown.
    """
    methods = named(settings.methods, METHODS)
    data = settings.load_images(context.data_dir)
    seeds, epochs, halving = len(context.seeds), settings.epochs, settings.halving
    counted = (runs(len(settings.rates(m)), epochs, seeds, halving) for m in methods)
    total = sum(budget * count for rungs in counted for budget, count in rungs)
    for network in settings.networks:
        with context.progress.task(network, total=total) as bar:
            yield from _of_network(network, methods, data, settings, context, bar)


Program = tuple[Step, Callable[[Any], TrainState]]
"""A step, and what makes the state before the first one."""


class _Shared(NamedTuple):
    """What all runs of one network share."""

    network: str
    given: Problem
    first: dict[int, Any]
    """Every seed's first weights, before any reset."""
    data: Images
    settings: Settings
    mesh: Mesh | None
    unit: Callable[[Any], jax.Array]
    """`path_sgd_unit` of first weights."""
    scores: Callable[[bool], list[Evaluator]]
    """Of validation and of test images, for many runs side by side or for one."""

    @property
    def per_epoch(self) -> int:
        """Steps an epoch."""
        return len(self.data.train[1]) // self.settings.batch_size


def _of_network(
    name: str, methods: Sequence[Method], data: Images, settings: Settings, context: Context,
    bar: Bar,
) -> Iterator[Record]:  # fmt: skip
    """All runs of one network."""
    seeds = context.seeds
    given, init = problem(
        name, data.train[0][:1], data.num_classes, streams(seeds[0]).init, width=settings.width,
        dtype=jnp.bfloat16 if settings.bfloat16 else jnp.float32, stem=settings.stem,
    )  # fmt: skip
    first = {seed: init(streams(seed).init) for seed in seeds}
    scores = functools.cache(functools.partial(_evaluators, given, data))
    unit = jax.jit(functools.partial(path_sgd_unit, given))
    shared = _Shared(name, given, first, data, settings, context.mesh, unit, scores)
    at_once = at_once_with_convolutions(settings.at_once)
    for method in methods:
        # One program for all runs of a method; none is built if there is nothing to run.
        program = functools.cache(functools.partial(_program, shared, method))

        def of_rung(
            rung: Rung, method: Method = method, program: Callable[[], Program] = program
        ) -> Iterator[tuple[str, Callable[[], Iterator[Record]]]]:
            every = list(itertools.product(rung.seeds, rung.values))
            for part in groups(len(every), at_once):
                some = every[part]
                ends = [f"rate {rate}, seed {seed}" for seed, rate in (some[0], some[-1])]
                stage = f"{name}, {method.name}, {' to '.join(dict.fromkeys(ends))}{rung.label}"
                yield stage, functools.partial(_trained, shared, method, program, some, rung)
                bar.advance(len(some) * rung.epochs, note=method.name)

        yield from halved(
            settings.rates(method), seeds, settings.epochs, settings.halving, context.stages,
            of_rung, method=method.name, setting={"network": name},
        )  # fmt: skip


def _evaluators(given: Problem, data: Images, many_runs: bool) -> list[Evaluator]:
    metrics = network_metrics(given.module)

    def figures(state: Any, batch: Any) -> Mapping[str, jax.Array]:
        return metrics(state._replace(model_state=state.model_state.averages), batch)

    return [
        evaluator(figures, part, batch_size=500, prefix=prefix, many_runs=many_runs)
        for part, prefix in ((data.validation, "validation_"), (data.test, "test_"))
    ]


def _program(shared: _Shared, method: Method) -> Program:
    make = transformation(method, shared.given)
    step = step_by_rates(shared.given.module, make, augment=shared.settings.augment)
    return step, first_state(make, shared.given.averages)


def _trained(
    shared: _Shared,
    method: Method,
    program: Callable[[], Program],
    runs: Sequence[tuple[int, float]],
    rung: Rung,
) -> Iterator[Record]:
    """A record for each (seed, rate), all trained side by side."""
    begun, settings = time.perf_counter(), shared.settings
    step, first = program()
    states = []
    for seed, rate in runs:
        params, factor = shared.first[seed], 1.0
        if method.reset:
            params = skeleton_init(params, shared.given.published)
        if method.on == "path norm":
            factor = float(shared.unit(params))
        rates = rates_of(
            settings.course, factor * rate, epochs=rung.epochs, per_epoch=shared.per_epoch
        )
        states.append(with_rates(first(params), rates))
    keys = [streams(seed) for seed, _ in runs]
    curves = train_together(
        step, states, shared.data.train, shared.scores(len(runs) > 1), keys,
        batch_size=settings.batch_size, epochs=rung.epochs, mesh=shared.mesh,
    )  # fmt: skip
    seconds = (time.perf_counter() - begun) / len(runs)
    for (seed, rate), curve in zip(runs, curves, strict=True):
        yield Record(
            method=method.name,
            setting={"network": shared.network, "learning_rate": rate, **rung.setting},
            seed=seed, metrics={metric: column[-1] for metric, column in curve.items()},
            curve={"epoch": list(range(1, rung.epochs + 1)), **curve}, wall_time=seconds,
        )  # fmt: skip


def tables(records: Sequence[Record]) -> str:
    """For each network: every method at 1.0 and at its best; then what path space adds."""
    return joined(
        *(
            joined(f"### {network}", _rates(of), tuning_table(of))
            for network, of in by_setting(records, "network").items()
        )
    )


def _rates(records: Sequence[Record]) -> str:
    if not reported(records):
        return UNFINISHED
    return rate_tables(records, PAIRS, fixed_rate=PUBLISHED_RATE)


CAPTIONS = {
    "learning_rates.png": "Test accuracy against the step size, of SGD and of what is made from "
    "it: mean and one standard deviation over seeds. The step chosen on validation data is "
    "ringed; a cross marks steps at which a run diverged. Where steps were halved, all of this is "
    "after the smallest budget, with which all were tried. That the peaks are wider in path space "
    "than on weights was not shown.",
    "adaptive_rates.png": "The same of the adaptive rules.",
}


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Accuracy against step size: one figure for SGD and its kin, one for the adaptive rules."""
    adaptive = {method.name for method in METHODS if method.rule != "sgd"}
    written = []
    for name, wanted in (("learning_rates", False), ("adaptive_rates", True)):
        # With halving, all step sizes were tried on the smallest budget alone.
        if shown := [r for r in grid(records) if (r.method in adaptive) == wanted]:
            path = out / f"{name}.png"
            written.append(rate_figure(shown, path, LINES, row=lambda r: str(r.setting["network"])))
    return written

"""plain-34 and ResNet-34 on CIFAR-10: does path space make the step size matter less?

Every method at every step size of its grid, from the same seeds: same batches, same budget, no
momentum or weight decay, step sizes falling by ten after half and three quarters of the epochs.
Told are the accuracy at step 1.0, the published one; that at the step which validation images
choose; and the whole curve of accuracy against step size. SGD and its kin share one grid, Adam,
RMSProp and theirs another.

Rows, and what they start from. The usual initialisation: SGD; G-SGD, on the cycles that close with
the tree of the largest balanced weights; Path-SGD; ENorm; Adam and RMSProp, and the same in G-SGD's
coordinates. The papers' initialisation, skeleton weights at 1: SGD, and G-SGD on directed paths.
The networks have BatchNorm, as published. G-SGD from the usual initialisation runs in the exact
part of their group; from the papers', by the papers' treatment of BatchNorm, which is not
invariant. Path-SGD takes the norms for the fixed maps that they are by their first averages. Its
steps are in units of the harmonic mean of kappa at the start, so that on average it steps as far as
SGD does: kappa is a product over all layers, and no grid would serve it and the others.

Published, plain-34 at step 1.0, one seed: G-SGD 35.2, 62.4 and 80.4 percent after epochs 1, 5 and
9, finally 92.78; SGD, from the usual initialisation, 15.7, 38.7 and 50.9, where its log ends (logs
beside https://github.com/MSRA-COLT/gsgd).

`full` is both networks at full width, for 100 epochs of batches of 128. `cpu` is plain-14 and
ResNet-14 with a quarter of the channels, on 2,560 images at a quarter of the resolution, for 3
epochs of batches of 32: neither its accuracies nor, within their spread, the order of its methods
are to be compared with the published ones. (plain-32 is too deep for such a budget: on half of
6,400 images one seed of SGD got to 22 percent at best, where plain-14 on all of them got to 33.)

Cost: smoke 3 minutes on two busy cores; cpu 9 minutes on one core. Full not
measured; it is sized for 80 GB: a run keeps 2.3 GB for its backward pass (counted from shapes,
before fusion; 1.7 in bfloat16), and the 15 runs of a method are trained side by side, 34 GB.
Command: python -m benchmarks gsgd_cifar10 --preset cpu --seeds 3
"""

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from benchmarks.harness.registry import Context
from benchmarks.path_space.methods import (
    METHODS,
    PAIRS,
    Method,
    path_sgd_unit,
    problem,
    transformation,
)
from benchmarks.path_space.rates import pair_table, rate_figure, rate_table
from common.data import (
    Dataset,
    load,
    pixel_statistics,
    pooled,
    standardise,
    take,
    train_validation_split,
)
from common.data.augmentation import pad_crop_flip
from common.progress import Bar
from common.results.records import Record
from common.results.tables import group
from common.seeds import Streams, streams
from common.training import (
    Execution,
    Keys,
    Step,
    StepInfo,
    TrainState,
    at_once_with_convolutions,
    fit,
    groups,
    init_state,
    train_step,
)
from common.training.classification import evaluator, network_loss, network_metrics
from gsgd_jax import skeleton_init

Images = tuple[jax.Array, jax.Array]
"""Standardised images and their labels, on the device."""

PUBLISHED_RATE = 1.0
"""The papers', at which all methods made from SGD are shown."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the experiment depends on."""

    data: str = "cifar10"
    networks: tuple[str, ...] = ("plain-34", "ResNet-34")
    """Family and depth; with " without norm" behind them, networks without BatchNorm."""
    methods: tuple[str, ...] = tuple(method.name for method in METHODS)
    width: float = 1.0
    """Factor on the networks' channels."""
    batch_size: int = 128
    epochs: int = 100
    learning_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    """Of the methods made from SGD."""
    adaptive_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    """Of those made from Adam and RMSProp."""
    train_size: int | None = None
    """Images trained on; None for all that are not held out."""
    validation: float = 0.1
    """Share of the images that learning rates are chosen on."""
    test_size: int | None = None
    """Images tested on, and at most so many validated on; None for all."""
    pool: int = 1
    """Images are reduced by averaging over squares of this side."""
    augment: bool = True
    """Whether training images are padded, cropped and mirrored."""
    bfloat16: bool = False
    """Whether networks compute in bfloat16; parameters stay float32."""
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
        _THIN, networks=("plain-14", "ResNet-14"), pool=4, train_size=2560, test_size=1000,
        epochs=3, adaptive_rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    ),
    "full": Settings(),
}  # fmt: skip


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each network, method, learning rate and seed.

    Args:
        settings: the experiment's.
        context: seeds, data, progress.

    Raises:
        ValueError: if a network or a method is unknown.
    """
    known = {method.name: method for method in METHODS}
    unknown = [name for name in settings.methods if name not in known]
    if unknown:
        raise ValueError(f"methods are {', '.join(known)}, got {', '.join(unknown)}.")
    methods = [known[name] for name in settings.methods]
    data = load_data(settings, context.data_dir)
    runs = sum(len(_rates(method, settings)) for method in methods) * len(context.seeds)
    for network in settings.networks:
        with context.progress.task(network, total=runs) as bar:
            yield from _of_network(network, methods, data, settings, context, bar)


class Data(NamedTuple):
    """The three parts of a data set."""

    train: Images
    validation: Images
    test: Images
    num_classes: int


def load_data(settings: Settings, data_dir: Path | None) -> Data:
    """Loads, splits, standardises and reduces images; the same for all seeds and methods.

    Args:
        settings: the experiment's.
        data_dir: where prepared data sets lie.
    """
    key = streams(0).data
    whole = load(settings.data, "train", data_dir=data_dir)
    train, validation = train_validation_split(whole, key, fraction=settings.validation)
    test = load(settings.data, "test", data_dir=data_dir)
    if settings.train_size is not None:
        train = take(train, settings.train_size, key=key)
    if settings.test_size is not None:
        validation, test = (
            take(part, min(settings.test_size, len(part.labels)), key=key)
            for part in (validation, test)
        )
    statistics = pixel_statistics(train.images)

    def prepared(part: Dataset) -> Images:
        images = pooled(standardise(part.images, statistics), settings.pool)
        return images, jnp.asarray(part.labels)

    return Data(prepared(train), prepared(validation), prepared(test), whole.num_classes)


def _rates(method: Method, settings: Settings) -> tuple[float, ...]:
    return settings.learning_rates if method.rule == "sgd" else settings.adaptive_rates


def _of_network(
    name: str,
    methods: Sequence[Method],
    data: Data,
    settings: Settings,
    context: Context,
    bar: Bar,
) -> Iterator[Record]:
    """All runs of one network."""
    seeds = context.seeds
    given, init = problem(
        name, data.train[0][:1], data.num_classes, streams(seeds[0]).init, width=settings.width,
        dtype=jnp.bfloat16 if settings.bfloat16 else jnp.float32,
    )  # fmt: skip
    usual = {seed: init(streams(seed).init) for seed in seeds}
    unit = jax.jit(functools.partial(path_sgd_unit, given))
    metrics = network_metrics(given.module)

    def figures(state: Any, batch: Any) -> Mapping[str, jax.Array]:
        return metrics(state._replace(model_state=state.model_state.averages), batch)

    @functools.cache
    def scores(many_runs: bool) -> list[Callable[[Any], dict[str, np.ndarray]]]:
        return [
            evaluator(figures, part, batch_size=500, prefix=prefix, many_runs=many_runs)
            for part, prefix in ((data.validation, "validation_"), (data.test, "test_"))
        ]

    at_once = at_once_with_convolutions(settings.at_once)
    for method in methods:
        for together in [[seed] for seed in seeds] if method.follows_seed else [list(seeds)]:
            # One program for all of these runs; none is built if there is nothing to run.
            @functools.cache
            def program(
                method: Method = method, like: Any = usual[together[0]]
            ) -> tuple[Step, Callable[[Any], TrainState]]:
                make = transformation(method, given, like)
                step = _step(given.module, make, settings, len(data.train[1]))
                return step, _first(make, given.averages)

            def trained(
                runs: Sequence[tuple[int, float]], method: Method = method, program: Any = program
            ) -> Iterator[Record]:
                begun = time.perf_counter()
                step, first = program()
                states = []
                for seed, rate in runs:
                    params = usual[seed]
                    if method.reset:
                        params = skeleton_init(params, given.published)
                    factor = float(unit(params)) if method.on == "path norm" else 1.0
                    states.append(_with_rates(first(params), factor * rate, settings.epochs))
                keys = [streams(seed) for seed, _ in runs]
                evaluators = scores(len(runs) > 1)
                found = _train(step, states, data.train, evaluators, settings, keys, context.mesh)
                seconds = (time.perf_counter() - begun) / len(runs)
                for (seed, rate), curve in zip(runs, found, strict=True):
                    yield Record(
                        method=method.name,
                        setting={"network": name, "learning_rate": rate},
                        seed=seed,
                        metrics={metric: values[-1] for metric, values in curve.items()},
                        curve={"epoch": list(range(1, settings.epochs + 1)), **curve},
                        wall_time=seconds,
                    )

            every = list(itertools.product(together, _rates(method, settings)))
            for own in groups(len(every), at_once):
                ends = [f"rate {r}, seed {s}" for s, r in (every[own][0], every[own][-1])]
                yield from context.stages.of(
                    f"{name}, {method.name}, {' to '.join(dict.fromkeys(ends))}",
                    functools.partial(trained, every[own]),
                )
                bar.advance(len(every[own]), note=method.name)


class _Setup(NamedTuple):
    """What tells one run from another, carried as the model's own state."""

    averages: Any
    rates: jax.Array  # of each epoch; float32, [epochs]


def _first(
    make: Callable[[Any], optax.GradientTransformation], averages: Any
) -> Callable[[Any], TrainState]:
    """From first weights to the state before the first step, which does not know the rate."""
    return jax.jit(lambda params: init_state(params, make(0.0), averages))


def _with_rates(state: TrainState, rate: float, epochs: int) -> TrainState:
    """Steps are divided by ten after half of the epochs, and again after three quarters."""
    drops = [(2 * epoch >= epochs) + (4 * epoch >= 3 * epochs) for epoch in range(epochs)]
    rates = jnp.asarray([rate * 0.1**drop for drop in drops], jnp.float32)
    return state._replace(model_state=_Setup(state.model_state, rates))


def _step(
    module: nn.Module,
    make: Callable[[Any], optax.GradientTransformation],
    settings: Settings,
    size: int,
) -> Step:
    """A step that finds its learning rate in the state, so that one program serves all of them."""
    loss, per_epoch = network_loss(module), size // settings.batch_size

    def step(state: TrainState, batch: Any, key: jax.Array) -> tuple[TrainState, StepInfo]:
        setup: Any = state.model_state
        if settings.augment:
            batch = pad_crop_flip(key, batch[0]), batch[1]
        rate = setup.rates[state.step // per_epoch]
        own = state._replace(model_state=setup.averages)
        after, info = train_step(loss, make(rate))(own, batch, key)
        return after._replace(model_state=setup._replace(averages=after.model_state)), info

    return step


def _train(
    step: Step,
    states: Sequence[TrainState],
    train: Images,
    evaluators: Sequence[Callable[[Any], dict[str, np.ndarray]]],
    settings: Settings,
    keys: Sequence[Streams],
    mesh: Mesh | None,
) -> list[dict[str, list[float]]]:
    """The columns of each run's curve, one entry an epoch; NaN from the epoch it diverged in."""
    many = len(states) > 1

    def evaluate(state: TrainState) -> dict[str, np.ndarray]:
        answering = state._replace(opt_state=())
        return {k: v for own in evaluators for k, v in own(answering).items()}

    def joined(leaves: Sequence[Any]) -> Any:
        return jnp.stack(leaves) if many else leaves[0]

    curve = fit(
        step,
        jax.tree.map(lambda *leaves: joined(leaves), *states),
        train,
        keys=Keys(joined([own.order for own in keys]), joined([own.noise for own in keys])),
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        evaluate=evaluate,
        execution=Execution(mesh=mesh),
    ).curve
    columns = {n: values.reshape(len(values), -1) for n, values in curve.items() if n != "epoch"}
    # Answers of a network whose outputs are not numbers are none, nor are those that follow.
    told = np.stack([columns[name] for name in ("loss", *_CROSS_ENTROPIES)])
    valid = np.logical_and.accumulate(np.isfinite(told).all(0))
    return [
        {
            name: np.where(valid[:, i], columns[name][:, i], math.nan).tolist()
            for name in ("loss", "validation_accuracy", "test_accuracy")
        }
        for i in range(len(states))
    ]


_CROSS_ENTROPIES = ("validation_cross_entropy", "test_cross_entropy")


def tables(records: Sequence[Record]) -> str:
    """For each network: every method at 1.0 and at its best; then what path space adds.

    Args:
        records: of this experiment.
    """
    sections = []
    for network, own in group(records, _network).items():
        sections += [f"### {network}", rate_table(own, fixed_rate=PUBLISHED_RATE)]
        sections += [pair_table(own, PAIRS)]
    return "\n\n".join(section for section in sections if section)


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Accuracy against step size: one figure for SGD and its kin, one for the adaptive rules.

    Args:
        records: of this experiment.
        out: the folder.

    Returns:
        The files written.
    """
    adaptive = {method.name for method in METHODS if method.rule != "sgd"}
    written = []
    for name, wanted in (("learning_rates", False), ("adaptive_rates", True)):
        own = [r for r in records if (r.method in adaptive) == wanted]
        if own:
            written.append(rate_figure(own, out / f"{name}.png", panel=_network))
    return written


def _network(record: Record) -> str:
    return str(record.setting["network"])

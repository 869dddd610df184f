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
steps are in units of the mean of kappa at the start, weighted by squared weights: kappa is a
product over 34 layers, and no grid would serve it and the others.

Published, plain-34 at step 1.0, one seed: G-SGD 35.2, 62.4 and 80.4 percent after epochs 1, 5 and
9, finally 92.78; SGD, from the usual initialisation, 15.7, 38.7 and 50.9, where its log ends (logs
beside https://github.com/MSRA-COLT/gsgd).

Command: python -m benchmarks gsgd_cifar10 --preset cpu --seeds 3
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.rate_report import pair_table, rate_figure, rate_table
from benchmarks.registry import Context
from common.augmentation import pad_crop_flip
from common.classification import evaluator, network_loss, network_metrics
from common.data import (
    Dataset,
    epoch_order,
    load,
    pixel_statistics,
    pooled,
    standardise,
    take,
    train_validation_split,
)
from common.networks import plain, resnet
from common.records import Record
from common.seeds import Streams, streams
from common.tables import group
from common.training import TrainState, init_state, train_step
from gsgd_jax import (
    Gauge,
    Skeleton,
    choose_skeleton,
    find_gauge,
    in_path_space,
    in_path_space_with_reference_norms,
    skeleton_init,
)
from gsgd_jax.family import path_sgd, path_sum, with_enorm

Images = tuple[jax.Array, jax.Array]
"""Standardised images and their labels, on the device."""


class Method(NamedTuple):
    """One row: what it steps by, on what, and where it starts."""

    name: str
    rule: Literal["sgd", "adam", "rmsprop"]
    on: Literal["weights", "path space", "path norm", "equal norms"] = "weights"
    reset: bool = False
    """Whether it starts from the papers' initialisation, skeleton weights at 1."""


METHODS = (
    Method("SGD", "sgd"),
    Method("G-SGD", "sgd", on="path space"),
    Method("SGD, skeleton init", "sgd", reset=True),
    Method("G-SGD, skeleton init", "sgd", on="path space", reset=True),
    Method("Path-SGD", "sgd", on="path norm"),
    Method("ENorm", "sgd", on="equal norms"),
    Method("Adam", "adam"),
    Method("G-Adam", "adam", on="path space"),
    Method("RMSProp", "rmsprop"),
    Method("G-RMSProp", "rmsprop", on="path space"),
)

PAIRS = (
    ("G-SGD", "SGD"),
    ("G-SGD, skeleton init", "SGD, skeleton init"),
    ("G-Adam", "Adam"),
    ("G-RMSProp", "RMSProp"),
)
"""The same rule from the same weights, in path space and on weights."""

PUBLISHED_RATE = 1.0

WITHOUT_NORM = " without norm"


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
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    """Of the methods made from SGD."""
    adaptive_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
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


_THIN = Settings(width=0.125, pool=2, augment=False)

PRESETS = {
    "smoke": dataclasses.replace(
        _THIN, data="digits8x8", networks=("plain-8",), width=0.25, pool=1, batch_size=32,
        epochs=2, learning_rates=(0.1, 1.0), adaptive_rates=(0.003, 0.03),
    ),
    "cpu": dataclasses.replace(
        _THIN, train_size=1600, test_size=1000, batch_size=32, epochs=4,
        learning_rates=(0.01, 0.1, 1.0), adaptive_rates=(1e-3, 1e-2, 1e-1),
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
            for record in _of_network(network, methods, data, settings, context.seeds):
                yield record
                bar.advance(note=record.method)


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


class Problem(NamedTuple):
    """A network, and what all methods share."""

    name: str
    module: nn.Module
    variables: Any
    """The first seed's, at first: their shapes, and averages that are the same for all seeds."""
    gauge: Gauge
    """The rescalings that leave it exactly alone."""
    published: Skeleton
    """The papers': the diagonal of the group that it would have without norms."""
    normalised: bool

    def by_first_averages(self, params: Any, images: jax.Array) -> Any:
        """The logits where norms use the averages they begin with."""
        return self.module.apply({**self.variables, "params": params}, images)


def problem(name: str, data: Data, width: float, key: jax.Array) -> Problem:
    """Builds a network and finds its group.

    Args:
        name: see `Settings.networks`.
        data: images it is for.
        width: factor on its channels.
        key: of its first weights.

    Raises:
        ValueError: if there is no such network.
    """
    family, _, depth = name.removesuffix(WITHOUT_NORM).partition("-")
    makers: dict[str, Callable[..., nn.Module]] = {"plain": plain, "ResNet": resnet}
    if family not in makers or not depth.isdecimal():
        raise ValueError(
            f"networks are called plain-DEPTH or ResNet-DEPTH, then{WITHOUT_NORM!r} or nothing, "
            f"got {name!r}."
        )
    normalised = not name.endswith(WITHOUT_NORM)
    make = functools.partial(makers[family], int(depth), data.num_classes, width=width)
    module = make(norm="batch" if normalised else None)
    image = data.train[0][:1]
    variables: Any = jax.jit(module.init)(key, image)
    averages = {kind: leaves for kind, leaves in variables.items() if kind != "params"}

    def trained(params: Any, images: jax.Array) -> Any:
        variables = {"params": params, **averages}
        return module.apply(variables, images, train=True, mutable=list(averages))[0]

    params = variables["params"]
    found = find_gauge(trained, params, data.train[0][:2])
    gauge = found if isinstance(found, Gauge) else found.gauge
    bare = make(norm=None, use_bias=not normalised)
    without = find_gauge(lambda params, images: bare.apply({"params": params}, images), params, image)
    if not (isinstance(gauge, Gauge) and isinstance(without, Gauge)):
        raise ValueError(f"{name} has no rescalings that form a graph; take another network.")
    published = choose_skeleton(without, params)
    return Problem(name, module, variables, gauge, published, normalised)


def _of_network(
    name: str,
    methods: Sequence[Method],
    data: Data,
    settings: Settings,
    seeds: Sequence[int],
) -> Iterator[Record]:
    own = problem(name, data, settings.width, streams(seeds[0]).init)
    init = jax.jit(own.module.init)
    figures = [
        evaluator(network_metrics(own.module), part, batch_size=500, prefix=prefix)
        for part, prefix in ((data.validation, "validation_"), (data.test, "test_"))
    ]
    usual = {seed: init(streams(seed).init, data.train[0][:1])["params"] for seed in seeds}
    unit = jax.jit(functools.partial(mean_kappa, own.by_first_averages))
    for method in methods:
        # The largest weights differ from seed to seed, and with them the skeleton.
        follows_seed = method.on == "path space" and not method.reset
        for group_ in [[seed] for seed in seeds] if follows_seed else [list(seeds)]:
            make = transformation(method, own, usual[group_[0]])
            train = _trainer(own.module, make, data, settings, figures)
            for seed in group_:
                start = skeleton_init(usual[seed], own.published) if method.reset else usual[seed]
                factor = float(unit(start, data.train[0][:1])) if method.on == "path norm" else 1.0
                state = TrainState(
                    start, _averages(own.variables), (), jnp.zeros([], jnp.int32)
                )
                for rate in _rates(method, settings):
                    yield train(state, rate, factor, seed, method.name, name)


def transformation(
    method: Method, own: Problem, params: Any
) -> Callable[[jax.Array], optax.GradientTransformation]:
    """From a learning rate, which may be traced, to what a method steps by.

    Args:
        method: which.
        own: its network.
        params: weights to choose a skeleton by, where it is not the papers'.
    """
    rule = {"sgd": optax.sgd, "adam": optax.adam, "rmsprop": optax.rmsprop}[method.rule]
    if method.on == "weights":
        return rule
    if method.on == "equal norms":
        return lambda rate: with_enorm(rule(rate), own.gauge)
    if method.on == "path norm":
        image = jnp.ones_like(own.example)
        return lambda rate: path_sgd(rate, own.by_first_averages, image)
    if not method.reset:
        skeleton = choose_skeleton(
            own.gauge, params, rule="largest", basis="cycles", tree_values="balanced"
        )
        return lambda rate: in_path_space(rule(rate), skeleton)
    if own.normalised:
        return lambda rate: in_path_space_with_reference_norms(rule(rate), own.published)
    return lambda rate: in_path_space(rule(rate), own.published)

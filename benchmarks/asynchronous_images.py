"""Networks with batch normalisation trained by simulated workers: what two experiments share.

Machines are alike and their times random (gamma distributed), so the server's clock is not a count
of steps. Synchronous SGD waits for all M workers of a round, m-synchronous SGD for the first
three quarters of them; both average what they got. Every method sees equally many gradients, in the
same order, from the same initialisation; learning rates fall by ten after half of the gradients and
after three quarters. Running averages are those that were pushed last.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.delay_report import ADAPTIVE, ALL_SYNCHRONOUS, CONSTANT, SGD, SYNCHRONOUS
from benchmarks.registry import Context
from common.augmentation import pad_crop_flip
from common.classification import evaluator
from common.data import (
    ImageStream,
    PixelStatistics,
    epoch_order,
    load,
    pixel_statistics,
    pooled,
    standardise,
    stream,
    take,
    train_validation_split,
)
from common.networks import resnet
from common.records import Record
from common.seeds import host_generator, streams
from dcasgd_jax import dcasgd, gamma_times, slot_simulator, wavefront_simulator


@dataclasses.dataclass(frozen=True)
class Settings:
    """What an experiment depends on."""

    data: str
    depth: int
    workers: tuple[int, ...]
    methods: tuple[str, ...]
    batch_size: int
    """Of one gradient."""
    epochs: int
    evaluations: int
    """Points of the curves."""
    learning_rates: tuple[float, ...]
    width: float = 1.0
    """Factor on the network's channels."""
    train_size: int | None = None
    """Images trained on; None for all that are not held out."""
    validation: float = 0.1
    """Share of the images that learning rates are chosen on."""
    test_size: int | None = None
    """Images tested on; None for all."""
    pool: int = 1
    """Images are reduced by averaging over squares of this side."""
    augment: bool = False
    """Whether training images held on the device are padded, cropped and mirrored."""
    constant_lambda: float = 0.04
    adaptive_lambda: float = 2.0
    mean_square_decay: float = 0.95
    weight_decay: float = 1e-4
    """At the server's weights, after compensation."""
    variation: float = 0.1
    """Coefficient of variation of a machine's times."""
    bfloat16: bool = False
    """Whether the network computes in bfloat16."""
    image_size: int | None = None
    """Training images are streamed from disk, scaled to this height and width; None: all are held
    on the device as they are."""
    test_split: str = "test"
    longest: int | None = None
    """No more gradients than this are computed together, so that their activations fit."""


class Case(NamedTuple):
    """What is compiled once."""

    method: str
    workers: int


class Streamed(NamedTuple):
    """Training images that stay on disk."""

    images: ImageStream
    rows: np.ndarray
    """Which of them are trained on."""
    size: int

    def batches(self, rows: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Random crops, uint8, and labels, of [num_steps, batch] rows of those trained on."""
        return self.images.batches(self.rows[rows], size=self.size, seed=seed)


class Data(NamedTuple):
    """Images and their labels; standardised and on the device, or else uint8 and streamed."""

    train: tuple[jax.Array, jax.Array] | Streamed
    validation: tuple[jax.Array, jax.Array]
    test: tuple[jax.Array, jax.Array]
    num_classes: int
    statistics: PixelStatistics


def cases(settings: Settings) -> list[Case]:
    """Every method at every number of workers; SGD has one.

    Args:
        settings: the experiment's.
    """
    found = [Case(SGD, 1)] if SGD in settings.methods else []
    others = [method for method in settings.methods if method != SGD]
    return found + [Case(method, m) for m in settings.workers for method in others]


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each method, number of workers, learning rate and seed.

    Args:
        settings: the experiment's.
        context: seeds, data, progress.
    """
    data = load_data(settings, context.data_dir)
    todo = cases(settings)
    total = len(todo) * len(settings.learning_rates) * len(context.seeds)
    with context.progress.task("asynchronous training", total=total) as bar:
        for case in todo:
            train = trainer(case, settings, data)
            for seed in context.seeds:
                for rate in settings.learning_rates:
                    yield from context.stages.of(
                        f"{case.method}, M = {case.workers}, step {rate}, seed {seed}",
                        lambda train=train, rate=rate, seed=seed: [train(rate, seed)],
                    )
                    bar.advance(note=f"{case.method}, M = {case.workers}")


def load_data(settings: Settings, data_dir: Path | None) -> Data:
    """All images on the device; the split into training and validation is the same for all.

    Args:
        settings: the experiment's.
        data_dir: where prepared data sets lie.
    """
    if settings.image_size is not None:
        return _streamed(settings, settings.image_size, data_dir)
    key = streams(0).data
    whole = load(settings.data, "train", data_dir=data_dir)
    train, validation = train_validation_split(whole, key, fraction=settings.validation)
    test = load(settings.data, settings.test_split, data_dir=data_dir)
    if settings.train_size is not None:
        train = take(train, settings.train_size, key=key)
    if settings.test_size is not None:
        test = take(test, settings.test_size, key=key)
        validation = take(validation, min(settings.test_size, len(validation.labels)), key=key)
    statistics = pixel_statistics(train.images)

    def prepared(part: Any) -> tuple[jax.Array, jax.Array]:
        images = pooled(standardise(part.images, statistics), settings.pool)
        return images, jnp.asarray(part.labels)

    return Data(
        prepared(train), prepared(validation), prepared(test), whole.num_classes, statistics
    )


def _streamed(settings: Settings, size: int, data_dir: Path | None) -> Data:
    """Validation and test images in memory, training images on disk."""
    whole = stream(settings.data, "train", data_dir=data_dir)
    tested = stream(settings.data, settings.test_split, data_dir=data_dir)
    generator = host_generator(streams(0).data)
    order = generator.permutation(len(whole.source))
    held_out = int(settings.validation * len(order))
    most = settings.test_size or len(tested.source)

    def read(images: ImageStream, rows: np.ndarray) -> tuple[jax.Array, jax.Array]:
        parts = np.array_split(rows, max(1, len(rows) // 256))
        pixels, labels = zip(*images.batches(parts, size=size), strict=True)
        return standardise(np.concatenate(pixels), statistics), jnp.concatenate(labels)

    trained = order[held_out:][: settings.train_size]
    # Of a thousand crops: all of them would have to be read for exact ones.
    ((sample, _),) = whole.batches([trained[:1000]], size=size)
    statistics = pixel_statistics(sample)
    return Data(
        train=Streamed(whole, trained, size),
        validation=read(whole, order[:held_out][:most]),
        test=read(tested, generator.permutation(len(tested.source))[:most]),
        num_classes=whole.num_classes,
        statistics=statistics,
    )


def waited_for(case: Case) -> int | None:
    """How many gradients of a round the server waits for; None: it does not wait.

    Args:
        case: which method.
    """
    if case.method == ALL_SYNCHRONOUS:
        return case.workers
    if case.method == SYNCHRONOUS:
        return max(1, math.ceil(0.75 * case.workers))
    return None


def _rule(case: Case, settings: Settings, gradients: int) -> Callable[[Any], Any]:
    """From a learning rate to the server's rule, which may be traced."""
    joined = waited_for(case) or 1
    updates = gradients // joined

    def falling(rate: Any) -> Any:
        return lambda step: (
            rate
            * jnp.where(step < updates // 2, 1.0, jnp.where(step < 3 * updates // 4, 0.1, 0.01))
        )

    decay = settings.weight_decay
    if case.method == CONSTANT:
        strength = settings.constant_lambda
        return lambda learning_rate: dcasgd(falling(learning_rate), strength, weight_decay=decay)
    if case.method == ADAPTIVE:
        return lambda learning_rate: dcasgd(
            falling(learning_rate),
            settings.adaptive_lambda,
            mean_square_decay=settings.mean_square_decay,
            weight_decay=decay,
        )

    def plain(learning_rate: Any) -> Any:
        sgd = optax.sgd(falling(learning_rate))
        tx = optax.chain(optax.add_decayed_weights(decay), sgd)
        return optax.MultiSteps(tx, joined).gradient_transformation() if joined > 1 else tx

    return plain


def trainer(case: Case, settings: Settings, data: Data) -> Callable[[float, int], Record]:
    """A function that trains one learning rate from one seed.

    Args:
        case: what to train.
        settings: the experiment's.
        data: on the device.
    """
    dtype = jnp.bfloat16 if settings.bfloat16 else jnp.float32
    large = settings.image_size is not None and settings.image_size > 64
    network = resnet(
        settings.depth,
        data.num_classes,
        width=settings.width,
        dtype=dtype,
        stem="7x7" if large else "3x3",
    )
    num_train = len(data.train.rows if isinstance(data.train, Streamed) else data.train[1])
    per_epoch = num_train // settings.batch_size
    gradients = _whole(per_epoch * settings.epochs, settings)

    def loss(params: Any, averages: Any, batch: Any) -> tuple[jax.Array, Any]:
        inputs, targets = batch
        if inputs.dtype == jnp.uint8:  # a quarter of the bytes to bring to the device
            inputs = standardise(inputs, data.statistics)
        variables = {"params": params, "batch_stats": averages}
        logits, pushed = network.apply(variables, inputs, train=True, mutable=["batch_stats"])
        each = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return each.mean(), pushed["batch_stats"]

    gradient = jax.grad(loss, has_aux=True)
    lambdas = {
        CONSTANT: {"lambda": settings.constant_lambda},
        ADAPTIVE: {"lambda": settings.adaptive_lambda},
    }.get(case.method, {})

    # The learning rate is part of the optimiser's state, so that one program serves all.
    tx = optax.inject_hyperparams(_rule(case, settings, gradients))
    # On CPU convolutions gain nothing by waves, and one event is the smaller program.
    if jax.default_backend() == "cpu":
        simulator = slot_simulator(gradient, tx(learning_rate=0.1), case.workers)
    else:
        simulator = wavefront_simulator(
            gradient, tx(learning_rate=0.1), case.workers, longest=settings.longest
        )
    init = jax.jit(network.init)

    def figures(state: Any, part: Any) -> dict[str, jax.Array]:
        variables = {"params": state.params, "batch_stats": state.model_state}
        logits: Any = network.apply(variables, part[0])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, part[1])
        right = (logits.argmax(-1) == part[1]).astype(jnp.float32)
        # An answer of weights that are not numbers is none.
        return {"accuracy": jnp.where(jnp.isfinite(losses), right, jnp.nan), "loss": losses}

    # Streamed training images are not gone through again: the loss is then the validation images'.
    sample = data.validation if isinstance(data.train, Streamed) else data.train
    of_training, of_validation, of_test = (
        evaluator(figures, part, batch_size=500)
        for part in (
            jax.tree.map(lambda leaf: leaf[:1000], sample),
            data.validation,
            data.test,
        )
    )

    def train(rate: float, seed: int) -> Record:
        begun, keys = time.perf_counter(), streams(seed)
        orders = [
            epoch_order(keys.order, num_train, epoch=e)[: per_epoch * settings.batch_size]
            for e in range(settings.epochs)
        ]
        rows = np.concatenate(orders).reshape(-1, settings.batch_size)[:gradients]
        if isinstance(data.train, Streamed):
            batches: Any = data.train.batches(rows, seed)
        else:
            given = (*data.train, jnp.asarray(rows), keys.noise, settings.augment)
            batches = functools.partial(_batch, *given)
        schedule = gamma_times(
            case.workers,
            gradients,
            seed=seed,
            variation=settings.variation,
            wait_for=waited_for(case),
        )
        variables = init(keys.init, data.test[0][:1])
        state = simulator.init(variables["params"], variables["batch_stats"])
        state = state._replace(opt_state=_with_rate(state.opt_state, rate))
        cut = gradients // settings.evaluations
        curve: dict[str, list[float]] = {
            name: []
            for name in ("gradients", "simulated_seconds", "test_accuracy", "distance", "staleness")
        }
        for i in range(settings.evaluations):
            stretch = jax.tree.map(lambda c, i=i: c[i * cut : (i + 1) * cut], schedule)
            state, log = simulator.run(state, stretch, batches)
            for name, value in (
                ("gradients", (i + 1) * cut),
                ("simulated_seconds", stretch.clock[-1]),
                ("test_accuracy", of_test(state)["accuracy"]),
                ("distance", np.mean(np.asarray(log.distance))),
                ("staleness", log.staleness.mean()),
            ):
                curve[name].append(float(value))
        return Record(
            method=case.method,
            setting={"workers": case.workers, "learning_rate": rate} | lambdas,
            seed=seed,
            metrics={
                "train_loss": float(of_training(state)["loss"]),
                "validation_accuracy": float(of_validation(state)["accuracy"]),
                "test_accuracy": curve["test_accuracy"][-1],
                "simulated_seconds": curve["simulated_seconds"][-1],
            },
            curve=curve,
            wall_time=time.perf_counter() - begun,
        )

    return train


def _whole(gradients: int, settings: Settings) -> int:
    """As many as make whole rounds of every method, in each stretch between two evaluations."""
    rounds = [waited_for(case) or 1 for case in cases(settings)]
    unit = math.lcm(*rounds) * settings.evaluations
    if gradients < unit:
        raise ValueError(
            f"{gradients} gradients do not make a whole round for every method between "
            f"evaluations, which takes {unit}; train longer, or evaluate less often."
        )
    return gradients - gradients % unit


def _with_rate(opt_state: Any, rate: float) -> Any:
    hyper = opt_state.hyperparams
    return opt_state._replace(
        hyperparams={**hyper, "learning_rate": jnp.full_like(hyper["learning_rate"], rate)}
    )


@functools.partial(jax.jit, static_argnums=4)
def _batch(
    images: jax.Array, labels: jax.Array, rows: jax.Array, key: jax.Array, augment: bool, step: Any
) -> tuple[jax.Array, jax.Array]:
    own = rows[step]
    batch = images[own]
    return pad_crop_flip(jax.random.fold_in(key, step), batch) if augment else batch, labels[own]

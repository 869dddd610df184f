"""Images, and who trains on them how: what two experiments with simulated workers share.

Machines are alike and their times random (gamma distributed), so the server's clock is not a count
of steps. Synchronous SGD waits for all M workers of a round, m-synchronous SGD for the first
three quarters of them; both average what they got. Every method sees equally many gradients, in the
same order, from the same initialisation. Running averages are those that were pushed last.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.delay.report import ADAPTIVE, ALL_SYNCHRONOUS, CONSTANT, METHODS, SGD, SYNCHRONOUS
from benchmarks.harness.courses import RateCourse, rates_of
from benchmarks.harness.halving import Halving
from benchmarks.harness.images import ImageSettings, Part
from common.data import ImageStream, PixelStatistics, pixel_statistics, standardise, stream
from common.networks.resnet import Stem
from common.seeds import host_generator, streams
from dcasgd_jax import dcasgd


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(ImageSettings):
    """What an experiment depends on."""

    depth: int
    workers: tuple[int, ...]
    methods: tuple[str, ...]
    rounds: tuple[str, ...] = METHODS
    """Training is whole rounds of these methods, whichever of them are trained: runs of some see as
    many gradients as runs of all."""
    batch_size: int
    """Of one gradient."""
    epochs: int
    evaluations: int
    """Points of the curves."""
    learning_rates: tuple[float, ...]
    course: RateCourse = "drops"
    """How learning rates change in training; every update of the server counts as an epoch."""
    halving: Halving | None = None
    """How learning rates are tried; None to train at all of them from all seeds to the end."""
    width: float = 1.0
    """Factor on the network's channels."""
    stem: Stem | None = None
    """The network's first convolution; None for the usual one of images of that size."""
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
    longest: int | None = None
    """No more gradients of one run than this are computed together, so that their activations fit.
    """
    at_once: int = 1
    """Runs, of all seeds and learning rates, that are trained side by side, so that their
    activations fit; on CPU, and of streamed images, one."""


class Case(NamedTuple):
    """One row: a method, and how many workers it has."""

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

    train: Part | Streamed
    validation: Part
    test: Part
    num_classes: int
    statistics: PixelStatistics


def cases(settings: Settings) -> list[Case]:
    """Every method at every number of workers; SGD has one."""
    alone = [Case(SGD, 1)] if SGD in settings.methods else []
    others = [method for method in settings.methods if method != SGD]
    return alone + [Case(method, m) for m in settings.workers for method in others]


def shortened(settings: Settings, epochs: int) -> Settings:
    """Trained for so many epochs, and looked at as often an epoch as before, or once.

    Fewer looks leave fewer gradients over at the end: `whole_rounds` rounds down between two looks.

    Args:
        settings: of the whole training.
        epochs: at least 1.
    """
    evaluations = max(1, settings.evaluations * epochs // settings.epochs)
    return dataclasses.replace(settings, epochs=epochs, evaluations=evaluations)


def load_data(settings: Settings, data_dir: Path | None) -> Data:
    """Images on the device, or training images on disk; alike for all methods and seeds."""
    if settings.image_size is not None:
        return _streamed(settings, settings.image_size, data_dir)
    return Data(*settings.load_images(data_dir))


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
    """How many gradients of a round the server waits for; None: it does not wait."""
    if case.method == ALL_SYNCHRONOUS:
        return case.workers
    if case.method == SYNCHRONOUS:
        return max(1, math.ceil(0.75 * case.workers))
    return None


def server_rule(
    method: str, joined: int, settings: Settings, gradients: int
) -> Callable[[Any], optax.GradientTransformation]:
    """From a learning rate, which may be traced, to the server's rule."""
    updates, decay = gradients // joined, settings.weight_decay
    factors = rates_of(settings.course, 1.0, epochs=updates, per_epoch=1)

    def changing(rate: Any) -> Any:
        return lambda step: rate * jnp.asarray(factors)[step]

    if method == CONSTANT:
        strength = settings.constant_lambda
        return lambda learning_rate: dcasgd(changing(learning_rate), strength, weight_decay=decay)
    if method == ADAPTIVE:
        return lambda learning_rate: dcasgd(
            changing(learning_rate),
            settings.adaptive_lambda,
            mean_square_decay=settings.mean_square_decay,
            weight_decay=decay,
        )

    def plain(learning_rate: Any) -> Any:
        sgd = optax.sgd(changing(learning_rate))
        tx = optax.chain(optax.add_decayed_weights(decay), sgd)
        return optax.MultiSteps(tx, joined).gradient_transformation() if joined > 1 else tx

    return plain


def whole_rounds(gradients: int, settings: Settings) -> int:
    """As many as make whole rounds of every method, in each stretch between two evaluations."""
    every = [Case(method, m) for m in settings.workers for method in settings.rounds]
    rounds = [waited_for(case) or 1 for case in every]
    unit = math.lcm(*rounds) * settings.evaluations
    if gradients < unit:
        raise ValueError(
            f"{gradients} gradients do not make a whole round for every method between "
            f"evaluations, which takes {unit}; train longer, or evaluate less often."
        )
    return gradients - gradients % unit

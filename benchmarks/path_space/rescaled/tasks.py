"""The networks and their data: three for images, one for sentences, all with ReLUs."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.path_space.jobs import traced_problem
from benchmarks.path_space.rescaled.products import convolutions_as_products
from benchmarks.path_space.sequence import translation_loss, translation_metrics
from common.data import load, pixel_statistics, pooled, standardise, take, train_validation_split
from common.data.generated.translation import Lexicon, translations
from common.networks import MLP, Transformer, resnet
from common.seeds import streams
from common.training import LossFn
from common.training.classification import MetricsFn, classification_metrics, cross_entropy_loss
from gsgd_jax import Gauge


@dataclasses.dataclass(frozen=True)
class ImageTask:
    """Images to be told apart."""

    network: Literal["MLP", "CNN", "ResNet"]
    data: str = "mnist"
    pool: int = 2
    """Images are reduced by averaging over squares of this side."""
    sizes: tuple[int, ...] = (32, 32)
    """The MLP's hidden layers, the CNN's channels, or the depth of the ResNet."""
    width: float = 1.0
    """Factor on the ResNet's channels."""
    train_size: int | None = None
    """Images trained on; None for all that are not held out."""
    validation: float = 0.1
    """Share of the images that step sizes are chosen on."""
    validation_size: int | None = None
    """At most so many of them are used."""
    test_size: int | None = None
    batch_size: int = 32
    epochs: int = 2


@dataclasses.dataclass(frozen=True)
class SentenceTask:
    """Sentences to be translated, by a ReLU transformer; see `gsgd_sequence`."""

    network: Literal["transformer"] = "transformer"
    lexicon: Lexicon = dataclasses.field(default_factory=Lexicon)
    train_size: int = 1600
    validation_size: int = 200
    test_size: int = 500
    width: int = 16
    hidden: int = 32
    heads: int = 2
    layers: int = 1
    batch_size: int = 16
    epochs: int = 1


Task = ImageTask | SentenceTask


class Problem(NamedTuple):
    """A network with its data."""

    name: str
    gauge: Gauge
    init: Callable[[jax.Array], Any]
    """From a key to first weights."""
    loss: LossFn
    metrics: MetricsFn
    train: Any
    validation: Any
    test: Any
    batch_size: int
    epochs: int
    score: str
    """The metric that is chosen by, on validation data, and told, on test data."""
    chance: float
    """What a network that has learnt nothing scores."""
    apply: Callable[[Any, jax.Array], Any]
    """The network's outputs from weights and inputs."""

    @property
    def size(self) -> int:
        """Examples to train on."""
        return len(self.train[0])


class CNN(nn.Module):
    """3x3 convolutions of stride 2 with biases and ReLUs, and a linear classifier of all of it."""

    channels: tuple[int, ...]
    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes the logits.

        Args:
            images: [batch, height, width, channels].
        """
        for i, channels in enumerate(self.channels):
            images = nn.relu(nn.Conv(channels, (3, 3), strides=2, name=f"conv_{i}")(images))
        return nn.Dense(self.num_classes, name="classifier")(images.reshape(len(images), -1))


def problem(task: Task, data_dir: Path | None) -> Problem:
    """Loads a task's data and finds its network's group; the same for all seeds and rows.

    Args:
        task: which.
        data_dir: where prepared data sets lie.
    """
    return _sentences(task) if isinstance(task, SentenceTask) else _images(task, data_dir)


def _images(task: ImageTask, data_dir: Path | None) -> Problem:
    key = streams(0).data
    whole = load(task.data, "train", data_dir=data_dir)
    train, validation = train_validation_split(whole, key, fraction=task.validation)
    test = load(task.data, "test", data_dir=data_dir)
    statistics = pixel_statistics(train.images)
    limits = (task.train_size, task.validation_size, task.test_size)
    parts = []
    for part, limit in zip((train, validation, test), limits, strict=True):
        part = part if limit is None else take(part, min(limit, len(part.labels)), key=key)
        images = pooled(standardise(part.images, statistics), task.pool)
        parts.append((images, jnp.asarray(part.labels)))
    if task.network == "MLP":
        module: nn.Module = MLP((*task.sizes, whole.num_classes))
    elif task.network == "CNN":
        module = CNN(task.sizes, whole.num_classes)
    else:
        module = resnet(task.sizes[0], whole.num_classes, width=task.width, norm=None)

    def apply_fn(params: Any, images: jax.Array) -> Any:
        with convolutions_as_products():
            return module.apply({"params": params}, images)

    gauge, init = _traced(module, parts[0][0][:1])
    return Problem(
        task.network, gauge, init, cross_entropy_loss(apply_fn), classification_metrics(apply_fn),
        parts[0], parts[1], parts[2], task.batch_size, task.epochs, "accuracy",
        1 / whole.num_classes, apply_fn,
    )  # fmt: skip


def _sentences(task: SentenceTask) -> Problem:
    sizes = (task.train_size, task.validation_size, task.test_size)
    data = translations(streams(0).data, sizes, lexicon=task.lexicon)
    parts = [(jnp.asarray(part.tokens), jnp.asarray(part.labels)) for part in data.parts]
    module = Transformer(
        len(data.words), task.width, task.hidden, task.heads, task.layers,
        length=parts[0][0].shape[1],
    )  # fmt: skip
    gauge, init = _traced(module, parts[0][0][:1])
    return Problem(
        task.network, gauge, init, translation_loss(module), translation_metrics(module),
        parts[0], parts[1], parts[2], task.batch_size, task.epochs, "token_accuracy",
        1 / len(data.words), lambda params, tokens: module.apply({"params": params}, tokens),
    )  # fmt: skip


def _traced(module: nn.Module, example: jax.Array) -> tuple[Gauge, Callable[[jax.Array], Any]]:
    init = jax.jit(lambda key: module.init(key, example)["params"])
    return traced_problem(module, example, init(jax.random.key(0))).gauge, init

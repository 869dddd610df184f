"""What is worth an accelerator's minutes, in order, and what each piece costs."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks.accelerator.costs import Program
from benchmarks.delay.images import cases
from benchmarks.latent.methods import METHODS
from common.networks import plain, resnet
from lacim_jax import Examples

_EXAMPLES = {"cifar10": 50_000, "mnist": 60_000, "mnist5k": 5_000, "digits8x8": 1_797}
_IMAGES = {"cifar10": (32, 32, 3), "mnist": (28, 28, 1), "mnist5k": (28, 28, 1),
           "digits8x8": (8, 8, 1)}  # fmt: skip


class Work(NamedTuple):
    """The training that a piece consists of."""

    program: Program
    """A step of one run."""
    runs: int
    """Of all methods, settings and seeds."""
    together: int
    """Of them, trained side by side."""
    steps: int
    """Of a run, in an epoch."""


class Piece(NamedTuple):
    """One experiment."""

    name: str
    share: float
    """Of the minutes; what an earlier piece leaves over goes to those behind it."""
    reach: float
    """Share of the card's peak that its training should reach; an estimate, see `why`."""
    why: str
    changes: Mapping[str, Any]
    """To the full preset, whatever the minutes."""
    narrow: Mapping[str, Any]
    """Further ones, where half of the preset's epochs do not fit: the comparison asked for most."""
    work: Callable[[Any, int], Work] | None
    """From settings and number of seeds; None where time goes into programs of many shapes."""


def _labels(batch_size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((batch_size,), jnp.int32)


def _classifier(network: Any, settings: Any) -> Program:
    """The cross-entropy of a network with running averages."""
    height, width, channels = _IMAGES[settings.data]
    image = (height // settings.pool, width // settings.pool, channels)
    inputs = jax.ShapeDtypeStruct((settings.batch_size, *image), jnp.float32)
    variables = dict(jax.eval_shape(network.init, jax.random.key(0), inputs))
    params = variables.pop("params")

    def loss(params: Any, averages: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        logits, _ = network.apply(
            {"params": params, **averages}, inputs, train=True, mutable=list(averages)
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return Program(loss, params, (variables, inputs, _labels(settings.batch_size)))


def _dtype(settings: Any) -> Any:
    return jnp.bfloat16 if settings.bfloat16 else jnp.float32


def _steps(settings: Any) -> int:
    whole = int(_EXAMPLES[settings.data] * (1 - settings.validation))
    return min(settings.train_size or whole, whole) // settings.batch_size


def _in_path_space(settings: Any, seeds: int) -> Work:
    family, _, depth = settings.networks[0].partition("-")
    make = {"plain": plain, "ResNet": resnet}[family]
    network = make(int(depth), 10, width=settings.width, dtype=_dtype(settings))
    runs = sum(
        seeds * len(settings.adaptive_rates if ("Adam" in m or "RMS" in m)
                    else settings.learning_rates)
        for m in settings.methods
    )  # fmt: skip
    return Work(_classifier(network, settings), runs, settings.at_once, _steps(settings))


def _under_delay(settings: Any, seeds: int) -> Work:
    network = resnet(settings.depth, 10, width=settings.width, dtype=_dtype(settings))
    runs = seeds * len(settings.learning_rates) * len(cases(settings))
    return Work(_classifier(network, settings), runs, settings.at_once, _steps(settings))


def _coloured(settings: Any, seeds: int) -> Work:
    height, width, _ = _IMAGES[settings.data]
    image = (height // settings.pool, width // settings.pool, 2)
    sizes, method = settings.sizes(image, num_domains=2, num_classes=2), METHODS["LaCIM"]
    model: Any = method.build(sizes)
    labels = _labels(settings.batch_size)
    images = jax.ShapeDtypeStruct((settings.batch_size, *image), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), images, labels)["params"]
    key = jax.eval_shape(lambda: jax.random.key(0))

    def loss(params: Any, images: jax.Array, labels: jax.Array, key: jax.Array) -> jax.Array:
        hyper: Any = {"beta": jnp.ones([]), "label_weight": jnp.ones([])}
        objective = method.loss(model, hyper, lambda _: jnp.ones([]), sizes)
        examples = Examples(images, labels, labels)
        return objective(params, method.state(sizes), examples, key)[0]

    columns = seeds * len(settings.label_noises)
    runs = len(settings.methods) * settings.trials * columns
    whole = int(_EXAMPLES[settings.data] * (1 - settings.validation))
    steps = min(settings.size or whole, whole) // settings.batch_size
    together = min(settings.at_once or settings.trials * columns, settings.trials * columns)
    return Work(Program(loss, params, (images, labels, key)), runs, together, steps)


PIECES: tuple[Piece, ...] = (
    Piece(
        "dcasgd_cifar10", 0.30, 0.03,
        "16 to 64 channels fill an eighth to a half of a matrix unit, and kernels of runs side by "
        "side are grouped",
        {"bfloat16": True, "workers": (8, 4)},
        {"workers": (8,), "learning_rates": (0.5, 0.25, 1.0)},
        _under_delay,
    ),
    Piece(
        "gsgd_cifar10", 0.30, 0.10,
        "64 to 512 channels at batches of 128 fill matrix units; norms and grouped kernels take as "
        "long again",
        {
            "bfloat16": True, "networks": ("plain-34",),
            "methods": ("G-SGD, skeleton init", "SGD, skeleton init", "SGD", "G-SGD"),
        },
        {
            "methods": ("G-SGD, skeleton init", "SGD, skeleton init", "SGD"),
            "learning_rates": (1.0, 0.3),
        },
        _in_path_space,
    ),
    Piece("gsgd_speed", 0.08, 0.30, "one network at a time, ungrouped", {}, {}, None),
    Piece("dcasgd_speed", 0.07, 0.03, "small networks, ungrouped", {}, {}, None),
    Piece("lacim_speed", 0.05, 0.02, "small decoders, many starts", {}, {}, None),
    Piece(
        "delayed_language_model", 0.10, 0.20, "products of width 384 or more",
        {"delays": (0, 8), "main_delays": (8,)}, {}, None,
    ),
    Piece(
        "lacim_colored_digits", 0.10, 0.02,
        "32 and 64 channels on 28x28 images: time goes into reading and writing activations",
        {"bfloat16": True},
        {"label_noises": (0.25,), "trials": 4},
        _coloured,
    ),
)  # fmt: skip
"""By worth a minute: first what is asked for most, the published comparisons."""

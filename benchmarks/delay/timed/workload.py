"""Networks and batches to time the simulator on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from benchmarks.harness.timing import random_images
from common.networks import MLP, resnet
from common.seeds import streams


class Workload(NamedTuple):
    """A network with its loss, and batches to time it on."""

    gradient: Callable[[Any, Any], Any]
    params: Any
    batches: Any
    driven: bool
    """Whether the baseline is driven from Python."""


def build(
    network: str, widths: tuple[int, float], batch_size: int, steps: int, seed: int
) -> Workload:
    """The network, its first weights, and random batches; what is in them does not matter.

    Args:
        network: "MLP" or "ResNet-20".
        widths: of the perceptron's hidden layers, and the factor on the channels of ResNet-20.
        batch_size: images a step.
        steps: how many batches there are.
        seed: of weights and batches.
    """
    convolves = network != "MLP"
    shape = (32, 32, 3) if convolves else (784,)
    module: Any = (
        resnet(20, 10, width=widths[1], norm="group")
        if convolves
        else MLP((widths[0], widths[0], 10))
    )
    images, labels = random_images(shape, steps=steps, batch_size=batch_size, seed=seed)
    options, key = {"train": False} if convolves else {}, streams(seed).init
    params = jax.jit(lambda k, x: module.init(k, x, **options))(key, images[0])["params"]

    def loss(params: Any, batch: Any) -> jax.Array:
        inputs, targets = batch
        logits = module.apply({"params": params}, inputs, **options)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    driven = convolves and jax.default_backend() == "cpu"
    return Workload(jax.grad(loss), params, (images, labels), driven)

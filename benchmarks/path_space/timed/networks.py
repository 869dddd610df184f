"""The networks on which steps in path space are timed, with random batches."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from benchmarks.harness.timing import random_images
from common.networks import MLP, plain, resnet
from common.seeds import streams

PERCEPTRON, PLAIN, RESIDUAL = "MLP 3x512", "plain-34", "ResNet-34"
TRACED = "ResNet-50"
"""On which `find_gauge` is timed alone."""


class Workload(NamedTuple):
    """A network with its loss, and batches to time it on."""

    logits: Callable[[Any, jax.Array], jax.Array]
    params: Any
    images: jax.Array  # [steps, batch, ...]
    labels: jax.Array  # [steps, batch]
    driven: bool
    """Whether steps are driven from Python."""


def build(
    network: str, batch_size: int, *, width: float = 1.0, steps: int = 1, seed: int = 0
) -> Workload:
    """The network, its first weights, and random batches; what is in them does not matter."""
    module, shape, options = network_of(network, width)
    images, labels = random_images(shape, steps=steps, batch_size=batch_size, seed=seed)
    variables = jax.jit(module.init)(streams(seed).init, images[0, :1])
    driven = bool(options) and jax.default_backend() == "cpu"
    return Workload(
        logits_of(module, variables, options), variables["params"], images, labels, driven
    )


def network_of(name: str, width: float) -> tuple[Any, tuple[int, ...], dict[str, Any]]:
    """The module, the shape of one image, and what applying the module asks for."""
    if name == PERCEPTRON:
        return MLP((*[round(512 * width)] * 3, 10)), (784,), {}
    family, depth = {PLAIN: (plain, 34), RESIDUAL: (resnet, 34), TRACED: (resnet, 50)}[name]
    options = {"train": True, "mutable": ["batch_stats"]}
    return family(depth, 10, width=width), (32, 32, 3), options


def logits_of(module: Any, variables: Any, options: dict[str, Any]) -> Callable[..., Any]:
    """A function of the parameters and images alone."""
    rest = {name: value for name, value in variables.items() if name != "params"}

    def logits(params: Any, inputs: jax.Array) -> Any:
        outputs = module.apply({"params": params, **rest}, inputs, **options)
        return outputs[0] if options else outputs

    return logits

"""Small ReLU networks drawn at random: depth, widths with valleys, biases, skips, taps, gates."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("perceptron", "residual", "convolutional", "gated")


class Network(NamedTuple):
    """An architecture, its inputs and what it is trained for."""

    name: str
    apply: Callable[[Any, jax.Array], jax.Array]
    init: Callable[[np.random.Generator], Any]  # parameters of one seed, float32, usual scale
    inputs: jax.Array  # float32 [n, ...]
    targets: jax.Array  # float32 [n, outputs]
    classes: bool  # whether the targets are classes' scores, for cross-entropy

    def loss(self, params: Any) -> jax.Array:
        """Mean squared error, or cross-entropy, over all inputs; shape []."""
        outputs = self.apply(params, self.inputs)
        if self.classes:
            chosen = jnp.argmax(self.targets, axis=-1)
            return -jnp.mean(jax.nn.log_softmax(outputs)[jnp.arange(len(chosen)), chosen])
        return jnp.mean((outputs - self.targets) ** 2)


def draw_network(seed: int, kind: str, *, examples: int = 64) -> Network:
    """One network of a kind.

    Args:
        seed: of the architecture, the inputs and the targets.
        kind: of `KINDS`.
        examples: how many inputs.

    Returns:
        Widths of 2 to 24 in any order, so that valleys occur, two to four hidden layers, with or
        without biases.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    bias = bool(rng.integers(2))
    depth = int(rng.integers(2, 5))
    widths = [
        int(rng.integers(2, 9)),
        *rng.integers(2, 25, depth).tolist(),
        int(rng.integers(2, 5)),
    ]
    if kind == "residual":
        widths[1:-1] = [widths[1]] * depth
    shape = (6, 6, widths[0]) if kind == "convolutional" else (widths[0],)
    inputs = rng.normal(size=(examples, *shape)).astype(np.float32)
    features = inputs.reshape(examples, -1)
    teacher = rng.normal(size=(features.shape[1], widths[-1])) / np.sqrt(features.shape[1])
    targets = np.sin(2 * features @ teacher).astype(np.float32)

    def init(rng: np.random.Generator) -> Any:
        layers = []
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            hidden = i < len(widths) - 2
            taps = (3, 3) if kind == "convolutional" and hidden else ()
            scale = np.sqrt((2.0 if hidden else 1.0) / (fan_in * 9 ** (len(taps) > 0)))
            names = ["w", "gate"] if kind == "gated" and hidden else ["w"]
            layer = {name: rng.normal(size=(*taps, fan_in, fan_out)) * scale for name in names}
            layer |= {"b": np.zeros(fan_out)} if bias else {}
            layers.append({name: jnp.asarray(leaf, jnp.float32) for name, leaf in layer.items()})
        return layers

    name = f"{kind} {'-'.join(map(str, widths))}{', biases' if bias else ''}"
    classes = bool(rng.integers(2))
    return Network(name, _APPLY[kind], init, jnp.asarray(inputs), jnp.asarray(targets), classes)


def _affine(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    y = x @ layer["w"]
    return y + layer["b"].reshape((1,) * (y.ndim - 1) + (-1,)) if "b" in layer else y


def _perceptron(layers: Any, x: jax.Array) -> jax.Array:
    for layer in layers[:-1]:
        x = jax.nn.relu(_affine(layer, x))
    return _affine(layers[-1], x)


def _residual(layers: Any, x: jax.Array) -> jax.Array:
    x = jax.nn.relu(_affine(layers[0], x))
    for layer in layers[1:-1]:
        x = x + jax.nn.relu(_affine(layer, x))
    return _affine(layers[-1], x)


def _convolutional(layers: Any, x: jax.Array) -> jax.Array:
    for layer in layers[:-1]:
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, layer["w"], (1, 1), "SAME", dimension_numbers=numbers)
        x = jax.nn.relu(y + layer["b"].reshape(1, 1, 1, -1) if "b" in layer else y)
    return _affine(layers[-1], jnp.mean(x, axis=(1, 2)))


def _gated(layers: Any, x: jax.Array) -> jax.Array:
    for layer in layers[:-1]:
        x = jax.nn.relu(x @ layer["gate"]) * _affine(layer, x)
    return _affine(layers[-1], x)


_APPLY = {
    "perceptron": _perceptron,
    "residual": _residual,
    "convolutional": _convolutional,
    "gated": _gated,
}

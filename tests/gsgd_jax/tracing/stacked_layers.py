"""Networks of equal layers, each as a loop over a list of them and as scans over a stack."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import relu

LAYERS = 3


def _row(x):
    return x.reshape(1, -1)


def dense(p, x, _):
    """No stream: every layer's hidden units have scales of their own."""
    return relu(x @ p["w"] + _row(p["b"]))


def residual(p, x, _):
    return x + relu(x @ p["up"] + _row(p["b"])) @ p["down"]


def normed(p, x, epsilon):
    """A norm on the branch alone, with gain, as in language models."""
    y = x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon) * _row(p["gain"])
    return x + relu(y @ p["up"]) @ p["down"]


def batch_normed(p, x, epsilon):
    y = x @ p["w"]
    y = y - jnp.mean(y, axis=0, keepdims=True)
    y = y * lax.rsqrt(jnp.mean(y * y, axis=0, keepdims=True) + epsilon)
    return relu(y * _row(p["gain"]) + _row(p["b"]))


def gated(p, x, _):
    return x + (relu(x @ p["gate"]) * (x @ p["up"])) @ p["down"]


def attention(p, x, _):
    heads = {name: jnp.einsum("tc,chd->thd", x, p[name]) for name in "qkv"}
    weights = jax.nn.softmax(jnp.einsum("thd,shd->hts", heads["q"], heads["k"]), axis=-1)
    return x + jnp.einsum("thd,hdc->tc", jnp.einsum("hts,shd->thd", weights, heads["v"]), p["o"])


def pinned(p, x, _):
    """Whatever passes tanh keeps its scale."""
    return x + jnp.tanh(x @ p["up"]) @ p["down"]


class Stack(NamedTuple):
    layer: Callable[..., Any]  # (parameters of a layer, carry, epsilon)
    shapes: dict[str, tuple[int, ...]]  # of a layer
    nodes: int  # counted by hand: with a kernel "in" (3, 4) before, and "out" (4, 2) behind

    def draw(self, seed: int = 0):
        """Parameters as a stack of layers, and inputs."""
        rng = np.random.default_rng(seed)

        def drawn(*shape):
            size = np.sqrt(np.prod(shape[1:-1] or shape[-1:]))
            return jnp.asarray(rng.uniform(0.3, 1.0, shape) * rng.choice([-1, 1], shape) / size)

        layers = {name: drawn(LAYERS, *shape) for name, shape in self.shapes.items()}
        params = {"in": drawn(1, 3, 4)[0], "layers": layers, "out": drawn(1, 4, 2)[0]}
        return params, jnp.asarray(rng.normal(size=(9, 3)))

    def looped(self, params, x, epsilon=0.0):
        """With a list of layers."""
        h = x @ params["in"]
        for p in params["layers"]:
            h = self.layer(p, h, epsilon)
        return h @ params["out"]

    def scanned(self, params, x, epsilon=0.0, **options):
        """With a stack of them."""

        def body(h, p):
            return self.layer(p, h, epsilon), None

        return lax.scan(body, x @ params["in"], params["layers"], **options)[0] @ params["out"]

    apply = scanned


def as_list(params):
    """Parameters with a list of layers in place of a stack."""
    layers = [jax.tree.map(lambda p, i=i: p[i], params["layers"]) for i in range(LAYERS)]
    return params | {"layers": layers}


def as_stack(params):
    """Parameters with a stack of layers in place of a list."""
    layers = jax.tree.map(lambda *p: jnp.stack(p), *params["layers"])
    return params | {"layers": layers}


MLP = {"up": (4, 5), "down": (5, 4)}
HEADS = dict.fromkeys("qkv", (4, 2, 3)) | {"o": (2, 3, 4)}

STACKS = {
    # 4 units of the first kernel, 4 a layer.
    "dense": Stack(dense, {"w": (4, 4), "b": (4,)}, 4 + 3 * 4),
    # The stream's 4 channels, 5 hidden units a layer.
    "residual": Stack(residual, MLP | {"b": (5,)}, 4 + 3 * 5),
    # The stream's 1 scale, 4 channels after every norm, 5 hidden units.
    "normed": Stack(normed, MLP | {"gain": (4,)}, 1 + 3 * (4 + 5)),
    # 4 units of the first kernel; a layer has 4 before and 4 behind its norm.
    "batch_normed": Stack(batch_normed, {"w": (4, 4), "gain": (4,), "b": (4,)}, 4 + 3 * 8),
    # In every layer 5 gates and 5 units between.
    "gated": Stack(gated, MLP | {"gate": (4, 5)}, 4 + 3 * 10),
    # In every layer 6 query-key and 6 value-output dimensions; the stream.
    "attention": Stack(attention, HEADS, 4 + 3 * 12),
    "pinned": Stack(pinned, MLP, 4),
}

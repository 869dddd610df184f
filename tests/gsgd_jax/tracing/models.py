"""Small models, their parameters, inputs, and the dimension of their rescaling group by hand."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import relu


class Model(NamedTuple):
    apply: Callable[[Any, Any], Any]
    shapes: dict[str, tuple[int, ...]]
    inputs: tuple[int, ...]
    nodes: int  # counted by hand
    graph: bool = True
    linear: bool = False  # products of linear maps have directions that are no scalings
    seed: int = 0  # at which all units are seen to switch

    def draw(self, seed: int, batch: int | None = None):
        """Random parameters, none near zero, and inputs.

        Along its inputs the signs of a kernel alternate: of units with mixed signs few are dead.
        """
        rng, params = np.random.default_rng(seed), {}
        for name, shape in self.shapes.items():
            if len(shape) == 1:
                drawn = rng.uniform(0.1, 0.3, shape) * rng.choice([-1, 1], shape)
            else:
                alternating = (-1) ** np.arange(shape[-2])[:, None]
                signs = alternating * rng.choice([-1, 1], (*shape[:-2], 1, shape[-1]))
                drawn = rng.uniform(0.3, 1.0, shape) * signs
            params[name] = jnp.asarray(drawn)
        size = self.inputs if batch is None else (batch, *self.inputs[1:])
        return params, jnp.asarray(rng.normal(size=size))


def _bias(b, x):
    return x + b.reshape((1,) * (x.ndim - 1) + b.shape)


def _conv(x, kernel, *, groups=1, strides=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def mlp(p, x):
    x = relu(_bias(p["b1"], x @ p["w1"]))
    x = relu(_bias(p["b2"], x @ p["w2"]))
    return _bias(p["b3"], x @ p["w3"])


def cnn(p, x):
    x = relu(_bias(p["b1"], _conv(x, p["k1"])))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = relu(_bias(p["b2"], _conv(x, p["k2"])))
    return x.reshape(x.shape[0], -1) @ p["w"]


def grouped_cnn(p, x):
    x = relu(_conv(x, p["k1"]))
    x = relu(_bias(p["b"], _conv(x, p["k2"], groups=2)))
    return jnp.mean(relu(_conv(x, p["k3"])), axis=(1, 2)) @ p["w"]


def depthwise_cnn(p, x):
    x = relu(_conv(x, p["k1"]))
    x = relu(_bias(p["b"], _conv(x, p["depthwise"], groups=3)))
    x = relu(_conv(x, p["pointwise"]))
    return jnp.mean(x, axis=(1, 2)) @ p["w"]


def basic_block(p, x):
    x = relu(_conv(x, p["stem"]))
    y = _bias(p["b2"], _conv(relu(_bias(p["b1"], _conv(x, p["k1"]))), p["k2"]))
    x = relu(x + y)
    y = _conv(relu(_conv(x, p["k3"], strides=2)), p["k4"])
    x = relu(_conv(x, p["short"], strides=2) + _bias(p["b4"], y))
    return jnp.mean(x, axis=(1, 2)) @ p["w"]


def padded_block(p, x):
    """The parameter-free shortcut: every other pixel, new channels zero."""
    x = relu(_conv(x, p["stem"]))
    y = _conv(relu(_conv(x, p["k1"], strides=2)), p["k2"])
    x = relu(jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (1, 1))) + y)
    return jnp.mean(x, axis=(1, 2)) @ p["w"]


def bottleneck(p, x):
    x = relu(_conv(x, p["stem"]))
    y = relu(_conv(x, p["k1"]))
    y = relu(_bias(p["b"], _conv(y, p["k2"])))
    x = relu(x + _bias(p["b3"], _conv(y, p["k3"])))
    return jnp.mean(x, axis=(1, 2)) @ p["w"]


def densenet(p, x):
    x = relu(_conv(x, p["stem"]))
    for kernel in ("k1", "k2"):
        x = jnp.concatenate([x, relu(_conv(x, p[kernel]))], axis=-1)
    return jnp.mean(x, axis=(1, 2)) @ p["w"]


def relu_rnn(p, x):
    def step(h, now):
        h = relu(_bias(p["b"], h @ p["hidden"] + now @ p["in"]))
        return h, h @ p["out"]

    start = jnp.zeros((x.shape[0], 3))
    return lax.scan(step, start, jnp.swapaxes(x, 0, 1))[1]


def lstm(p, x):
    def step(carry, now):
        h, c = carry
        gates = _bias(p["b"], h @ p["hidden"] + now @ p["in"])
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h @ p["out"]

    start = (jnp.zeros((x.shape[0], 2)), jnp.zeros((x.shape[0], 2)))
    return lax.scan(step, start, jnp.swapaxes(x, 0, 1))[1]


def cell_scaled_lstm(p, x):
    """Without the tanh on its cell and candidate, the LSTM keeps one scale a cell."""

    def step(carry, now):
        h, c = carry
        gates = h @ p["hidden"] + now @ p["in"]
        i, f, o = jnp.split(gates, 3, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * (now @ p["candidate"])
        h = jax.nn.sigmoid(o) * relu(c)
        return (h, c), h @ p["out"]

    start = (jnp.zeros((x.shape[0], 2)), jnp.zeros((x.shape[0], 2)))
    return lax.scan(step, start, jnp.swapaxes(x, 0, 1))[1]


def gated(p, x):
    return (relu(x @ p["gate"]) * (x @ p["up"])) @ p["down"]


def _norm(x, scale, shift):
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    x = x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True))
    return _bias(shift, x * scale.reshape(1, 1, -1))


def _attention(p, x):
    q, k, v = (jnp.einsum("btc,chd->bthd", x, p[name]) for name in ("q", "k", "v"))
    weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k), axis=-1)
    return jnp.einsum("bthd,hdc->btc", jnp.einsum("bhts,bshd->bthd", weights, v), p["o"])


def transformer(p, x):
    x = x @ p["embed"]
    x = x + _attention(p, _norm(x, p["scale1"], p["shift1"]))
    y = _norm(x, p["scale2"], p["shift2"])
    x = x + _bias(p["b2"], relu(_bias(p["b1"], y @ p["up"])) @ p["down"])
    return x @ p["out"]


def flat_heads(p, x):
    """Attention on the inputs themselves, heads split off by reshape."""
    batch, time, _ = x.shape
    q, k, v = ((x @ p[name]).reshape(batch, time, 2, 3) for name in ("q", "k", "v"))
    weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k), axis=-1)
    y = jnp.einsum("bhts,bshd->bthd", weights, v)
    return y.reshape(batch, time, 6) @ p["o"]


ATTENTION = {"q": (4, 2, 3), "k": (4, 2, 3), "v": (4, 2, 3), "o": (2, 3, 4)}
NORMS = {"scale1": (4,), "shift1": (4,), "scale2": (4,), "shift2": (4,)}

MODELS = {
    "mlp": Model(
        mlp,
        {"w1": (4, 6), "b1": (6,), "w2": (6, 5), "b2": (5,), "w3": (5, 3), "b3": (3,)},
        (8, 4),
        11,
    ),
    "cnn": Model(
        cnn,
        {"k1": (3, 3, 2, 3), "b1": (3,), "k2": (3, 3, 3, 4), "b2": (4,), "w": (16, 3)},
        (3, 4, 4, 2),
        7,
        seed=7,
    ),
    "grouped_cnn": Model(
        grouped_cnn,
        {"k1": (1, 1, 2, 4), "k2": (2, 2, 2, 6), "b": (6,), "k3": (1, 1, 6, 3), "w": (3, 2)},
        (3, 3, 3, 2),
        13,
    ),
    "depthwise_cnn": Model(
        depthwise_cnn,
        {
            "k1": (1, 1, 2, 3),
            "depthwise": (2, 2, 1, 6),
            "b": (6,),
            "pointwise": (1, 1, 6, 2),
            "w": (2, 2),
        },
        (3, 3, 3, 2),
        11,
    ),
    "basic_block": Model(
        basic_block,
        {
            "stem": (1, 1, 2, 3),
            "k1": (2, 2, 3, 4),
            "b1": (4,),
            "k2": (2, 2, 4, 3),
            "b2": (3,),
            "k3": (1, 1, 3, 2),
            "k4": (1, 1, 2, 3),
            "short": (1, 1, 3, 3),
            "b4": (3,),
            "w": (3, 2),
        },
        (3, 4, 4, 2),
        12,
        seed=16,
    ),
    "padded_block": Model(
        padded_block,
        {"stem": (1, 1, 2, 3), "k1": (2, 2, 3, 4), "k2": (1, 1, 4, 5), "w": (5, 2)},
        (3, 4, 4, 2),
        9,
    ),
    "bottleneck": Model(
        bottleneck,
        {
            "stem": (1, 1, 2, 4),
            "k1": (1, 1, 4, 2),
            "k2": (2, 2, 2, 2),
            "b": (2,),
            "k3": (1, 1, 2, 4),
            "b3": (4,),
            "w": (4, 2),
        },
        (3, 3, 3, 2),
        8,
    ),
    "densenet": Model(
        densenet,
        {"stem": (1, 1, 2, 3), "k1": (2, 2, 3, 2), "k2": (2, 2, 5, 2), "w": (7, 2)},
        (3, 3, 3, 2),
        7,
    ),
    "relu_rnn": Model(
        relu_rnn, {"in": (2, 3), "hidden": (3, 3), "b": (3,), "out": (3, 2)}, (3, 5, 2), 3
    ),
    "lstm": Model(lstm, {"in": (2, 8), "hidden": (2, 8), "b": (8,), "out": (2, 2)}, (3, 5, 2), 0),
    "cell_scaled_lstm": Model(
        cell_scaled_lstm,
        {"in": (2, 6), "hidden": (2, 6), "candidate": (2, 2), "out": (2, 2)},
        (3, 5, 2),
        2,
    ),
    "gated": Model(gated, {"gate": (3, 5), "up": (3, 5), "down": (5, 2)}, (4, 3), 10, graph=False),
    # 4 + 4 channels after the norms, 6 query-key and 6 value-output dimensions, 5 hidden units; and
    # the stream, which both norms divide by its size and `out` makes up for.
    "transformer": Model(
        transformer,
        {
            "embed": (3, 4),
            **ATTENTION,
            **NORMS,
            "up": (4, 5),
            "b1": (5,),
            "down": (5, 4),
            "b2": (4,),
            "out": (4, 2),
        },
        (3, 4, 3),
        26,
        graph=False,
        linear=True,
    ),
    "flat_heads": Model(
        flat_heads,
        {"q": (3, 6), "k": (3, 6), "v": (3, 6), "o": (6, 2)},
        (3, 4, 3),
        12,
        linear=True,
    ),
}

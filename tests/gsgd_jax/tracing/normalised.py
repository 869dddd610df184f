"""Small models with normalisation, and the nodes of their groups by hand."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.nn import leaky_relu, relu

from tests.gsgd_jax.tracing.models import Model


class Normalised(NamedTuple):
    apply: Callable[..., Any]  # of parameters, inputs and epsilon
    shapes: dict[str, tuple[int, ...]]
    inputs: tuple[int, ...]
    nodes: int  # counted by hand
    absorbing: int
    exact: int  # nodes that do not need epsilon to be 0
    shifts: int = 0  # invariances that are no scalings: what a mean over channels takes out
    linear: bool = False  # products of linear maps have yet others
    seed: int = 0  # at which all units are seen to switch

    def at(self, epsilon: float) -> Model:
        """The model with an epsilon."""
        apply = functools.partial(self.apply, epsilon=epsilon)
        return Model(apply, self.shapes, self.inputs, self.nodes)


def _row(x, ndim):
    return x.reshape((1,) * (ndim - 1) + x.shape)


def _affine(p, name, x):
    return x * _row(p[name + "_scale"], x.ndim) + _row(p[name + "_shift"], x.ndim)


def _batch_norm(p, name, x, epsilon):
    axes = tuple(range(x.ndim - 1))
    centred = x - jnp.mean(x, axes, keepdims=True)
    variance = jnp.mean(centred**2, axes, keepdims=True)
    return _affine(p, name, centred * lax.rsqrt(variance + epsilon))


def _layer_norm(p, name, x, epsilon):
    """One pass, divided by the root."""
    mean = x.mean(-1, keepdims=True)
    variance = jnp.maximum((x * x).mean(-1, keepdims=True) - mean * mean, 0)
    return _affine(p, name, (x - mean) / jnp.sqrt(variance + epsilon))


def _group_norm(p, name, x, epsilon):
    groups = x.reshape(*x.shape[:-1], 2, x.shape[-1] // 2)
    mean = groups.mean((1, 2, 4), keepdims=True)
    variance = groups.var((1, 2, 4), keepdims=True)
    return _affine(p, name, ((groups - mean) / jnp.sqrt(variance + epsilon)).reshape(x.shape))


def _conv(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def residual(p, x, epsilon):
    x = relu(_batch_norm(p, "stem", _conv(x, p["stem"]), epsilon))
    y = relu(_batch_norm(p, "first", _conv(x, p["first"]), epsilon))
    y = _batch_norm(p, "second", _conv(y, p["second"]), epsilon)
    return relu(x + y).mean((1, 2)) @ p["out"]


def layer_norms(p, x, epsilon):
    x = leaky_relu(_layer_norm(p, "a", x @ p["w1"], epsilon))
    x = leaky_relu(_layer_norm(p, "b", x @ p["w2"], epsilon))
    return x @ p["w3"]


def rms_norms(p, x, epsilon):
    """Without the shifts the second norm would take out what the first one divides by."""
    for kernel, name in (("w1", "a"), ("w2", "b")):
        x = x @ p[kernel]
        size = jnp.sqrt(jnp.mean(jnp.square(x), -1, keepdims=True))
        x = leaky_relu(_affine(p, name, x / (size + epsilon)))
    return x @ p["w3"]


def group_norms(p, x, epsilon):
    x = relu(_group_norm(p, "a", _conv(x, p["k"]), epsilon))
    return x.mean((1, 2)) @ p["out"]


def masked(p, x, epsilon):
    """BatchNorm with the statistics of some rows only: of those that an input says."""
    keep = x[:, :1] > -0.5
    x = x @ p["w"]
    mean, variance = x.mean(0, where=keep, keepdims=True), x.var(0, where=keep, keepdims=True)
    return relu(_affine(p, "a", (x - mean) * lax.rsqrt(variance + epsilon))) @ p["out"]


def weighted(p, x, epsilon):
    """BatchNorm with a weighted mean: by a mask as numbers, and by what is never negative."""
    weights = jnp.exp(-x[:, :1]) * (x[:, 1:2] > -0.5).astype(x.dtype)
    x = x @ p["w"]
    total = jnp.maximum(weights.sum(0, keepdims=True), 1e-3)
    mean = (weights * x).sum(0, keepdims=True) / total
    variance = jnp.einsum("nk,nc->kc", weights, (x - mean) ** 2) / total
    return relu(_affine(p, "a", (x - mean) / jnp.sqrt(variance + epsilon))) @ p["out"]


def float_powers(p, x, epsilon):
    """Norms of even powers that JAX does not write as integer ones."""

    def branch(kernel, name, power):
        h = x @ p[kernel]
        size = (jnp.mean(h**power, 0, keepdims=True) + epsilon) ** (1 / power)
        return relu(_affine(p, name, h / size))

    return branch("w1", "a", 2.0) @ p["out1"] + branch("w2", "b", 4.0) @ p["out2"]


def unit_kernels(p, x, epsilon):
    """Weight normalisation: every unit's kernel is divided by its norm."""
    norm = jnp.linalg.norm(p["w"], axis=0, keepdims=True)
    return relu(x @ (p["w"] / jnp.maximum(norm, epsilon)) * _row(p["gain"], 2)) @ p["out"]


def standardised_kernels(p, x, epsilon):
    centred = p["w"] - p["w"].mean(0, keepdims=True)
    kernel = centred * (jnp.mean(centred**2, 0, keepdims=True) + epsilon) ** -0.5
    return relu(x @ kernel * _row(p["gain"], 2)) @ p["out"]


def stream(p, x, epsilon):
    """Normalisation of the branch alone: the stream keeps one scale, which leaves by `out`."""
    x = x @ p["embed"]
    y = relu(_layer_norm(p, "a", x, epsilon) @ p["up"]) @ p["down"]
    return (x + y) @ p["out"]


def _norms(**widths):
    return {f"{name}_{part}": (n,) for name, n in widths.items() for part in ("scale", "shift")}


NORMALISED = {
    # Before the norms 4 + 5 + 4 channels, after them 5 and the stream's 4.
    "residual": Normalised(
        residual,
        {"stem": (1, 1, 2, 4), "first": (2, 2, 4, 5), "second": (1, 1, 5, 4), "out": (4, 2)}
        | _norms(stem=4, first=5, second=4),
        (3, 3, 3, 2),
        22,
        13,
        9,
    ),
    # One before each norm; a shift of all columns by one is taken out by its mean.
    "layer_norms": Normalised(
        layer_norms,
        {"w1": (3, 5), "w2": (5, 4), "w3": (4, 2)} | _norms(a=5, b=4),
        (8, 3),
        11,
        2,
        9,
        shifts=3 + 5,
    ),
    "rms_norms": Normalised(
        rms_norms,
        {"w1": (3, 5), "w2": (5, 4), "w3": (4, 2)} | _norms(a=5, b=4),
        (8, 3),
        11,
        2,
        9,
        seed=6,
    ),
    # Two groups of two channels.
    "group_norms": Normalised(
        group_norms,
        {"k": (2, 2, 2, 4), "out": (4, 2)} | _norms(a=4),
        (3, 3, 3, 2),
        6,
        2,
        4,
    ),
    # As BatchNorm: one before and one after the norm for each of its channels.
    "masked": Normalised(masked, {"w": (3, 4), "out": (4, 2)} | _norms(a=4), (8, 3), 8, 4, 4),
    "weighted": Normalised(weighted, {"w": (3, 4), "out": (4, 2)} | _norms(a=4), (8, 3), 8, 4, 4),
    "float_powers": Normalised(
        float_powers,
        {"w1": (3, 4), "w2": (3, 3), "out1": (4, 2), "out2": (3, 2)} | _norms(a=4, b=3),
        (8, 3),
        14,
        7,
        7,
    ),
    "unit_kernels": Normalised(
        unit_kernels, {"w": (3, 4), "gain": (4,), "out": (4, 2)}, (8, 3), 8, 4, 4
    ),
    "standardised_kernels": Normalised(
        standardised_kernels, {"w": (3, 4), "gain": (4,), "out": (4, 2)}, (8, 3), 8, 4, 4, shifts=4
    ),
    # 4 channels after the norm, 5 hidden, and the stream's one.
    "stream": Normalised(
        stream,
        {"embed": (3, 4), "up": (4, 5), "down": (5, 4), "out": (4, 2)} | _norms(a=4),
        (8, 3),
        10,
        0,
        9,
        linear=True,
    ),
}

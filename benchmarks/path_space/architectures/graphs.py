"""Networks on points and graphs; messages meet by `jax.ops.segment_sum`, as in jraph."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.path_space.architectures.architecture import (
    Architecture,
    Form,
    dense,
    function,
    kernel,
    layered,
    linen,
)
from benchmarks.path_space.architectures.reasons import IDENTITY_ADDED, ONE_ADDED, SOFTMAX_EDGES

_FEATURES, _DEGREE = 3, 4


def graph(rng: np.random.Generator, nodes: int) -> tuple[np.ndarray, ...]:
    """Features, senders and receivers of a random graph with loops at all nodes.

    Args:
        rng: random numbers.
        nodes: how many.
    """
    loops = np.arange(nodes)
    senders, receivers = rng.integers(0, nodes, (2, _DEGREE * nodes))
    ends = [np.concatenate([loops, side]).astype(np.int32) for side in (senders, receivers)]
    return (rng.normal(size=(nodes, _FEATURES)), *ends)


def _graph_convolution(form: Form, params: Any, x: Any, senders: Any, receivers: Any) -> Any:
    """Means over neighbours, weighted by 1/sqrt(degree) at both ends, of linear features."""
    count = x.shape[0]
    ones = jnp.ones(senders.shape, x.dtype)
    degree = jax.ops.segment_sum(ones, receivers, count)
    weight = jax.lax.rsqrt(degree)[senders] * jax.lax.rsqrt(degree)[receivers]

    def convolved(p: Mapping[str, Any], x: Any, name: str = "") -> Any:
        return jax.ops.segment_sum(
            dense(p, x, name)[senders] * weight[:, None], receivers, count
        )  # fmt: skip

    x = jax.nn.relu(convolved(params, x, "first_"))
    x = layered(lambda p, x: jax.nn.relu(convolved(p, x)), params["stack"], x, form)
    return convolved(params, x, "last_")


def _isomorphism(form: Form, params: Any, x: Any, senders: Any, receivers: Any) -> Any:
    """MLP((1 + e) x + sum over neighbours); the output sums over layers' graph sums."""

    def layer(p: Mapping[str, Any], x: Any) -> Any:
        total = jax.ops.segment_sum(x[senders], receivers, x.shape[0])
        x = (1 + p["offset"]) * x + total
        return jax.nn.relu(dense(p, jax.nn.relu(dense(p, x, "up_")), "down_"))

    x = jax.nn.relu(dense(params, x, "first_"))
    return dense(params, layered(layer, params["stack"], x, form), "last_")


def _attention(form: Form, params: Any, x: Any, senders: Any, receivers: Any) -> Any:
    """Neighbours weighted by a softmax of leaky ReLUs of both ends' features, in two heads."""
    count = x.shape[0]

    def layer(p: Mapping[str, Any], x: Any) -> Any:
        h = (x @ p["kernel"]).reshape(count, 2, -1)
        sender, receiver = (jnp.sum(h * p[end], axis=-1) for end in ("sender", "receiver"))
        scores = jax.nn.leaky_relu(sender[senders] + receiver[receivers], 0.2)
        largest = jax.ops.segment_max(scores, receivers, count)
        weights = jnp.exp(scores - jax.lax.stop_gradient(largest)[receivers])
        weights = weights / jax.ops.segment_sum(weights, receivers, count)[receivers]
        y = jax.ops.segment_sum(h[senders] * weights[:, :, None], receivers, count)
        return jax.nn.relu(y.reshape(count, -1))

    x = layer(params["first"], x)
    return dense(params, layered(layer, params["stack"], x, form), "last_")


def _attention_shapes(fan_in: int) -> dict[str, Any]:
    return {"kernel": (fan_in, 4), "sender": (1, 2, 2), "receiver": (1, 2, 2)}


class _Transform(nn.Module):
    """A matrix that a set of points says how to be turned by, near the identity."""

    size: int

    @nn.compact
    def __call__(self, x):
        y = jnp.max(nn.relu(nn.Dense(5)(x)), axis=1)
        y = nn.Dense(self.size**2)(nn.relu(nn.Dense(4)(y)))
        eye = jnp.eye(self.size, dtype=y.dtype).reshape(1, -1)
        return (y + eye).reshape(-1, self.size, self.size)


class _PointNet(nn.Module):
    """The same MLP at every point between learnt transforms, then the largest over points."""

    form: Form

    @nn.compact
    def __call__(self, x):
        x = x @ _Transform(3)(x)
        x = self._layer(x, 4)
        x = x @ _Transform(4)(x)
        x = jnp.max(self._layer(self._layer(x, 5), 6), axis=1)
        return nn.Dense(4)(self._layer(x, 5))

    def _layer(self, x, width):
        x = nn.Dense(width, use_bias=False)(x)
        return nn.relu(nn.BatchNorm(False, epsilon=self.form.epsilon)(x))


def points(rng: np.random.Generator, clouds: int) -> tuple[np.ndarray, ...]:
    """Clouds of seven points.

    Args:
        rng: random numbers.
        clouds: how many.
    """
    return (rng.normal(size=(clouds, 7, 3)),)


_GCN = {
    **kernel(_FEATURES, 4, "first_"),
    "stack": [kernel(4, 4) for _ in range(2)],
    **kernel(4, 4, "last_"),
}
_GIN = {
    **kernel(_FEATURES, 4, "first_"),
    "stack": [{**kernel(4, 5, "up_"), **kernel(5, 4, "down_"), "offset": ()} for _ in range(2)],
    **kernel(4, 4, "last_"),
}
_GAT = {
    "first": _attention_shapes(_FEATURES),
    "stack": [_attention_shapes(4) for _ in range(2)],
    **kernel(4, 4, "last_"),
}


def _row(name: str, source: str, network: Any, shapes: Any, **pins: str) -> Architecture:
    build = function(network, shapes)
    return Architecture(name, source, "JAX", build, graph, pins, stack=True)


GRAPHS = [
    Architecture("PointNet", "Qi et al., 2017", "flax linen", linen(_PointNet, points), points,
                 {"add": IDENTITY_ADDED}),
    _row("GCN", "Kipf and Welling, 2016", _graph_convolution, _GCN),
    _row("GIN", "Xu et al., 2018", _isomorphism, _GIN, add=ONE_ADDED),
    _row("GAT", "Velickovic et al., 2017", _attention, _GAT, exp=SOFTMAX_EDGES),
]  # fmt: skip

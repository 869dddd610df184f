"""Perceptrons at work: operators, fields, policies, networks made by networks."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.path_space.architectures.architecture import (
    Architecture,
    Form,
    dense,
    function,
    kernel,
    layered,
    rows,
)
from benchmarks.path_space.architectures.reasons import OUTPUT_SIGMOID, POLICY


def _hidden(params: Mapping[str, Any], name: str, x: Any, form: Form) -> Any:
    """A first layer and a stack of equal ones, all with ReLU."""
    x = jax.nn.relu(dense(params, x, f"{name}_first_"))

    def layer(p: Mapping[str, Any], x: Any) -> Any:
        return jax.nn.relu(dense(p, x))

    return layered(layer, params[f"stack_{name}"], x, form)


def _hidden_shapes(name: str, fan_in: int, width: int, layers: int = 2) -> dict[str, Any]:
    return {**kernel(fan_in, width, f"{name}_first_"),
            f"stack_{name}": [kernel(width, width) for _ in range(layers)]}  # fmt: skip


def _deep_operator(form: Form, params: Any, function_values: Any, place: Any) -> Any:
    """Branch(values of a function) . trunk(place) + bias."""
    branch = dense(params, _hidden(params, "branch", function_values, form), "branch_last_")
    trunk = jax.nn.relu(dense(params, _hidden(params, "trunk", place, form), "trunk_last_"))
    return jnp.sum(branch * trunk, axis=-1) + params["bias"]


def _radiance_field(form: Form, params: Any, place: Any, direction: Any) -> Any:
    """Waves of the place through layers that see them twice; colour sees the direction, too."""
    waves = _waves(place)
    x = _hidden(params, "before", waves, form)
    x = jnp.concatenate([waves, x], axis=-1)
    x = _hidden(params, "after", x, form)
    density = jax.nn.relu(dense(params, x, "density_"))
    x = jnp.concatenate([dense(params, x, "feature_"), _waves(direction)], axis=-1)
    x = jax.nn.relu(dense(params, x, "colour_"))
    return density, jax.nn.sigmoid(dense(params, x, "last_"))


def _waves(x: Any) -> Any:
    return jnp.concatenate([f(rate * x) for rate in (1.0, 2.0) for f in (jnp.sin, jnp.cos)], -1)


def _actor_critic(form: Form, params: Any, x: Any) -> Any:
    """Logits of a policy and a value, on shared features."""
    x = _hidden(params, "shared", x, form)
    return jax.nn.log_softmax(dense(params, x, "policy_")), dense(params, x, "value_")


def _dueling(form: Form, params: Any, x: Any) -> Any:
    """Value + advantage - mean advantage."""
    x = _hidden(params, "shared", x, form)
    value = dense(params, jax.nn.relu(dense(params, x, "value_")), "value_last_")
    advantage = dense(params, jax.nn.relu(dense(params, x, "advantage_")), "advantage_last_")
    return value + advantage - jnp.mean(advantage, axis=-1, keepdims=True)


def _hypernetwork(form: Form, params: Any, task: Any, x: Any) -> Any:
    """Kernels and biases of a small network, made by another from a description of the task."""
    h = _hidden(params, "hyper", task, form)
    first = dense(params, h, "makes_first_").reshape(-1, 3, 4)
    bias = dense(params, h, "makes_bias_")
    last = dense(params, h, "makes_last_").reshape(-1, 4, 2)
    y = jax.nn.relu(jnp.einsum("bi,bio->bo", x, first) + bias)
    return jnp.einsum("bi,bio->bo", y, last)


def _siamese(form: Form, params: Any, one: Any, other: Any) -> Any:
    """The distance of two inputs' features, by shared weights."""
    one, other = (dense(params, _hidden(params, "shared", x, form), "last_") for x in (one, other))
    return jnp.abs(one - other) @ params["weight"] + params["bias"].reshape(1, -1)


def _row(name: str, source: str, network: Any, shapes: Any, draw: Any, **pins: str) -> Architecture:
    return Architecture(name, source, "JAX", function(network, shapes), draw, pins, stack=True)


FUNCTIONS = [
    _row("DeepONet", "Lu et al., 2019", _deep_operator,
         {**_hidden_shapes("branch", 4, 5), **kernel(5, 3, "branch_last_"),
          **_hidden_shapes("trunk", 2, 5), **kernel(5, 3, "trunk_last_"), "bias": ()},
         rows(4, 2)),
    _row("NeRF", "Mildenhall et al., 2020", _radiance_field,
         {**_hidden_shapes("before", 8, 5), **_hidden_shapes("after", 13, 5),
          **kernel(5, 1, "density_"), **kernel(5, 4, "feature_"), **kernel(12, 4, "colour_"),
          **kernel(4, 3, "last_")},
         rows(2, 2), logistic=OUTPUT_SIGMOID),
    _row("actor-critic", "Mnih et al., 2016", _actor_critic,
         {**_hidden_shapes("shared", 4, 5), **kernel(5, 3, "policy_"), **kernel(5, 1, "value_")},
         rows(4), exp=POLICY),
    _row("dueling DQN", "Wang et al., 2015", _dueling,
         {**_hidden_shapes("shared", 4, 5), **kernel(5, 4, "value_"), **kernel(4, 1, "value_last_"),
          **kernel(5, 4, "advantage_"), **kernel(4, 3, "advantage_last_")},
         rows(4)),
    _row("hypernetwork", "Ha et al., 2016", _hypernetwork,
         {**_hidden_shapes("hyper", 3, 5), **kernel(5, 12, "makes_first_"),
          **kernel(5, 4, "makes_bias_"), **kernel(5, 8, "makes_last_")},
         rows(3, 3)),
    _row("siamese network", "Bromley et al., 1993; Koch et al., 2015", _siamese,
         {**_hidden_shapes("shared", 4, 5), **kernel(5, 4, "last_"), "weight": (4, 1),
          "bias": (1,)},
         rows(4, 4)),
]  # fmt: skip

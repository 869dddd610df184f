"""Small ReLU networks in float64 for the tests of path space."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax import allocate, path_values
from tests.compiled import compiled_quickly

WIDTHS = ([5, 7, 7, 7, 3], [4, 9, 3, 6, 2], [3, 5, 8, 2], [10, 4, 12, 4, 12, 6])
VALLEY = [3, 4, 2, 4, 3]  # narrowest in the middle: where the published closed form is wrong
NETWORKS = [(tuple(widths), bias) for widths in (*WIDTHS, VALLEY) for bias in (False, True)]

Layers = list[tuple[jax.Array, ...]]


def perceptron(widths, bias, seed=0, dtype=jnp.float64) -> Layers:
    """[(kernel, bias), ...] or [(kernel,), ...], with biases that keep it alive."""
    draw = np.random.default_rng(seed).normal
    layers = []
    for fan_in, fan_out in itertools.pairwise(widths):
        kernel = jnp.asarray(draw(size=(fan_in, fan_out)) * (2 / fan_in) ** 0.5, dtype)
        offset = jnp.asarray(0.3 * draw(size=fan_out), dtype)
        layers.append((kernel, offset) if bias else (kernel,))
    return layers


def apply(layers: Layers, x: jax.Array) -> jax.Array:
    for i, (kernel, *bias) in enumerate(layers):
        x = jax.nn.relu(x) if i else x
        x = x @ kernel
        x = x + bias[0][None] if bias else x
    return x


def batch(widths, seed=1, size=16, dtype=jnp.float64):
    """Inputs and labels."""
    generator = np.random.default_rng(seed)
    x = jnp.asarray(generator.normal(size=(size, widths[0])), dtype)
    return x, jnp.asarray(generator.integers(widths[-1], size=size))


def loss(layers: Layers, data) -> jax.Array:
    x, labels = data
    logits = apply(layers, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def ravel(tree) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


@compiled_quickly
def loss_and_grads(layers: Layers, data) -> tuple[jax.Array, Layers]:
    return jax.value_and_grad(loss)(layers, data)


def rescaled(gauge, layers: Layers, seed=0, spread=1.0) -> Layers:
    return compiled_quickly(functools.partial(gauge.rescale, spread=spread))(
        layers, jax.random.key(seed)
    )


def values_of(params, skeleton):
    return compiled_quickly(lambda params: path_values(params, skeleton))(params)


def weights_of(values, params, skeleton):
    return compiled_quickly(lambda values, params: allocate(values, params, skeleton))(
        values, params
    )


def one_step(tx, grads, params):
    """Parameters after one step with given gradients, its updates, and the state."""

    @compiled_quickly
    def run(grads, params):
        updates, state = tx.update(grads, tx.init(params), params)
        return optax.apply_updates(params, updates), updates, state

    return run(grads, params)


def furthest(one, other) -> float:
    """The largest difference between two trees."""
    return float(np.abs(ravel(one) - ravel(other)).max())


def train(tx, layers, data, steps, loss=loss):
    """Parameters after some steps, and the state."""

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, data), state, params)
        return (optax.apply_updates(params, updates), state), None

    @compiled_quickly
    def run(layers):
        return jax.lax.scan(step, (layers, tx.init(layers)), length=steps)[0]

    return run(layers)


def free_entries(skeleton):
    """The numbers of the entries of S and N."""
    return np.setdiff1d(np.arange(skeleton.gauge.num_entries), skeleton.in_edges)


def relative(one, other):
    """The largest difference, relative where entries are above one."""
    one, other = ravel(one), ravel(other)
    return float((np.abs(one - other) / (1 + np.abs(other))).max())

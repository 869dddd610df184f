"""The small tanh networks that the tests of this folder train."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax


def weights_of(sizes, rng, dtype=np.float32):
    """[W1, b1, W2, b2, ...] of a network with these layer sizes."""
    layers = [
        [rng.normal(size=(i, o)) / np.sqrt(i), 0.1 * rng.normal(size=o)]
        for i, o in itertools.pairwise(sizes)
    ]
    return [jnp.asarray(array, dtype) for layer in layers for array in layer]


def batches_of(num_steps, batch_size, sizes, rng, dtype=np.float32):
    """Random inputs [num_steps, batch_size, sizes[0]] and labels below sizes[-1]."""
    inputs = rng.normal(size=(num_steps, batch_size, sizes[0]))
    labels = rng.integers(0, sizes[-1], size=(num_steps, batch_size))
    return jnp.asarray(inputs, dtype), jnp.asarray(labels)


def loss(weights, batch):
    """Mean cross-entropy of one batch, a scalar."""
    activation, labels = batch
    *hidden, (kernel, bias) = zip(weights[::2], weights[1::2], strict=True)
    for k, b in hidden:
        activation = jnp.tanh(activation @ k + b[None])
    logits = activation @ kernel + bias[None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


gradient = jax.grad(loss)


def assert_same_bits(got, expected):
    """Every leaf equal, bit for bit, dtypes too."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert jnp.asarray(a).dtype == jnp.asarray(b).dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))

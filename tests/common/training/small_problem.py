"""A small classification problem for the training loop, and its random streams."""

import jax
import jax.numpy as jnp

from common.seeds import streams
from common.training import Keys

KEYS = streams(3)
RUN_KEYS = Keys(KEYS.order, KEYS.noise)


def linear(params, inputs):
    return inputs @ params["w"] + params["b"][None, :]


def problem(n=53):
    """A small classification problem, [n, 4] to 3 classes."""
    inputs = jax.random.normal(KEYS.data, (n, 4))
    labels = (inputs @ jnp.eye(4, 3)).argmax(-1)
    params = {"w": 0.1 * jax.random.normal(KEYS.init, (4, 3)), "b": jnp.zeros(3)}
    return params, (inputs, labels)

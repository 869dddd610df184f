"""A small model with random parameters, and images for it."""

import jax
import jax.numpy as jnp
import numpy as np

from lacim_jax import MLP, LaCIM, MLPDecoder, MLPEncoder

KEY = jax.random.key(0)


def model_with(decoder, encoder=MLPEncoder((16,)), num_domains=2):  # noqa: B008 (immutable)
    return LaCIM(encoder, decoder, MLP((8, 3)), num_domains=num_domains, s_dim=2, v_dim=3)


MODEL = model_with(MLPDecoder((8, 8, 1), (16,)))
IMAGES = np.asarray(jax.random.uniform(jax.random.key(5), (256, 8, 8, 1)))


def variables_of(model, scale=2.0):
    """Random parameters, large enough for the likelihood to have many slopes."""
    variables = jax.jit(model.init)(KEY, IMAGES[:1], jnp.zeros(1, jnp.int32))
    return jax.tree.map(lambda w: scale * w, variables)


VARIABLES = variables_of(MODEL)

"""As a user types it: LaCIM, trained and asked."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lacim_jax import (
    MLP,
    Examples,
    LaCIM,
    MLPDecoder,
    MLPEncoder,
    Search,
    check_examples,
    lacim_loss,
    predict,
)


def train(data: Examples, steps: int, key: jax.Array) -> np.ndarray:
    """Probabilities of the images that it was trained on."""
    encoder, decoder = MLPEncoder((64,)), MLPDecoder((8, 8, 1), widths=(64,))
    model = LaCIM(encoder, decoder, MLP((32, 2)), num_domains=2)
    variables = model.init(key, data.images, data.domains)
    check_examples(model, variables, data)
    params, step = variables["params"], jnp.zeros([], jnp.int32)
    tx = optax.adam(1e-3)
    state = tx.init(params)
    gradient = jax.grad(lacim_loss(model, beta=0.5), has_aux=True)
    for i in range(steps):
        gradients, (step, terms) = gradient(params, step, data, jax.random.fold_in(key, i))
        print(terms)
        updates, state = tx.update(gradients, state)
        params = optax.apply_updates(params, updates)
    found = predict(model, {"params": params}, data.images, key, search=Search(loop="scan"))
    return found.probabilities

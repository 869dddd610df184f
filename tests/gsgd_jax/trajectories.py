"""What invariance means in training: two scalings of one function stay one function."""

import jax
import jax.numpy as jnp
import optax

STEPS = 5


def assert_one_function(model, params, x, group, tx):
    """Trains a network and a rescaled copy of it, and compares their outputs to 1e-9.

    Args:
        model: of `tests.gsgd_jax.tracing.models`.
        params: its parameters, float64.
        x: its inputs.
        group: its rescaling group, or the gauge.
        tx: an optimiser in path space.
    """

    def loss(params):
        return jnp.mean((model.apply(params, x) - 1.0) ** 2)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    runs = [params, group.rescale(params, jax.random.key(2))]
    states = [tx.init(run) for run in runs]
    for _ in range(STEPS):
        runs, states = zip(*(step(p, s) for p, s in zip(runs, states, strict=True)), strict=True)
    one, other = (model.apply(run, x) for run in runs)
    scale = jnp.abs(one).max()
    assert jnp.abs(one - model.apply(params, x)).max() > 1e-6 * scale  # it did move
    assert jnp.abs(one - other).max() < 1e-9 * scale

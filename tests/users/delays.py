"""As a user types it: a simulated cluster, by both engines."""

import jax
import jax.numpy as jnp
import optax

from dcasgd_jax import (
    Engine,
    SimulationInfo,
    dcasgd,
    delay_compensation,
    gamma_times,
    simulate,
)


def loss(w: jax.Array, batch: jax.Array) -> jax.Array:
    """Least squares."""
    return jnp.mean((batch @ w - 1.0) ** 2)


def train(batches: jax.Array) -> tuple[jax.Array, SimulationInfo]:
    """The rule alone, in a chain, and with either engine."""
    cluster = gamma_times(num_workers=4, num_steps=len(batches), seed=0, heterogeneity=0.6)
    server = optax.chain(delay_compensation(2.0, mean_square_decay=0.95), optax.sgd(0.01))
    w = jnp.zeros(batches.shape[-1])
    w, _ = simulate(jax.grad(loss), w, server, cluster, batches, engine="wavefront")
    one_by_one = Engine("slots", loop="driven")
    w, info = simulate(jax.grad(loss), w, dcasgd(0.1, 0.04), cluster, batches, engine=one_by_one)
    print(info.staleness.max(), info.clock[-1])
    return w, info

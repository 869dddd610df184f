"""As a user types it: an own model in path space, its coordinates chosen by name."""

import jax
import jax.numpy as jnp
import optax

from gsgd_jax import (
    Balanced,
    Gauge,
    Skeleton,
    choose_skeleton,
    find_gauge,
    gsgd,
    in_path_space,
    path_values,
)

Params = dict[str, jax.Array]


def network(params: Params, x: jax.Array) -> jax.Array:
    """Two layers."""
    return jax.nn.relu(x @ params["w"]) @ params["v"]


def train(params: Params, x: jax.Array, steps: int) -> Params:
    """Balanced coordinates, and the papers'."""
    gauge = find_gauge(network, params, x)
    balanced: Balanced = choose_skeleton(gauge, params)
    tx = in_path_space(optax.adam(1e-3), balanced)
    if isinstance(gauge, Gauge):
        skeleton: Skeleton = choose_skeleton(gauge, params, basis="paths", rule="largest")
        print(skeleton, path_values(params, skeleton))
        tx = gsgd(0.1, skeleton, momentum=0.9)
    state = tx.init(params)

    def loss(params: Params) -> jax.Array:
        return jnp.mean(network(params, x) ** 2)

    for _ in range(steps):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)  # pyright: ignore[reportAssignmentType] (optax's Params is any tree)
    return params

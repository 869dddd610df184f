"""The inner transformations, the start and the distance that tests in path space share."""

import jax
import jax.numpy as jnp
import optax
import pytest

from gsgd_jax import choose_skeleton, mlp_gauge
from tests.gsgd_jax.networks import apply, batch, perceptron

WIDTHS = [4, 7, 3, 2]
INNER = {
    "sgd": optax.sgd(0.02),
    "momentum": optax.sgd(0.02, momentum=0.9),
    "nesterov": optax.sgd(0.02, momentum=0.9, nesterov=True),
    "adam": optax.adam(2e-3),
    "rmsprop": optax.rmsprop(2e-3),
    "lamb": optax.lamb(5e-3),  # which looks at the norms of its parameters
}
# optax's bias correction raises a float32 decay to an int32 count.
optax_promotes = pytest.mark.usefixtures("standard_promotion")


def problem(widths=WIDTHS, bias=True, rule="largest", basis="paths", tree_values="ones"):
    params = perceptron(widths, bias)
    gauge = mlp_gauge(params)
    skeleton = choose_skeleton(gauge, params, rule=rule, basis=basis, tree_values=tree_values)
    return params, gauge, skeleton, batch(widths)


def distance(one, two, widths=WIDTHS):
    x, _ = batch(widths, seed=9)
    outputs = jax.jit(apply)
    return float(jnp.abs(outputs(one, x) - outputs(two, x)).max())

"""Counting scalings without tracing: what moves with the point is none."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.path_space.architectures.null_space import common_null_space, counted


def test_products_of_linear_maps_and_idle_units_are_not_counted(x64):
    """At one point 4 x 4 mixtures of the product's channels leave it alone, and scalings of 4."""

    def model(p, x):
        return jax.nn.relu(x @ p["first"] @ p["second"]) @ p["last"] + 0.0 * jnp.sum(p["idle"])

    def draw(number):
        rng = np.random.default_rng(number)
        shapes = {"first": (3, 4), "second": (4, 5), "last": (5, 6), "idle": (2,)}
        params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        return params, (rng.normal(size=(6, 3)),)

    counts = common_null_space(model, draw, least_draws=8)
    assert (counts.scalings, counts.unseen) == (4 + 5, 2)
    assert counts.largest_null < 1e-12 < 1e-6 < counts.smallest_other


def test_columns_of_zeros_and_a_null_direction():
    matrix = np.random.default_rng(0).normal(size=(20, 4)) * np.array([1.0, 1e-6, 0.0, 1.0])
    matrix[:, 3] = 2.0 * matrix[:, 0] - 1e6 * matrix[:, 1]
    counts = counted(matrix)
    assert (counts.scalings, counts.unseen) == (1, 1)

"""Costs: operations and memory are counted from shapes."""

import jax
import jax.numpy as jnp

from benchmarks.accelerator.costs import Program, cost


def test_a_products_gradient_is_counted():
    def loss(w, x):
        return (x @ w).sum()

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 32), (128, 64))]
    found = cost(Program(loss, shapes[0], tuple(shapes[1:])))
    product = 2 * 128 * 64 * 32  # of w's gradient; the value itself is not asked for
    assert product <= found.operations <= 1.1 * product
    # What is kept is x, or w and x; four copies of w beside it.
    assert 4 * (128 * 64 + 4 * 64 * 32) <= found.kept <= 4 * (128 * 64 + 5 * 64 * 32 + 128 * 32)

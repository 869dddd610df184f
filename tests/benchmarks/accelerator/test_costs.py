"""Costs: operations and memory are counted from shapes."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.accelerator.costs import PEAKS, Program, cost, peak


def test_a_products_gradient_is_counted():
    def loss(w, x):
        return (x @ w).sum()

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 32), (128, 64))]
    found = cost(Program(loss, shapes[0], tuple(shapes[1:])))
    product = 2 * 128 * 64 * 32  # of w's gradient; the value itself is not asked for
    assert product <= found.operations <= 1.1 * product
    # What is kept is x, or w and x; four copies of w beside it.
    assert 4 * (128 * 64 + 4 * 64 * 32) <= found.kept <= 4 * (128 * 64 + 5 * 64 * 32 + 128 * 32)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("NVIDIA H200", "H200"), ("NVIDIA L40S", "L40S"), ("NVIDIA L4", "L4"),
     ("TPU v5p", "TPU v5p"), ("TPU v5 lite", "TPU v5")],
)  # fmt: skip
def test_a_card_is_known_by_its_name(kind, name):
    assert peak(kind) == PEAKS[name]
    assert peak("cpu") is None

"""Vectors over nodes: gathered from leaves, spread over them, and summed."""

import jax.numpy as jnp
import numpy as np
import pytest

from gsgd_jax import find_gauge
from gsgd_jax.coordinates.node_vectors import collect, gather, is_entry, products, spread, take
from tests.gsgd_jax.tracing.models import MODELS

FLOAT = np.dtype(np.float64)


@pytest.fixture
def gauge():
    """Channels that are read alone and together: where one leaf goes on, another ends."""
    model = MODELS["densenet"]
    params, x = model.draw(0)
    return find_gauge(model.apply, params, x)


def test_numbers_of_nodes_are_taken_in_runs_and_one_by_one(x64):
    whole = np.append(np.random.default_rng(0).uniform(1, 2, 7), 0.5)  # ground has 0.5
    for ids in (np.arange(8), np.array([[6], [2], [7]]), np.array([3, 4]), np.array([7, 7])):
        np.testing.assert_array_equal(take(jnp.asarray(whole), ids), whole[ids])
    array, ids = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3))), np.array([[6, 0, 7]])
    np.testing.assert_array_equal(spread(jnp.asarray(whole), ids, array), array * whole[ids])
    assert spread(jnp.asarray(whole), None, array) is array


def test_entries_are_gathered_by_node_and_collected(x64, gauge):
    rng = np.random.default_rng(0)
    leaves = [jnp.asarray(rng.normal(size=shape)) for shape in gauge.shapes]
    flat = np.concatenate([np.ravel(leaf) for leaf in leaves])
    edges = rng.permutation(gauge.num_entries)[: gauge.num_nodes]
    gathered = gather(leaves, edges, gauge.offsets, FLOAT)
    np.testing.assert_array_equal(gathered, np.append(flat[edges], 1.0))
    array = jnp.asarray(rng.normal(size=(2, 4)))
    # A run; one that ends in ground, 7; and some node twice.
    for ids in ([[3, 4, 5, 6]], [[4, 5, 6, 7]], [[6, 1, 7, 1]]):
        ids = np.array(ids)
        sums = np.zeros(8)
        np.add.at(sums, np.broadcast_to(ids, array.shape), array)
        np.testing.assert_allclose(collect(array, ids, 7), sums, rtol=1e-12)


def test_products_along_ways_double(x64):
    # 0 <- 1 <- 2 <- 3, and 4 by itself; 5 is ground.
    factors = jnp.array([2.0, 3.0, 5.0, 7.0, 11.0, 1.0])
    rounds = (np.array([5, 0, 1, 2, 5, 5]), np.array([5, 5, 0, 1, 5, 5]))
    np.testing.assert_array_equal(products(factors, rounds), [2, 6, 30, 210, 11, 1])


def test_entries_are_marked_without_a_scatter(x64):
    marks = is_entry(np.array([[4, -1, 2]], np.int32), (2, 3))
    np.testing.assert_array_equal(marks, [[False, False, True], [False, False, False]])

"""Vectors over nodes by blocks are the same numbers as in one piece, and no leaf slices them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsgd_jax import Skeleton, choose_skeleton, find_gauge, gsgd, mlp_gauge
from gsgd_jax.blocks import block_bounds, collect, each, gather, inverse, joined, pick, spread
from tests.gsgd_jax.networks import perceptron
from tests.gsgd_jax.tracing.models import MODELS

FLOAT = np.dtype(np.float64)


@pytest.fixture
def dense_blocks():
    """Channels that are read alone and together: where one leaf goes on, another ends."""
    model = MODELS["densenet"]
    params, x = model.draw(0)
    return find_gauge(model.apply, params, x)


def test_blocks_end_where_the_nodes_of_some_leaf_do(x64, dense_blocks):
    widths = [4, 6, 5, 3]
    np.testing.assert_array_equal(block_bounds(mlp_gauge(perceptron(widths, True))), [0, 6, 11])
    np.testing.assert_array_equal(block_bounds(dense_blocks), [0, 3, 5, 7])


def test_numbers_are_those_of_one_piece(x64, dense_blocks):
    gauge, bounds = dense_blocks, block_bounds(dense_blocks)
    rng = np.random.default_rng(0)
    whole = np.append(rng.uniform(1, 2, gauge.num_nodes), 0.5)  # ground has 0.5
    vectors = [jnp.asarray(part) for part in np.split(whole[:-1], bounds[1:-1])]
    for ids in (np.arange(7), np.array([[6], [2], [7]]), np.array([3, 4]), np.array([7, 7])):
        np.testing.assert_array_equal(pick(vectors, ids, bounds, ground=0.5), whole[ids])
    np.testing.assert_array_equal(joined(vectors, ground=0.5, dtype=FLOAT), whole)
    np.testing.assert_allclose(joined(each(inverse, vectors), ground=2.0, dtype=FLOAT), 1 / whole)
    array = jnp.asarray(rng.normal(size=(2, 3)))
    ids = np.array([[6, 0, 7]])
    ones = np.append(whole[:-1], 1.0)
    np.testing.assert_array_equal(spread(vectors, ids, bounds, array), array * ones[ids])
    assert spread(vectors, None, bounds, array) is array


def test_entries_are_gathered_by_node_and_collected(x64, dense_blocks):
    gauge, bounds = dense_blocks, block_bounds(dense_blocks)
    rng = np.random.default_rng(0)
    leaves = [jnp.asarray(rng.normal(size=shape)) for shape in gauge.shapes]
    flat = np.concatenate([np.ravel(leaf) for leaf in leaves])
    edges = rng.permutation(gauge.num_entries)[: gauge.num_nodes]
    found = gather(leaves, edges, gauge, bounds, FLOAT)
    np.testing.assert_array_equal(np.concatenate(found), flat[edges])
    array = jnp.asarray(rng.normal(size=(2, 4)))
    # Whole blocks; a run across them; one that ends in ground, 7; and some node twice.
    for ids in ([[3, 4, 5, 6]], [[2, 3, 4, 5]], [[4, 5, 6, 7]], [[6, 1, 7, 1]]):
        ids = np.array(ids)
        sums = np.zeros(8)
        np.add.at(sums, np.broadcast_to(ids, array.shape), array)
        parts = dict(collect(array, ids, bounds))
        for b, (low, high) in enumerate(itertools.pairwise(bounds)):
            own = parts.get(b, np.zeros(high - low))
            np.testing.assert_allclose(own, sums[low:high], rtol=1e-12)


def test_equal_layers_ask_for_the_same_operations(x64):
    """No vector over nodes is cut: slices, each at its own place, would make all layers differ."""
    widths = [3, 6, 6, 6, 2]
    params = perceptron(widths, False)
    gauge = mlp_gauge(params)
    diagonal = choose_skeleton(gauge, params)
    # Out along the diagonal beside it: where a way out is in the tree, flows are passed on.
    out = [
        gauge.offsets[k] + i * widths[k + 1] + (i + 1) % widths[k + 1]
        for k in (1, 2, 3)
        for i in range(6)
    ]
    skeleton = Skeleton(gauge, diagonal.in_edges, np.array(out))
    tx = gsgd(0.1, skeleton)
    made = jax.make_jaxpr(lambda g, p: tx.update(g, tx.init(p), p))(params, params)
    assert " slice[" not in str(made)
    assert " dynamic_slice[" not in str(made)

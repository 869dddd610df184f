"""The papers' initialisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsgd_jax import choose_skeleton, mlp_gauge, path_values, skeleton_init
from tests.gsgd_jax.networks import perceptron, ravel

WIDTHS = [4, 9, 3, 6, 2]


@pytest.mark.parametrize("basis", ["paths", "cycles"])
def test_skeleton_entries_become_one_and_no_others(basis):
    params = perceptron(WIDTHS, True, dtype=jnp.float32)
    skeleton = choose_skeleton(mlp_gauge(params), params, basis=basis)
    before, after = ravel(params), ravel(skeleton_init(params, skeleton))
    on = np.union1d(skeleton.in_edges, skeleton.out_edges)
    np.testing.assert_array_equal(after[on], 1)
    off = np.setdiff1d(np.arange(len(before)), on)
    np.testing.assert_array_equal(after[off], before[off])
    # Each path through it is then worth the one weight that is not on the skeleton.
    values = ravel(path_values(skeleton_init(params, skeleton), skeleton))
    np.testing.assert_array_equal(values, after)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_tree_and_dtypes_are_kept(dtype):
    params = {"params": {"a": jnp.full((2, 3), 2, dtype), "b": jnp.full((3, 1), 2, dtype)}}
    skeleton = choose_skeleton(mlp_gauge(params), params, basis="paths")
    found = jax.jit(lambda params: skeleton_init(params, skeleton))(params)
    assert jax.tree.map(jax.typeof, found) == jax.tree.map(jax.typeof, params)

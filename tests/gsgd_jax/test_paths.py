"""Path values, weight allocation and the inverse chain rule: sections 2 and 3 of the derivation."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from gsgd_jax import (
    allocate,
    balance,
    choose_skeleton,
    inverse_chain_rule,
    mlp_gauge,
    path_values,
    weight_updates,
)
from tests.gsgd_jax.networks import (
    NETWORKS,
    apply,
    batch,
    compiled_quickly,
    free_entries,
    furthest,
    loss,
    perceptron,
    ravel,
    relative,
    rescaled,
    values_of,
)
from tests.oracles.path_enumeration import (
    all_paths,
    entry_numbers,
    path_slopes,
    rank,
    skeleton_path,
)

pytestmark = pytest.mark.usefixtures("x64")

BIASED = [network for network in NETWORKS if network[1]]
# Each compiles for a second or two, so not every combination; the last widths are the valley.
ON_PATHS = [
    *((*network, "diagonal") for network in (*BIASED, NETWORKS[0], NETWORKS[-2])),
    *((*network, "largest") for network in (BIASED[1], BIASED[-1])),
]
EVERY = [
    *((*case, "paths") for case in ON_PATHS),
    (*BIASED[1], "diagonal", "cycles"),
    (*BIASED[2], "largest", "cycles"),
]
every_path_case = pytest.mark.parametrize(("widths", "bias", "rule"), ON_PATHS)
every_case = pytest.mark.parametrize(("widths", "bias", "rule", "basis"), EVERY)


def basis_paths(widths, bias, skeleton):
    return [
        skeleton_path(widths, bias, int(e), skeleton.in_edges, skeleton.out_edges)
        for e in free_entries(skeleton)
    ]


def wave(tree, factor):
    """Something without structure, of the tree's shapes, between -1 and 1."""
    return jax.tree.map(lambda leaf: jnp.cos(factor * (1 + leaf)), tree)


@functools.cache
def measured(widths, bias, rule, basis):
    """All that a network's path space has to say, computed in one go; flat arrays."""
    params, data = perceptron(widths, bias), batch(widths)
    gauge = mlp_gauge(params)
    skeleton = choose_skeleton(gauge, params, rule=rule, basis=basis)

    @compiled_quickly
    def everything(params):
        grads = jax.grad(loss)(params, data)
        values = path_values(params, skeleton)
        back, pullback = jax.vjp(lambda values: allocate(values, params, skeleton), values)
        steps = jax.tree.map(lambda v, u: 0.2 * v * u, values, wave(values, 1e3))
        asked = jax.tree.map(jnp.add, values, steps)
        allocated = allocate(asked, params, skeleton)
        moved = gauge.rescale(params, jax.random.key(5))
        return {
            "weights": params,
            "values": values,
            "back": back,
            "asked": asked,
            "reached": path_values(allocated, skeleton),
            "differences": jax.tree.map(jnp.subtract, allocated, params),
            "updates": weight_updates(steps, params, skeleton)[0],
            "grads": grads,
            "closed": inverse_chain_rule(grads, params, skeleton),
            "vjp": pullback(grads)[0],
            "closed_any": inverse_chain_rule(wave(params, 5), params, skeleton),
            "vjp_any": pullback(wave(params, 5))[0],
            "moved": moved,
            "moved_values": path_values(moved, skeleton),
        }

    found = {name: ravel(tree) for name, tree in everything(params).items()}
    return types.SimpleNamespace(skeleton=skeleton, free=free_entries(skeleton), **found)


# Section 2: basis paths.


@every_path_case
def test_path_values_are_products_of_weights_along_real_paths(widths, bias, rule):
    found = measured(widths, bias, rule, "paths")
    paths = basis_paths(widths, bias, found.skeleton)
    assert len(set(paths)) == found.skeleton.gauge.num_free
    assert set(paths) <= set(all_paths(widths, bias))
    products = [np.prod(found.weights[list(path)]) for path in paths]
    np.testing.assert_allclose(found.values[found.free], products, rtol=1e-13)
    tree = found.skeleton.in_edges
    np.testing.assert_array_equal(found.values[tree], found.weights[tree])


@pytest.mark.parametrize("rule", ["diagonal", "largest"])
@pytest.mark.parametrize(("widths", "bias"), NETWORKS)
def test_basis_paths_are_independent(widths, bias, rule):
    params = perceptron(widths, bias)
    skeleton = choose_skeleton(mlp_gauge(params), params, rule=rule, basis="paths")
    paths = basis_paths(widths, bias, skeleton)
    assert rank(paths, skeleton.gauge.num_entries) == skeleton.gauge.num_free


@every_case
def test_values_do_not_change_under_rescaling(widths, bias, rule, basis):
    found = measured(widths, bias, rule, basis)
    assert np.abs(found.moved - found.weights).max() > 0.1
    free = found.free
    np.testing.assert_allclose(found.moved_values[free], found.values[free], rtol=1e-11)


def test_cycle_values_are_the_weights_of_the_representative_with_its_tree_at_one():
    widths, bias, *_ = case = ((4, 9, 3, 6, 2), True, "diagonal", "cycles")
    found, params = measured(*case), perceptron(widths, bias)
    flat = found.values.copy()
    flat[found.skeleton.in_edges] = np.sign(found.weights[found.skeleton.in_edges])
    _, unravel = ravel_pytree(params)
    x, _ = batch(widths)
    outputs = jax.jit(apply)
    np.testing.assert_allclose(outputs(unravel(flat), x), outputs(params, x), rtol=1e-9, atol=1e-12)


def test_balanced_cycle_values_are_the_balanced_weights():
    params = perceptron([4, 9, 3, 6, 2], True)
    gauge = mlp_gauge(params)
    skeleton = choose_skeleton(
        gauge, params, rule="largest", basis="cycles", tree_values="balanced"
    )
    free = free_entries(skeleton)
    values = values_of(params, skeleton)
    np.testing.assert_allclose(ravel(values)[free], ravel(balance(params, gauge))[free], rtol=1e-11)


# Section 3: allocation and the inverse chain rule.


@every_case
def test_allocation_inverts_path_values(widths, bias, rule, basis):
    found = measured(widths, bias, rule, basis)
    assert relative(found.back, found.weights) < 1e-13
    # And the other way round, from values that no step of a gradient has led to.
    free = found.free
    assert np.abs(found.asked[free] / found.values[free] - 1).max() > 0.1
    np.testing.assert_allclose(found.reached[free], found.asked[free], rtol=1e-11)


@every_path_case
def test_flows_in_and_out_of_a_node_are_equal(widths, bias, rule):
    """The conservation law of f = w dL/dw: along the group, the loss does not change."""
    found = measured(widths, bias, rule, "paths")
    kernels, biases = entry_numbers(widths, bias)
    flows = found.weights * found.grads
    for k in range(len(kernels) - 1):
        coming = flows[kernels[k]].sum(0) + (flows[biases[k]] if bias else 0)
        np.testing.assert_allclose(coming, flows[kernels[k + 1]].sum(1), atol=1e-15)
        assert np.abs(coming).max() > 1e-4


@every_case
def test_closed_form_is_the_vjp_of_allocation(widths, bias, rule, basis):
    found = measured(widths, bias, rule, basis)
    assert relative(found.closed, found.vjp) < 1e-12
    assert not found.closed[found.skeleton.in_edges].any()
    # For a cotangent that is no gradient, where the conservation law does not hold, too.
    assert relative(found.closed_any, found.vjp_any) < 1e-12


@every_path_case
def test_closed_form_solves_the_chain_rule_over_enumerated_paths(widths, bias, rule):
    """The valley included, where the published closed form is wrong."""
    found = measured(widths, bias, rule, "paths")
    paths = basis_paths(widths, bias, found.skeleton)
    expected = path_slopes(paths, found.weights, found.grads)
    np.testing.assert_allclose(
        found.closed[found.free], expected, rtol=1e-8, atol=1e-10 * np.abs(expected).max()
    )


@every_case
def test_weight_updates_are_the_difference_of_allocated_weights(widths, bias, rule, basis):
    found = measured(widths, bias, rule, basis)
    assert relative(found.updates, found.differences) < 1e-12
    assert np.abs(found.updates).max() > 1e-2
    assert not found.updates[found.skeleton.in_edges].any()


def test_no_step_of_path_values_is_no_step_of_weights():
    """To the bit, in half precision too, where going to path values and back rounds."""
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32):
        params = perceptron([4, 9, 3, 6, 2], True, dtype=dtype)
        skeleton = choose_skeleton(mlp_gauge(params), params, rule="largest", basis="paths")
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates, info = jax.jit(lambda u, w, s=skeleton: weight_updates(u, w, s, max_ratio=2.0))(
            zeros, params
        )
        assert not ravel(updates).any()
        assert (float(info.least_ratio), int(info.bounded)) == (1.0, 0)


def test_allocation_does_not_look_at_values_on_the_tree():
    params = perceptron([4, 9, 3, 6, 2], True)
    skeleton = choose_skeleton(mlp_gauge(params), params, basis="paths")

    @compiled_quickly
    @jax.grad
    def slopes(values):
        return sum(jnp.sum(w**2) for w in jax.tree.leaves(allocate(values, params, skeleton)))

    found = ravel(slopes(params))
    assert not found[skeleton.in_edges].any()
    assert np.count_nonzero(found) == skeleton.gauge.num_free


def test_functions_vectorise_over_networks():
    params = perceptron([3, 5, 8, 2], True)
    gauge = mlp_gauge(params)
    skeleton = choose_skeleton(gauge, params, basis="paths")

    @compiled_quickly
    @jax.vmap
    def there_and_back(key):
        moved = gauge.rescale(params, key)
        values = path_values(moved, skeleton)
        return moved, values, allocate(values, moved, skeleton)

    moved, values, back = there_and_back(jax.random.split(jax.random.key(0), 3))
    assert furthest(back, moved) < 1e-12
    assert {leaf.shape[0] for leaf in jax.tree.leaves(values)} == {3}
    head = np.asarray(values[-1][0])
    np.testing.assert_allclose(head, np.broadcast_to(head[:1], head.shape), rtol=1e-11)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_structure_shape_dtype_and_weak_type_are_kept(dtype):
    params = {"params": {"b": [jnp.full((3, 2), 2, dtype), jnp.full((2, 1), 3, dtype)]}}
    if dtype == jnp.float64:
        params = {"params": {"b": [jnp.full((3, 2), 2.0), jnp.full((2, 1), 3.0)]}}
        assert params["params"]["b"][0].weak_type
    skeleton = choose_skeleton(mlp_gauge(params), params, basis="paths")
    values = path_values(params, skeleton)
    for tree in (
        values,
        allocate(values, params, skeleton),
        inverse_chain_rule(params, params, skeleton),
        weight_updates(params, params, skeleton)[0],
    ):
        assert jax.tree.map(jax.typeof, tree) == jax.tree.map(jax.typeof, params)


def test_leaves_outside_the_group_pass_unchanged():
    params = {"w0": jnp.ones((2, 2)) * 2, "w1": jnp.ones((2, 1)) * 3, "steps": jnp.asarray([5, 6])}
    skeleton = choose_skeleton(mlp_gauge(params, layers=["w0", "w1"]), params, basis="paths")
    for function in (path_values, lambda p, s: weight_updates(p, p, s)[0]):
        np.testing.assert_array_equal(function(params, skeleton)["steps"], [5, 6])


@settings(derandomize=True, deadline=None, max_examples=8)
@given(
    widths=st.lists(st.integers(1, 5), min_size=2, max_size=6),
    bias=st.booleans(),
    rule=st.sampled_from(["diagonal", "largest"]),
    basis=st.sampled_from(["paths", "cycles"]),
    seed=st.integers(0, 1000),
)
def test_any_perceptron(widths, bias, rule, basis, seed):
    """Round trip, closed form, invariance and rank for arbitrary widths."""
    params = perceptron(widths, bias, seed)
    gauge = mlp_gauge(params)
    skeleton = choose_skeleton(gauge, params, rule=rule, basis=basis)

    @compiled_quickly
    def everything(params, cotangent):
        values = path_values(params, skeleton)
        back, pullback = jax.vjp(lambda values: allocate(values, params, skeleton), values)
        closed = inverse_chain_rule(cotangent, params, skeleton)
        return values, back, closed, pullback(cotangent)[0]

    cotangent = jax.tree.map(jnp.cos, params)
    values, back, closed, vjp = everything(params, cotangent)
    assert relative(back, params) < 1e-12
    np.testing.assert_allclose(ravel(closed), ravel(vjp), rtol=1e-9, atol=1e-12)
    moved, *_ = everything(rescaled(gauge, params, seed), cotangent)
    free = free_entries(skeleton)
    np.testing.assert_allclose(ravel(moved)[free], ravel(values)[free], rtol=1e-10)
    paths = basis_paths(widths, bias, skeleton)
    assert rank(paths, gauge.num_entries) == gauge.num_free == len(set(paths))

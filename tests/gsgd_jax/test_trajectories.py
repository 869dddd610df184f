"""Trajectories in path space: sections 3 and 5 of the derivation."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsgd_jax import allocate, balance, choose_skeleton, gsgd, in_path_space, skeleton_init
from tests.gsgd_jax.networks import (
    VALLEY,
    furthest,
    loss,
    loss_and_grads,
    one_step,
    ravel,
    rescaled,
    train,
    values_of,
    weights_of,
)
from tests.gsgd_jax.transformations import INNER, WIDTHS, distance, optax_promotes, problem

pytestmark = pytest.mark.usefixtures("x64")


@optax_promotes
@pytest.mark.parametrize(
    ("inner", "basis"),
    [*((inner, "paths") for inner in INNER), ("sgd", "cycles"), ("adam", "cycles")],
)
def test_trajectories_do_not_see_the_scale_of_the_start(inner, basis):
    options = {"rule": "largest", "basis": basis}
    options |= {"tree_values": "balanced"} if basis == "cycles" else {}
    params, gauge, skeleton, data = problem(**options)
    moved = rescaled(gauge, params, 7, spread=0.5)
    # Everything is chosen anew from the rescaled copy, as someone who was handed it would.
    again = choose_skeleton(gauge, moved, **options)
    one, _ = train(in_path_space(INNER[inner], skeleton), params, data, 10)
    two, _ = train(in_path_space(INNER[inner], again), moved, data, 10)
    assert distance(one, two) < 1e-9
    assert distance(one, params) > 1e-2
    if basis == "paths":  # the control: the same transformation on weights
        one, two = (train(INNER[inner], start, data, 10)[0] for start in (params, moved))
        assert distance(one, two) > 1e-4


@pytest.mark.parametrize("widths", [WIDTHS, VALLEY])
def test_trajectories_of_the_papers_skeleton_do_not_see_it_either(widths):
    params, gauge, _, data = problem(widths)
    skeleton = choose_skeleton(gauge, params, basis="paths")
    params = skeleton_init(params, skeleton)
    moved = rescaled(gauge, params, 7)
    tx = gsgd(0.01, skeleton)
    one, two = (train(tx, start, data, 10)[0] for start in (params, moved))
    assert distance(one, two, widths) < 1e-9
    assert distance(one, params, widths) > 1e-3


@optax_promotes
@pytest.mark.parametrize("inner", INNER)
def test_it_is_the_same_transformation_on_explicit_path_values(inner):
    params, _, skeleton, data = problem()
    flat, unravel = jax.flatten_util.ravel_pytree(values_of(params, skeleton))
    values = unravel(flat.at[skeleton.in_edges].set(0))  # where there is no path value

    def value_loss(values, data):
        return loss(allocate(values, params, skeleton), data)

    explicit, _ = train(INNER[inner], values, data, 10, loss=value_loss)
    found, _ = train(in_path_space(INNER[inner], skeleton), params, data, 10)
    assert furthest(found, weights_of(explicit, params, skeleton)) < 1e-10
    assert furthest(found, params) > 1e-2


def test_cycles_are_gradient_descent_with_the_tree_frozen_at_one():
    params, gauge, _, data = problem(rule="diagonal")
    skeleton = choose_skeleton(gauge, params, basis="cycles")
    params = skeleton_init(params, skeleton)
    found, _ = train(gsgd(0.02, skeleton), params, data, 10)

    def frozen(params, data):
        kept = allocate(params, jax.lax.stop_gradient(params), skeleton)
        flat = [
            jnp.where(mask, jax.lax.stop_gradient(w), w)
            for mask, w in zip(tree, jax.tree.leaves(params), strict=True)
        ]
        assert jax.tree.structure(kept) == jax.tree.structure(params)
        return loss(jax.tree.unflatten(jax.tree.structure(params), flat), data)

    marks = np.isin(np.arange(gauge.num_entries), skeleton.in_edges)
    tree = [
        m.reshape(s)
        for m, s in zip(np.split(marks, gauge.offsets[1:-1]), gauge.shapes, strict=True)
    ]
    expected, _ = train(optax.sgd(0.02), params, data, 10, loss=frozen)
    assert furthest(found, expected) < 1e-12
    np.testing.assert_array_equal(ravel(found)[skeleton.in_edges], 1)


def test_balanced_cycles_are_gradient_descent_on_balanced_weights_with_the_tree_frozen():
    params, gauge, skeleton, data = problem(basis="cycles", tree_values="balanced")
    balanced = balance(params, gauge)
    _, grads = loss_and_grads(balanced, data)
    tx = gsgd(0.1, skeleton)
    _, updates, _ = one_step(tx, grads, balanced)
    free = np.setdiff1d(np.arange(gauge.num_entries), skeleton.in_edges)
    np.testing.assert_allclose(ravel(updates)[free], -0.1 * ravel(grads)[free], rtol=1e-9)
    np.testing.assert_array_equal(ravel(updates)[skeleton.in_edges], 0)


def test_choosing_the_skeleton_anew_keeps_the_function_and_goes_on():
    params, gauge, skeleton, data = problem()
    before, _ = train(gsgd(0.02, skeleton), params, data, 10)
    anew = choose_skeleton(gauge, before, rule="largest", basis="paths")
    assert anew.gauge == gauge
    after, _ = train(gsgd(0.02, anew), before, data, 50)
    last, middle, first = (loss_and_grads(w, data)[0] for w in (after, before, params))
    assert last < middle < first

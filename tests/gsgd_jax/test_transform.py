"""Optax transformations in path space: trajectories, guard, and what surrounds them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

from gsgd_jax import (
    allocate,
    balance,
    choose_skeleton,
    gsgd,
    in_path_space,
    inverse_chain_rule,
    mlp_gauge,
    skeleton_init,
    trivial_gauge,
)
from tests.gsgd_jax.networks import (
    VALLEY,
    apply,
    batch,
    compiled_quickly,
    furthest,
    loss,
    loss_and_grads,
    one_step,
    perceptron,
    ravel,
    rescaled,
    train,
    values_of,
    weights_of,
)

pytestmark = pytest.mark.usefixtures("x64")

WIDTHS = [4, 7, 3, 2]
INNER = {
    "sgd": optax.sgd(0.02),
    "momentum": optax.sgd(0.02, momentum=0.9),
    "nesterov": optax.sgd(0.02, momentum=0.9, nesterov=True),
    "adam": optax.adam(2e-3),
    "rmsprop": optax.rmsprop(2e-3),
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


# What path space is for: sections 3 and 5 of the derivation.


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
    values = values_of(params, skeleton)

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


# What surrounds it.


def test_no_group_is_the_inner_transformation_to_the_bit():
    params, gauge, _, data = problem()
    trivial = choose_skeleton(trivial_gauge(params), params, basis="paths")
    single = [(jnp.ones((3, 2)), jnp.ones(2))]
    expected, _ = train(INNER["momentum"], params, data, 5)
    for skeleton in (None, trivial):
        found, state = train(in_path_space(INNER["momentum"], skeleton), params, data, 5)
        assert furthest(found, expected) == 0
        assert (float(state.least_ratio), int(state.bounded)) == (1.0, 0)
    skeleton = choose_skeleton(mlp_gauge(single), single, basis="paths")
    tx = gsgd(0.5, skeleton)
    _, updates, _ = one_step(tx, single, single)
    assert furthest(updates, jax.tree.map(lambda w: -0.5 * w, single)) == 0
    assert gauge.num_nodes > 0


def test_leaves_outside_the_group_are_stepped_by_the_inner_transformation():
    params = {
        "w0": 2 * jnp.ones((2, 2)),
        "w1": 3 * jnp.ones((2, 1)),
        "scale": jnp.array([1.0, 2.0]),
    }
    skeleton = choose_skeleton(mlp_gauge(params, layers=["w0", "w1"]), params, basis="paths")
    tx = in_path_space(optax.sgd(0.1, momentum=0.9), skeleton)
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
    np.testing.assert_allclose(updates["scale"], -0.19 * jnp.ones(2), rtol=1e-12)


def test_gsgd_is_the_alias_it_says():
    params, _, skeleton, data = problem()
    options = {"momentum": 0.9, "nesterov": True}
    one, _ = train(gsgd(0.02, skeleton, **options), params, data, 5)
    two, _ = train(in_path_space(optax.sgd(0.02, **options), skeleton), params, data, 5)
    assert furthest(one, two) == 0


@optax_promotes
def test_schedules_and_injected_hyperparameters():
    params, _, skeleton, data = problem()
    schedule = optax.linear_schedule(0.02, 0.0, 4)
    scheduled, _ = train(gsgd(schedule, skeleton), params, data, 4)
    injected = optax.inject_hyperparams(gsgd)(learning_rate=schedule, coordinates=skeleton)
    outside, state = train(injected, params, data, 4)
    inside = in_path_space(optax.inject_hyperparams(optax.sgd)(schedule), skeleton)
    within, _ = train(inside, params, data, 4)
    assert furthest(scheduled, outside) < 1e-7  # hyperparameters are kept in float32
    assert furthest(scheduled, within) < 1e-7
    assert set(state.hyperparams) == {"learning_rate", "max_ratio", "max_growth"}


def test_weight_decay_and_clipping_inside_act_on_path_values():
    params, _, skeleton, _ = problem()
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = in_path_space(optax.chain(optax.add_decayed_weights(0.1), optax.sgd(1.0)), skeleton)
    reached, updates, _ = one_step(tx, zeros, params)
    decayed = values_of(reached, skeleton)
    values, free = (
        values_of(params, skeleton),
        np.setdiff1d(np.arange(skeleton.gauge.num_entries), skeleton.in_edges),
    )
    np.testing.assert_allclose(ravel(decayed)[free], 0.9 * ravel(values)[free], rtol=1e-12)
    assert not ravel(updates)[skeleton.in_edges].any()


def test_masks_belong_inside():
    params, _, skeleton, data = problem()
    mask = [(True, False)] * 3  # biases' path values are left alone
    inner = optax.chain(optax.masked(optax.set_to_zero(), [(False, True)] * 3), optax.sgd(0.02))
    found, _ = train(in_path_space(inner, skeleton), params, data, 3)
    before, after = values_of(params, skeleton), values_of(found, skeleton)
    free = [i for i in range(skeleton.gauge.num_entries) if i not in skeleton.in_edges]
    biases = [
        i
        for i in free
        if i
        in set(
            np.concatenate(
                [
                    np.arange(skeleton.gauge.offsets[k], skeleton.gauge.offsets[k + 1])
                    for k in (1, 3, 5)
                ]
            )
        )
    ]
    np.testing.assert_allclose(ravel(after)[biases], ravel(before)[biases], rtol=1e-11)
    assert furthest(after, before) > 1e-3
    outside = optax.masked(gsgd(0.02, skeleton), mask)
    with pytest.raises(ValueError, match="put the mask inside"):
        outside.init(params)


def test_extra_arguments_reach_the_inner_transformation():
    params, _, skeleton, data = problem()
    seen = []

    def update(updates, state, params=None, *, value, **extra):
        seen.append((value, sorted(extra)))
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    tx = in_path_space(inner, skeleton)
    _, grads = loss_and_grads(params, data)
    tx.update(grads, tx.init(params), params, value=3.0, anything=1)
    assert seen == [(3.0, ["anything"])]
    tx = in_path_space(optax.sgd(0.1), skeleton)  # takes none
    tx.update(grads, tx.init(params), params, value=3.0, anything=1)


def test_line_searches_see_path_space():
    params, _, skeleton, data = problem([2, 3, 2])
    values = values_of(params, skeleton)
    seen = {}

    def update(updates, state, params=None, *, grad, value_fn, **extra):
        seen["value"], seen["values"], seen["grad"] = value_fn(params), params, grad
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    tx, grads = in_path_space(inner, skeleton), jax.grad(loss)(params, data)
    objective = functools.partial(loss, data=data)
    tx.update(grads, tx.init(params), params, grad=grads, value_fn=objective)
    np.testing.assert_allclose(seen["value"], loss_and_grads(params, data)[0], rtol=1e-12)
    assert furthest(seen["values"], values) < 1e-14
    assert furthest(seen["grad"], inverse_chain_rule(grads, params, skeleton)) < 1e-14


@optax_promotes
def test_lbfgs_with_its_line_search_runs_in_path_space():
    params, gauge, skeleton, data = problem()
    objective = functools.partial(loss, data=data)
    tx = in_path_space(optax.lbfgs(memory_size=5), skeleton)

    @compiled_quickly
    def step(params, state):
        value, grads = jax.value_and_grad(objective)(params)
        updates, state = tx.update(
            grads, state, params, value=value, grad=grads, value_fn=objective
        )
        return optax.apply_updates(params, updates), state

    def run(params):
        state = tx.init(params)
        for _ in range(6):
            params, state = step(params, state)
        return params

    found = run(params)
    assert loss_and_grads(found, data)[0] < 0.7 * loss_and_grads(params, data)[0]
    assert distance(found, run(rescaled(gauge, params, 0))) < 1e-6


def test_parameters_are_needed():
    params, _, skeleton, _ = problem()
    tx = gsgd(0.1, skeleton)
    with pytest.raises(ValueError, match="you are not passing `params`"):
        tx.update(params, tx.init(params))


@pytest.mark.parametrize("bound", [1.0, 0.5, -2.0, float("nan")])
@pytest.mark.parametrize("name", ["max_ratio", "max_growth"])
def test_bad_bounds_are_refused(name, bound):
    with pytest.raises(ValueError, match=f"{name} must be above 1, got"):
        gsgd(0.1, None, **{name: bound})


@pytest.mark.usefixtures("unchecked")
def test_what_are_no_coordinates_is_refused():
    params, gauge, _, _ = problem()
    with pytest.raises(TypeError, match=r"coordinates must be a rescaling group .* got list"):
        in_path_space(optax.sgd(0.1), params)
    with pytest.raises(TypeError, match="transformation first and coordinates second, got Gauge"):
        in_path_space(gauge, optax.sgd(0.1))


def test_trees_that_are_not_the_gauges_are_refused():
    params, _, skeleton, _ = problem()
    with pytest.raises(ValueError, match="the tree must have the leaves that the gauge was built"):
        gsgd(0.1, skeleton).init(params[:-1])


def test_flax_train_state_and_flax_trees():
    import flax.linen as nn

    network = nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(4), nn.relu, nn.Dense(2)])
    x, labels = batch([3, 2], dtype=jnp.float32)
    params = jax.jit(network.init)(jax.random.key(0), x)
    skeleton = choose_skeleton(mlp_gauge(params), params, rule="largest", basis="paths")
    state = TrainState.create(apply_fn=network.apply, params=params, tx=gsgd(0.5, skeleton))

    @compiled_quickly
    def step(state):
        def objective(params):
            logits = state.apply_fn(params, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, grads = jax.value_and_grad(objective)(state.params)
        return state.apply_gradients(grads=grads), value

    state, first = step(state)
    for _ in range(30):
        state, last = step(state)
    assert last < 0.9 * first


def test_training_vectorises_over_seeds_and_step_sizes():
    params, gauge, _, data = problem()
    skeleton = choose_skeleton(gauge, params, basis="paths")
    starts = [skeleton_init(perceptron(WIDTHS, True, seed), skeleton) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    rates = jnp.array([0.01, 0.02, 0.03])
    tunable = optax.inject_hyperparams(lambda learning_rate: gsgd(learning_rate, skeleton))
    tx = tunable(learning_rate=0.0)

    @compiled_quickly
    @jax.vmap
    def run(params, rate):
        state = tx.init(params)
        state.hyperparams["learning_rate"] = rate
        return _scan(tx, params, state, data)

    together = run(stacked, rates)
    alone, _ = train(gsgd(0.02, skeleton), starts[1], data, 5)
    assert furthest(jax.tree.map(lambda leaf: leaf[1], together), alone) < 1e-8  # a float32 rate


def _scan(tx, params, state, data):
    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, data), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, state), length=5)[0][0]

"""Optax transformations in path space: what surrounds them, and what they refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

from gsgd_jax import (
    choose_skeleton,
    find_gauge,
    gsgd,
    in_path_space,
    inverse_chain_rule,
    mlp_gauge,
    skeleton_init,
    trivial_gauge,
)
from tests.gsgd_jax.networks import (
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
)
from tests.gsgd_jax.tracing.models import MODELS
from tests.gsgd_jax.transformations import INNER, WIDTHS, distance, optax_promotes, problem

pytestmark = pytest.mark.usefixtures("x64")


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
    assert set(state.hyperparams) == {"learning_rate", "max_ratio"}
    bounded = optax.inject_hyperparams(gsgd)(0.1, coordinates=skeleton, max_growth=50.0)
    assert bounded.init(params).hyperparams["max_growth"] == 50


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
    model = MODELS["gated"]  # whose group is no graph
    weights, x = model.draw(0)
    group = find_gauge(model.apply, weights, x)
    half = {name: name == "up" for name in weights}
    with pytest.raises(ValueError, match="put the mask inside"):
        optax.masked(in_path_space(optax.sgd(0.1), group), half).init(weights)


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
    shown, due = ravel(seen["values"]), ravel(values)
    due[skeleton.in_edges] = 0  # there is no path value
    np.testing.assert_allclose(shown, due, rtol=1e-14)
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


def test_numpy_scalars_are_parameters_like_any_other():
    layers = perceptron(WIDTHS, True)
    gauge = mlp_gauge({"net": layers, "temperature": np.float32(1)},
                      layers=[f"net/{i}" for i in range(len(layers))])  # fmt: skip
    far = {"net": rescaled(mlp_gauge(layers), layers)}
    scales = [
        in_path_space(optax.sgd(0.1), gauge).init(far | {"temperature": one}).frame.scales
        for one in (np.float32(1), np.float64(1), jnp.ones([]), np.ones([]))
    ]
    for other in scales:
        np.testing.assert_array_equal(other, scales[2])
        assert np.abs(np.log(other)).max() > 0.1
    shapes = jax.eval_shape(lambda: far | {"temperature": jnp.ones([])})
    np.testing.assert_array_equal(
        in_path_space(optax.identity(), gauge).init(shapes).frame.scales, 1
    )


def test_a_key_outside_the_group_is_left_alone():
    layers = perceptron(WIDTHS, True)
    names = [f"net/{i}" for i in range(len(layers))]
    tree = {"net": layers, "key": jax.random.key(0)}
    gauge = mlp_gauge(tree, layers=names)
    frame = in_path_space(optax.identity(), gauge).init(tree).frame
    plain = in_path_space(optax.identity(), mlp_gauge(layers)).init(layers).frame
    np.testing.assert_array_equal(frame.scales, plain.scales)
    for basis in ("paths", "cycles"):
        assert choose_skeleton(gauge, tree, basis=basis).gauge == gauge

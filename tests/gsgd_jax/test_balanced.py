"""The balanced coordinates, the default: what they are, and that nothing in them is singular."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsgd_jax import (
    allocate,
    balance,
    change_skeleton,
    find_gauge,
    gsgd,
    in_path_space,
    inverse_chain_rule,
    mlp_gauge,
    path_values,
    weight_updates,
)
from tests.gsgd_jax.networks import (
    batch,
    furthest,
    loss,
    loss_and_grads,
    one_step,
    perceptron,
    ravel,
    train,
)
from tests.gsgd_jax.tracing.models import MODELS
from tests.gsgd_jax.trajectories import assert_one_function

WIDTHS = [4, 7, 3, 2]
INNER = {
    "sgd": optax.sgd(0.05),
    "momentum": optax.sgd(0.02, momentum=0.9),
    "adam": optax.adam(1e-2),
    "rmsprop": optax.rmsprop(2e-3),
    "lion": optax.lion(1e-3),
    "muon": optax.contrib.muon(1e-2),
    "adamw": optax.adamw(1e-2),
}


@pytest.fixture
def problem(x64):
    params = perceptron(WIDTHS, True)
    return params, mlp_gauge(params), batch(WIDTHS)


# What they are.


def test_path_values_are_the_weights_of_the_balanced_copy(problem):
    params, gauge, _ = problem
    values = path_values(params, gauge)
    assert furthest(values, balance(params, gauge)) < 1e-12
    moved = gauge.rescale(params, jax.random.key(0), spread=2.0)
    assert furthest(path_values(moved, gauge), values) < 1e-12
    assert furthest(allocate(values, params, gauge), params) < 1e-14


def test_the_inverse_chain_rule_is_that_of_the_allocation(problem):
    params, gauge, data = problem
    values = path_values(params, gauge)
    _, grads = loss_and_grads(params, data)
    _, pull = jax.vjp(lambda values: allocate(values, params, gauge), values)
    assert furthest(inverse_chain_rule(grads, params, gauge), pull(grads)[0]) < 1e-14
    # A step of the values, one of the weights: linear, and exact.
    steps = jax.tree.map(lambda v: 0.1 * jnp.sin(v), values)
    changes, info = weight_updates(steps, params, gauge)
    reached = allocate(jax.tree.map(jnp.add, values, steps), params, gauge)
    assert furthest(jax.tree.map(jnp.add, params, changes), reached) < 1e-14
    assert int(info.bounded) == 0


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("inner", INNER)
def test_training_is_that_of_the_balanced_copy(problem, inner):
    """Any optimiser inside does to v what it does to the balanced copy's weights, to all."""
    params, gauge, data = problem
    balanced = balance(params, gauge)
    inside, _ = train(in_path_space(INNER[inner], gauge), params, data, 10)
    outside, _ = train(INNER[inner], balanced, data, 10)
    assert furthest(inside, allocate(outside, params, gauge)) < 1e-9
    assert furthest(inside, params) > 1e-3


def test_it_is_the_identity_on_a_balanced_start(problem):
    params, gauge, data = problem
    balanced = balance(params, gauge)
    _, grads = loss_and_grads(balanced, data)
    _, updates, _ = one_step(gsgd(0.1, gauge), grads, balanced)
    assert furthest(updates, jax.tree.map(lambda g: -0.1 * g, grads)) < 1e-12


# Invariance.


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("inner", INNER)
def test_trajectories_do_not_see_the_scale_of_the_start(problem, inner):
    params, gauge, data = problem
    moved = gauge.rescale(params, jax.random.key(3), spread=2.0)
    tx = in_path_space(INNER[inner], gauge)
    (one, _), (two, _) = (train(tx, start, data, 20) for start in (params, moved))
    assert furthest(path_values(one, gauge), path_values(two, gauge)) < 1e-9
    one, two = (train(INNER[inner], start, data, 20)[0] for start in (params, moved))
    assert furthest(path_values(one, gauge), path_values(two, gauge)) > 1e-3  # the control


@pytest.mark.parametrize("name", MODELS)
def test_every_group_has_them_graph_or_not(x64, name):
    model = MODELS[name]
    params, x = model.draw(0)
    group = find_gauge(model.apply, params, x)
    assert_one_function(model, params, x, group, gsgd(1e-4, group, momentum=0.9))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", ["perceptron", "cnn", "basic_block"])
def test_powers_of_two_change_not_a_bit(name, dtype):
    """Starts that differ by powers of two follow the same trajectory, bit by bit."""
    if name == "perceptron":
        params, x, apply = perceptron(WIDTHS, True, dtype=dtype), *_inputs(dtype)
    else:
        drawn, x = MODELS[name].draw(0)
        apply = MODELS[name].apply
        params, x = jax.tree.map(lambda w: w.astype(dtype), drawn), x.astype(dtype)
    gauge = find_gauge(apply, params, x)
    powers = 2.0 ** np.random.default_rng(0).integers(-6, 7, gauge.num_nodes)
    moved = gauge.act(params, jnp.asarray(powers, jnp.float32))
    assert furthest(moved, params) > 1
    tx = in_path_space(optax.sgd(0.01, momentum=0.9), gauge)

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda params: jnp.mean((apply(params, x) - 1) ** 2))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, apply(params, x)

    one, two = (params, tx.init(params)), (moved, tx.init(moved))
    for _ in range(20):
        *one, first = step(*one)
        *two, second = step(*two)
        np.testing.assert_array_equal(np.asarray(first), np.asarray(second))
    back = gauge.act(two[0], jnp.asarray(1 / powers, jnp.float32))
    assert furthest(back, one[0]) == 0
    assert furthest(one[0], params) > 1e-3


def _inputs(dtype):
    def apply(layers, x):
        for i, (kernel, bias) in enumerate(layers):
            x = jax.nn.relu(x) if i else x
            x = x @ kernel + bias[None]
        return x

    return batch(WIDTHS, dtype=dtype)[0], apply


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_any_other_rescaling_starts_within_rounding(dtype):
    params = perceptron(WIDTHS, True, dtype=dtype)
    gauge = mlp_gauge(params)
    moved = gauge.rescale(params, jax.random.key(0), spread=2.0)
    one, two = ravel(path_values(params, gauge)), ravel(path_values(moved, gauge))
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(two.astype(float), one.astype(float), rtol=8 * eps, atol=eps)


def test_a_traced_start_has_the_same_frame():
    params = perceptron(WIDTHS, True, dtype=jnp.float32)
    gauge = mlp_gauge(params)
    tx = gsgd(0.1, gauge)
    concrete, traced = tx.init(params).frame, jax.jit(tx.init)(params).frame
    np.testing.assert_allclose(traced.scales, concrete.scales, rtol=1e-5)
    seeds = [perceptron(WIDTHS, True, seed, dtype=jnp.float32) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    many = jax.vmap(tx.init)(stacked).frame
    np.testing.assert_allclose(many.scales[0], concrete.scales, rtol=1e-5)
    assert np.abs(many.scales[1] / many.scales[0] - 1).max() > 0.1


# Zeros, and bounds.


def test_zeros_are_no_obstacle(problem):
    """A dead unit, an unread one, pruned entries, a last layer of zeros: nothing is divided by."""
    params, gauge, data = problem
    pruned = jax.tree.map(lambda w: jnp.where(jnp.abs(w) < 0.4, 0.0, w), params)
    dead = [(params[0][0].at[:, 2].set(0), params[0][1].at[2].set(0)), *params[1:]]
    unread = [params[0], (params[1][0].at[3].set(0), params[1][1]), params[2]]
    silent = [*params[:-1], jax.tree.map(jnp.zeros_like, params[-1])]
    for start in (pruned, dead, unread, silent):
        moved = gauge.rescale(start, jax.random.key(0), spread=2.0)
        ends = [train(gsgd(0.05, gauge), w, data, 20)[0] for w in (start, moved)]
        assert np.isfinite(ravel(ends[0])).all()
        assert loss_and_grads(ends[0], data)[0] < loss_and_grads(start, data)[0]
        np.testing.assert_allclose(loss(ends[0], data), loss(ends[1], data), rtol=1e-9)
    # Pruned entries stay exactly zero under a mask of their gradients.
    kept = jax.tree.map(lambda w: (w != 0).astype(w.dtype), pruned)
    mask = optax.stateless(lambda u, _: jax.tree.map(jnp.multiply, u, kept))
    tx = in_path_space(optax.chain(optax.adam(1e-2), mask), gauge)
    with jax.numpy_dtype_promotion("standard"):
        end, _ = train(tx, pruned, data, 20)
    assert not ravel(end)[ravel(kept) == 0].any()
    assert furthest(end, pruned) > 1e-2


def test_no_weight_outgrows_the_bound(problem):
    params, gauge, data = problem
    largest = max(1.0, np.abs(ravel(balance(params, gauge))).max())
    for growth in (4.0, 100.0):
        end, _ = train(gsgd(1e6, gauge, max_growth=growth), params, data, 5)
        frame = in_path_space(optax.sgd(0.1), gauge).init(params).frame
        values = gauge.act(end, frame.scales)
        inside = [leaf for i, leaf in enumerate(jax.tree.leaves(values)) if gauge.touches(i)]
        reached = max(float(jnp.abs(leaf).max()) for leaf in inside)
        np.testing.assert_allclose(reached, growth * largest, rtol=1e-12)
    # A bound that is not reached changes nothing.
    one, two = (
        train(gsgd(0.05, gauge, max_growth=bound), params, data, 20)[0] for bound in (100.0, None)
    )
    assert furthest(one, two) < 1e-15


def test_going_over_to_the_balance_of_the_present_keeps_the_function(problem):
    params, gauge, data = problem
    inner = optax.sgd(0.05, momentum=0.9)
    tx = in_path_space(inner, gauge)
    before, state = train(tx, params, data, 20)
    carried = change_skeleton(inner, state, before, old=gauge, new=gauge, moments="gradients")
    assert furthest(carried.frame.scales, state.frame.scales) > 1e-3
    # Momentum is a sum of gradients: the same covector, in new units.
    old = gauge.act(jax.tree.map(jnp.ones_like, params), state.frame.scales)
    new = gauge.act(jax.tree.map(jnp.ones_like, params), carried.frame.scales)
    one = jax.tree.map(jnp.multiply, state.inner_state[0].trace, old)
    two = jax.tree.map(jnp.multiply, carried.inner_state[0].trace, new)
    assert furthest(one, two) < 1e-12
    same = change_skeleton(inner, state, before, old=gauge, new=gauge, moments="same")
    kept = ravel(same.inner_state[0].trace) != 0
    assert kept[-2:].all()  # the last biases, outside the group
    assert not kept[:-2].all()

"""Bounds on steps along directed paths: on the values whose signs are coordinates, on weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsgd_jax import (
    choose_section,
    choose_skeleton,
    find_gauge,
    gsgd,
    in_path_space,
    mlp_gauge,
    weight_updates,
)
from gsgd_jax.coordinates.paths import coordinates_of
from tests.gsgd_jax.kinds import KINDS, of_kind
from tests.gsgd_jax.networks import (
    apply,
    batch,
    furthest,
    one_step,
    perceptron,
    ravel,
    train,
    values_of,
    weights_of,
)
from tests.gsgd_jax.tracing.models import MODELS

pytestmark = pytest.mark.usefixtures("x64")

WIDTHS = [4, 7, 3, 2]


def problem(widths=WIDTHS, bias=True):
    params = perceptron(widths, bias)
    skeleton = choose_skeleton(mlp_gauge(params), params, rule="largest", basis="paths")
    return params, skeleton, batch(widths)


def descent_through_zero():
    """One hidden unit, out of which a path of value 1 leads; its best value is -1."""
    params = [jnp.array([[1.0]]), jnp.array([[1.0, 2.0]])]
    skeleton = choose_skeleton(mlp_gauge(params), params, basis="paths")
    return params, skeleton, [jnp.zeros((1, 1)), jnp.array([[2.0, 0.3]])]


def test_guard_bounds_the_step_of_free_skeleton_values_and_of_nothing_else():
    params, skeleton, grads = descent_through_zero()
    values = values_of(params, skeleton)
    for max_ratio, reached, bounded in [(None, -1.0, 0), (4.0, 0.25, 1), (10.0, 0.1, 1)]:
        tx = gsgd(1.0, skeleton, max_ratio=max_ratio)
        after, _, state = one_step(tx, grads, params)
        found = values_of(after, skeleton)
        np.testing.assert_allclose(found[1], [[reached, values[1][0, 1] - 0.3]], rtol=1e-12)
        assert float(state.least_ratio) == -1.0
        assert int(state.bounded) == bounded


def test_guard_bounds_growth_too():
    params, skeleton, grads = descent_through_zero()
    tx = in_path_space(optax.scale(1.0), skeleton, max_ratio=1.5)
    _, updates, state = one_step(tx, grads, params)
    np.testing.assert_allclose(updates[1], [[0.5, 0.3]], rtol=1e-12)
    assert (float(state.least_ratio), int(state.bounded)) == (3.0, 1)


def test_guard_moves_the_other_weights_of_the_node_along():
    """With three paths into and out of the unit, every value but the bounded one arrives."""
    params, _, _ = problem([2, 3, 3, 2])
    gauge = mlp_gauge(params)
    skeleton = choose_skeleton(gauge, params, rule="largest", basis="paths")
    values = values_of(params, skeleton)
    steps = jax.tree.map(lambda v: 0.1 * jnp.ones_like(v), values)
    first = int(skeleton.out_edges[skeleton.free_nodes[0]])
    flat = ravel(steps)
    flat[first] = -3 * ravel(values)[first]
    unravel = jax.flatten_util.ravel_pytree(params)[1]
    fixed = optax.stateless(lambda updates, params: unravel(jnp.asarray(flat)))
    tx = in_path_space(fixed, skeleton, max_ratio=2.0)
    reached, _, state = one_step(tx, params, params)
    assert int(state.bounded) >= 1
    reached = ravel(values_of(reached, skeleton))
    asked = ravel(values) + flat
    free = np.setdiff1d(np.arange(gauge.num_entries), [*skeleton.in_edges, *skeleton.out_edges])
    np.testing.assert_allclose(reached[free], asked[free], rtol=1e-11)
    np.testing.assert_allclose(reached[first], ravel(values)[first] / 2, rtol=1e-11)


def test_inside_the_bound_the_guard_changes_nothing():
    params, skeleton, data = problem()
    on, state = train(gsgd(0.02, skeleton, max_ratio=10.0), params, data, 20)
    off, _ = train(gsgd(0.02, skeleton, max_ratio=None), params, data, 20)
    assert int(state.bounded) == 0
    assert 0.1 < float(state.least_ratio) < 1.1
    assert furthest(on, off) < 1e-14
    # Operation by operation, where no compiler fuses differently, not a bit.
    params, skeleton, _ = problem([2, 3, 2])
    steps = jax.tree.map(lambda w: -0.1 * w, params)
    on, info = weight_updates(steps, params, skeleton, max_ratio=10.0)
    off, _ = weight_updates(steps, params, skeleton)
    assert int(info.bounded) == 0
    assert furthest(on, off) == 0


def test_guard_loses_nothing_on_the_way():
    """A value a hundred times too large comes down as far as it should, only in more steps."""
    params = [jnp.array([[1.0]]), jnp.array([[100.0]])]
    skeleton = choose_skeleton(mlp_gauge(params), params, basis="paths")
    data = jnp.array([[1.0]]), jnp.array([[2.0]])

    def squared(params, data):
        return 0.5 * jnp.sum((apply([(w,) for w in params], data[0]) - data[1]) ** 2)

    tx = gsgd(1.0, skeleton, max_ratio=3.0)  # the full step is Newton's, and ends at 2 at once
    reached, state = train(tx, params, data, 10, loss=squared)
    assert int(state.bounded) == 3  # 100, 33.3, 11.1, 3.7
    np.testing.assert_allclose(apply([(w,) for w in reached], data[0]), 2.0, rtol=1e-12)


def test_weights_stay_bounded_however_long_a_value_presses_against_zero():
    """The fault that the bound is for: tenfold a step, they once grew until they overflowed."""
    params = [(jnp.array([[1.0], [1.0]]),), (jnp.array([[1.0, 2.0]]),)]
    skeleton = choose_skeleton(mlp_gauge(params), params, basis="paths")

    def through_zero(steps, values):
        steps = jax.tree.map(jnp.zeros_like, steps)
        return [steps[0], (steps[1][0].at[0, 0].set(-2 * values[1][0][0, 0]),)]

    inner, largest = optax.stateless(through_zero), {}
    for growth in (1024.0, None):
        tx = in_path_space(inner, skeleton, max_growth=growth)
        weights, state = params, tx.init(params)
        for _ in range(20):
            updates, state = tx.update(params, state, weights)
            weights = optax.apply_updates(weights, updates)
        assert int(state.bounded) == 20
        scaled = skeleton.gauge.act(weights, state.frame.scales)
        largest[growth] = np.abs(ravel(scaled)).max() / float(state.frame.largest)
    assert 100 < largest[1024.0] <= 1024 * (1 + 1e-12)
    assert largest[None] > 1e19  # the control


def fixed(coordinates):
    """The numbers of the entries that have no coordinate of their own."""
    none = np.zeros(0, int)
    return getattr(coordinates, "entries", getattr(coordinates, "in_edges", none))


@KINDS
def test_weights_beyond_the_bound_are_not_thrown_back(kind, unchecked):
    """Weights loaded or rescaled in mid-run may lie beyond it: nothing forces them to move."""
    params, group, coordinates = of_kind(kind)
    far = group.act(params, jnp.full(group.num_nodes, 1e6))
    nothing = jax.tree.map(jnp.zeros_like, far)
    tx = in_path_space(optax.sgd(1.0), coordinates)
    state = tx.init(params)
    updates, _ = tx.update(nothing, state, far)
    assert not ravel(updates).any()
    # A step further out is cut to none, one back is taken.
    scaled = ravel(group.act(far, state.frame.scales))
    growth = coordinates_of(coordinates).advised_growth
    beyond = np.abs(scaled) > growth * float(state.frame.largest)
    beyond[fixed(coordinates)] = False
    assert beyond.sum() > 3
    for factor, moved in ((1.0, 0.0), (-0.5, 0.5)):
        # Of directed paths, those that leave the skeleton's values, and so other weights, alone.
        mask = np.ones(scaled.size)
        mask[coordinates.out_edges if kind == "paths" else fixed(coordinates)] = 0
        mask = jax.flatten_util.ravel_pytree(params)[1](jnp.asarray(mask))
        inner = optax.stateless(
            lambda _, v, by=factor, mask=mask: jax.tree.map(lambda a, m: by * a * m, v, mask)
        )
        end = optax.apply_updates(
            far, in_path_space(inner, coordinates).update(nothing, state, far)[0]
        )
        out = beyond & (ravel(mask) > 0)
        assert out.sum() > 3
        np.testing.assert_allclose(ravel(end)[out], ravel(far)[out] * (1 - moved), rtol=1e-12)


def test_without_the_guard_a_crossing_breaks_the_function():
    """Why there is one: all weights into the node change sign, all path values but one do not."""
    params, skeleton, _ = problem([2, 3, 2], bias=False)
    node = skeleton.free_nodes[0]
    crossed = ravel(values_of(params, skeleton))
    crossed[skeleton.out_edges[node]] *= -1
    unravel = jax.flatten_util.ravel_pytree(params)[1]
    moved = weights_of(unravel(jnp.asarray(crossed)), params, skeleton)
    into = np.setdiff1d(np.ravel_multi_index((np.arange(2), [node] * 2), (2, 3)), skeleton.in_edges)
    np.testing.assert_allclose(ravel(moved)[into], -ravel(params)[into], rtol=1e-12)


def test_not_a_number_is_not_hidden_by_the_guard():
    params, skeleton, grads = descent_through_zero()
    tx = gsgd(1.0, skeleton)
    _, updates, state = one_step(tx, jax.tree.map(lambda g: g * jnp.nan, grads), params)
    assert np.isnan(np.asarray(updates[1])).all()
    assert np.isnan(state.least_ratio)


def test_each_kind_of_coordinates_advises_its_own_bound_on_weights(unchecked):
    """What balanced coordinates need against overflow would hold directed paths up near zero."""
    params = [(jnp.array([[1.0], [1.0]]),), (jnp.array([[1.0, 2.0]]),)]
    gauge = mlp_gauge(params)
    far = optax.stateless(lambda steps, _: jax.tree.map(lambda u: jnp.full_like(u, 1e9), steps))
    paths = choose_skeleton(gauge, params, basis="paths")
    for coordinates, advised in ((gauge, 100), (paths, 1024)):
        tx = in_path_space(far, coordinates)
        state = tx.init(params)
        updates, _ = tx.update(params, state, params)
        scaled = gauge.act(optax.apply_updates(params, updates), state.frame.scales)
        reached = np.abs(ravel(scaled)).max() / float(state.frame.largest)
        np.testing.assert_allclose(reached, advised, rtol=1e-6)
    cycles = choose_skeleton(gauge, params, basis="cycles")
    model, x = MODELS["gated"], None
    wide, x = model.draw(0)
    group = find_gauge(model.apply, wide, x)
    for coordinates, weights in ((cycles, params), (choose_section(group, wide), wide)):
        for growth, reached in ((None, 1e6), (2.0, 2.0), ("advised", 1024.0)):
            tx = in_path_space(far, coordinates, max_growth=growth)
            state = tx.init(weights)
            updates, _ = tx.update(weights, state, weights)
            moved = optax.apply_updates(weights, updates)
            scaled = (gauge if weights is params else group).act(moved, state.frame.scales)
            largest = np.abs(ravel(scaled)).max() / float(state.frame.largest)
            if growth is None:
                assert largest > reached
            else:
                np.testing.assert_allclose(largest, reached, rtol=1e-6)
    with pytest.raises(ValueError, match='a number, "advised" or None, got "none"'):
        in_path_space(far, gauge, max_growth="none")


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@KINDS
def test_without_bounds_a_gradient_that_is_not_finite_gives_a_step_that_is_not(
    kind, bad, unchecked
):
    params, _, coordinates = of_kind(kind)
    tx = in_path_space(optax.sgd(0.1), coordinates, max_growth=None, max_ratio=None)
    state = tx.init(params)
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    unravel = jax.flatten_util.ravel_pytree(params)[1]
    update = jax.jit(tx.update)
    for entry in np.setdiff1d(np.arange(sum(sizes)), fixed(coordinates)):
        grads = np.ones(sum(sizes))
        grads[entry] = bad
        updates = ravel(update(unravel(jnp.asarray(grads)), state, params)[0])
        assert not np.isfinite(updates[entry]), entry


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_the_bound_cuts_infinite_steps_and_hides_no_nan(bad, unchecked):
    params, _, group = of_kind("balanced")
    tx = in_path_space(optax.sgd(0.1), group)
    state = tx.init(params)
    grads = jax.tree.map(jnp.zeros_like, params)
    grads["w3"] = grads["w3"].at[1, 0].set(bad)
    updates, _ = tx.update(grads, state, params)
    moved = group.act(optax.apply_updates(params, updates), state.frame.scales)["w3"][1, 0]
    limit = 100 * float(state.frame.largest)
    np.testing.assert_allclose(moved, -np.sign(bad) * limit if np.isinf(bad) else np.nan)


@pytest.mark.usefixtures("standard_promotion")
def test_targets_far_beyond_the_start_need_the_bound_lifted(unchecked):
    """As in a network whose outputs should be a hundred thousand times as large."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = [jax.random.normal(keys[0], (2, 8)), 0.3 * jax.random.normal(keys[1], (8, 1))]
    x = jax.random.normal(keys[2], (64, 2))

    def squared(params, x):
        return jnp.mean((jax.nn.relu(x @ params[0]) @ params[1] / 1e5 - x[:, :1]) ** 2)

    for growth, cut in (("advised", True), (None, False)):
        tx = in_path_space(optax.adam(3.0), mlp_gauge(params), max_growth=growth)
        end, _ = train(tx, params, x, 1000, loss=squared)
        assert (squared(end, x) > 0.1) == cut

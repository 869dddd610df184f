"""Going over to another skeleton: when, what is carried over, and that it loses nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsgd_jax import (
    Skeleton,
    balance,
    choose_skeleton,
    gsgd,
    in_path_space,
    inverse_chain_rule,
    mlp_gauge,
    path_values,
)
from gsgd_jax.change import change_skeleton, skeleton_margin
from gsgd_jax.coordinates.skeleton import edge_ends
from gsgd_jax.structure import basis_paths
from tests.gsgd_jax.networks import (
    apply,
    batch,
    compiled_quickly,
    furthest,
    loss,
    loss_and_grads,
    perceptron,
    ravel,
    train,
)

pytestmark = pytest.mark.usefixtures("x64")

WIDTHS = [4, 5, 3, 2]
optax_promotes = pytest.mark.usefixtures("standard_promotion")


def problem(basis="paths"):
    """A network and two skeletons of it that share some edges and differ in others."""
    params = perceptron(WIDTHS, True)
    gauge = mlp_gauge(params)
    old = choose_skeleton(gauge, params, rule="largest", basis=basis)
    # The second best way into the first unit and out of the last.
    numbers = np.arange(gauge.num_entries)
    tails, heads = edge_ends(gauge, numbers)
    sizes = np.abs(ravel(balance(params, gauge)))
    into, out = old.in_edges.copy(), old.out_edges.copy()
    into[0] = np.argsort(np.where(heads == 0, sizes, 0))[-2]
    out[-1] = np.argsort(np.where(tails == gauge.num_nodes - 1, sizes, 0))[-2]
    new = Skeleton(gauge, into, out, basis)
    return params, gauge, old, new, batch(WIDTHS)


# When.


def test_margin_is_invariant_and_one_where_all_ways_are_strongest():
    params, gauge, _, other, _ = problem()
    margin = jax.jit(skeleton_margin, static_argnums=1)
    moved = gauge.rescale(params, jax.random.key(0))
    assert 0 < margin(params, other) < 1
    np.testing.assert_allclose(margin(moved, other), margin(params, other), rtol=1e-11)
    single = [(jnp.ones((3, 2)), jnp.ones(2))]
    assert skeleton_margin(single, choose_skeleton(mlp_gauge(single), single, basis="paths")) == 1


@pytest.mark.parametrize("basis", ["paths", "cycles"])
def test_margin_is_the_least_ratio_of_two_ways(basis):
    """Against a loop over the ways into and out of every node."""
    params, gauge, _, skeleton, _ = problem(basis)
    weights = ravel(balance(params, gauge))
    alpha, beta, into, out = {}, {}, {}, {}
    for path in basis_paths(choose_skeleton(gauge, params, rule=skeleton, basis="paths")):
        at = -1
        for position, entry in enumerate(path):
            heads = np.concatenate(
                [
                    np.broadcast_to(h, s).ravel()
                    for h, s in zip(gauge.heads, gauge.shapes, strict=True)
                ]
            )
            before, after = (
                np.prod(weights[list(path[:position])]),
                weights[list(path[position + 1 :])],
            )
            tail, at = at, int(heads[entry])
            into.setdefault(at, []).append(abs(before * weights[entry]))
            out.setdefault(tail, []).append(abs(weights[entry] * np.prod(after)))
            if entry == (skeleton.in_edges[at] if at >= 0 else None):
                alpha[at] = abs(before * weights[entry])
            if entry == (skeleton.out_edges[tail] if tail >= 0 else None):
                beta[tail] = abs(weights[entry] * np.prod(after))
    expected = min(
        min(alpha[h] / max(into[h]), beta[h] / max(out[h])) for h in range(gauge.num_nodes)
    )
    np.testing.assert_allclose(skeleton_margin(params, skeleton), expected, rtol=1e-11)


# What is carried.


@pytest.mark.parametrize("basis", ["paths", "cycles"])
def test_gradients_are_carried_over_as_gradients(basis):
    """A momentum that is one gradient becomes that gradient in the new coordinates."""
    params, _, old, new, data = problem(basis)
    _, grads = loss_and_grads(params, data)
    inner = optax.sgd(0.1, momentum=0.9)

    @compiled_quickly
    def run(grads, params):
        tx = in_path_space(inner, old)
        _, state = tx.update(grads, tx.init(params), params)
        there = change_skeleton(inner, state, params, old=old, new=new, moments="gradients")
        back = change_skeleton(inner, there, params, old=new, new=old, moments="gradients")
        return state, there, back, inverse_chain_rule(grads, params, new)

    state, there, back, expected = run(grads, params)
    assert furthest(there.inner_state[0].trace, expected) < 1e-12
    assert furthest(back.inner_state, state.inner_state) < 1e-12
    assert furthest(there.inner_state, state.inner_state) > 1e-3


def test_carried_momentum_does_the_same_work_along_every_change_of_the_weights():
    """Σ m dv is one number in both coordinates, for momentum that is no gradient of anything."""
    params, _, old, new, data = problem()
    inner = optax.sgd(0.01, momentum=0.9)
    reached, state = train(in_path_space(inner, old), params, data, 5)
    change = jax.tree.map(lambda w: jnp.cos(3 * w), params)

    @compiled_quickly
    def work(state, params):
        there = change_skeleton(inner, state, params, old=old, new=new, moments="gradients")
        works = []
        for held, skeleton in ((state, old), (there, new)):
            _, moved = jax.jvp(lambda w, s=skeleton: path_values(w, s), (params,), (change,))
            works.append(optax.tree.vdot(held.inner_state[0].trace, moved))
        return works

    one, two = work(state, reached)
    np.testing.assert_allclose(two, one, rtol=1e-11)
    assert abs(one) > 1e-3


@optax_promotes
@pytest.mark.parametrize("basis", ["paths", "cycles"])
def test_same_keeps_what_the_slopes_agree_on_and_resets_the_rest(basis):
    params, _, old, new, data = problem(basis)
    inner = optax.adam(1e-3)
    reached, state = train(in_path_space(inner, old), params, data, 3)
    # No unit is dead to the memory: then an entry that is zero afterwards has been reset.
    remembered = jax.tree.map(lambda v: 1 + v, state.inner_state[0].nu)
    seen = state.inner_state[0]._replace(mu=remembered, nu=remembered)
    state = state._replace(inner_state=(seen, *state.inner_state[1:]))
    there = change_skeleton(inner, state, reached, old=old, new=new)
    moments, carried = state.inner_state[0], there.inner_state[0]
    assert int(carried.count) == 3
    kept = ravel(carried.nu) != 0
    assert 5 < kept.sum() < kept.size - 5
    for name in ("mu", "nu"):
        np.testing.assert_array_equal(
            ravel(getattr(carried, name)), np.where(kept, ravel(getattr(moments, name)), 0)
        )
    # Where it is kept, the slope is the same function: for gradients that are none, too.
    cotangent = jax.tree.map(lambda w: jnp.sin(5 * w), reached)
    one, two = (ravel(inverse_chain_rule(cotangent, reached, s)) for s in (old, new))
    np.testing.assert_allclose(two[kept], one[kept], rtol=1e-12)
    # And it is kept wherever it is, off the skeletons.
    on = [*old.in_edges, *new.in_edges]
    on += [*old.out_edges, *new.out_edges] if basis == "paths" else []
    off = np.setdiff1d(np.arange(kept.size), on)
    np.testing.assert_array_equal(kept[off], np.isclose(one[off], two[off], rtol=1e-9))


@optax_promotes
@pytest.mark.parametrize("moments", ["same", "gradients"])
def test_going_over_to_the_same_skeleton_changes_nothing_that_matters(moments):
    params, _, old, _, data = problem()
    inner = optax.chain(
        optax.trace(0.9), optax.scale_by_schedule(lambda count: -0.01 / (count + 1))
    )
    reached, state = train(in_path_space(inner, old), params, data, 3)
    there = change_skeleton(inner, state, reached, old=old, new=old, moments=moments)
    assert int(there.inner_state[1].count) == 3
    on_neither = (
        np.setdiff1d(np.arange(old.gauge.num_entries), [*old.in_edges, *old.out_edges])
        if moments == "same"
        else np.arange(old.gauge.num_entries)
    )
    one, two = (ravel(s.inner_state[0].trace)[on_neither] for s in (state, there))
    np.testing.assert_allclose(two, one, rtol=1e-10, atol=1e-14)


def test_reset_is_a_fresh_start_but_for_the_counters():
    params, _, old, new, data = problem()
    inner = optax.sgd(optax.constant_schedule(0.01), momentum=0.9)
    reached, state = train(in_path_space(inner, old), params, data, 3)
    there = change_skeleton(inner, state, reached, old=old, new=new, moments="reset")
    assert not ravel(there.inner_state[0].trace).any()
    assert int(there.inner_state[1].count) == 3
    assert (float(there.least_ratio), int(there.bounded)) == (1.0, int(state.bounded))


@optax_promotes
def test_adam_after_a_reset_steps_as_far_as_documented():
    tx = optax.adam(1.0, eps=0.0)
    weight = jnp.zeros(1)
    state = tx.init(weight)
    state = (state[0]._replace(count=jnp.asarray(10**6, jnp.int32)), *state[1:])
    steps = []
    for _ in range(30):
        update, state = tx.update(jnp.ones(1), state, weight)
        steps.append(-float(update[0]))
    assert (np.argmax(steps) + 1, round(max(steps), 1)) == (12, 6.6)


@pytest.mark.parametrize("moments", ["same", "gradients"])
def test_training_goes_on_and_the_function_is_not_changed(moments):
    params, _, old, new, data = problem()
    inner = optax.sgd(0.02, momentum=0.9)
    middle, state = train(in_path_space(inner, old), params, data, 10)
    state = change_skeleton(inner, state, middle, old=old, new=new, moments=moments)
    tx = in_path_space(inner, new)

    @compiled_quickly
    def finish(params, state):
        for _ in range(3):
            updates, state = tx.update(jax.grad(loss)(params, data), state, params)
            params = optax.apply_updates(params, updates)
        return params

    last, before, first = (
        float(loss_and_grads(w, data)[0]) for w in (finish(middle, state), middle, params)
    )
    assert last < before < first


# The guard and the new choice together: no value is out of reach.


def test_a_path_value_that_must_change_its_sign_does_so_in_another_skeleton():
    """The guard alone keeps it above zero for ever; going over to another tree lets it through."""
    params = [(jnp.array([[1.0]]),), (jnp.array([[1.0, 2.0]]),)]
    gauge, x = mlp_gauge(params), jnp.array([[1.0]])
    target = jnp.array([[-1.0, 2.0]])
    inner = optax.sgd(0.5)

    def squared(params, data):
        return 0.5 * jnp.sum((apply(params, data[0]) - data[1]) ** 2)

    start = choose_skeleton(gauge, params, basis="paths")
    # Without the bound on weights, which would keep it from getting as near to zero as it does.
    tx = in_path_space(inner, start, max_ratio=4.0, max_growth=None)
    stuck, state = train(tx, params, (x, target), 30, squared)
    assert int(state.bounded) == 30
    assert 0 < apply(stuck, x)[0, 0] < 1e-6
    assert skeleton_margin(stuck, start) < 1e-6

    @functools.partial(jax.jit, static_argnums=2)
    def step(params, state, skeleton):
        tx = in_path_space(inner, skeleton, max_ratio=4.0)
        updates, state = tx.update(jax.grad(squared)(params, (x, target)), state, params)
        params = optax.apply_updates(params, updates)
        return params, state, skeleton_margin(params, skeleton)

    skeleton, changes = start, 0
    state = in_path_space(inner, skeleton, max_ratio=4.0).init(params)
    for _ in range(60):
        params, state, margin = step(params, state, skeleton)
        if margin < 0.1:
            new = choose_skeleton(gauge, params, rule="largest", basis="paths")
            state = change_skeleton(inner, state, params, old=skeleton, new=new)
            skeleton, changes = new, changes + 1
    assert changes == 1
    np.testing.assert_allclose(apply(params, x), target, rtol=1e-9)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(
    ("inner", "own"),
    [
        (optax.novograd(0.01), ("nu",)),
        (optax.adafactor(0.01, min_dim_size_to_factor=2), ("v_row", "v_col")),
    ],
)
def test_what_is_remembered_of_a_whole_leaf_keeps_its_shape(inner, own):
    """Norms of gradients, and factors of their squares: kept where nothing of the leaf changes."""
    params, _, old, new, data = problem()
    _, state = train(in_path_space(inner, old), params, data, 2)
    changed = change_skeleton(inner, state, params, old=old, new=new)
    fresh = in_path_space(inner, new).init(params)
    kept = reset = 0
    for (path, before), after, start in zip(
        jax.tree.leaves_with_path(state.inner_state),
        *(jax.tree.leaves(s.inner_state) for s in (changed, fresh)),
        strict=True,
    ):
        assert after.shape == before.shape
        if any(f".{name}" in jax.tree_util.keystr(path) for name in own):
            stays, begins = (bool((after == leaf).all()) for leaf in (before, start))
            assert stays or begins
            kept, reset = kept + stays, reset + (not stays)
    assert kept
    assert reset


# Borders.


def test_what_cannot_be_carried_is_refused():
    params, _, old, new, _ = problem()
    inner = optax.masked(optax.trace(0.9), [(True, False)] * 3)
    state = in_path_space(inner, old).init(params)
    for moments in ("same", "gradients"):
        with pytest.raises(ValueError, match="take moments='reset'"):
            change_skeleton(inner, state, params, old=old, new=new, moments=moments)
    reset = change_skeleton(inner, state, params, old=old, new=new, moments="reset")
    assert jax.tree.structure(reset) == jax.tree.structure(state)
    other = perceptron([4, 2], True)
    skeleton = choose_skeleton(mlp_gauge(other), other, basis="paths")
    with pytest.raises(ValueError, match="both skeletons must be of one gauge"):
        change_skeleton(inner, state, params, old=old, new=skeleton)


@pytest.mark.usefixtures("unchecked")
def test_unknown_options_are_refused():
    params, _, old, new, _ = problem()
    state = gsgd(0.1, old).init(params)
    with pytest.raises(ValueError, match="'same', 'gradients' or 'reset', got 'all'"):
        change_skeleton(optax.sgd(0.1), state, params, old=old, new=new, moments="all")


@pytest.mark.parametrize("basis", ["paths", "cycles"])
def test_the_margin_of_a_node_that_zeros_read_is_a_number(basis):
    params, gauge, _, _, _ = problem()
    for zero in (params[-1][0].shape, None):
        tree = [*params[:-1], tuple(map(jnp.zeros_like, params[-1]))] if zero else params
        skeleton = choose_skeleton(gauge, params, basis=basis)
        margin = float(skeleton_margin(tree, skeleton))
        assert 0 <= margin <= 1
    unread = [*params[:-1], tuple(map(jnp.zeros_like, params[-1]))]
    chosen = choose_skeleton(gauge, unread, basis="cycles", rule="largest")
    assert float(skeleton_margin(unread, chosen)) > 0
    assert np.isnan(skeleton_margin(jax.tree.map(lambda w: w * jnp.nan, params), skeleton))

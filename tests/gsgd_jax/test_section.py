"""Sections: path space where the group is no graph, and what they share with cycles where it is."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsgd_jax import (
    Section,
    allocate,
    change_skeleton,
    choose_section,
    find_gauge,
    gsgd,
    in_path_space,
    inverse_chain_rule,
    path_values,
)
from tests.gsgd_jax.tracing.models import MODELS
from tests.gsgd_jax.trajectories import assert_one_function

NO_GRAPHS = [name for name, model in MODELS.items() if not model.graph]


@functools.cache
def drawn(name):
    model = MODELS[name]
    params, x = model.draw(0)
    return model, params, x, find_gauge(model.apply, params, x)


def largest_difference(one, other):
    pairs = zip(*map(jax.tree.leaves, (one, other)), strict=True)
    return max(float(jnp.abs(a - b).max()) for a, b in pairs)


@pytest.mark.parametrize("name", NO_GRAPHS)
@pytest.mark.parametrize(
    "inner", [optax.sgd(1e-4, momentum=0.9), optax.rmsprop(1e-3), optax.adafactor(1e-3)]
)
@pytest.mark.usefixtures("standard_promotion")  # optax's decay is float32
def test_trajectories_of_rescaled_copies_are_one_of_functions(x64, name, inner):
    model, params, x, group = drawn(name)
    tx = in_path_space(inner, choose_section(group, params))
    assert_one_function(model, params, x, group, tx)


@pytest.mark.parametrize("name", NO_GRAPHS)
@pytest.mark.parametrize("magnitudes", ["balanced", "ones"])
def test_the_choice_is_the_same_for_all_copies(x64, name, magnitudes):
    _, params, _, group = drawn(name)
    one, other = (
        choose_section(group, p, magnitudes=magnitudes)
        for p in (params, group.rescale(params, jax.random.key(1)))
    )
    np.testing.assert_array_equal(one.entries, other.entries)
    np.testing.assert_allclose(one.magnitudes, other.magnitudes, rtol=1e-9)
    if magnitudes == "ones":
        assert (one.magnitudes == 1).all()


@pytest.mark.parametrize("name", NO_GRAPHS)
def test_values_are_a_copy_of_the_network_off_the_pivots(x64, name):
    """With the pivots at their magnitudes the values are weights, and give the same function."""
    model, params, x, group = drawn(name)
    section = choose_section(group, params)
    moved = group.rescale(params, jax.random.key(3))
    values = [path_values(p, section) for p in (params, moved)]
    leaves = [jax.tree.leaves(v) for v in values]
    for one, other, pivots in zip(*leaves, section.pivots, strict=True):
        rest = np.setdiff1d(np.arange(one.size), [] if pivots is None else pivots)
        np.testing.assert_allclose(one.ravel()[rest], other.ravel()[rest], rtol=1e-9)
    copy, place = [], 0
    for leaf, pivots in zip(leaves[0], section.pivots, strict=True):
        flat = leaf.ravel()
        if pivots is not None:
            size = section.magnitudes[place : place + len(pivots)]
            flat = flat.at[pivots].set(jnp.sign(flat[pivots]) * size)
            place += len(pivots)
        copy.append(flat.reshape(leaf.shape))
    copy = jax.tree.unflatten(jax.tree.structure(params), copy)
    np.testing.assert_allclose(model.apply(copy, x), model.apply(params, x), rtol=1e-9, atol=1e-12)
    assert largest_difference(allocate(values[0], moved, section), moved) < 1e-9


@pytest.mark.parametrize("name", NO_GRAPHS)
def test_slopes_are_the_gradient_with_respect_to_values(x64, name):
    model, params, x, group = drawn(name)
    section = choose_section(group, params)
    loss = lambda p: jnp.sum(jnp.sin(model.apply(p, x)))  # noqa: E731
    values = path_values(params, section)
    wanted = jax.grad(lambda v: loss(allocate(v, params, section)))(values)
    found = inverse_chain_rule(jax.grad(loss)(params), params, section)
    assert largest_difference(found, wanted) < 1e-9


def test_a_gated_unit_by_hand():
    def gated(params, x):
        up, gate, down = params
        return (jax.nn.relu(x @ gate) * (x @ up)) @ down

    params = [jnp.array([[2.0], [-6.0]]), jnp.array([[4.0], [8.0]]), jnp.array([[0.5]])]
    group = find_gauge(gated, params, jnp.ones((1, 2)))
    section = Section(group, np.array([0, 2]), np.array([1.0, 2.0]))  # up's first, gate's first
    values = path_values(params, section)
    np.testing.assert_allclose(values[0].ravel(), [2.0, -3.0])  # the pivot stands for itself
    np.testing.assert_allclose(values[1].ravel(), [4.0, 4.0])
    np.testing.assert_allclose(values[2].ravel(), [2.0])  # 0.5 * 2 * 2
    tx = gsgd(0.1, section)
    updates, _ = tx.update([jnp.ones_like(p) for p in params], tx.init(params), params)
    np.testing.assert_allclose(updates[0].ravel(), [0.0, -0.1 * 4])  # once for g, once for u
    np.testing.assert_allclose(updates[1].ravel(), [0.0, -0.1 * 4], rtol=1e-6)
    np.testing.assert_allclose(updates[2].ravel(), [-0.1 / 16], rtol=1e-6)


class Normed(nn.Module):
    """A norm with weights before a gated unit: approximate nodes beside exact ones."""

    @nn.compact
    def __call__(self, x):
        dense = functools.partial(nn.Dense, param_dtype=jnp.float64)
        x = nn.LayerNorm(epsilon=1e-3, param_dtype=jnp.float64)(dense(4)(x))
        return dense(2)(nn.relu(dense(3)(x)) * dense(3)(x))


def test_nodes_that_an_epsilon_breaks_are_left_alone(x64):
    x = jax.random.normal(jax.random.key(0), (6, 3), jnp.float64)
    with jax.numpy_dtype_promotion("standard"):  # flax's norms mix precisions
        params = Normed().init(jax.random.key(1), x)
        params = jax.tree.map(lambda w: w + 0.1, params)
        group = find_gauge(Normed().apply, params, x)
    assert group.approximate
    section = choose_section(group, params)
    assert len(section.nodes) == group.num_nodes - len(group.approximate)
    assert not set(section.nodes) & set(group.approximate)


def test_random_pivots_need_a_key_and_follow_it(x64):
    _, params, _, group = drawn("gated")
    sections = [
        choose_section(group, params, rule="random", key=jax.random.key(k)) for k in (0, 0, 1)
    ]
    assert sections[0] == sections[1]
    assert hash(sections[0]) == hash(sections[1])
    assert sections[0] != sections[2]
    with pytest.raises(ValueError, match="needs key="):
        choose_section(group, params, rule="random")
    with pytest.raises(ValueError, match="needs key="):
        choose_section(group, params, key=jax.random.key(0))


def two_sections(name, magnitudes):
    """A section by the largest weights, and another of whose pivots some are the same."""
    model, params, x, group = drawn(name)
    old = choose_section(group, params, magnitudes=magnitudes)
    tried = (
        choose_section(group, params, rule="random", key=jax.random.key(k), magnitudes=magnitudes)
        for k in range(20)
    )
    new = max(tried, key=lambda other: np.isin(other.entries, old.entries).sum())
    assert 0 < np.isin(new.entries, old.entries).sum() < len(old.entries)
    return model, params, x, old, new


@pytest.mark.parametrize("name", NO_GRAPHS)
def test_going_over_to_another_section_carries_gradients_as_gradients(x64, name):
    model, params, x, old, new = two_sections(name, "balanced")
    inner = optax.sgd(0.1, momentum=0.9)

    @jax.jit
    def run(params):
        grads = jax.grad(lambda p: jnp.mean((model.apply(p, x) - 1.0) ** 2))(params)
        tx = in_path_space(inner, old)
        _, state = tx.update(grads, tx.init(params), params)
        there = change_skeleton(inner, state, params, old=old, new=new, moments="gradients")
        back = change_skeleton(inner, there, params, old=new, new=old, moments="gradients")
        return state, there, back, inverse_chain_rule(grads, params, new)

    state, there, back, expected = run(params)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    assert largest_difference(there.inner_state[0].trace, expected) < 1e-11 * scale
    assert largest_difference(back.inner_state, state.inner_state) < 1e-11 * scale
    assert largest_difference(there.inner_state, state.inner_state) > 1e-3 * scale


@pytest.mark.parametrize("name", NO_GRAPHS)
def test_going_over_keeps_what_the_slopes_of_both_sections_agree_on(x64, name):
    _, params, _, old, new = two_sections(name, "ones")
    inner = optax.trace(0.9)
    state = in_path_space(inner, old).init(params)
    state = state._replace(inner_state=optax.TraceState(jax.tree.map(jnp.ones_like, params)))
    there = change_skeleton(inner, state, params, old=old, new=new)
    kept = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(there.inner_state)]) == 1
    # At other weights, too: the factor is the same function, not the same number.
    moved = jax.tree.map(lambda w: w * (1.5 + jnp.sin(7 * w)), params)
    ones = jax.tree.map(jnp.ones_like, params)
    one, two = (
        np.concatenate([np.ravel(g) for g in jax.tree.leaves(inverse_chain_rule(ones, moved, s))])
        for s in (old, new)
    )
    off = np.setdiff1d(np.arange(kept.size), [*old.entries, *new.entries])
    np.testing.assert_array_equal(kept[off], np.isclose(one[off], two[off], rtol=1e-9))
    assert not kept[[*old.entries, *new.entries]].any()
    again = change_skeleton(inner, state, params, old=old, new=old)
    assert sum(int((leaf == 1).sum()) for leaf in jax.tree.leaves(again.inner_state)) == (
        kept.size - len(old.entries)
    )


@pytest.mark.parametrize("moments", ["same", "gradients", "reset"])
def test_a_change_of_section_on_the_way_is_not_seen_by_the_function(x64, moments):
    """Of two rescaled copies, which choose anew from the weights reached."""
    model, params, x, group = drawn("gated")
    inner = optax.sgd(1e-3, momentum=0.9)

    def loss(params):
        return jnp.mean((model.apply(params, x) - 1.0) ** 2)

    @functools.partial(jax.jit, static_argnums=2)
    def steps(params, state, section):
        for _ in range(2):
            updates, state = in_path_space(inner, section).update(
                jax.grad(loss)(params), state, params
            )
            params = optax.apply_updates(params, updates)
        return params, state

    old = choose_section(group, params, rule="random", key=jax.random.key(0))
    middle, state = steps(params, in_path_space(inner, old).init(params), old)
    new = choose_section(group, middle)
    outputs = []
    for run in (middle, group.rescale(middle, jax.random.key(3))):
        assert choose_section(group, run) != old
        # The same coordinates have the same memory, whatever the copy.
        there = change_skeleton(inner, state, run, old=old, new=new, moments=moments)
        reached, _ = steps(run, there, new)
        assert loss(reached) < loss(run) < loss(params)
        outputs.append(model.apply(reached, x))
    scale = float(jnp.abs(outputs[0]).max())
    assert float(jnp.abs(outputs[0] - outputs[1]).max()) < 1e-9 * scale


def test_sections_of_other_groups_are_no_change(x64):
    _, params, _, group = drawn("gated")
    section = choose_section(group, params)
    again = choose_section(find_gauge(*(MODELS["gated"].apply, *MODELS["gated"].draw(0))), params)
    assert (section, hash(section)) == (again, hash(again))
    name = next(name for name in NO_GRAPHS if name != "gated")
    _, others, _, other = drawn(name)
    state = gsgd(0.1, section).init(params)
    with pytest.raises(ValueError, match="or sections of one group, got RescalingGroup"):
        change_skeleton(
            optax.sgd(0.1), state, params, old=section, new=choose_section(other, others)
        )


def test_bad_input_is_refused(x64, unchecked):
    _, params, _, group = drawn("gated")
    good = choose_section(group, params)
    assert "pivots" in str(good)
    assert "10 pivots" in repr(good)
    with pytest.raises(ValueError, match="10 pivots"):
        Section(group, good.entries[:-1], good.magnitudes[:-1])
    with pytest.raises(ValueError, match="positive"):
        Section(group, good.entries, -good.magnitudes)
    with pytest.raises(ValueError, match="independent"):
        Section(group, np.repeat(good.entries[:1], 10), good.magnitudes)
    with pytest.raises(ValueError, match="or 'random', got 'diagonal'"):
        choose_section(group, params, rule="diagonal")
    with pytest.raises(ValueError, match="3 leaves, got 1 without down, up;"):
        choose_section(group, {"gate": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match="3 leaves, got 1 without down, up;"):
        path_values({"gate": jnp.ones((2, 2))}, good)
    with pytest.raises(ValueError, match="finite"):
        choose_section(group, {**params, "up": params["up"] * jnp.nan})
    with pytest.raises(ValueError, match="not zero"):
        choose_section(
            group, jax.tree.map(jnp.zeros_like, params), rule="random", key=jax.random.key(0),
            magnitudes="ones",
        )  # fmt: skip
    with pytest.raises(ValueError, match="traced"):
        jax.jit(lambda p: choose_section(group, p) and 0)(params)


def test_a_key_outside_the_group_is_left_alone(x64):
    model, params, x, group = drawn("gated")

    def apply(tree, x):
        return model.apply(tree["net"], x)

    tree = {"key": jax.random.key(0), "net": params}
    with_key = find_gauge(apply, tree, x)
    section, plain = choose_section(with_key, tree), choose_section(group, params)
    np.testing.assert_allclose(section.magnitudes, plain.magnitudes, rtol=1e-12)
    state = in_path_space(optax.identity(), section).init(tree)
    np.testing.assert_allclose(state.frame.scales, in_path_space(optax.identity(), plain).init(
        params).frame.scales, rtol=1e-6)  # fmt: skip


def test_a_gauge_has_skeletons_instead(unchecked):
    model = MODELS["mlp"]
    params, x = model.draw(0)
    with pytest.raises(TypeError, match=r"got a gauge, .*cycles.* chooses the same"):
        choose_section(find_gauge(model.apply, params, x), params)

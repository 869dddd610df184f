"""The ladder's rules inside what optax and jax wrap around a transformation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization

from dcasgd_jax.rules.compensation import delay_compensation
from dcasgd_jax.rules.curvature import curvature_compensation, outer_product
from dcasgd_jax.rules.gauss_newton import empirical_fisher, gauss_newton
from dcasgd_jax.rules.hessian import hessian, hessian_diagonal
from dcasgd_jax.rules.low_rank import low_rank_compensation
from dcasgd_jax.rules.rotated import rotated_compensation
from tests.compiled import counting_compilations
from tests.dcasgd_jax.rules.ladder_rules import (
    ARRIVALS,
    LENGTH,
    PARAMS,
    RULES,
    gradient_of,
    losses_of,
    outputs_of,
    run_through,
)


@pytest.fixture(scope="module", params=RULES)
def rule(request):
    """A rule, its eager outputs [LENGTH, ...] and final state."""
    tx = RULES[request.param]()
    state, outputs, update = tx.init(PARAMS), [], jax.jit(tx.update)
    with counting_compilations() as counts:
        for t in range(LENGTH):
            (g, w), extra = jax.tree.map(lambda x, t=t: x[t], ARRIVALS)
            u, state = update(g, state, w, **extra)
            outputs.append(u)
    assert counts[tx.update.__name__] == 1, "the second call compiled again"
    return request.param, tx, jax.tree.map(lambda *x: jnp.stack(x), *outputs), state


def test_scan_cond_and_vmap_agree_with_call_after_call(rule):
    _, tx, outputs, state = rule
    found, after = jax.jit(lambda a: run_through(tx, a))(ARRIVALS)
    chex.assert_trees_all_close(found, outputs, rtol=2e-4, atol=1e-5)
    # Directions are known up to their sign.
    chex.assert_trees_all_close(
        jax.tree.map(jnp.abs, after), jax.tree.map(jnp.abs, state), rtol=1e-3, atol=1e-4
    )
    twice = jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), ARRIVALS)
    both, _ = jax.jit(jax.vmap(lambda a: run_through(tx, a)))(twice)
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[0], both), outputs, rtol=2e-4, atol=1e-5)


def test_a_checkpoint_goes_on_where_it_was_written(rule):
    _, tx, _, state = rule
    template = tx.init(PARAMS)
    restored = serialization.from_bytes(template, serialization.to_bytes(state))
    chex.assert_trees_all_equal(restored, state)
    (g, w), extra = jax.tree.map(lambda x: x[0], ARRIVALS)
    chex.assert_trees_all_equal(
        tx.update(g, restored, w, **extra)[0], tx.update(g, state, w, **extra)[0]
    )


def test_the_state_keeps_its_types_and_its_parameter_trees_are_found(rule):
    _, tx, _, state = rule
    start = tx.init(PARAMS)
    assert jax.tree.map(jax.typeof, start) == jax.tree.map(jax.typeof, state)
    marked = optax.tree.map_params(tx, lambda x: jnp.full_like(x, 7.0), state)
    assert int(marked.step) == LENGTH
    if hasattr(state, "directions"):
        assert {float(x.max()) for x in jax.tree.leaves(marked.directions)} == {7.0}
        chex.assert_trees_all_equal(marked.pairs, state.pairs)


def test_masked_compensates_the_leaves_it_is_given_for_their_own_movement(rule):
    """As if the hidden leaves had stood still and had no gradient."""
    name, tx, _, _ = rule
    masked = optax.masked(tx, {"kernel": True, "bias": False})
    state, bare = masked.init(PARAMS), tx.init(PARAMS)
    for t in range(6):
        (g, w), extra = jax.tree.map(lambda x, t=t: x[t], ARRIVALS)
        u, state = masked.update(g, state, w, **extra)
        chex.assert_trees_all_equal(u["bias"], g["bias"])
        stood = extra | {"stale_params": extra["stale_params"]}
        if name in ("hessian", "gauss_newton", "empirical_fisher", "hessian_diagonal"):
            # The model is evaluated at the whole snapshot all the same.
            still = w | {"bias": extra["stale_params"]["bias"]}
            expected, bare = tx.update(g, bare, still, **stood)
        else:
            expected, bare = tx.update(g | {"bias": None}, bare, w, **stood)
        chex.assert_trees_all_close(u["kernel"], expected["kernel"], rtol=1e-4, atol=1e-5)


def test_a_hidden_leaf_may_be_of_whole_numbers():
    """Refused by name, such leaves are to be kept out with `optax.masked`: then they are."""
    params = {"w": jnp.array([1.0, 2.0]), "n": jnp.array([3, 4], jnp.int32)}
    stale = {"w": jnp.array([0.0, 1.5]), "n": jnp.array([3, 4], jnp.int32)}
    gradients = {"w": jnp.array([1.0, 2.0]), "n": jnp.zeros(2, jnp.int32)}
    tx = optax.masked(curvature_compensation(outer_product), {"w": True, "n": False})
    update, _ = tx.update(gradients, tx.init(params), params, stale_params=stale)
    bare = curvature_compensation(outer_product)
    alone, _ = bare.update(
        gradients["w"], bare.init(params["w"]), params["w"], stale_params=stale["w"]
    )
    np.testing.assert_allclose(update["w"], alone)
    np.testing.assert_array_equal(update["n"], gradients["n"])
    with pytest.raises(TypeError, match=r"got int32; keep such leaves out .*optax\.masked"):
        bare.update(gradients, bare.init(params), params, stale_params=stale)


def test_partition_gives_each_label_its_own_rule():
    tx = optax.partition(
        {"low": low_rank_compensation(2), "outer": curvature_compensation(outer_product)},
        {"kernel": "low", "bias": "outer"},
    )
    (g, w), extra = jax.tree.map(lambda x: x[0], ARRIVALS)
    u, _ = jax.jit(tx.update)(g, tx.init(PARAMS), w, **extra)
    moved = w["bias"] - extra["stale_params"]["bias"]
    expected = g["bias"] * (1 + jnp.dot(g["bias"], moved))
    chex.assert_trees_all_close(u["bias"], expected, rtol=1e-5)
    chex.assert_trees_all_equal(u["kernel"], g["kernel"])  # nothing is known yet


def test_inject_hyperparams():
    make = optax.inject_hyperparams(low_rank_compensation, static_args=("rank",))
    tx, plain = (
        make(rank=2, strength=0.5, decay=0.9),
        low_rank_compensation(2, strength=0.5, decay=0.9),
    )
    found, state = jax.jit(lambda a: run_through(tx, a))(ARRIVALS)
    expected, _ = jax.jit(lambda a: run_through(plain, a))(ARRIVALS)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)
    assert {"strength", "decay", "confidence"} <= state.hyperparams.keys()
    make = optax.inject_hyperparams(curvature_compensation, static_args=("curvature",))
    tx, plain = (
        make(outer_product, strength=0.5),
        curvature_compensation(outer_product, strength=0.5),
    )
    (g, w), extra = jax.tree.map(lambda x: x[0], ARRIVALS)
    chex.assert_trees_all_close(
        tx.update(g, tx.init(w), w, **extra)[0], plain.update(g, plain.init(w), w, **extra)[0]
    )


def test_the_gradient_of_a_wider_or_narrower_dtype_keeps_the_state_s(rule):
    _, tx, _, _ = rule
    (g, w), extra = jax.tree.map(lambda x: x[0], ARRIVALS)
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), g)
    u, state = tx.update(narrow, tx.init(w), w, **extra)
    assert {x.dtype for x in jax.tree.leaves(u)} == {jnp.dtype(jnp.bfloat16)}
    assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, tx.init(w))


def test_every_rung_is_tried_here():
    made = (delay_compensation, curvature_compensation, low_rank_compensation, rotated_compensation)
    rungs = (hessian, gauss_newton, empirical_fisher, outer_product, hessian_diagonal)
    assert len(RULES) == len(made) + len(rungs) - 1
    assert {f.__name__ for f in (*made, *rungs)} - {"curvature_compensation"} == {*RULES}
    (g, w), extra = jax.tree.map(lambda x: x[0], ARRIVALS)
    chex.assert_trees_all_close(gradient_of(extra["stale_params"], extra["batch"]), g, rtol=1e-5)
    assert losses_of(w, extra["batch"]).shape == outputs_of(w, extra["batch"]).shape
    assert np.isfinite(jax.tree.leaves(g)[0]).all()

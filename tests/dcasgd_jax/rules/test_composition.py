"""Compensation inside what optax and jax wrap around a transformation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import dcasgd, delay_compensation
from tests.compiled import counting_compilations

RNG = np.random.default_rng(1)


def random_tree():
    return {
        "kernel": jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32),
        "norm": {"scale": jnp.asarray(RNG.normal(size=3), jnp.float32)},
    }


G, W, S = random_tree(), random_tree(), random_tree()
RULES = {
    "constant": lambda: delay_compensation(0.5),
    "adaptive": lambda: delay_compensation(2.0, mean_square_decay=0.9),
}


@pytest.fixture
def standard_promotion():
    """For optax's own arithmetic, which mixes dtypes more freely than this project does."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def update_once(tx, g=G, w=W, s=S, **extra):
    return tx.update(g, tx.init(w), w, stale_params=s, **extra)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mask_extra", [False, True])
def test_masked(rule, mask_extra):
    """The hidden leaf passes; optax hands `stale_params` on whole, or masked if asked to."""
    tx = optax.masked(
        RULES[rule](),
        {"kernel": True, "norm": False},
        mask_compatible_extra_args=mask_extra,
    )
    u, state = update_once(tx)
    whole, _ = update_once(RULES[rule]())
    chex.assert_trees_all_equal(u, {"kernel": whole["kernel"], "norm": G["norm"]})
    u, _ = tx.update(G, state, W, stale_params=S)
    chex.assert_trees_all_equal(u["norm"], G["norm"])


@pytest.mark.parametrize("rule", RULES)
def test_missing_gradients_are_left_missing(rule):
    tx = RULES[rule]()
    g = {"kernel": G["kernel"], "norm": {"scale": None}}
    u, state = update_once(tx, g=g)
    assert u["norm"]["scale"] is None
    chex.assert_trees_all_equal(u["kernel"], update_once(tx)[0]["kernel"])
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(W))


def test_partition(standard_promotion):
    """Compensation for the kernel alone, Adam for the rest."""
    adam = optax.adam(1e-3)
    tx = optax.partition(
        {"stale": dcasgd(0.1, 2.0, mean_square_decay=0.9), "adam": adam},
        {"kernel": "stale", "norm": "adam"},
    )
    u, _ = jax.jit(lambda: update_once(tx))()
    expected, _ = update_once(dcasgd(0.1, 2.0, mean_square_decay=0.9))
    chex.assert_trees_all_close(u["kernel"], expected["kernel"], rtol=1e-6)
    by_adam, _ = adam.update(G["norm"], adam.init(W["norm"]))
    chex.assert_trees_all_close(u["norm"], by_adam, rtol=1e-6)


def test_inject_hyperparams():
    """Every number can be injected, and changed in flight."""
    make = optax.inject_hyperparams(dcasgd)
    tx = make(
        learning_rate=lambda step: 0.2 - 0.01 * step.astype(jnp.float32),
        lambda_=2.0,
        mean_square_decay=0.9,
        momentum=0.5,
        weight_decay=1e-2,
    )
    state = tx.init(W)
    assert {"learning_rate", "lambda_", "mean_square_decay", "eps"} <= state.hyperparams.keys()
    update = jax.jit(tx.update)
    u, state = update(G, state, W, stale_params=S)
    plain = dcasgd(0.2, 2.0, mean_square_decay=0.9, momentum=0.5, weight_decay=1e-2)
    chex.assert_trees_all_close(u, update_once(plain)[0], rtol=1e-5)
    state.hyperparams["lambda_"] = jnp.asarray(0.0)
    again, _ = update(G, state, W, stale_params=S)
    uncompensated, _ = update(G, state, W, stale_params=W)
    chex.assert_trees_all_equal(again, uncompensated)


def test_multi_steps(standard_promotion):
    """Gradients of one snapshot are averaged, then compensated."""
    tx = optax.MultiSteps(dcasgd(0.1, 0.5), every_k_schedule=2)
    other = random_tree()
    first, state = tx.update(G, tx.init(W), W, stale_params=S)
    second, _ = tx.update(other, state, W, stale_params=S)
    chex.assert_trees_all_equal(first, optax.tree.zeros_like(W))
    mean = jax.tree.map(lambda a, b: (a + b) / 2, G, other)
    chex.assert_trees_all_close(second, update_once(dcasgd(0.1, 0.5), g=mean)[0], rtol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_jit_scan_vmap_and_cond_agree_with_the_eager_rule(rule):
    tx = RULES[rule]()
    gradients, stales = ([random_tree() for _ in range(4)] for _ in range(2))
    state, eager = tx.init(W), []
    for g, s in zip(gradients, stales, strict=True):
        u, state = tx.update(g, state, W, stale_params=s)
        eager.append(u)
    eager = jax.tree.map(lambda *x: jnp.stack(x), *eager)
    stacked_g, stacked_s = (
        jax.tree.map(lambda *x: jnp.stack(x), *trees) for trees in (gradients, stales)
    )

    def step(state, xs):
        g, s = xs
        u, state = jax.lax.cond(
            jnp.array(True),
            lambda: tx.update(g, state, W, stale_params=s),
            lambda: (g, state),
        )
        return state, u

    scanned_state, scanned = jax.lax.scan(step, tx.init(W), (stacked_g, stacked_s))
    chex.assert_trees_all_close(scanned, eager, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(scanned_state, state, rtol=1e-5)

    firsts = jax.jit(jax.vmap(lambda g, s: update_once(tx, g=g, s=s)[0]))(stacked_g, stacked_s)
    alone = [update_once(tx, g=g, s=s)[0] for g, s in zip(gradients, stales, strict=True)]
    chex.assert_trees_all_close(
        firsts, jax.tree.map(lambda *x: jnp.stack(x), *alone), rtol=1e-5, atol=1e-6
    )


def test_the_second_call_does_not_compile_again():
    tx = dcasgd(0.1, 2.0, mean_square_decay=0.9, momentum=0.9)
    update = jax.jit(tx.update)
    with counting_compilations() as counts:
        u, state = update(G, tx.init(W), W, stale_params=S)
        w = optax.apply_updates(W, u)
        update(G, state, w, stale_params=W)
    assert counts[tx.update.__name__] == 1


def test_map_params_finds_the_mean_square():
    tx = dcasgd(0.1, 2.0, mean_square_decay=0.9)
    doubled = optax.tree.map_params(tx, lambda v: v + 1, update_once(tx)[1])
    chex.assert_trees_all_close(
        doubled[0].mean_square, jax.tree.map(lambda g: 1 + 0.1 * g * g, G), rtol=1e-5
    )
    assert int(doubled[0].step) == 1


def test_other_extra_arguments_are_ignored():
    u, _ = update_once(delay_compensation(0.5), staleness=3, value=jnp.array(1.0))
    chex.assert_trees_all_equal(u, update_once(delay_compensation(0.5))[0])

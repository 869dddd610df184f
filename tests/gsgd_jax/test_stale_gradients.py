"""Asynchronous SGD in path space: stale gradients are pulled back where they were taken."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import dcasgd, round_robin, simulate
from gsgd_jax import allocate, choose_skeleton, in_path_space, inverse_chain_rule, path_values
from gsgd_jax.mlp_gauge import mlp_gauge

SIZES, BATCH, WORKERS, STEPS = (5, 4, 6, 3), 8, 4, 24


@pytest.fixture(scope="module")
def problem():
    """A perceptron in float64, its gradient, a rescaled copy, and batches."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        pairs = itertools.pairwise(SIZES)
        params = [jnp.asarray(rng.normal(size=p) / np.sqrt(p[0])) for p in pairs]
        gauge = mlp_gauge(params)

        def forward(params, x):
            for kernel in params[:-1]:
                x = jax.nn.relu(x @ kernel)
            return x @ params[-1]

        def loss(params, batch):
            return jnp.mean((forward(params, batch[0]) - batch[1]) ** 2)

        batches = (
            jnp.asarray(rng.normal(size=(STEPS, BATCH, SIZES[0]))),
            jnp.asarray(rng.normal(size=(STEPS, BATCH, SIZES[-1]))),
        )
        copy = gauge.rescale(params, jax.random.key(1))
        skeleton = choose_skeleton(gauge, params, rule="largest", basis="cycles")
        return params, copy, jax.grad(loss), forward, batches, skeleton


def server(skeleton):
    inner = dcasgd(0.05, 2.0, mean_square_decay=0.9)
    return in_path_space(inner, skeleton, stale_gradients=True)


def test_it_is_the_compensation_of_path_values(x64, problem):
    params, _, gradient, _, batches, skeleton = problem
    rng = np.random.default_rng(1)
    stale = [w * (1 + 0.1 * jnp.asarray(rng.uniform(size=w.shape))) for w in params]
    g = gradient(stale, jax.tree.map(lambda leaf: leaf[0], batches))

    tx = server(skeleton)
    updates, _ = tx.update(g, tx.init(params), params, stale_params=stale)
    found = optax.apply_updates(params, updates)

    v, v_stale = (path_values(w, skeleton) for w in (params, stale))
    slopes = inverse_chain_rule(g, stale, skeleton)

    def stepped(v, v_stale, s):
        strength = 2.0 / np.sqrt(0.1 * s**2 + 1e-7)
        return v - 0.05 * (s + strength * s**2 * (v - v_stale))

    due = allocate(jax.tree.map(stepped, v, v_stale, slopes), params, skeleton)
    for own, other in zip(found, due, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-10)


def test_fresh_gradients_are_those_of_plain_path_space(x64, problem):
    params, _, gradient, _, batches, skeleton = problem
    g = gradient(params, jax.tree.map(lambda leaf: leaf[0], batches))
    plain, stale = (
        in_path_space(optax.sgd(0.01, momentum=0.9), skeleton, stale_gradients=s)
        for s in (False, True)
    )
    due, _ = plain.update(g, plain.init(params), params)
    found, _ = stale.update(g, stale.init(params), params, stale_params=params)
    for own, other in zip(found, due, strict=True):
        np.testing.assert_array_equal(own, other)


def test_a_simulated_cluster_does_not_see_the_scale(x64, problem):
    """On weights the two copies come apart; in path space they stay one function."""
    params, copy, gradient, forward, batches, skeleton = problem
    schedule, x = round_robin(WORKERS, STEPS), batches[0][0]

    def apart(tx):
        run = jax.jit(lambda w: simulate(gradient, w, tx, schedule, batches)[0])
        ends = [forward(run(w), x) for w in (params, copy)]
        assert float(abs(ends[0] - forward(params, x)).max()) > 1e-2  # it was trained
        return float(abs(ends[0] - ends[1]).max())

    assert apart(server(skeleton)) < 1e-9
    assert apart(dcasgd(0.05, 2.0, mean_square_decay=0.9)) > 1e-3


def test_the_stale_weights_are_asked_for(x64, problem):
    params, _, _, _, _, skeleton = problem
    tx = server(skeleton)
    with pytest.raises(ValueError, match=r"update\(\.\.\., stale_params=\.\.\.\)"):
        tx.update(params, tx.init(params), params)

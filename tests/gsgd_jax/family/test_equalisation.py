"""Equalisation: equal ranges, the same function, and a smaller error of a quantised network."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsgd_jax import find_gauge, mlp_gauge, trivial_gauge
from gsgd_jax.family import equalise, quantised
from tests.gsgd_jax.networks import apply, batch, furthest, loss, perceptron
from tests.gsgd_jax.tracing.models import MODELS

pytestmark = pytest.mark.usefixtures("x64")
WIDTHS = [4, 12, 8, 3]


def test_ranges_are_equal_and_the_function_is_kept():
    params = perceptron(WIDTHS, True)
    gauge = mlp_gauge(params)
    moved = gauge.rescale(params, jax.random.key(0), spread=2.0)
    found = equalise(moved, gauge)
    for (before, _), (behind, _) in itertools.pairwise(found):
        np.testing.assert_allclose(np.abs(before).max(0), np.abs(behind).max(1), rtol=1e-9)
    x, _ = batch(WIDTHS)
    np.testing.assert_allclose(apply(found, x), apply(params, x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["cnn", "basic_block", "grouped_cnn", "gated"])
def test_every_node_of_any_group_is_equalised(name):
    """Or rather: no further step moves it, and the outputs stay."""
    model = MODELS[name]
    params, x = model.draw(0)
    group = find_gauge(model.apply, params, x)
    moved = group.rescale(params, jax.random.key(0))
    found = equalise(moved, group, num_steps=600)
    assert furthest(equalise(found, group, num_steps=1), found) < 1e-8
    assert furthest(found, moved) > 1e-3
    outputs = jax.jit(model.apply)
    np.testing.assert_allclose(outputs(found, x), outputs(params, x), rtol=1e-8, atol=1e-10)


def test_a_trained_network_loses_less_when_it_is_quantised():
    params, data = perceptron(WIDTHS, True), batch(WIDTHS, size=256)
    tx = optax.sgd(0.1, momentum=0.9)

    @jax.jit
    def trained(params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, data), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=100)[0][0]

    start = trained(params)
    assert loss(start, data) < loss(params, data)
    gauge = mlp_gauge(start)
    uneven = gauge.rescale(start, jax.random.key(1), spread=1.0)

    def error(params):
        gap = apply(quantised(params), data[0]) - apply(start, data[0])
        return float(jnp.sqrt(jnp.mean(gap**2)))

    assert error(equalise(uneven, gauge)) < 0.3 * error(uneven)
    assert error(equalise(uneven, gauge)) < 2 * error(start)


def test_levels_of_the_quantiser():
    kernel = jnp.array([[1.27, -0.126], [0.004, 0.0]])
    params = {"kernel": kernel, "bias": jnp.array([0.123456]), "ids": jnp.array([[3]])}
    found = quantised(params)
    np.testing.assert_allclose(found["kernel"], [[1.27, -0.13], [0.0, 0.0]], atol=1e-12)
    assert furthest(found["bias"], params["bias"]) == 0
    assert found["ids"].dtype == params["ids"].dtype
    assert not np.any(quantised({"k": jnp.zeros((2, 2))})["k"])


def test_zeros_and_bad_input():
    params = perceptron(WIDTHS, True)
    dead = [(params[0][0].at[:, 1].set(0), params[0][1]), *params[1:]]
    gauge = mlp_gauge(params)
    found = equalise(dead, gauge)
    assert np.isfinite(np.concatenate([np.ravel(w) for w in jax.tree.leaves(found)])).all()
    assert furthest(equalise(params, trivial_gauge(params)), params) == 0
    with pytest.raises(ValueError, match="num_steps must be positive, got 0"):
        equalise(params, gauge, num_steps=0)
    with pytest.raises(ValueError, match="bits must lie between 2 and 16, got 1"):
        quantised(params, bits=1)

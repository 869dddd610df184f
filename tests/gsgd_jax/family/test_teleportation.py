"""Teleportation: the function stays, the gradient grows, as its closed form says."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsgd_jax import mlp_gauge, trivial_gauge
from gsgd_jax.family import teleport
from tests.gsgd_jax.networks import apply, batch, furthest, loss_and_grads, perceptron, ravel

pytestmark = pytest.mark.usefixtures("x64")
WIDTHS = [4, 5, 3]


def test_the_loss_stays_and_the_gradient_is_the_largest_of_all_corners():
    params, data = perceptron(WIDTHS, True), batch(WIDTHS)
    gauge = mlp_gauge(params)
    loss, gradients = loss_and_grads(params, data)
    moved = jax.jit(lambda p, g: teleport(p, g, gauge, max_scale=3.0))(params, gradients)
    after, there = loss_and_grads(moved, data)
    np.testing.assert_allclose(after, loss, rtol=1e-12)
    # One hidden layer: nodes do not meet in an entry, so the best corner is found, of 2^5.
    corners = [
        np.square(ravel(loss_and_grads(gauge.act(params, jnp.array(c)), data)[1])).sum()
        for c in itertools.product([1 / 3, 3.0], repeat=5)
    ]
    np.testing.assert_allclose(np.square(ravel(there)).sum(), max(corners), rtol=1e-9)
    assert max(corners) > 1.5 * np.square(ravel(gradients)).sum()


def test_deep_networks_never_get_a_smaller_gradient():
    widths = [4, 6, 5, 4, 2]
    for seed in range(4):
        params, data = perceptron(widths, True, seed=seed), batch(widths, seed=seed)
        gauge = mlp_gauge(params)
        gradients = loss_and_grads(params, data)[1]
        moved = teleport(params, gradients, gauge)
        before, after = (
            np.square(ravel(g)).sum() for g in (gradients, loss_and_grads(moved, data)[1])
        )
        assert after > before
        np.testing.assert_allclose(apply(moved, data[0]), apply(params, data[0]), atol=1e-10)


def test_what_has_no_slope_stays():
    params = perceptron(WIDTHS, True)
    zeros = jax.tree.map(jnp.zeros_like, params)
    assert furthest(teleport(params, zeros, mlp_gauge(params)), params) == 0
    assert furthest(teleport(params, params, trivial_gauge(params)), params) == 0


def test_bad_input():
    params = perceptron(WIDTHS, True)
    with pytest.raises(ValueError, match="max_scale must be above 1 and num_steps positive"):
        teleport(params, params, mlp_gauge(params), max_scale=1.0)
    with pytest.raises(ValueError, match="4 leaves, got 2"):
        teleport(params, params[:1], mlp_gauge(params))

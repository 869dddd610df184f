"""Layers that begin small, but not at zero: path space trains from them as it does from zeros."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsgd_jax import balance, find_gauge, gsgd, in_path_space, mlp_gauge, path_values
from gsgd_jax.solver.small_layers import SMALL
from tests.compiled import compiled_quickly
from tests.gsgd_jax.networks import furthest, perceptron
from tests.gsgd_jax.solver.chains import INITIALIZERS, frames, layers, network
from tests.gsgd_jax.tracing.models import MODELS

pytestmark = pytest.mark.usefixtures("x64")


# That training works.


@functools.partial(compiled_quickly, static_argnums=0)
def trained(tx, params, x, y):
    """The loss after 500 steps."""

    def loss(params):
        return jnp.mean((network(params, x) - y) ** 2)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    return loss(jax.lax.scan(step, (params, tx.init(params)), length=500)[0][0])


@pytest.mark.parametrize("last", [1e-2, 1e-4, 1e-8])
def test_it_trains_as_plain_sgd_does(last):
    """At a step of 0.03 balance alone stays above 0.9 from 1e-4, and learns nothing from 1e-8."""
    x = jax.random.normal(jax.random.key(7), (256, 4))
    y = network(layers([4, 16, 1], seed=8), x)
    y = (y - y.mean()) / y.std()
    gauge = mlp_gauge(layers([4, 32, 32, 1]))
    plain, ours = optax.sgd(0.03), gsgd(0.03, gauge)
    for seed in range(3):
        params = layers([4, 32, 32, 1], last=last, seed=seed)
        on_weights = trained(plain, params, x, y)
        assert on_weights < 0.1
        assert trained(ours, params, x, y) < 1.5 * on_weights
        if last < 1e-3:
            assert trained(plain, balance(params, gauge), x, y) > 5 * on_weights


# Which frame it has.


@pytest.mark.parametrize("last", [3e-2, 1e-4, 1e-12, 1e-60])
@pytest.mark.parametrize("sizes", [[8, 64, 10], [4, 32, 32, 1], [4, 16, 16, 16, 2]])
def test_small_layers_have_the_frame_of_zeros(sizes, last):
    if sizes[-1] == 2 and last == 3e-2:
        last = 1e-3  # four layers share it
    params, silent = layers(sizes, last=last), layers(sizes, last=0.0)
    small, zero = (path_values(start, mlp_gauge(params)) for start in (params, silent))
    assert furthest(small[:-1], zero[:-1]) < 1e-9
    for kernel in small[:-1]:
        np.testing.assert_allclose(jnp.sum(kernel**2) / kernel.shape[1], 1, rtol=0.3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("initializer", INITIALIZERS)
def test_usual_starts_keep_the_balanced_copy(initializer, seed):
    for sizes in (
        [1, 64, 64, 1],
        [8, 64, 10],
        [9, 30, 1, 20, 3],
        [784, 300, 100, 10],
        [5, *[16] * 12, 3],
    ):
        params = layers(sizes, initializer=initializer, seed=seed)
        plain, ours = frames(params, mlp_gauge(params))
        np.testing.assert_array_equal(plain, ours)


@pytest.mark.parametrize("name", MODELS)
def test_models_of_all_kinds_keep_the_balanced_copy(name):
    params, x = MODELS[name].draw(0)
    group = find_gauge(MODELS[name].apply, params, x)
    plain, ours = frames(params, group)
    np.testing.assert_array_equal(plain, ours)


def test_the_threshold_is_a_share_of_the_usual_norm():
    """Of two layers of one unit each, balanced norms are the root of the factor."""
    for factor, small in ((1.1, False), (0.9, True)):
        params = [jnp.array([[1.0]]), jnp.array([[factor * SMALL**2]])]
        plain, ours = frames(params, mlp_gauge(params))
        np.testing.assert_allclose(ours == plain, not small)
        np.testing.assert_allclose(np.exp(ours[0]), 1 if small else np.exp(plain[0]), rtol=1e-9)


# That it is the same for all copies.


def test_copies_have_one_frame_wherever_their_smallness_is():
    params = layers([4, 16, 16, 3], last=1e-3)
    gauge = mlp_gauge(params)
    values = path_values(params, gauge)
    for seed in range(3):
        moved = gauge.rescale(params, jax.random.key(seed), spread=5.0)
        assert furthest(path_values(moved, gauge), values) < 1e-9
    first = [1e-3 * params[0], params[1], 1e3 * params[2]]
    assert furthest(path_values(first, gauge), values) < 1e-9
    even = [0.1 * params[0], 0.1 * params[1], 100 * params[2]]
    assert furthest(path_values(even, gauge), values) < 1e-9


def test_powers_of_two_change_not_a_bit():
    params = jax.tree.map(lambda w: w.astype(jnp.float32), layers([4, 16, 16, 3], last=1e-3))
    gauge = mlp_gauge(params)
    powers = 2.0 ** np.random.default_rng(0).integers(-6, 7, gauge.num_nodes)
    moved = gauge.act(params, jnp.asarray(powers, jnp.float32))
    assert furthest(path_values(moved, gauge), path_values(params, gauge)) == 0
    plain, ours = frames(params, gauge)
    assert np.abs(plain - ours).max() > 1


def test_traced_and_stacked_starts_have_the_same_frame():
    starts = [
        jax.tree.map(lambda w: w.astype(jnp.float32), layers([4, 16, 16, 3], last=last))
        for last in (1.0, 1e-3, 1e-8)
    ]
    tx = gsgd(0.1, mlp_gauge(starts[0]))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    together = jax.jit(jax.vmap(tx.init))(stacked).frame.scales
    for own, start in zip(together, starts, strict=True):
        np.testing.assert_allclose(own, tx.init(start).frame.scales, rtol=1e-5)
    np.testing.assert_allclose(np.log(together[2]), np.log(together[1]), atol=1e-5)
    assert np.abs(np.log(together[1] / together[0])).max() > 0.1


def test_adam_steps_are_those_from_zeros():
    """The first step of a sign-like rule has the frame's size, whatever the small layer's."""
    params, silent = layers([4, 16, 3], last=1e-6), layers([4, 16, 3], last=0.0)
    gauge = mlp_gauge(params)
    x = jax.random.normal(jax.random.key(0), (8, 4))
    steps = []
    for start in (params, silent):
        tx = in_path_space(optax.adam(1e-2), gauge)
        grads = jax.grad(lambda params: jnp.mean((network(params, x) - 1) ** 2))(start)
        with jax.numpy_dtype_promotion("standard"):
            steps.append(tx.update(grads, tx.init(start), start)[0][-1])
    np.testing.assert_allclose(*steps, rtol=1e-4)


def test_weights_with_biases_are_measured_with_them():
    params = perceptron([4, 16, 16, 2], True)
    plain, ours = frames(params, mlp_gauge(params))
    np.testing.assert_array_equal(plain, ours)

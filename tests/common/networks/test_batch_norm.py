"""BatchNorm: Flax's own, but for the dtype of the averages."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.networks import BatchNorm

X = np.random.default_rng(0).normal(2.0, 3.0, size=(5, 4, 3, 6))


def variables(dtype):
    rng = np.random.default_rng(1)

    def draw(low):
        return jnp.asarray(rng.uniform(low, 2.0, 6), dtype)

    return {
        "params": {"scale": draw(-1.0), "bias": draw(-1.0)},
        "batch_stats": {"mean": draw(-1.0), "var": draw(0.5)},
    }


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_agrees_with_flax(train):
    x, given = jnp.asarray(X, jnp.float32), variables(jnp.float32)
    theirs = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5)
    expected, expected_state = theirs.apply(given, x, mutable=["batch_stats"])
    got, state = BatchNorm().apply(given, x, train=train, mutable=["batch_stats"])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state, expected_state)
    ours = jax.eval_shape(partial(BatchNorm().init, train=train), jax.random.key(0), x)
    assert ours == jax.eval_shape(theirs.init, jax.random.key(0), x)


def test_float64_averages_stay_float64(x64):
    x, given = jnp.asarray(X), variables(jnp.float64)
    norm = BatchNorm(param_dtype=jnp.float64)
    y, state = norm.apply(given, x, train=True, mutable=["batch_stats"])
    assert {leaf.dtype for leaf in jax.tree.leaves((y, state))} == {jnp.dtype(jnp.float64)}
    mean, var = X.mean(axis=(0, 1, 2)), X.var(axis=(0, 1, 2))
    old = jax.tree.map(np.asarray, given["batch_stats"])
    np.testing.assert_allclose(
        state["batch_stats"]["mean"], 0.9 * old["mean"] + 0.1 * mean, rtol=1e-12
    )
    np.testing.assert_allclose(
        state["batch_stats"]["var"], 0.9 * old["var"] + 0.1 * var, rtol=1e-12
    )
    params = jax.tree.map(np.asarray, given["params"])
    expected = (X - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12)


def test_initialisation_leaves_the_averages_alone():
    init = BatchNorm().init(jax.random.key(0), jnp.asarray(X, jnp.float32), train=True)
    np.testing.assert_array_equal(init["batch_stats"]["mean"], np.zeros(6))
    np.testing.assert_array_equal(init["batch_stats"]["var"], np.ones(6))


def test_constant_channels_have_no_negative_variance():
    # Of 200 constants rounding takes the mean square below the squared mean of many.
    x = jnp.broadcast_to(jnp.geomspace(0.1, 1e4, 200), (5, 3, 3, 200))
    norm = BatchNorm()
    init = norm.init(jax.random.key(0), x, train=True)
    y, state = norm.apply(init, x, train=True, mutable=["batch_stats"])
    assert np.isfinite(y).all()
    assert (np.asarray(state["batch_stats"]["var"]) >= 0.9).all()

"""Synchronous rules through the same door, against their formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import dcasgd, round_robin, simulate
from tests.dcasgd_jax.networks import batches_of, weights_of
from tests.dcasgd_jax.networks import gradient as jax_gradient
from tests.oracles.parameter_server import mlp_gradient

pytestmark = pytest.mark.usefixtures("optimised")

SIZES, WORKERS, ROUNDS, RATE, LAMBDA = (4, 3), 3, 4, 0.3, 2.0


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("engine", ["slots", "wavefront"])
@pytest.mark.parametrize("rule", ["SSGD", "DC-SSGD"])
def test_a_round_is_the_rules_formula(rule, engine):
    rng = np.random.default_rng(0)
    steps = WORKERS * ROUNDS
    params = weights_of(SIZES, rng, np.float64)
    batches = batches_of(steps, 2, SIZES, rng, np.float64)
    tx = {
        "SSGD": optax.MultiSteps(optax.sgd(RATE), WORKERS).gradient_transformation(),
        "DC-SSGD": dcasgd(RATE / WORKERS, LAMBDA),
    }[rule]
    schedule = round_robin(WORKERS, steps, wait_for=WORKERS)
    with jax.numpy_dtype_promotion("standard"):  # optax's MultiSteps mixes counts and weights
        got, _ = simulate(jax_gradient, params, tx, schedule, batches, engine=engine)

    weights = [np.asarray(w) for w in params]
    inputs, labels = (np.asarray(b) for b in batches)
    for start in range(0, steps, WORKERS):
        gradients = [
            mlp_gradient(weights, inputs[t], labels[t]) for t in range(start, start + WORKERS)
        ]
        moved = [w.copy() for w in weights]
        for gradient in gradients:
            for i, g in enumerate(gradient):
                drift = LAMBDA * g * g * (moved[i] - weights[i]) if rule == "DC-SSGD" else 0.0
                moved[i] = moved[i] - RATE / WORKERS * (g + drift)
        weights = moved
    # MultiSteps weights each gradient of a mean by a number in float32.
    close = {"SSGD": 1e-6, "DC-SSGD": 1e-10}[rule]
    for ours, theirs in zip(got, weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=close, atol=1e-2 * close)
        assert ours.dtype == jnp.float64

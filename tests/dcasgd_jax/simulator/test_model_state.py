"""Running averages that workers pull with the weights; convolutions, which are driven on CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import gamma_times, round_robin, running_average, simulate
from dcasgd_jax.simulator.plan import convolution_finder
from tests.dcasgd_jax.networks import assert_same_bits

pytestmark = pytest.mark.usefixtures("optimised")

STEPS, WORKERS = 24, 4


def test_the_servers_average_folds_in_every_batch_in_the_order_of_arrival():
    """Pushed statistics do not depend on the weights here, so the recursion is known."""
    x = np.random.default_rng(0).normal(size=(STEPS, 5)).astype(np.float32)
    schedule = gamma_times(WORKERS, STEPS, seed=0, variation=0.5)

    def grad_fn(w, averages, batch):
        del averages
        return w * batch.mean(), {"mean": batch.mean()}

    expected = np.float64(3.0)
    for row in x:
        expected = 0.75 * expected + 0.25 * row.mean(dtype=np.float64)
    for engine in ("slots", "wavefront"):
        _, info = simulate(
            grad_fn,
            jnp.ones(2),
            optax.sgd(0.1),
            schedule,
            jnp.asarray(x),
            engine=engine,
            model_state={"mean": jnp.asarray(3.0)},
            merge=running_average(0.75),
        )
        np.testing.assert_allclose(info.state.model_state["mean"], expected, rtol=1e-5)


def test_workers_pull_the_model_state_with_the_weights():
    """Each pushes what it pulled plus one: with M in turns, the server is at 1 + t div M."""

    def grad_fn(w, count, batch):
        del batch
        return jnp.zeros_like(w), count + 1

    for engine in ("slots", "wavefront"):
        _, info = simulate(
            grad_fn,
            jnp.ones(2),
            optax.sgd(0.1),
            round_robin(WORKERS, STEPS - 1),
            jnp.zeros(STEPS - 1),
            engine=engine,
            model_state=jnp.zeros([], jnp.int32),
        )
        assert int(info.state.model_state) == 1 + (STEPS - 2) // WORKERS
        np.testing.assert_array_equal(np.sort(info.state.model_snapshots), [5, 6, 6, 6])


def convolution(params, batch):
    convolved = jax.lax.conv_general_dilated(batch, params, (1, 1), "SAME")
    return jnp.mean(jnp.square(jnp.tanh(convolved)))


def test_convolutions_are_found_and_both_engines_agree_on_them_to_the_bit():
    """Driven on CPU, gradients unrolled: each is computed as it is alone."""
    params = jax.random.normal(jax.random.key(0), (2, 2, 3, 3))
    batches = jax.random.normal(jax.random.key(1), (8, 1, 2, 5, 5))
    assert convolution_finder(jax.jit(jax.grad(convolution)))(params, batches[0])
    assert not convolution_finder(jax.grad(lambda w: jnp.sum(w**2)))(params)
    runs = [
        simulate(
            jax.grad(convolution),
            params,
            optax.sgd(0.5),
            round_robin(WORKERS, 8),
            batches,
            engine=engine,
        )[0]
        for engine in ("slots", "wavefront")
    ]
    assert_same_bits(runs[0], runs[1])
    assert jnp.any(runs[0] != params)


def test_a_model_state_needs_a_pair():
    with pytest.raises(ValueError, match="must return a pair"):
        simulate(
            lambda w, state, batch: w,
            jnp.ones(2),
            optax.sgd(0.1),
            round_robin(2, 4),
            jnp.zeros(4),
            model_state=jnp.zeros(1),
        )
    with pytest.raises(ValueError, match="decay"):
        running_average(1.0)

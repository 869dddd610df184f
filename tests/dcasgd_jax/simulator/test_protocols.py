"""Every protocol through the one simulator: rounds, losses and any other pulling of weights."""

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings

from dcasgd_jax import dcasgd, from_arrivals, simulate
from dcasgd_jax.schedules.compute_times import failure_times, gamma_times
from tests.dcasgd_jax.networks import batches_of, gradient, weights_of
from tests.dcasgd_jax.schedules.test_snapshot_slots import histories

pytestmark = pytest.mark.usefixtures("optimised")

SIZES = (4, 3, 3)
compiled_gradient = jax.jit(gradient)


def train_on_history(params, tx, version, batches):
    """Keeps every version of the weights there ever was, and looks up the one it needs."""
    versions, state = [params], tx.init(params)
    for step, taken_at in enumerate(version):
        batch = [np.asarray(x)[step] for x in batches]
        updates, state = tx.update(
            compiled_gradient(versions[taken_at], batch),
            state,
            versions[-1],
            stale_params=versions[taken_at],
        )
        versions.append(optax.apply_updates(versions[-1], updates))
    return versions[-1]


def assert_close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), got, expected)


@settings(derandomize=True, deadline=None, max_examples=8)
@given(histories())
def test_whoever_pulls_what(history):
    worker, version, num_workers = history
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        params = weights_of(SIZES, rng, np.float64)
        batches = batches_of(worker.size, 2, SIZES, rng, np.float64)
        tx = dcasgd(0.3, 0.5)
        schedule = from_arrivals(
            worker,
            np.arange(worker.size),
            num_workers=num_workers,
            staleness=np.arange(worker.size) - version,
        )
        got, info = simulate(gradient, params, tx, schedule, batches)
        assert_close(got, train_on_history(params, tx, version, batches))
    np.testing.assert_array_equal(info.staleness, schedule.staleness)


@pytest.mark.parametrize("wait_for", [None, 3, 5])
def test_workers_that_fail(x64, wait_for):
    schedule = failure_times(5, 60, seed=1, wait_for=wait_for, time_to_failure=3.0, time_away=2.0)
    rng = np.random.default_rng(1)
    params = weights_of(SIZES, rng, np.float64)
    batches = batches_of(60, 2, SIZES, rng, np.float64)
    got, info = simulate(gradient, params, dcasgd(0.3, 2.0), schedule, batches)
    version = np.arange(60) - schedule.staleness
    assert_close(got, train_on_history(params, dcasgd(0.3, 2.0), version, batches))
    np.testing.assert_array_equal(info.staleness, schedule.staleness)


@pytest.mark.parametrize("wait_for", [3, 5])
def test_synchronous_sgd_steps_on_the_mean_of_each_round(x64, standard_promotion, wait_for):
    rounds, rng = 8, np.random.default_rng(2)
    params = weights_of(SIZES, rng, np.float64)
    inputs, labels = batches_of(rounds * wait_for, 4, SIZES, rng, np.float64)
    schedule = gamma_times(5, rounds * wait_for, seed=0, wait_for=wait_for)
    plain = optax.sgd(0.3, momentum=0.9)
    tx = optax.MultiSteps(plain, wait_for, accumulator_dtype=np.float64).gradient_transformation()
    got, info = simulate(gradient, params, tx, schedule, (inputs, labels), log_distance=True)
    assert not info.distance.any()  # the weights move at the ends of rounds, and all pull there

    expected, state = params, plain.init(params)
    for r in range(rounds):
        joined = [
            x[r * wait_for : (r + 1) * wait_for].reshape(wait_for * 4, *x.shape[2:])
            for x in (inputs, labels)
        ]
        updates, state = plain.update(compiled_gradient(expected, joined), state)
        expected = optax.apply_updates(expected, updates)
    assert_close(got, expected)


def test_delay_compensated_synchronous_sgd(x64):
    """Each of M gradients of one snapshot w_t in turn, compensated for those before it:

    w~_j = w~_{j-1} - (eta / M) (g_j + lambda g_j * g_j * (w~_{j-1} - w_t)).
    """
    num_workers, rounds, rng = 4, 6, np.random.default_rng(3)
    params = weights_of(SIZES, rng, np.float64)
    batches = batches_of(rounds * num_workers, 4, SIZES, rng, np.float64)
    schedule = gamma_times(num_workers, rounds * num_workers, seed=0, wait_for=num_workers)
    tx = dcasgd(0.8 / num_workers, 0.5)
    got, info = simulate(gradient, params, tx, schedule, batches, log_distance=True)
    np.testing.assert_array_equal(info.distance == 0, schedule.staleness == 0)

    expected = [np.asarray(w) for w in params]
    for r in range(rounds):
        snapshot = expected
        for j in range(num_workers):
            batch = [x[r * num_workers + j] for x in batches]
            g = [np.asarray(x) for x in compiled_gradient(snapshot, batch)]
            expected = [
                w - 0.8 / num_workers * (x + 0.5 * x * x * (w - s))
                for w, x, s in zip(expected, g, snapshot, strict=True)
            ]
    assert_close(got, expected)

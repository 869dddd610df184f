"""DC-ASGD-a with a mean square for each worker."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import constant_delay, dcasgd, delay_compensation, round_robin, simulate
from dcasgd_jax._arguments import check_count
from tests.compiled import counting_compilations

pytestmark = pytest.mark.usefixtures("optimised")

WORKERS = 3
OPTIONS = {"mean_square_decay": 0.9, "num_workers": WORKERS}


def stream(number=12, seed=0):
    """Gradients, snapshots and weights [number, 4], and whose they are."""
    rng = np.random.default_rng(seed)
    return (*rng.normal(size=(3, number, 4)), rng.integers(0, WORKERS, number).astype(np.int32))


def test_every_worker_has_the_mean_square_of_its_own_gradients(x64):
    """As three servers' worth of the rule with one, each shown one worker's gradients."""
    gradients, stales, path, workers = stream()
    shared = delay_compensation(2.0, mean_square_decay=0.9)
    states = [shared.init(jnp.zeros(4)) for _ in range(WORKERS)]
    tx = delay_compensation(2.0, **OPTIONS)
    state, update = tx.init(jnp.zeros(4)), jax.jit(tx.update)
    with counting_compilations() as counts:
        for g, s, w, worker in zip(gradients, stales, path, workers, strict=True):
            g, s, w = jnp.asarray(g), jnp.asarray(s), jnp.asarray(w)
            u, state = update(g, state, w, stale_params=s, worker=jnp.asarray(worker))
            expected, states[worker] = shared.update(g, states[worker], w, stale_params=s)
            np.testing.assert_allclose(u, expected, rtol=1e-12)
    own = np.stack([s.mean_square for s in states])
    np.testing.assert_allclose(state.mean_square, own, rtol=1e-12)
    assert counts[tx.update.__name__] == 1


def test_one_worker_is_the_server(x64):
    gradients, stales, path, _ = stream()
    one = delay_compensation(2.0, mean_square_decay=0.9, num_workers=1)
    all_ = delay_compensation(2.0, mean_square_decay=0.9)
    a, b = one.init(jnp.zeros(4)), all_.init(jnp.zeros(4))
    for g, s, w in zip(gradients, stales, path, strict=True):
        g, s, w = jnp.asarray(g), jnp.asarray(s), jnp.asarray(w)
        u, a = one.update(g, a, w, stale_params=s, worker=0)
        v, b = all_.update(g, b, w, stale_params=s)
        np.testing.assert_array_equal(u, v)


def test_the_simulator_and_constant_delay_say_whose_gradient_it_is():
    """Both run it, and to the same weights; each row holds other data's gradients."""
    steps, w = 9, jnp.array([1.0, -1.0])
    targets = jnp.asarray(np.random.default_rng(0).normal(size=(steps, 2)), jnp.float32)
    tx = dcasgd(0.1, 2.0, **OPTIONS)
    simulated, _ = simulate(lambda w, t: w - t, w, tx, round_robin(WORKERS, steps), targets)
    delayed = constant_delay(tx, WORKERS - 1)
    state = delayed.init(w)
    for t in range(steps + WORKERS - 1):
        u, state = delayed.update(w - targets[min(t, steps - 1)], state, w)
        w = optax.apply_updates(w, u)
    assert not np.allclose(state.inner_state[0].mean_square[0], state.inner_state[0].mean_square[1])
    # In simulate the first gradients all come from w_0 and hold the first targets in turn.
    np.testing.assert_allclose(w, simulated, rtol=1e-5)


def test_the_state_is_float32_hides_with_the_leaves_and_keeps_what_has_no_gradient():
    w = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(3, jnp.bfloat16)}
    tx = optax.masked(delay_compensation(2.0, **OPTIONS), {"a": True, "b": False})
    u, state = tx.update(w, tx.init(w), w, stale_params=w, worker=1)
    mean_square = state.inner_state.mean_square["a"]
    assert (mean_square.shape, mean_square.dtype) == ((WORKERS, 2), jnp.float32)
    assert u["a"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(u["b"], w["b"])
    bare = delay_compensation(2.0, **OPTIONS)
    state = bare.init(w)
    u, after = bare.update(w | {"b": None}, state, w, stale_params=w, worker=1)
    assert u["b"] is None
    np.testing.assert_array_equal(after.mean_square["b"], 0.0)
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)


def test_what_is_missing_or_wrong_is_named():
    w = jnp.ones(2)
    tx = delay_compensation(2.0, **OPTIONS)
    with pytest.raises(ValueError, match=r"needs the number of the worker .* got no `worker`"):
        tx.update(w, tx.init(w), w, stale_params=w)
    for worker in (-1, WORKERS, 0.5, jnp.arange(2)):
        with pytest.raises(ValueError, match=r"worker must be one whole number in \[0, 3\)"):
            tx.update(w, tx.init(w), w, stale_params=w, worker=worker)
    with pytest.raises(ValueError, match="only DC-ASGD-a has; give mean_square_decay too"):
        delay_compensation(0.04, num_workers=2)
    with pytest.raises(ValueError, match="num_workers must be an int >= 1, got 0"):
        delay_compensation(2.0, mean_square_decay=0.9, num_workers=0)
    with pytest.raises(ValueError, match=r'static_args=\("num_workers",\)'):
        check_count("num_workers", jnp.array(3))
    injected = optax.inject_hyperparams(dcasgd, static_args=("num_workers",))
    assert injected(learning_rate=0.1, lambda_=2.0, **OPTIONS).init(w).hyperparams["lambda_"] == 2.0
    delayed = constant_delay(tx, 2)
    for name in ("stale_params", "staleness", "worker", "batch"):
        with pytest.raises(ValueError, match=f"it got `{name}`"):
            delayed.update(w, delayed.init(w), w, **{name: w})

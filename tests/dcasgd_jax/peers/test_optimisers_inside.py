"""Prediction and error feedback with Adam and Muon inside, and with a delay for each leaf."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import constant_delay, peers, round_robin, simulate

STEPS, RATE = 12, 0.02
RNG = np.random.default_rng(0)
PARAMS = {"first": RNG.normal(size=(4, 3)), "last": RNG.normal(size=(3, 2))}
X, Y = RNG.normal(size=(STEPS, 5, 4)), RNG.normal(size=(STEPS, 5, 2))
DELAYS = {"first": 2, "last": 0}

pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")


def gradient(params, batch):
    """Of half the squared error of a linear network of two layers, summed; any arrays."""
    x, y = batch
    hidden = x @ params["first"]
    error = hidden @ params["last"] - y
    return {"first": x.T @ (error @ params["last"].T), "last": hidden.T @ error}


class Adam:
    """One leaf's steps, by Kingma and Ba's algorithm 1."""

    def __init__(self):
        self.m = self.v = 0.0
        self.t = 0

    def __call__(self, g):
        self.t += 1
        self.m, self.v = 0.9 * self.m + 0.1 * g, 0.999 * self.v + 0.001 * g**2
        fitted = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        return -RATE * fitted[0] / (np.sqrt(fitted[1]) + 1e-8)


class Muon:
    """One matrix's steps: Nesterov's momentum, orthogonalised by five steps of Newton and Schulz,
    times the root of columns over rows where that is above 1."""

    def __init__(self):
        self.m, self.t = 0.0, 0

    def __call__(self, g):
        self.t += 1
        self.m = 0.95 * self.m + 0.05 * g
        ahead = 0.95 * self.m / (1 - 0.95 ** (self.t + 1)) + 0.05 * g / (1 - 0.95**self.t)
        x = ahead.T if ahead.shape[0] > ahead.shape[1] else ahead
        x = x / (np.linalg.norm(x) + 1e-8)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
        x = x.T if ahead.shape[0] > ahead.shape[1] else x
        return -RATE * np.sqrt(max(1.0, g.shape[1] / g.shape[0])) * x


INNER = {
    "adam": (Adam, lambda: optax.adam(RATE)),
    "muon": (Muon, lambda: optax.contrib.muon(RATE)),
}


def served(make, delays, sent):
    """A plain server: every step of every leaf kept; `sent` makes what workers pull of them."""
    rules = {name: make() for name in PARAMS}
    weights, pulls, steps = dict(PARAMS), [dict(PARAMS)], {name: [] for name in PARAMS}
    for t in range(STEPS):
        stale = {name: pulls[max(t - delays[name], 0)][name] for name in PARAMS}
        g = gradient(stale, (X[t], Y[t]))
        for name, rule in rules.items():
            steps[name].append(rule(g[name]))
        applied, pulled = sent(weights, steps, t)
        weights = {name: weights[name] + applied[name] for name in PARAMS}
        pulls.append({name: weights[name] + pulled[name] for name in PARAMS})
    return weights


def predicted(horizon, weights, steps, t):
    last = {name: taken[-1] for name, taken in steps.items()}
    return last, {name: horizon[name] * last[name] for name in last}


def fed_back(delays, weights, steps, t):
    made = {}
    for name, taken in steps.items():
        error = taken[t] - taken[t - delays[name]] if t >= delays[name] else 0.0
        made[name] = taken[t] + error
    return made, dict.fromkeys(made, 0.0)


def simulated(rule, delays):
    plan = jax.tree.map(lambda tau: round_robin(tau + 1, STEPS), delays)
    params, batches = jax.tree.map(jnp.asarray, (PARAMS, (X, Y)))
    return simulate(gradient, params, rule, plan, batches)


def assert_close(got, expected):
    for name, weights in expected.items():
        np.testing.assert_allclose(got[name], weights, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("inside", "delays"), [("adam", {"first": 2, "last": 2}), ("adam", DELAYS), ("muon", DELAYS)]
)
def test_a_prediction_goes_along_any_optimisers_step(inside, delays):
    """SpecTrain's rule with the steps of another optimiser, as far ahead as each leaf is late."""
    make, ours = INNER[inside]
    got, info = simulated(peers.weight_prediction(ours(), delays), delays)
    assert_close(got, served(make, delays, functools.partial(predicted, delays)))
    assert [leaf.size for leaf in jax.tree.leaves(info.state.opt_state.last)] == [12, 6]


@pytest.mark.parametrize(
    ("inside", "delays"), [("adam", DELAYS), ("muon", {"first": 1, "last": 1})]
)
def test_errors_of_any_optimiser_are_fed_back(inside, delays):
    make, ours = INNER[inside]
    got, info = simulated(peers.error_feedback(ours(), delays), delays)
    assert_close(got, served(make, delays, functools.partial(fed_back, delays)))
    # A leaf of delay d keeps d updates.
    kept = sum(leaf.size for leaf in jax.tree.leaves(info.state.opt_state.past))
    assert kept == 12 * delays["first"] + 6 * delays["last"]


@pytest.mark.parametrize("delays", [{"a": 2, "b": 0}, {"a": 3, "b": 1}, {"a": 2, "b": 2}])
def test_a_leaf_that_arrives_late_has_no_error_in_its_first_updates(delays):
    """What stands in for gradients that have not come was no step, and lacked nothing."""
    tx = constant_delay(peers.error_feedback(optax.sgd(1.0), delays), delays)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    state, made = tx.init(params), []
    for t in range(9):
        gradients = {name: jnp.full(1, 1.0 + t) for name in params}
        update, state = tx.update(gradients, state, params)
        made.append(update)
    for name, delay in delays.items():
        arrived = [0.0] * delay + [-(1.0 + t) for t in range(9 - delay)]
        expected = [
            d + (d - arrived[t - delay] if t >= 2 * delay else 0.0) for t, d in enumerate(arrived)
        ]
        np.testing.assert_allclose([update[name][0] for update in made], expected)


def test_errors_are_fed_back_whatever_the_staleness_of_a_leaf_becomes():
    """A leaf's delay is that of most arrivals; single ones may be less late."""
    tx, params = peers.error_feedback(optax.sgd(1.0), {"a": 2}), {"a": jnp.zeros(1)}
    state = tx.init(params)
    for t in range(8):
        update, state = tx.update({"a": jnp.full(1, 1.0 * t)}, state, params, staleness={"a": 1})
    np.testing.assert_allclose(update["a"], -(7.0 + 2.0))


def test_one_horizon_for_all_is_that_horizon():
    one, each = (
        simulated(peers.weight_prediction(optax.sgd(RATE), s), DELAYS)[0]
        for s in (2, {"first": 2, "last": 2})
    )
    jax.tree.map(np.testing.assert_array_equal, one, each)


def test_errors_fed_back_undo_a_steady_drift():
    """Updates that change at a constant rate: each becomes that of a gradient not stale."""
    tx = peers.error_feedback(optax.sgd(1.0), 3)
    state = tx.init(jnp.zeros(2))
    for t in range(10):
        update, state = tx.update(jnp.array([1.0, 2.0]) * t, state, jnp.zeros(2))
        if t >= 3:
            np.testing.assert_allclose(update, [-1.0 * (t + 3), -2.0 * (t + 3)])


def test_a_horizon_that_fits_no_tree_is_refused():
    with pytest.raises(ValueError, match="a tree prefix of the parameters with a number"):
        simulated(peers.weight_prediction(optax.sgd(0.1), {"first": 1}), DELAYS)

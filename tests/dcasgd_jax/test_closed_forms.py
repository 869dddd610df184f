"""What is known in closed form about delayed gradients, numbered as in the theory they test.

1 and 2 (exact limits, conservation of staleness) stand in test_simulation.py and test_schedule.py.
On a quadratic with curvature 1 the step size is x, and round-robin over M workers is a constant
delay of tau = M - 1. A linear compensator of strength kappa replaces the gradient w_stale by
w_stale + kappa (w - w_stale).
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import brentq

from dcasgd_jax import dcasgd, delay_compensation, round_robin, slot_simulator
from tests.dcasgd_jax.networks import loss, weights_of

pytestmark = pytest.mark.usefixtures("x64")


def linear_compensator(kappa):
    """The exact Hessian in place of its surrogate, scaled by kappa; the curvature is 1."""

    def update(updates, state, params=None, *, stale_params, **extra_args):
        del extra_args
        return jax.tree.map(
            lambda g, w, s: g + kappa * (w - s), updates, params, stale_params
        ), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def trajectory(tx, num_workers, num_steps, start=1.0):
    """The weight after each step of minimising w² / 2 from `start`."""
    simulator = slot_simulator(lambda w, _: w, tx, num_workers)

    def step(state, stretch):
        state, _ = simulator.run(state, stretch, jnp.zeros(1))
        return state, state.params

    stretches = jax.tree.map(lambda x: x[:, None], round_robin(num_workers, num_steps))
    return jax.lax.scan(step, simulator.init(jnp.asarray(start)), stretches)[1]


def grows(make_tx, xs, num_workers, num_steps):
    """For each step size, whether the swing of the last fifth exceeds that of the middle fifth."""
    w = jax.jit(jax.vmap(lambda x: trajectory(make_tx(x), num_workers, num_steps)))(xs)
    swing, fifth = np.abs(w), num_steps // 5
    middle, last = swing[:, 2 * fifth : 3 * fifth].max(axis=1), swing[:, -fifth:].max(axis=1)
    return ~np.isfinite(last) | (last > middle)


def largest_stable_step(make_tx, num_workers, low, high, num_steps=12_000):
    """The step size at which `grows` turns, by repeated 64-fold section, to 1e-5 of its size."""
    while high - low > 1e-5 * high:
        xs = jnp.linspace(low, high, 65)
        unstable = grows(make_tx, xs, num_workers, num_steps)
        assert not unstable[0]
        assert unstable[-1]
        first = int(np.argmax(unstable))
        low, high = float(xs[first - 1]), float(xs[first])
    return (low + high) / 2


def root_radius(x, tau, kappa=0.0):
    """Largest root of z^(tau+1) - (1 - kappa x) z^tau + x (1 - kappa), by magnitude."""
    if tau == 0:
        return abs(1 - x)
    polynomial = np.zeros(tau + 2)
    polynomial[:2] = 1, -(1 - kappa * x)
    polynomial[-1] += x * (1 - kappa)
    return np.abs(np.roots(polynomial)).max()


@pytest.mark.parametrize("num_workers", [1, 2, 3, 4, 8, 16])
def test_3_asgd_is_stable_up_to_the_closed_form(num_workers):
    """x < 2 sin(pi / (2 (2 tau + 1))), located through the simulator from both sides."""
    tau = num_workers - 1
    limit = 2 * np.sin(np.pi / (2 * (2 * tau + 1)))
    found = largest_stable_step(optax.sgd, num_workers, 0.8 * limit, 1.2 * limit)
    assert found == pytest.approx(limit, rel=1e-4)


@pytest.mark.parametrize(("kappa", "num_workers"), [(0.1, 8), (0.25, 4), (0.4, 2), (0.4, 8)])
def test_4_a_weak_compensator_moves_the_limit_to_the_polynomials_root(kappa, num_workers):
    tau = num_workers - 1
    asgd = 2 * np.sin(np.pi / (2 * (2 * tau + 1)))
    limit = brentq(lambda x: root_radius(x, tau, kappa) - 1 + 1e-13, asgd, 4.0)
    found = largest_stable_step(
        lambda x: optax.chain(linear_compensator(kappa), optax.sgd(x)),
        num_workers,
        0.9 * limit,
        1.1 * limit,
    )
    assert found == pytest.approx(limit, rel=1e-4)


@pytest.mark.usefixtures("optimised")  # the swing of what is below 1e-307 is the compiler's
@pytest.mark.parametrize(("kappa", "num_workers"), [(0.5, 2), (0.5, 16), (0.75, 5), (1.0, 16)])
def test_4_at_least_half_the_curvature_makes_any_delay_stable(kappa, num_workers):
    """1/2 <= kappa <= 1: the limit of sequential SGD, x < 2, whatever the delay."""
    xs = jnp.linspace(0.05, 2 - 1e-3, 40)
    assert not grows(
        lambda x: optax.chain(linear_compensator(kappa), optax.sgd(x)), xs, num_workers, 12_000
    ).any()


def test_4_half_the_curvature_is_needed():
    """Just below 1/2 a long delay is unstable well under x = 2."""
    assert root_radius(1.9, 63, 0.5) < 1 < root_radius(1.9, 63, 0.48)


@pytest.mark.parametrize(("kappa", "num_workers"), [(1.25, 4), (2.0, 2)])
def test_4_over_compensation_has_a_limit_of_its_own(kappa, num_workers):
    """kappa > 1: stable for x < 2 / (2 kappa - 1); sharp at odd delays, where z = -1 is a root."""
    limit = 2 / (2 * kappa - 1)
    found = largest_stable_step(
        lambda x: optax.chain(linear_compensator(kappa), optax.sgd(x)),
        num_workers,
        0.9 * limit,
        1.1 * limit,
    )
    assert found == pytest.approx(limit, rel=1e-4)


def test_4_heavy_ball_momentum_removes_the_guarantee():
    """kappa = 1/2, x < 2, and yet unstable at a delay once there is momentum.

    Sequential heavy ball with momentum 0.9 is stable for x < 2 (1 + 0.9), so the delay is at fault.
    """

    def make_tx(x):
        return optax.chain(linear_compensator(0.5), optax.sgd(x, momentum=0.9))

    xs = jnp.array([1.0])
    assert not grows(make_tx, xs, 1, 2_000).any()
    assert grows(make_tx, xs, 8, 2_000).all()


def amplitudes(rule, x, num_workers, lambdas, num_steps=20_000):
    """Swing of the last fifth for each lambda."""
    decay, eps = {"c": (None, 1e-7), "a": (0.95, 1e-30)}[rule]
    swing = jax.jit(
        jax.vmap(
            lambda lambda_: trajectory(
                dcasgd(x, lambda_, mean_square_decay=decay, eps=eps),
                num_workers,
                num_steps,
                start=0.01,
            )
        )
    )(lambdas)
    return np.abs(swing[:, -num_steps // 5 :]).max(axis=1)


@pytest.mark.parametrize("num_workers", [4, 8])
def test_5_beyond_the_limit_dcasgd_c_ends_in_a_cycle_of_amplitude_over_root_lambda(num_workers):
    limit = 2 * np.sin(np.pi / (2 * (2 * (num_workers - 1) + 1)))
    lambdas = jnp.array([1e-2, 1e-1, 1.0, 10.0, 100.0])
    scaled = amplitudes("c", 1.05 * limit, num_workers, lambdas) * np.sqrt(lambdas)
    assert scaled[0] > 0.01
    np.testing.assert_allclose(scaled, scaled[0], rtol=1e-3)


@pytest.mark.parametrize("num_workers", [4, 8])
def test_5_beyond_the_limit_dcasgd_a_ends_in_a_cycle_of_amplitude_over_lambda(num_workers):
    limit = 2 * np.sin(np.pi / (2 * (2 * (num_workers - 1) + 1)))
    lambdas = jnp.array([0.1, 0.5, 2.0, 8.0])
    scaled = amplitudes("a", 1.05 * limit, num_workers, lambdas) * np.asarray(lambdas)
    assert scaled[0] > 0.01
    np.testing.assert_allclose(scaled, scaled[0], rtol=1e-3)


@pytest.mark.parametrize("rule", ["c", "a"])
def test_5_compensation_does_not_move_the_local_limit(rule):
    """The term is cubic: just below ASGD's limit the run dies out, just above it does not."""
    limit = 2 * np.sin(np.pi / 14)  # tau = 3
    lambdas = jnp.array([0.04, 2.0])
    assert (amplitudes(rule, 0.98 * limit, 4, lambdas) < 1e-10).all()
    assert (amplitudes(rule, 1.02 * limit, 4, lambdas) > 1e-3).all()


def order_of(errors, sizes):
    """Slope of log error against log size, between neighbours."""
    return np.diff(np.log(errors)) / np.diff(np.log(sizes))


def test_6_the_rule_removes_the_first_order_error_where_its_curvature_is_exact():
    """f = -sum log(w) / lambda has the Hessian diag(lambda g²): the surrogate without error."""
    lambda_ = 0.7
    gradient = jax.grad(lambda w: -jnp.sum(jnp.log(w)) / lambda_)
    stale = jnp.array([0.5, 1.0, 2.0])
    direction = jnp.array([0.3, -0.5, 0.8])
    tx = delay_compensation(lambda_)
    sizes = np.array([1e-1, 1e-2, 1e-3])
    plain, compensated = [], []
    for size in sizes:
        w = stale + size * direction
        g = gradient(stale)
        u, _ = tx.update(g, tx.init(w), w, stale_params=stale)
        plain.append(jnp.linalg.norm(gradient(w) - g))
        compensated.append(jnp.linalg.norm(gradient(w) - u))
    np.testing.assert_allclose(order_of(plain, sizes), 1.0, atol=0.05)
    np.testing.assert_allclose(order_of(compensated, sizes), 2.0, atol=0.05)


def test_6_orders_of_the_gradients_error_on_a_network():
    """|dw| for ASGD and for diag(lambda g g), |dw|² for the Hessian-vector product."""
    rng = np.random.default_rng(3)
    stale = weights_of((6, 8, 4), rng, np.float64)
    batch = jnp.asarray(rng.normal(size=(16, 6))), jnp.asarray(rng.integers(0, 4, 16))
    direction = jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape)), stale)

    gradient = jax.jit(jax.grad(lambda w: loss(w, batch)))

    tx = delay_compensation(0.04)
    sizes = np.array([1e-2, 1e-3, 1e-4])
    errors = {"asgd": [], "diagonal": [], "hessian": []}
    for size in sizes:
        moved = jax.tree.map(lambda d, size=size: size * d, direction)
        w = jax.tree.map(jnp.add, stale, moved)
        g, fresh = gradient(stale), gradient(w)
        _, product = jax.jvp(gradient, (stale,), (moved,))
        errors["asgd"].append(optax.tree.norm(optax.tree.sub(fresh, g)))
        u, _ = tx.update(g, tx.init(w), w, stale_params=stale)
        errors["diagonal"].append(optax.tree.norm(optax.tree.sub(fresh, u)))
        u = optax.tree.add(g, product)
        errors["hessian"].append(optax.tree.norm(optax.tree.sub(fresh, u)))
    np.testing.assert_allclose(order_of(errors["asgd"], sizes), 1.0, atol=0.02)
    np.testing.assert_allclose(order_of(errors["diagonal"], sizes), 1.0, atol=0.02)
    np.testing.assert_allclose(order_of(errors["hessian"], sizes), 2.0, atol=0.02)

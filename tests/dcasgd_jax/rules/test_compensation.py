"""The compensation rule: its arithmetic, precision, schedules and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import dcasgd, delay_compensation

RNG = np.random.default_rng(0)
SHAPES = {"kernel": (4, 3), "bias": (3,), "scale": ()}


def random_tree(dtype=jnp.float32):
    return {k: jnp.asarray(RNG.normal(size=s), dtype) for k, s in SHAPES.items()}


def run(tx, gradients, params, stales):
    """Updates of successive gradients at fixed params."""
    state, outputs = tx.init(params), []
    for g, s in zip(gradients, stales, strict=True):
        u, state = tx.update(g, state, params, stale_params=s)
        outputs.append(u)
    return outputs, state


def test_the_constant_rule():
    g, w, s = random_tree(), random_tree(), random_tree()
    (u,), _ = run(delay_compensation(0.7), [g], w, [s])
    for k in SHAPES:
        g64, w64, s64 = (np.asarray(t[k], np.float64) for t in (g, w, s))
        np.testing.assert_allclose(u[k], g64 + 0.7 * g64**2 * (w64 - s64), rtol=1e-5)


def test_the_adaptive_rule_takes_the_present_gradient_in_before_it_uses_the_mean_square():
    gradients, stales = [random_tree() for _ in range(3)], [random_tree() for _ in range(3)]
    w = random_tree()
    outputs, state = run(delay_compensation(2.0, mean_square_decay=0.9), gradients, w, stales)
    for k in SHAPES:
        v = np.zeros(SHAPES[k])
        for g, s, u in zip(gradients, stales, outputs, strict=True):
            g64, s64 = np.asarray(g[k], np.float64), np.asarray(s[k], np.float64)
            v = 0.9 * v + 0.1 * g64**2
            expected = g64 + 2.0 / np.sqrt(v + 1e-7) * g64**2 * (np.asarray(w[k]) - s64)
            np.testing.assert_allclose(u[k], expected, rtol=2e-4, atol=1e-5)
        np.testing.assert_allclose(state.mean_square[k], v, rtol=1e-5)


def test_lambda_may_be_a_schedule_of_the_server_step():
    g, w, s = random_tree(), random_tree(), random_tree()

    def schedule(step):
        return jnp.where(step < 2, 0.5, 0.05)

    outputs, state = run(delay_compensation(schedule), [g] * 4, w, [s] * 4)
    for t, value in enumerate([0.5, 0.5, 0.05, 0.05]):
        (expected,), _ = run(delay_compensation(value), [g], w, [s])
        np.testing.assert_allclose(outputs[t]["kernel"], expected["kernel"], rtol=1e-6)
    assert int(state.step) == 4


@pytest.mark.parametrize("decay", [None, 0.95])
def test_an_unmoved_weight_leaves_the_gradient_alone_to_the_bit(decay):
    g, w = random_tree(), random_tree()
    (u,), _ = run(delay_compensation(3.0, mean_square_decay=decay), [g], w, [w])
    jax.tree.map(np.testing.assert_array_equal, u, g)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_compensated_in_float32(dtype):
    """g² and the step between snapshots are far below what these formats resolve."""
    w, g = jnp.array([1.0], dtype), jnp.array([2.0**-13], dtype)
    s = jnp.array([1.0 - 2.0**-8], dtype)
    assert (g * g).astype(jnp.float32) == 0 or dtype == jnp.bfloat16
    lambda_ = 2.0**22
    (u,), _ = run(delay_compensation(lambda_), [g], w, [s])
    assert u.dtype == dtype
    np.testing.assert_array_equal(u.astype(jnp.float32), [2.0**-13 + 2.0 ** (22 - 26 - 8)])
    state = delay_compensation(2.0, mean_square_decay=0.5).init(w)
    _, state = delay_compensation(2.0, mean_square_decay=0.5).update(g, state, w, stale_params=s)
    assert state.mean_square.dtype == jnp.float32
    np.testing.assert_array_equal(state.mean_square, [2.0**-27])


def test_float64_parameters_are_compensated_in_float64(x64):
    w, s, g = jnp.array([1.0]), jnp.array([1.0 - 1e-12]), jnp.array([1.0])
    tx = delay_compensation(1.0, mean_square_decay=0.5)
    (u,), state = run(tx, [g], w, [s])
    assert state.mean_square.dtype == jnp.float64
    np.testing.assert_allclose(u - 1.0, 1e-12 / np.sqrt(0.5 + 1e-7), rtol=1e-3)


@pytest.mark.parametrize("decay", [None, 0.95])
@pytest.mark.parametrize("lambda_", [0.5, jnp.float32(0.5), optax.constant_schedule(0.5)])
def test_weak_types_are_kept(decay, lambda_):
    weak, strong = jnp.full((3,), 2.0), jnp.ones(3)
    assert weak.weak_type
    tx = delay_compensation(lambda_, mean_square_decay=decay)
    for g in (weak, strong):
        state = tx.init(g)
        u, after = tx.update(g, state, g, stale_params=strong)
        assert (u.dtype, u.weak_type) == (jnp.float32, g.weak_type)
        assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, after)


@pytest.mark.parametrize("number", [np.float64(0.5), np.float32(0.5), 0.5, jnp.array(0.5)])
def test_hyperparameters_may_be_numbers_of_any_kind(number):
    g, w, s = random_tree(jnp.bfloat16), random_tree(jnp.bfloat16), random_tree(jnp.bfloat16)
    tx = delay_compensation(jnp.asarray(number), mean_square_decay=number, eps=number)
    (u,), _ = run(tx, [g], w, [s])
    expected = delay_compensation(0.5, mean_square_decay=0.5, eps=0.5)
    jax.tree.map(np.testing.assert_array_equal, u, run(expected, [g], w, [s])[0][0])


def test_weight_decay_is_the_servers_and_not_squared():
    g, w, s = random_tree(), random_tree(), random_tree()
    tx = dcasgd(0.1, 0.7, weight_decay=0.01)
    (u,), _ = run(tx, [g], w, [s])
    (compensated,), _ = run(delay_compensation(0.7), [g], w, [s])
    for k in SHAPES:
        np.testing.assert_allclose(u[k], -0.1 * (compensated[k] + 0.01 * w[k]), rtol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_that_of_optax_on_the_compensated_gradient(nesterov):
    gradients, stales, w = [random_tree(), random_tree()], [random_tree()] * 2, random_tree()
    ours, _ = run(dcasgd(0.1, 0.7, momentum=0.9, nesterov=nesterov), gradients, w, stales)
    sgd = optax.sgd(0.1, momentum=0.9, nesterov=nesterov)
    state = sgd.init(w)
    compensated, _ = run(delay_compensation(0.7), gradients, w, stales)
    for c, u in zip(compensated, ours, strict=True):
        expected, state = sgd.update(c, state)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), u, expected)


def test_missing_arguments_are_named():
    tx = dcasgd(0.1, 0.04)
    w = random_tree()
    state = tx.init(w)
    with pytest.raises(ValueError, match=r"got no `stale_params`.*constant_delay"):
        tx.update(w, state, w)
    with pytest.raises(ValueError, match="not passing `params` when calling `update`"):
        tx.update(w, state, stale_params=w)


def test_a_stack_of_snapshots_is_refused():
    tx = delay_compensation(0.04)
    w = jnp.ones((3,))
    with pytest.raises(ValueError, match=r"\(3,\), \(3,\) and \(4, 3\).*the one snapshot"):
        tx.update(w, tx.init(w), w, stale_params=jnp.ones((4, 3)))
    with pytest.raises(ValueError, match=r"\(3,\), \(3,\) and \(\)"):
        tx.update(w, tx.init(w), w, stale_params=jnp.ones(()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lambda_": -0.1}, "lambda_ must be .* >= 0, got -0.1"),
        ({"lambda_": float("nan")}, "lambda_ must be .* got nan"),
        ({"lambda_": float("inf")}, "lambda_ must be a schedule, or a finite scalar"),
        ({"lambda_": jnp.array([0.1, 0.2])}, r"lambda_ must be .* got \[0.1 0.2\]"),
        ({"lambda_": jnp.array(-1.0)}, "lambda_ must be"),
        ({"lambda_": 2.0, "mean_square_decay": 1.0}, "mean_square_decay must be .* got 1.0"),
        ({"lambda_": 2.0, "mean_square_decay": -0.5}, "mean_square_decay must be"),
        ({"lambda_": 2.0, "mean_square_decay": 0.9, "eps": 0.0}, "eps must be .* > 0, got 0.0"),
    ],
)
def test_arguments_out_of_range_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        delay_compensation(**arguments)


def test_traced_arguments_are_let_through():
    w = jnp.ones(2)

    @jax.jit
    def update(lambda_, decay):
        tx = delay_compensation(lambda_, mean_square_decay=decay)
        return tx.update(w, tx.init(w), w, stale_params=w)[0]

    np.testing.assert_array_equal(update(2.0, 0.9), w)

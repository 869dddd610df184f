"""Gaussians against scipy, and finite where floats are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from lacim_jax import Gaussian, bounded_log_var, log_mixture

RNG = np.random.default_rng(0)
FEW = settings(derandomize=True, deadline=None, max_examples=30)
ANY_FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
PARAMETERS = st.tuples(
    st.floats(-5, 5, width=32), st.floats(-4, 4, width=32), st.floats(-20, 20, width=32)
)


@FEW
@given(st.lists(PARAMETERS, min_size=1, max_size=5))
def test_log_prob_is_scipys(rows):
    mean, log_var, value = np.asarray(rows, np.float32).T
    wanted = scipy.stats.norm.logpdf(
        value.astype(np.float64), mean, np.exp(0.5 * log_var.astype(np.float64))
    ).sum()
    found = Gaussian(jnp.asarray(mean), jnp.asarray(log_var)).log_prob(jnp.asarray(value))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_leading_axes_are_kept():
    mean, log_var, value = (jnp.asarray(RNG.normal(size=(3, 4, 5)), jnp.float32) for _ in range(3))
    found = Gaussian(mean, log_var).log_prob(value)
    assert found.shape == (3, 4)
    one = Gaussian(mean[1, 2], log_var[1, 2]).log_prob(value[1, 2])
    np.testing.assert_allclose(found[1, 2], one, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_kl_is_the_integral():
    q, p = (RNG.normal(size=(2, 6)) for _ in range(2))
    found = Gaussian(*map(jnp.asarray, q)).kl(Gaussian(*map(jnp.asarray, p)))

    def integral(mq, rq, mp, rp):
        sd = np.exp(rq / 2)
        own = scipy.stats.norm(mq, sd)
        other = scipy.stats.norm(mp, np.exp(rp / 2))
        return scipy.integrate.quad(
            lambda z: own.pdf(z) * (own.logpdf(z) - other.logpdf(z)), mq - 12 * sd, mq + 12 * sd
        )[0]

    wanted = [integral(*q[:, i], *p[:, i]) for i in range(6)]
    np.testing.assert_allclose(found, wanted, rtol=1e-7)


def test_kl_of_nearly_equal_gaussians_keeps_its_digits():
    q = Gaussian(jnp.asarray([0.3]), jnp.asarray([0.5]))
    p = Gaussian(jnp.asarray([0.3]), jnp.asarray([0.501]))
    difference = np.float64(np.float32(0.5)) - np.float64(np.float32(0.501))
    wanted = 0.5 * (np.expm1(difference) - difference)  # 2.5e-7, below float32's epsilon beside 1
    np.testing.assert_allclose(q.kl(p), [wanted], rtol=1e-3)
    np.testing.assert_array_equal(q.kl(q), [0.0])


def test_samples_have_the_stated_moments():
    gaussian = Gaussian(jnp.asarray([1.0, -2.0]), jnp.asarray([0.0, -3.0]))
    noise = jax.random.normal(jax.random.key(0), (20_000, 2))
    draws = np.asarray(jax.vmap(gaussian.sample)(noise), np.float64)
    np.testing.assert_allclose(draws.mean(0), gaussian.mean, atol=0.02)
    np.testing.assert_allclose(draws.std(0), np.exp(np.asarray(gaussian.log_var) / 2), rtol=0.02)


def test_the_mixture_is_scipys():
    means, log_vars = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    value = RNG.normal(size=4).astype(np.float32)
    each = scipy.stats.norm.logpdf(value, means, np.exp(log_vars / 2)).sum(-1)
    found = log_mixture(Gaussian(jnp.asarray(means), jnp.asarray(log_vars)), jnp.asarray(value))
    np.testing.assert_allclose(found, scipy.special.logsumexp(each) - np.log(3), rtol=1e-5)


@FEW
@given(ANY_FINITE, st.floats(0.5, 20.0))
def test_log_variances_stay_within_their_bound(raw, bound):
    value, slope = jax.value_and_grad(lambda r: bounded_log_var(r, bound=bound))(jnp.float32(raw))
    assert abs(float(value)) <= bound * (1 + 1e-6)
    assert 0.0 <= float(slope) <= 1.0
    if abs(raw) < 1e-2 * bound:
        np.testing.assert_allclose(value, raw, rtol=1e-3, atol=1e-30)


@FEW
@given(st.floats(-(2.0**50), 2.0**50, width=32), ANY_FINITE)
def test_gradients_are_finite_on_extreme_inputs(shift, raw):
    def log_prob(shift, raw):
        gaussian = Gaussian(shift[None], bounded_log_var(raw)[None])
        standard = Gaussian(jnp.zeros(1), jnp.zeros(1))
        return gaussian.log_prob(jnp.ones(1)) + gaussian.kl(standard).sum()

    value, gradients = jax.value_and_grad(log_prob, argnums=(0, 1))(
        jnp.float32(shift), jnp.float32(raw)
    )
    assert np.isfinite([value, *gradients]).all()

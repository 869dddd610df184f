"""Correlated Gaussians against scipy, and the diagonal one as their special case."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from lacim_jax import CorrelatedGaussian, Gaussian, log_mixture

RNG = np.random.default_rng(2)
DIM = 4


def gaussian(*leading):
    mean, log_var = (jnp.asarray(RNG.normal(size=(*leading, DIM))) for _ in range(2))
    return CorrelatedGaussian(mean, log_var, jnp.asarray(RNG.normal(size=(*leading, DIM, DIM))))


def covariance(g):
    """By its definition, with an inverse."""
    root = np.linalg.inv(np.eye(DIM) - np.tril(g.mixing, -1))
    return root @ np.diag(np.exp(g.log_var)) @ root.T


@pytest.mark.usefixtures("x64")
def test_density_and_covariance_are_scipys():
    one = gaussian()
    np.testing.assert_allclose(one.covariance(), covariance(one), rtol=1e-12)
    value = jnp.asarray(RNG.normal(size=DIM))
    wanted = scipy.stats.multivariate_normal(one.mean, covariance(one)).logpdf(value)
    np.testing.assert_allclose(one.log_prob(value), wanted, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_leading_axes_are_kept():
    many, value = gaussian(2, 3), jnp.asarray(RNG.normal(size=(2, 3, DIM)))
    one = jax.tree.map(lambda p: p[1, 2], many)
    np.testing.assert_allclose(many.log_prob(value)[1, 2], one.log_prob(value[1, 2]), rtol=1e-12)
    np.testing.assert_allclose(many.sample(value)[1, 2], one.sample(value[1, 2]), rtol=1e-12)
    np.testing.assert_allclose(many.covariance()[1, 2], one.covariance(), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_a_draw_is_the_noise_through_a_root_of_the_covariance():
    one = gaussian()
    root = jax.jacobian(one.sample)(jnp.zeros(DIM))
    np.testing.assert_allclose(root @ root.T, covariance(one), rtol=1e-12)
    np.testing.assert_allclose(one.sample(jnp.zeros(DIM)), one.mean, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_divergence_is_the_closed_form_and_its_terms_are_not_negative():
    p = gaussian()
    q = Gaussian(*(jnp.asarray(RNG.normal(size=DIM)) for _ in range(2)))
    terms = p.kl_from(q)
    inverse, shift = np.linalg.inv(covariance(p)), np.asarray(p.mean - q.mean)
    spread = np.diag(np.exp(q.log_var))
    wanted = 0.5 * (
        np.trace(inverse @ spread)
        + shift @ inverse @ shift
        - DIM
        + np.linalg.slogdet(covariance(p))[1]
        - float(q.log_var.sum())
    )
    np.testing.assert_allclose(terms.sum(), wanted, rtol=1e-12)
    assert (terms >= 0).all()


@pytest.mark.usefixtures("x64")
def test_without_mixing_it_is_the_diagonal_gaussian():
    plain = Gaussian(*(jnp.asarray(RNG.normal(size=DIM)) for _ in range(2)))
    # What is on the diagonal and above it does not count.
    one = CorrelatedGaussian(*plain, mixing=jnp.triu(jnp.asarray(RNG.normal(size=(DIM, DIM)))))
    other, value = Gaussian(plain.mean + 1, plain.log_var - 1), jnp.ones(DIM)
    np.testing.assert_allclose(one.log_prob(value), plain.log_prob(value), rtol=1e-12)
    np.testing.assert_allclose(one.sample(value), plain.sample(value), rtol=1e-12)
    np.testing.assert_allclose(one.kl_from(other), plain.kl_from(other), rtol=1e-12)
    np.testing.assert_allclose(plain.kl_from(other), other.kl(plain), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_mixtures_take_them_too():
    three, value = gaussian(3), jnp.asarray(RNG.normal(size=DIM))
    each = [
        scipy.stats.multivariate_normal(
            three.mean[i], covariance(jax.tree.map(lambda p, i=i: p[i], three))
        ).pdf(value)
        for i in range(3)
    ]
    np.testing.assert_allclose(log_mixture(three, value), np.log(np.mean(each)), rtol=1e-10)


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_gradients_are_finite_on_extreme_inputs(size):
    def total(g, value):
        return g.log_prob(value) + g.kl_from(Gaussian(value, value * 0)).sum() + g.sample(value)[0]

    g = CorrelatedGaussian(jnp.zeros(3), jnp.full(3, 8.0), jnp.full((3, 3), size))
    value, gradients = jax.value_and_grad(total)(g, jnp.full(3, size))
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in gradients)


@pytest.mark.usefixtures("x64")
def test_two_correlated_ones_diverge_by_the_closed_form():
    """Against the textbook's, with inverse and determinant; terms at least 0; the diagonal case."""
    p, q = gaussian(), gaussian()
    inverse, shift = np.linalg.inv(covariance(p)), np.asarray(p.mean - q.mean)
    wanted = 0.5 * (
        np.trace(inverse @ covariance(q))
        + shift @ inverse @ shift
        - DIM
        + np.linalg.slogdet(covariance(p))[1]
        - np.linalg.slogdet(covariance(q))[1]
    )
    terms = p.kl_from(q)
    np.testing.assert_allclose(terms.sum(), wanted, rtol=1e-12)
    assert np.all(np.asarray(terms) >= 0)
    np.testing.assert_allclose(q.kl(p), terms, rtol=1e-12)
    np.testing.assert_allclose(p.kl_from(p), np.zeros(DIM), atol=1e-12)
    diagonal = Gaussian(p.mean, p.log_var)
    plain = CorrelatedGaussian(*diagonal, mixing=jnp.zeros((DIM, DIM)))
    np.testing.assert_allclose(diagonal.kl_from(q), plain.kl_from(q), rtol=1e-12)
    np.testing.assert_allclose(q.kl(diagonal), plain.kl_from(q), rtol=1e-12)

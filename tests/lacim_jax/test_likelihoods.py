"""Likelihoods against scipy, finite on extreme inputs, and strict about their values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from lacim_jax import BERNOULLI, CATEGORICAL, gaussian_likelihood

RNG = np.random.default_rng(1)


def test_bernoulli_is_scipys():
    logits = 3 * RNG.normal(size=(5, 6, 2)).astype(np.float32)
    pixels = RNG.integers(0, 2, size=logits.shape).astype(np.float32)
    wanted = scipy.stats.bernoulli.logpmf(pixels, scipy.special.expit(logits.astype(float))).sum()
    found = BERNOULLI.log_prob(jnp.asarray(logits), jnp.asarray(pixels))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    mean = BERNOULLI.mean(jnp.asarray(logits))
    np.testing.assert_allclose(mean, scipy.special.expit(logits), rtol=1e-5)


def test_grey_pixels_interpolate_between_black_and_white():
    logit = jnp.asarray([0.7])
    black, grey, white = (
        BERNOULLI.log_prob(logit, jnp.asarray([value])) for value in (0.0, 0.25, 1.0)
    )
    np.testing.assert_allclose(grey, 0.75 * black + 0.25 * white, rtol=1e-6)


def test_categorical_is_scipys():
    logits = 5 * RNG.normal(size=4).astype(np.float32)
    wanted = scipy.special.log_softmax(logits.astype(float))
    found = [CATEGORICAL.log_prob(jnp.asarray(logits), jnp.asarray(i)) for i in range(4)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(CATEGORICAL.mean(jnp.asarray(logits)), np.exp(wanted), rtol=1e-5)


def test_gaussian_is_scipys():
    mean, value = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    found = gaussian_likelihood(0.3).log_prob(jnp.asarray(mean), jnp.asarray(value))
    wanted = scipy.stats.norm.logpdf(value, mean, 0.3).sum()
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("logit", [-1e38, -1e4, -90.0, 0.0, 90.0, 1e4, 1e38])
@pytest.mark.parametrize("pixel", [0.0, 0.5, 1.0])
def test_gradients_of_extreme_logits_are_finite(logit, pixel):
    value, slope = jax.value_and_grad(BERNOULLI.log_prob)(
        jnp.asarray([logit]), jnp.asarray([pixel])
    )
    assert np.isfinite(value)
    np.testing.assert_allclose(slope, [pixel - scipy.special.expit(logit)], atol=1e-6)
    logits = jnp.asarray([logit, 0.0, -logit])
    value, slope = jax.value_and_grad(CATEGORICAL.log_prob)(logits, jnp.asarray(0))
    assert np.isfinite(value)
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_shows_even_where_it_cannot_be_refused(label):
    assert np.isnan(jax.jit(CATEGORICAL.log_prob)(jnp.zeros(3), jnp.asarray(label)))


def test_equal_gaussian_families_are_one():
    assert gaussian_likelihood(0.5) is gaussian_likelihood(0.5)
    assert gaussian_likelihood(0.5) is not gaussian_likelihood(0.6)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_the_scale_must_be_positive(scale):
    with pytest.raises(ValueError, match="scale must be positive and finite"):
        gaussian_likelihood(scale)


@pytest.mark.parametrize(
    ("likelihood", "shape", "values", "message"),
    [
        (BERNOULLI, (2,), [[0.0, 255.0]], "between 0 and 1, got 0 to 255; divide stored pixels"),
        (BERNOULLI, (2,), [[-0.5, 1.0]], "between 0 and 1, got -0.5 to 1"),
        (BERNOULLI, (2,), [[0.0, np.nan]], "between 0 and 1, got nan"),
        (BERNOULLI, (3,), [[0.0, 1.0]], r"\[batch, 3\], .* got float64\[1, 2\]"),
        (BERNOULLI, (2,), [[0, 1]], r"floating-point .* got int64\[1, 2\]"),
        (CATEGORICAL, (2,), [0, 2], "between 0 and 1, .* got 0 to 2"),
        (CATEGORICAL, (2,), [-1, 1], "got -1 to 1"),
        (CATEGORICAL, (2,), [0.0, 1.0], r"integers of shape \[batch\], .* got float64\[2\]"),
        (CATEGORICAL, (2,), [[0, 1]], r"integers of shape \[batch\], .* got int64\[1, 2\]"),
        (gaussian_likelihood(1.0), (2,), [[0.0, np.inf]], "must be finite"),
    ],
)
def test_values_without_a_density_are_refused(likelihood, shape, values, message):
    with pytest.raises(ValueError, match=message):
        likelihood.check(shape, np.asarray(values))


def test_values_with_a_density_pass():
    BERNOULLI.check((2, 1), np.asarray([[[0.0], [1.0]]]))
    CATEGORICAL.check((3,), np.asarray([0, 2]))
    gaussian_likelihood(1.0).check((2,), np.asarray([[-5.0, 7.0]]))

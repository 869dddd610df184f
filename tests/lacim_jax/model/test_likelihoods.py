"""Likelihoods against scipy, finite on extreme inputs, and strict about their values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from lacim_jax import BERNOULLI, CATEGORICAL, discretised_logistic, gaussian_likelihood

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


@pytest.mark.parametrize("scale", [[0.3, 2.0, 0.1, 1.0], [[0.3], [2.0], [0.1]], [[0.5]]])
def test_a_gaussian_has_a_scale_for_each_value(scale):
    mean, value = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    family = gaussian_likelihood(scale)
    wanted = scipy.stats.norm.logpdf(value, mean, np.broadcast_to(scale, (3, 4)))
    found = family.log_prob(jnp.asarray(mean), jnp.asarray(value))
    np.testing.assert_allclose(found, wanted.sum(), rtol=1e-5)
    # What one mean for all falls short of each value's own is the variance over twice the scale's.
    batch = RNG.normal(size=(5, 3, 4)).astype(np.float32)
    each, one = (
        scipy.stats.norm.logpdf(batch, m, np.broadcast_to(scale, (3, 4))).sum((1, 2)).mean()
        for m in (batch, batch.mean(0))
    )
    np.testing.assert_allclose(family.unexplained(jnp.asarray(batch)), each - one, rtol=1e-4)
    assert family is gaussian_likelihood(np.asarray(scale))


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


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, [1.0, 0.0], []])
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
        (gaussian_likelihood([1.0] * 3), (2,), [[0.0, 1.0]], r"shape \[3\] do not .* \[2\]"),
        (gaussian_likelihood([[1.0]] * 2), (2,), [[0.0, 1.0]], r"\[2, 1\] do not .* \[2\]"),
    ],
)
def test_values_without_a_density_are_refused(likelihood, shape, values, message):
    with pytest.raises(ValueError, match=message):
        likelihood.check(shape, np.asarray(values))


def test_values_with_a_density_pass():
    BERNOULLI.check((2, 1), np.asarray([[[0.0], [1.0]]]))
    CATEGORICAL.check((3,), np.asarray([0, 2]))
    gaussian_likelihood(1.0).check((2,), np.asarray([[-5.0, 7.0]]))


LOGISTIC_RNG = np.random.default_rng(3)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("levels", [2, 5, 256])
def test_each_level_has_the_mass_of_the_logistic_density_around_it(levels):
    family = discretised_logistic(levels)
    grid, half = np.linspace(0, 1, levels), 0.5 / (levels - 1)
    centre, raw = 0.3, -1.5
    density = scipy.stats.logistic(centre + 0.5, np.exp(7 * np.tanh(raw / 7)))
    edges = np.concatenate([[-np.inf], grid[:-1] + half, [np.inf]])
    wanted = np.diff(density.cdf(edges))
    parameters = jnp.asarray([centre, raw])
    found = np.exp([family.log_prob(parameters, jnp.asarray([x])) for x in grid])
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    np.testing.assert_allclose(found.sum(), 1.0, rtol=1e-12)


def test_pixels_add_up_and_means_come_first():
    family = discretised_logistic(16)
    parameters = jnp.asarray(LOGISTIC_RNG.normal(size=(4, 3, 6)), jnp.float32)
    image = jnp.asarray(LOGISTIC_RNG.integers(0, 16, size=(4, 3, 3)) / 15, jnp.float32)
    each = [
        family.log_prob(parameters[i, j, jnp.asarray([c, c + 3])], image[i, j, c][None])
        for i in range(4)
        for j in range(3)
        for c in range(3)
    ]
    np.testing.assert_allclose(family.log_prob(parameters, image), np.sum(each), rtol=1e-5)
    mean = family.mean(parameters)
    np.testing.assert_allclose(mean, np.clip(parameters[..., :3] + 0.5, 0, 1), rtol=1e-6)


@pytest.mark.parametrize("centre", [-1e6, -3.0, 0.0, 3.0, 1e6])
@pytest.mark.parametrize("raw", [-1e6, -7.0, 0.0, 1e6])
@pytest.mark.parametrize("pixel", [0.0, 128 / 255, 1.0])
def test_values_and_gradients_are_finite_on_extreme_parameters(centre, raw, pixel):
    value, slope = jax.value_and_grad(discretised_logistic().log_prob)(
        jnp.asarray([centre, raw]), jnp.asarray([pixel])
    )
    assert np.isfinite(value)
    assert value <= 0
    assert np.isfinite(slope).all()


def test_equal_families_are_one():
    assert discretised_logistic(8) is discretised_logistic(8)


@pytest.mark.parametrize(("levels", "bound"), [(1, 7.0), (256, 0.0), (256, float("nan"))])
def test_arguments_out_of_range_are_refused(levels, bound):
    with pytest.raises(ValueError, match="levels must be at least 2"):
        discretised_logistic(levels, log_scale_bound=bound)


@pytest.mark.parametrize(
    ("shape", "values", "message"),
    [
        ((2, 3), [[[0.0], [1.0]]], "two parameters a pixel"),
        ((2, 4), [[[0.0], [1.0]]], r"shape \[2, 4\] for values of shape \[2, 1\]"),
        ((2, 2), [[[0.0], [0.5]]], "on the grid of 256 levels"),
        ((2, 2), [[[0.0], [255.0]]], "from 0 to 255; divide stored pixels by 255"),
        ((2, 2), [[[0.0], [np.nan]]], "on the grid"),
        ((2, 2), [[[0], [1]]], "must be floating-point"),
    ],
)
def test_values_without_a_probability_are_refused(shape, values, message):
    with pytest.raises(ValueError, match=message):
        discretised_logistic().check(shape, np.asarray(values))

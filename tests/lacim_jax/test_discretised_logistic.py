"""The discretised logistic against scipy, and as a probability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from lacim_jax import discretised_logistic

RNG = np.random.default_rng(3)


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
    parameters = jnp.asarray(RNG.normal(size=(4, 3, 6)), jnp.float32)
    image = jnp.asarray(RNG.integers(0, 16, size=(4, 3, 3)) / 15, jnp.float32)
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

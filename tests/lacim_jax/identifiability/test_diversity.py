"""Domain diversity: the matrix by hand, its rank, its indifference to units."""

import numpy as np
import pytest

from lacim_jax.identifiability import domain_diversity

RNG = np.random.default_rng(3)


def diagonal(m, dim):
    return RNG.normal(size=(m, dim)), np.exp(RNG.normal(size=(m, dim)))


def test_one_dimension_by_hand():
    """Already of mean 0 and variance 1: eta = (mu / var, -1 / (2 var))."""
    mean, var = np.array([[0.5], [-0.5]]), np.array([[0.5], [1.0]])
    report = domain_diversity(mean, var)
    np.testing.assert_allclose(report.singular_values, [np.hypot(1.5, 0.5)], rtol=1e-12)
    assert (report.rank, report.statistics, report.needed) == (1, 2, 3)
    assert not report.sufficient
    assert report.condition == np.inf


@pytest.mark.parametrize(("dim", "needed"), [(1, 3), (2, 5), (16, 33)])
def test_so_many_domains_are_needed_and_are_enough(dim, needed):
    mean, var = diagonal(needed, dim)
    report = domain_diversity(mean, var)
    assert report.needed == needed
    assert report.sufficient
    fewer = domain_diversity(mean[:-1], var[:-1])
    assert (fewer.rank, fewer.sufficient) == (needed - 2, False)
    assert "at least 1 more domain\n" in str(fewer)
    values = report.singular_values
    np.testing.assert_allclose(report.condition, values[0] / values[-1], rtol=1e-12)


def test_domains_that_only_shift_do_not_suffice():
    mean, _ = diagonal(9, 2)
    report = domain_diversity(mean, np.ones((9, 2)))
    assert report.rank == 2
    assert "rank 2 of 4: the sufficient condition fails" in str(report)
    same = domain_diversity(np.ones((9, 2)), np.ones((9, 2)))
    assert same.rank == 0


def test_units_and_origin_do_not_matter():
    mean, var = diagonal(6, 2)
    scale, shift = np.array([100.0, 0.01]), np.array([-5.0, 3.0])
    one = domain_diversity(mean, var)
    other = domain_diversity(mean * scale + shift, var * scale**2)
    np.testing.assert_allclose(one.singular_values, other.singular_values, rtol=1e-6)


def test_full_covariances_have_more_parameters_and_contain_the_diagonal_ones():
    mean, var = diagonal(7, 2)
    matrices = var[:, :, None] * np.eye(2)
    own, other = domain_diversity(mean, var), domain_diversity(mean, matrices)
    assert (other.statistics, other.needed, other.rank) == (5, 6, 4)
    np.testing.assert_allclose(other.singular_values[:4], own.singular_values, rtol=1e-9)
    roots = RNG.normal(size=(7, 2, 3))
    assert domain_diversity(mean, roots @ roots.swapaxes(1, 2)).sufficient


def test_what_is_no_prior_is_refused():
    mean, var = diagonal(3, 2)
    for bad, message in [
        ((mean, var[:, :1]), "must have shape"),
        ((mean, -var), "positive definite"),
        ((mean, np.stack([[[1.0, 2.0], [2.0, 1.0]]] * 3)), "smallest eigenvalue"),
        ((mean * np.nan, var), "must be finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            domain_diversity(*bad)

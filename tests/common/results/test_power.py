"""Power: by simulation, by another formula, and at the edges."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from common.results.comparison import Difference, interval
from common.results.power import holm, p_value, smallest_visible, told_apart


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_what_is_just_visible_is_seen_four_times_in_five(n):
    """Simulated pairs with the true spread: the test finds the difference with power 80%."""
    spread = 2.0
    true = Difference(0.0, stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n), n)
    delta = smallest_visible(true)
    draws = np.random.default_rng(0).normal(delta, spread, (40_000, n))
    found = stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(("n", "level", "power"), [(3, 0.05, 0.8), (10, 0.05, 0.9), (5, 0.01, 0.5)])
def test_power_is_the_normal_one_averaged_over_the_spread_that_is_measured(n, level, power):
    """Without the noncentral t: given the sample's spread, the mean is normal."""
    delta = smallest_visible(interval(np.arange(n)), level=level, power=power)
    shift = delta * math.sqrt(n) / np.std(np.arange(n), ddof=1)
    bar = stats.t.ppf(1 - level / 2, n - 1)

    def seen(ratio):  # of the measured spread to the true one
        density = stats.chi.pdf(ratio * math.sqrt(n - 1), n - 1) * math.sqrt(n - 1)
        return density * (
            stats.norm.sf(bar * ratio - shift) + stats.norm.cdf(-bar * ratio - shift)
        )

    assert integrate.quad(seen, 0, 6)[0] == pytest.approx(power, abs=1e-6)


def test_one_pair_sees_nothing_and_equal_pairs_see_all():
    assert smallest_visible(interval([1.0])) == math.inf
    assert p_value(interval([1.0])) == 1
    assert p_value(interval([])) == 1
    assert smallest_visible(interval([1.0, 1.0])) == 0
    assert p_value(interval([1.0, 1.0])) == 0
    assert p_value(interval([0.0, 0.0])) == 1


def test_significance_is_that_of_the_paired_test():
    values = [0.3, -0.1, 0.5, 0.2]
    assert p_value(interval(values)) == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue)


def test_holms_correction_multiplies_by_the_number_of_those_that_are_left():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_many_comparisons_are_held_to_more_than_one():
    won, lost = interval([1.0, 1.3, 1.2]), interval([-1.0, -1.1, -1.05])
    near = interval([1.0, 2.0, 1.5])  # p = 0.037
    assert told_apart([near]) == [1]
    assert told_apart([near, won, lost, *[interval([0.1, -0.1])] * 2]) == [0, 1, -1, 0, 0]

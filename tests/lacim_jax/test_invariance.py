"""The test of invariance: uniform p-values where it holds, power where not; the choice by it."""

import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import LogisticRegression

from lacim_jax import Trial, invariance_test, select_invariant


def draw(seed, effect=0.0, *, examples=600, domains=3, nonlinear=False):
    """Features whose distribution differs between domains; labels by them, and by the domain."""
    rng = np.random.default_rng(seed)
    d = rng.integers(domains, size=examples)
    f = rng.normal(size=(examples, 2)) + 0.5 * d[:, None]
    odds = 2 * np.sin(2 * f[:, 0]) if nonlinear else f @ [1.0, -0.5]
    y = odds + effect * (d - d.mean()) + rng.logistic(size=examples) > 0
    return f, y.astype(int), d


def test_p_values_are_uniform_where_the_label_does_not_depend_on_the_domain():
    p_values = [invariance_test(*draw(seed)).p_value for seed in range(200)]
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 0.01
    # Labels exchanged among near neighbours: never too small, at worst a little too large.
    found = [
        invariance_test(*draw(s), method="permutation", num_permutations=99).p_value
        for s in range(60)
    ]
    assert np.mean(np.array(found) < 0.1) < 0.2
    assert 0.3 < np.mean(found) < 0.75


@pytest.mark.parametrize("method", ["likelihood_ratio", "permutation"])
def test_power_rises_with_the_effect(method):
    def power(effect):
        tests = (
            invariance_test(*draw(s, effect), method=method, num_permutations=99) for s in range(40)
        )
        return np.mean([test.p_value < 0.05 for test in tests])

    none, some, much = map(power, (0.0, 0.3, 0.8))
    assert none < 0.2
    assert none < some < much
    assert much > 0.9


def test_a_form_that_does_not_fit_misleads_the_ratio_and_not_the_permutations():
    wrong, right = (
        [
            invariance_test(
                *draw(s, examples=1000, nonlinear=True), method=m, num_permutations=99
            ).p_value
            for s in range(20)
        ]
        for m in ("likelihood_ratio", "permutation")
    )
    assert np.mean(np.array(wrong) < 0.05) > 0.8
    assert np.mean(np.array(right) < 0.05) < 0.2


def test_the_statistic_is_that_of_two_regressions():
    f, y, d = draw(0, 0.4, domains=2)
    f = (f - f.mean(0)) / f.std(0)

    def log_likelihood(design):
        fitted = LogisticRegression(C=1e9, max_iter=1000, tol=1e-9).fit(design, y)
        return np.log(fitted.predict_proba(design)[np.arange(len(y)), y]).sum()

    gain = log_likelihood(np.c_[f, d, f * d[:, None]]) - log_likelihood(f)
    test = invariance_test(f, y, d)
    np.testing.assert_allclose(test.statistic, 2 * gain, rtol=1e-3)
    np.testing.assert_allclose(test.gain, gain / len(y), rtol=1e-3)
    assert test.degrees_of_freedom == 3
    np.testing.assert_allclose(test.p_value, scipy.stats.chi2.sf(2 * gain, 3), rtol=1e-2)


def test_many_classes_codes_and_separable_labels():
    rng = np.random.default_rng(0)
    d = np.array([10, 20, 77])[rng.integers(3, size=900)]
    f = rng.normal(size=900)
    y = np.stack([0 * f, f, -f], 1) + rng.gumbel(size=(900, 3))
    labels = np.array([5, -1, 9])[y.argmax(1)]
    test = invariance_test(f, labels, d)
    assert test.degrees_of_freedom == 2 * 2 * 2
    assert test.p_value > 0.01
    assert invariance_test(f, np.where(f > 0, 1, 0), d).p_value > 0.5  # separable: nothing is left
    # A constant feature says nothing, and one domain or one class cannot vary.
    assert invariance_test(np.ones(900), labels, d).degrees_of_freedom == 4
    assert invariance_test(f, labels, np.zeros(900, int)).p_value == 1
    assert invariance_test(f, np.zeros(900, int), d).p_value == 1


def test_permutations_that_tie_count_as_such():
    """Equal statistics are sums in another order, and differ in the last digit."""
    rng = np.random.default_rng(0)
    for seed in range(3):
        # Without features all examples are one block, and few values can be taken.
        labels = rng.permutation(np.repeat([0, 1], [32, 28]))
        domains = np.repeat([0, 1], 30)
        ones = int(labels[:30].sum())
        dealt = scipy.stats.hypergeom(60, 28, 30)
        values = np.arange(29)
        exact = dealt.pmf(values)[np.abs(values - 14) >= abs(ones - 14)].sum()
        found = invariance_test(
            np.zeros(60), labels, domains, method="permutation", num_permutations=999, seed=seed
        ).p_value
        np.testing.assert_allclose(found, exact, atol=4 * np.sqrt(exact * (1 - exact) / 999) + 1e-3)
    # Where every permutation is the same statistic, of nothing but rounding, none is surprising.
    same = invariance_test(
        np.zeros(60), np.tile([0, 1], 30), np.repeat([0, 1], 30), method="permutation"
    )
    assert same.p_value == 1


def test_features_that_follow_from_others_add_no_degrees_of_freedom():
    f, y, d = draw(0, 0.3)
    share = 1 / (1 + np.exp(-f[:, 0]))
    one = invariance_test(share, y, d)
    for twice in (
        np.stack([share, 1 - share], 1),
        np.stack([share, 1e6 * share + 3, np.full(len(y), 7.0)], 1),
    ):
        both = invariance_test(twice, y, d)
        assert both.degrees_of_freedom == one.degrees_of_freedom == 4
        np.testing.assert_allclose(both.statistic, one.statistic, rtol=1e-4)
        np.testing.assert_allclose(both.p_value, one.p_value, rtol=1e-3)
    # A feature that varies in one domain alone has a slope there, and none elsewhere.
    only = np.where(d == 0, f[:, 0], 0.0)
    assert invariance_test(only, y, d).degrees_of_freedom == 2
    # Features that are the domain leave nothing to add to it.
    named = np.eye(3)[d]
    for method in ("likelihood_ratio", "permutation"):
        found = invariance_test(named, y, d, method=method, num_permutations=9)
        assert (found.p_value, found.degrees_of_freedom) == (1, 0)


def test_the_best_of_the_accepted_is_chosen():
    trials = [Trial(0.9, 1e-6), Trial(0.7, 0.2), Trial(0.72, 0.06), Trial(0.5, 0.9)]
    chosen = select_invariant(trials)
    assert chosen.chosen == 2
    assert chosen.invariant
    np.testing.assert_array_equal(chosen.accepted, [False, True, True, True])
    assert select_invariant(trials, level=0.5).chosen == 3
    rejected = select_invariant([Trial(0.9, 1e-6), Trial(0.8, 1e-3), Trial(float("nan"), 0.9)])
    assert rejected.chosen == 1
    assert not rejected.invariant


def test_bad_input():
    f, y, d = draw(0)
    for arrays, message in (
        ((f[:-1], y, d), r"for one example at least, got \[599, 2\], \[600\] and \[600\]"),
        ((f[:0], y[:0], d[:0]), "for one example at least"),
        ((np.where(f > 1, np.nan, f), y, d), "features must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            invariance_test(*arrays)
    # As many coefficients as examples fit any labels, with p = 1.
    many = np.random.default_rng(0).normal(size=(30, 14))
    for method in ("likelihood_ratio", "permutation"):
        with pytest.raises(ValueError, match="got 30 examples, 14 features and 2 domains"):
            invariance_test(many, np.arange(30) // 2 % 2, np.arange(30) % 2, method=method)
    invariance_test(many[:, :13], np.arange(30) // 2 % 2, np.arange(30) % 2)
    # A TypeError where annotations are checked, as here: they refuse an unknown method first.
    with pytest.raises((ValueError, TypeError), match=r"(?s)method.*kernel"):
        invariance_test(f, y, d, method="kernel")
    for count in (0, -1):
        with pytest.raises(
            ValueError, match=f"num_permutations must be .* at least 1, got {count}"
        ):
            invariance_test(f, y, d, method="permutation", num_permutations=count)
    with pytest.raises(ValueError, match="there must be a trial, and a level"):
        select_invariant([])
    with pytest.raises(ValueError, match="at least one trial must have a score"):
        select_invariant([Trial(float("nan"), 0.5)])

"""Multinomial logistic regression, where a maximum is known or can be checked."""

import numpy as np

from lacim_jax.logistic import logistic_regression, standardised


def test_counts_are_their_own_maximum():
    """Indicators of groups: p is each group's share, whatever the classes."""
    rng = np.random.default_rng(0)
    groups, labels = rng.integers(3, size=600), rng.integers(4, size=600)
    fit = logistic_regression(np.eye(3)[groups], np.eye(4)[labels])
    shares = np.stack([np.bincount(labels[groups == g], minlength=4) for g in range(3)]) / 1.0
    shares /= shares.sum(1, keepdims=True)
    np.testing.assert_allclose(fit.probabilities, shares[groups], atol=1e-4)
    expected = np.log(shares[groups, labels]).sum()
    np.testing.assert_allclose(fit.log_likelihood, expected, rtol=1e-6)
    scores = np.eye(3)[groups] @ fit.weights
    odds = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(odds, fit.probabilities, rtol=1e-9)


def test_known_confusion_is_undone():
    """Shares seen are C' p, so p is found again where each group has one of its own."""
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    confusion = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]])
    groups = np.arange(200) % 2
    fit = logistic_regression(np.eye(2)[groups], (p @ confusion)[groups], confusion)
    np.testing.assert_allclose(fit.probabilities, p[groups], atol=1e-3)


def test_separable_labels_stay_finite_and_constants_are_left_out():
    x = np.linspace(-1, 1, 50)
    design = np.column_stack([np.ones(50), x])
    fit = logistic_regression(design, np.eye(2)[(x > 0).astype(int)])
    assert -1 < fit.log_likelihood < 0
    scaled = standardised(np.column_stack([3 * x + 7, np.full(50, 2.0)]))
    assert scaled.shape == (50, 1)
    np.testing.assert_allclose([scaled.mean(), scaled.std()], [0, 1], atol=1e-12)

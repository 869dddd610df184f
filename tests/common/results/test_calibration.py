"""Calibration and detection against their definitions."""

import numpy as np
import pytest

from common.results.calibration import detection_auroc, expected_calibration_error

RNG = np.random.default_rng(0)


def test_the_error_is_its_definition():
    logits = 2 * RNG.normal(size=(300, 4))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels, bins = RNG.integers(0, 4, 300), 7
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    due = 0.0
    for b in range(bins):
        own = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if own.any():
            due += own.mean() * abs(right[own].mean() - confidence[own].mean())
    found = expected_calibration_error(probabilities, labels, bins=bins)
    np.testing.assert_allclose(found, due, rtol=1e-12)


def test_answers_drawn_from_the_probabilities_are_calibrated():
    first = RNG.uniform(size=50_000)
    labels = (RNG.uniform(size=50_000) > first).astype(int)
    honest = np.stack([first, 1 - first], 1)
    assert expected_calibration_error(honest, labels) < 0.01
    boasting = np.where(honest > 0.5, 0.99, 0.01)
    assert expected_calibration_error(boasting, labels) > 0.2


def test_the_area_counts_pairs():
    inside, outside = RNG.normal(size=40).round(1), RNG.normal(size=30).round(1) + 0.5
    pairs = np.sign(outside[:, None] - inside[None])
    np.testing.assert_allclose(detection_auroc(inside, outside), (pairs.mean() + 1) / 2)
    assert detection_auroc([0.0, 1.0], [2.0]) == 1.0


@pytest.mark.parametrize(
    ("probabilities", "labels", "bins", "message"),
    [
        ([0.5, 0.5], [0], 15, r"must be \[n, classes\]"),
        ([[0.5, 0.5]], [0, 1], 15, r"got \(1, 2\) and \(2,\)"),
        ([[0.5, 0.6]], [0], 15, "sum to 1"),
        ([[1.5, -0.5]], [0], 15, "at least 0"),
        ([[0.5, 0.5]], [0], 0, "bins must be at least 1"),
    ],
)
def test_what_is_no_prediction_is_refused(probabilities, labels, bins, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(np.array(probabilities), np.array(labels), bins=bins)


@pytest.mark.parametrize("outside", [[], [np.nan], [np.inf]])
def test_scores_that_are_none_are_refused(outside):
    with pytest.raises(ValueError, match="all of them finite"):
        detection_auroc([0.0], outside)

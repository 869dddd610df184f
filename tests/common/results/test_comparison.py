"""Comparisons: intervals are Student's, pairs are by seed."""

import math

import pytest

from common.results.comparison import interval, paired_difference
from common.results.records import Record


def runs(*values):
    return [
        Record(method="m", setting={}, seed=seed, metrics={"x": value}, wall_time=0.0)
        for seed, value in enumerate(values)
    ]


def test_an_interval_is_students():
    found = interval([1.0, 2.0, 3.0, math.nan])
    assert found.mean == 2.0
    assert found.n == 3
    assert found.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert not found.above
    assert not found.below
    assert interval([1.0, 1.1, 1.2]).above
    assert interval([-1.0, -1.1, -1.2]).below


def test_one_difference_has_no_interval_and_none_no_mean():
    assert math.isinf(interval([1.0]).half_width)
    assert not interval([1.0]).above
    assert math.isnan(interval([]).mean)
    assert not interval([]).above


def test_pairs_are_by_seed_and_diverged_runs_count_as_told():
    ours, base = runs(0.5, 0.6, 0.7), runs(math.nan, 0.5, 0.5)[::-1]
    found = paired_difference(ours, base, "x")
    assert (found.n, found.mean) == (2, pytest.approx(0.15))
    found = paired_difference(ours, base, "x", diverged=0.0)
    assert (found.n, found.mean) == (3, pytest.approx(0.8 / 3))
    assert paired_difference(ours, base[:1], "x").n == 1

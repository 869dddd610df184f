"""Tables: means, sample deviations, and diverged runs that are never averaged away."""

import math

import numpy as np
import pytest

from common.results.records import Record
from common.results.tables import group, markdown, metric, number, percent, summarise


def records(values, method="sgd"):
    return [
        Record(method=method, setting={}, seed=i, metrics={"accuracy": v}, wall_time=0.0)
        for i, v in enumerate(values)
    ]


def test_summary_is_numpys():
    values = [0.1, 0.5, 0.4, 0.9]
    found = summarise(values)
    np.testing.assert_allclose(found.mean, np.mean(values))
    np.testing.assert_allclose(found.sd, np.std(values, ddof=1))
    assert (found.n, found.failed) == (4, 0)


def test_diverged_runs_are_counted_and_shown():
    assert percent(summarise([0.5, 0.6, math.nan])) == "55.00 ± 7.07 (1 of 3 diverged)"
    assert percent(summarise([math.inf, math.nan])) == "diverged (2 of 2)"
    assert number(summarise([0.5, math.inf])) == "0.500 (n = 1) (1 of 2 diverged)"


def test_what_was_not_measured_has_not_diverged():
    assert metric(records([0.5, 0.7]), "accuracy").mean == pytest.approx(0.6)
    assert percent(summarise([])) == number(metric([], "accuracy")) == "-"
    assert percent(metric(records([0.5]), "recall")) == "-"
    # Nor has a run that was not measured, among others that were.
    other = Record(method="sgd", setting={}, seed=2, metrics={"recall": 1.0}, wall_time=0.0)
    found = metric([*records([0.5, math.nan]), other], "accuracy")
    assert percent(found) == "50.00 (n = 1) (1 of 2 diverged)"


def test_groups_keep_their_order():
    mixed = records([1, 2], "z") + records([3], "a") + records([4], "z")
    groups = group(mixed, lambda r: r.method)
    assert list(groups) == ["z", "a"]
    assert [r.metrics["accuracy"] for r in groups["z"]] == [1, 2, 4]


def test_a_row_must_fit_the_header():
    with pytest.raises(ValueError, match="1 cells, the header 2"):
        markdown(["a", "b"], [["x"]])

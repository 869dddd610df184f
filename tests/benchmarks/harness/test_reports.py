"""The small functions of records that reports are made of."""

import math

import numpy as np
import pytest

from benchmarks.harness.reports import (
    at_edge,
    best_by_method,
    by_setting,
    hardware,
    joined,
    magnitude,
    marked,
    met,
    numeric,
    paired,
    reached,
    turns,
    where,
)
from common.results.records import Record


def record(method, seed=0, accuracy=0.5, **setting):
    metrics = {"validation_accuracy": accuracy, "test_accuracy": accuracy}
    return Record(method=method, setting=setting, seed=seed, metrics=metrics, wall_time=0.0)


def test_runs_are_picked_by_method_and_by_what_their_settings_say():
    runs = [record("a", rate=0.1), record("b", rate=0.1), record("a", rate=0.3, workers=4)]
    assert where(runs, "a") == [runs[0], runs[2]]
    assert where(runs, rate=0.1) == runs[:2]
    assert where(runs, "a", workers=None) == [runs[0]]
    assert list(by_setting(runs, "rate")) == [0.1, 0.3]
    assert [numeric(run, "workers") for run in runs] == [0, 0, 4]


def test_the_best_setting_is_each_methods_own():
    runs = [record("a", accuracy=0.4, rate=1), record("a", accuracy=0.6, rate=2), record("b")]
    best = best_by_method(runs)
    assert {method: chosen[0].setting for method, chosen in best.items()} == {
        "a": {"rate": 2}, "b": {},
    }  # fmt: skip


def test_differences_are_of_the_seeds_that_both_sides_have():
    runs = [record("a", seed, 0.5 + 0.1 * seed) for seed in range(3)]
    base = [record("b", seed, 0.4) for seed in (1, 2, 3)]
    gain = paired(runs, base)
    assert (gain.n, gain.mean) == (2, pytest.approx(0.25))
    lost = paired(runs, [record("b", 1, math.nan), record("b", 2, 0.4)])
    assert (lost.n, lost.failed) == (1, 1)


def test_targets_are_met_from_below_or_from_above():
    assert [met(0.9, 0.85), met(0.8, 0.85)] == ["met", "missed"]
    assert [met(1.0, 1.1, at_most=True), met(1.2, 1.1, at_most=True)] == ["met", "missed"]


@pytest.mark.parametrize(
    ("kind", "count", "cores", "words"),
    [
        ("cpu", 1, 1, "1 CPU core"),
        ("cpu", 1, 2, "2 CPU cores"),
        ("cpu", 8, 2, "8 CPU devices on 2 CPU cores"),
        ("NVIDIA H100", 1, 16, "1 NVIDIA H100 beside 16 CPU cores"),
    ],
)
def test_hardware_is_said_as_one_says_it(kind, count, cores, words):
    assert hardware({"kind": kind, "count": count, "cores": cores}) == words


def test_magnitudes_are_written_as_one_reads_them():
    found = [magnitude(x) for x in (0.0, 0.94, 12.0, 3.2e-14, 2e5, math.inf)]
    assert found == ["0", "0.94", "12", "3 · 10⁻¹⁴", "2 · 10⁵", "inf"]
    assert magnitude(3.24e-14, digits=2) == "3.2 · 10⁻¹⁴"
    above = [magnitude(x, digits=2, rounded=math.ceil) for x in (3.41e-14, 3.4e-14, 0.841, 0.84)]
    assert above == ["3.5 · 10⁻¹⁴", "3.4 · 10⁻¹⁴", "0.85", "0.84"]
    below = [magnitude(x, digits=2, rounded=math.floor) for x in (3.49e-14, 0.849, 0.29, math.inf)]
    assert below == ["3.4 · 10⁻¹⁴", "0.84", "0.29", "inf"]


def test_empty_sections_leave_no_gap():
    assert joined("a", "", "b") == "a\n\nb"


def test_a_value_is_at_the_edge_of_several_tried():
    assert [at_edge(x, (0.2, 0.1, 0.4, 0.1)) for x in (0.1, 0.2, 0.4)] == [True, False, True]
    assert not at_edge(0.1, (0.1, 0.1))  # nothing was chosen


def test_a_setting_at_the_edge_of_its_grid_is_marked():
    tried = [
        Record(method="a", setting={"step": step, "lambda": 2.0}, seed=0, metrics={}, wall_time=0.0)
        for step in (0.1, 0.2, 0.4)
    ]
    found = [marked(name, [tried[i]], tried) for i, name in enumerate(["step", "step", "lambda"])]
    assert found == ["0.1 (edge)", "0.2", "2"]
    assert marked("rank", tried, tried) == ""


def test_a_ratio_whose_turns_cover_its_target_is_neither_met_nor_missed():
    one = Record(
        method="a",
        setting={},
        seed=0,
        metrics={},
        wall_time=0.0,
        curve={"seconds": [1.0, 1.2, 0.9]},
    )
    other = Record(
        method="b",
        setting={},
        seed=0,
        metrics={},
        wall_time=0.0,
        curve={"seconds": [1.0, 1.0, 1.0]},
    )
    over = turns(one, [other])
    assert over is not None
    np.testing.assert_allclose(over, [1.0, 1.2, 0.9])
    assert reached(1.03, 1.05, over, at_most=True) == "too close to tell"
    assert reached(1.03, 3.0, over, at_most=True) == "met"
    assert reached(1.03, 3.0, over) == "missed"
    assert reached(1.03, 1.05, at_most=True) == "met"
    assert turns(one, []) is None
    assert turns(one, [Record(method="b", setting={}, seed=0, metrics={}, wall_time=0.0)]) is None

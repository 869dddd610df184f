"""Verdicts on path space: training from the same weights, and invariance."""

import dataclasses
import math

import pytest

from benchmarks.harness.halving import TUNING
from benchmarks.judgement.finding import FAILS, HOLDS, INCOMPLETE, PARTLY, UNDECIDED
from benchmarks.judgement.path_space_verdict import invariance, path_space_training
from common.results.records import Record
from tests.benchmarks.judgement.made_up import (
    COARSE,
    FINE,
    images,
    runs,
    scaled_apart,
)


@pytest.mark.parametrize(
    ("gsgd", "sgd", "spread", "verdict"),
    [
        (0.9, 0.8, FINE, HOLDS),
        (0.8, 0.9, FINE, FAILS),
        (0.9, 0.9, FINE, FAILS),
        (0.9, 0.9, COARSE, UNDECIDED),
        (0.4, 0.3, FINE, UNDECIDED),  # hardly anything is learnt
        (0.9, 0.87, FINE, PARTLY),  # better, yet by less than 5 points: won all the same
    ],
)
def test_path_space_is_judged_by_pairs_from_the_same_weights(gsgd, sgd, spread, verdict):
    found = path_space_training({"gsgd_cifar10": images(gsgd, sgd, spread=spread)})
    assert found.verdict == (HOLDS if verdict == PARTLY else verdict)
    assert found.figures.count("of 1 comparisons") == 2
    assert "40 of 93" in found.figures or gsgd > 0.5
    assert "hoped for 1" in found.figures or gsgd != sgd


def test_a_range_of_steps_alone_holds_partly():
    """As good at the best step; at the other step SGD diverges."""
    records = images(0.9, 0.9, rates=(0.1, 1.0))
    lost = [
        Record(method=r.method, setting=r.setting, seed=r.seed, wall_time=0.0,
               metrics=dict.fromkeys(r.metrics, math.nan))
        if (r.method, r.setting["learning_rate"]) == ("SGD", 1.0) else r
        for r in records
    ]  # fmt: skip
    assert path_space_training({"gsgd_cifar10": lost}).verdict == PARTLY


@pytest.mark.parametrize("seeds", [1, 3])
def test_runs_of_a_part_of_the_budget_decide_the_range_of_steps_alone(seeds):
    """Halving: at two epochs path space leads at both steps; in the end both sides are level."""
    tuning = [
        dataclasses.replace(r, setting={**r.setting, TUNING: 2})
        for r in images(0.9, 0.7, rates=(0.1, 1.0))
        if r.seed < seeds
    ]
    found = path_space_training({"gsgd_cifar10": [*tuning, *images(0.8, 0.8)]})
    best, over_grid = found.figures.split("On average")
    assert "better or worse in none of 1 comparisons" in best
    # From one seed nothing can be told.
    won = "better or worse in none" if seeds == 1 else "better in 1"
    assert f"{won} of 1 comparisons" in over_grid
    assert found.verdict == (UNDECIDED if seeds == 1 else PARTLY)


def test_short_runs_that_learn_too_little_decide_nothing():
    """Halving: at a part of the budget a third is right, at the whole of it four in five."""
    tuning = [
        dataclasses.replace(r, setting={**r.setting, TUNING: 1})
        for r in images(0.4, 0.2, rates=(0.1, 1.0))
    ]
    found = path_space_training({"gsgd_cifar10": [*tuning, *images(0.8, 0.8)]})
    best, over_grid = found.figures.split("On average")
    assert "too little" not in best
    assert "too little learnt in 1 (at best CIFAR-10: 40 of 93" in over_grid
    assert found.verdict == UNDECIDED


@pytest.mark.parametrize(("best", "told"), [(0.1, False), (1.0, True), (0.01, True)])
def test_weights_at_the_edge_of_their_grid_decide_nothing(best, told):
    """Of a grid that was halved too: the runs with the whole budget have one step alone."""
    grid = [
        dataclasses.replace(r, setting={**r.setting, TUNING: 2})
        for r in images(0.9, 0.9, rates=(0.01, 0.1, 1.0))
    ]
    final = images(0.9, 0.8, rates=(best,))
    found = path_space_training({"gsgd_cifar10": [*grid, *final]})
    at_best, over_grid = found.headline.split("; on average over the steps tried ")
    assert ("baseline's step at the edge of its grid" in at_best) == told
    assert ("better in 1 of 1 comparisons (most: CIFAR-10, +10.0 points)" in at_best) != told
    assert "edge" not in over_grid


def test_a_run_that_diverged_counts_as_one_that_learnt_nothing():
    records = [
        dataclasses.replace(r, metrics={**r.metrics, "test_accuracy": math.nan})
        if (r.method, r.seed) == ("G-SGD", 0) else r
        for r in images(0.9, 0.9)
    ]  # fmt: skip
    # Eighty points are lost in one seed of three.
    found = path_space_training({"gsgd_cifar10": records})
    assert "not decided in 1 (typically too few seeds to see anything" in found.headline


@pytest.mark.parametrize("stopped", ["G-SGD", "SGD"])
def test_a_run_that_was_stopped_in_its_search_compares_nothing(stopped):
    records = [
        dataclasses.replace(r, setting={**r.setting, TUNING: 1}) if r.method == stopped else r
        for r in images(0.8, 0.8, rates=(0.1, 1.0))
    ]
    assert path_space_training({"gsgd_cifar10": records}) == INCOMPLETE


def test_every_task_is_in_points_of_its_own_scale():
    returns = [
        record
        for method, score in (("G-SGD", 480.0), ("SGD", 420.0))
        for record in runs(method, {"learning_rate": 0.1}, validation_return=score,
                           test_return=score)
    ]  # fmt: skip
    found = path_space_training({"gsgd_control": returns})
    assert "(most: pole, +12.0 points)" in found.headline


@pytest.mark.parametrize(("apart", "verdict"), [(1e-6, HOLDS), (0.5, FAILS), (math.nan, FAILS)])
def test_invariance_is_a_matter_of_orders_of_magnitude(apart, verdict):
    records = scaled_apart(apart)
    found = invariance({"gsgd_invariance": records})
    assert found.verdict == verdict
    wide = [
        dataclasses.replace(r, setting={"dtype": "float64", "spread": 1.0},
                            metrics={**r.metrics, "distance": 1e-9 if "G-" in r.method else 0.7})
        for r in records
    ]  # fmt: skip
    both = invariance({"gsgd_invariance": [*records, *wide]})
    assert both.verdict == (HOLDS if verdict == HOLDS else PARTLY)
    # The precision that decides is told, not the last one.
    assert "in float32 by at most" in both.headline
    assert "in float64 by at most 1.0 · 10⁻⁹ of their size in path space" in both.headline

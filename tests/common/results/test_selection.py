"""Tuning: the best mean on validation data, and no reward for runs that diverged."""

import math

import pytest

from common.results.records import Record
from common.results.selection import best_setting


def run(rate, seed, accuracy):
    metrics = {"validation_accuracy": accuracy, "test_accuracy": 1 - accuracy}
    setting = {"learning_rate": rate}
    return Record(method="m", setting=setting, seed=seed, metrics=metrics, wall_time=0.0)


def test_the_best_mean_wins_and_the_test_figure_has_no_say():
    tried = [run(0.1, 0, 0.6), run(0.1, 1, 0.6), run(0.3, 0, 0.9), run(0.3, 1, 0.4)]
    chosen = best_setting(tried)
    assert [(r.setting["learning_rate"], r.seed) for r in chosen] == [(0.3, 0), (0.3, 1)]


def test_a_setting_is_not_chosen_for_the_seeds_it_survived():
    tried = [run(0.1, 0, 0.6), run(0.1, 1, 0.6), run(1.0, 0, 0.99), run(1.0, 1, math.nan)]
    assert best_setting(tried)[0].setting["learning_rate"] == 0.1


def test_where_all_diverge_the_least_bad_is_shown():
    tried = [run(0.1, 0, math.nan), run(0.1, 1, 0.2), run(1.0, 0, math.nan), run(1.0, 1, math.inf)]
    assert best_setting(tried)[0].setting["learning_rate"] == 0.1


def test_of_equal_settings_the_first_tried_is_kept():
    assert best_setting([run(0.3, 0, 0.5), run(0.1, 0, 0.5)])[0].setting["learning_rate"] == 0.3


def test_missing_records_and_criteria_are_errors():
    with pytest.raises(ValueError, match="at least one record"):
        best_setting([])
    with pytest.raises(KeyError, match="recall"):
        best_setting([run(0.1, 0, 0.5)], criterion="recall")

"""Successive halving: who is kept, what is reported, and that a stopped search goes on."""

import math

import pytest

from benchmarks.harness.halving import (
    TUNING,
    Halving,
    budgets,
    grid,
    halved,
    reported,
    runs,
    tuning_table,
)
from benchmarks.harness.stages import Stages, TimeBudgetSpentError
from common.results.records import Record

RATES = (0.01, 0.1, 1.0, 10.0)
SCORES = {0.01: 0.5, 0.1: 0.8, 1.0: 0.7, 10.0: math.nan}
"""At any budget; the epochs are added as thousandths."""


def run(stages, halving=None, seeds=(3, 4, 5), scores=SCORES):
    """The records of a search, and (epochs, rates, seeds) of the rungs that were computed."""
    made = []

    def work(rung):
        def make():
            made.append((rung.epochs, rung.values, rung.seeds))
            for seed in rung.seeds:
                for rate in rung.values:
                    score = {"validation_accuracy": scores[rate] + rung.epochs / 1000}
                    setting = {"learning_rate": rate, **rung.setting}
                    yield Record(
                        method="m", setting=setting, seed=seed, metrics=score, wall_time=0.0
                    )

        yield f"m{rung.label}", make

    halved_records = halved(RATES, seeds, 18, halving, stages, work, method="m", setting={})
    return list(halved_records), made


def test_budgets_grow_as_settings_fall():
    assert budgets(4, 18, Halving(factor=3)) == [(2, 4), (6, 2), (18, 1)]
    assert budgets(9, 16, Halving(factor=2)) == [(1, 9), (2, 5), (4, 3), (8, 2), (16, 1)]
    assert budgets(1, 5, Halving()) == [(5, 1)]
    assert budgets(4, 18, None) == [(18, 4)]
    with pytest.raises(ValueError, match=r"4 settings are tried in 3 rungs, .* and there are 8;"):
        budgets(4, 8, Halving(factor=3))


def test_the_best_go_on_and_all_seeds_take_the_last():
    records, made = run(Stages(), Halving(factor=3, seeds=2))
    assert made == [(2, RATES, (3, 4)), (6, (0.1, 1.0), (3, 4)), (18, (0.1,), (3, 4, 5))]
    assert [(r.setting["learning_rate"], r.seed) for r in reported(records)] == [
        (0.1, 3), (0.1, 4), (0.1, 5),
    ]  # fmt: skip
    assert {r.setting["learning_rate"] for r in grid(records)} == set(RATES)
    assert all(r.setting[TUNING] == 2 for r in grid(records))
    # As many epochs are trained as a progress bar is told of.
    spent = sum(epochs * len(rates) * len(seeds) for epochs, rates, seeds in made)
    assert spent == sum(epochs * n for epochs, n in runs(4, 18, 3, Halving(factor=3, seeds=2)))


def test_without_halving_all_settings_have_the_whole_budget():
    records, made = run(Stages())
    assert made == [(18, RATES, (3, 4, 5))]
    assert reported(records) == grid(records) == records
    assert tuning_table(records) == ""


def test_a_setting_that_diverged_is_kept_last():
    scores = dict(zip(RATES, (math.nan, 0.1, math.nan, math.nan), strict=True))
    _, made = run(Stages(), Halving(), scores=scores)
    assert made[1][1] == (0.01, 0.1)
    assert made[2][1] == (0.1,)


def test_a_stopped_search_goes_on_from_what_it_knows():
    halving = Halving(seeds=2)
    whole, _ = run(Stages(), halving)
    stages = Stages(seconds=0.0)
    with pytest.raises(TimeBudgetSpentError, match="'m, 6 epochs'"):
        run(stages, halving)
    assert {r.setting[TUNING] for r in stages.known} == {2}
    rest, made = run(Stages({"m, 2 epochs": stages.known}), halving)
    assert [epochs for epochs, *_ in made] == [6, 18]
    assert rest == whole[len(stages.known) :]


def test_the_table_shows_every_budget():
    records, _ = run(Stages(), Halving(seeds=2))
    table = tuning_table(records)
    head = [cell.strip() for cell in table.splitlines()[0].split("|")]
    assert head[2:5] == ["with 2 epochs", "with 6 epochs", "with all"]
    row = table.splitlines()[-1].split("|")
    assert [cell.count(":") for cell in row[2:5]] == [4, 2, 1]
    assert "0.1: 81.8" in row[4]

"""The verdict on more training domains follows the records, whichever way they go."""

import dataclasses
import math

import pytest

from benchmarks.judgement.finding import FAILS, HOLDS, INCOMPLETE, PARTLY, UNDECIDED
from benchmarks.judgement.fonts_verdict import more_domains
from tests.benchmarks.judgement.made_up import FINE, of_fonts, runs

LEVEL = {"mcc": (0.5, 0.5), "pooled": 0.5}


def judged(few, most, **more):
    return more_domains({"lacim_fonts": of_fonts(few, most, **more)})


@pytest.mark.parametrize(
    ("few", "most", "more", "verdict"),
    [
        (0.3, 0.6, {}, HOLDS),
        (0.2, 0.4, {}, PARTLY),  # as good as ERM, and v is found
        (0.3, 0.6, LEVEL, PARTLY),  # better than ERM, and v is not
        (0.2, 0.4, LEVEL, FAILS),
        (0.1, 0.3, {"mcc": (0.5, 0.2), "pooled": 0.4}, FAILS),
        (0.2, 0.4, {**LEVEL, "spread": 0.2}, UNDECIDED),  # seeds hide it all
        (0.3, 0.6, {**LEVEL, "learnt": 0.5}, PARTLY),
    ],
)
def test_it_takes_accuracy_over_erm_and_an_mcc_over_pooled_and_fewer(few, most, more, verdict):
    found = judged(few, most, **more)
    if more.get("learnt") == 0.5:  # half of the training images' letters are not known
        assert found.verdict == UNDECIDED
        assert "too little learnt in 2" in found.figures
        return
    assert found.verdict == verdict
    assert f"LaCIM {100 * few:.0f}% to {100 * most:.0f}% and ERM 20% to 40%" in found.headline


def test_the_figures_name_every_comparison_and_what_was_hoped_for():
    found = judged(0.2, 0.6)
    assert "better in 1 of 2 comparisons (most: 16 fonts, +20.0 points)" in found.figures
    assert "no gain as large as hoped in 1 (2 fonts: visible from" in found.figures
    assert "hoped for 5" in found.figures
    assert "better in 2 of 2 comparisons (most: 16 fonts over Pool-LaCIM, +20.0" in found.figures
    assert "(Pool-LaCIM 0.30, principal components 0.20)" in found.figures


def test_pooled_data_count_where_the_domains_suffice_alone():
    """From two fonts, where nine are needed, an MCC above the pooled one is not asked for."""
    found = judged(0.3, 0.6, mcc=(0.1, 0.5), pooled=0.3)
    assert found.verdict == HOLDS


def test_runs_that_diverged_are_left_out():
    records = [
        dataclasses.replace(r, metrics=dict.fromkeys(("test_accuracy", "validation_accuracy",
                                                      "choice_accuracy"), math.nan))
        if (r.method, r.seed) == ("LaCIM", 2) else r
        for r in of_fonts(0.3, 0.6, spread=FINE)
    ]  # fmt: skip
    found = more_domains({"lacim_fonts": records})
    assert found.verdict == HOLDS
    assert "nan" not in found.figures


def test_what_the_fonts_allow_stands_beside_it():
    allowed = runs("ERM, never tied", {"num_domains": 16}, test_accuracy=0.7, choice_accuracy=0.8,
                   validation_accuracy=0.8)  # fmt: skip
    found = more_domains({"lacim_fonts": [*of_fonts(0.3, 0.6), *allowed]})
    assert "ERM 20% to 40%, where ERM that no style misled has 70%." in found.figures


def test_a_run_that_was_stopped_before_there_were_many_fonts_decides_nothing():
    few = [r for r in of_fonts(0.3, 0.6) if r.setting["num_domains"] == 2]
    some = [dataclasses.replace(r, setting={"num_domains": 4}) for r in few]
    assert more_domains({"lacim_fonts": [*few, *some]}) == INCOMPLETE


@pytest.mark.parametrize("method", ["ERM", "LaCIM"])
def test_without_either_side_nothing_is_compared(method):
    records = [r for r in of_fonts(0.3, 0.6) if r.method != method]
    assert more_domains({"lacim_fonts": records}) == INCOMPLETE

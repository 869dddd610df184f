"""Each verdict, on records made up for it."""

import math

import pytest

from benchmarks.delay.language import reading, rules, verdict
from common.results.comparison import Difference
from tests.benchmarks.delay.language.made_up import board, record


def named(records, name):
    (found,) = (one for one in verdict.findings(records) if one.name.startswith(name))
    return found


def renamed(**shares):
    return {
        {"c": rules.CONSTANT, "a": rules.ADAPTIVE}.get(name, name): value
        for name, value in shares.items()
    }


def test_there_is_no_gap_without_delay():
    base = reading.undelayed(board(), rules.MUON)
    assert reading.gap(base, base) == Difference(0.0, 0.0, 3)


def test_the_step_is_chosen_by_the_first_seed_alone():
    runs = [record("AdamW", "none", "8", 0.1, 0, step=0.1)]
    runs += [record("AdamW", "none", "8", 0.2, 0, step=0.2)]
    runs += [record("AdamW", "none", "8", 9.0, 1, step=0.1)]
    chosen = reading.tuned(runs, "AdamW", "none", "8")
    assert [(r.seed, r.setting["learning_rate"]) for r in chosen] == [(0, 0.1), (1, 0.1)]
    assert reading.tuned(runs, "Muon", "none", "8") == []


@pytest.mark.parametrize(
    ("c", "a", "spread", "word"),
    [
        (0.01, -0.2, 0.0, verdict.REPRODUCED),
        (-0.2, -0.3, 0.05, verdict.REPRODUCED),
        (0.5, 0.0, 0.05, verdict.REFUTED),
        (0.5, 0.0, 0.5, verdict.UNDECIDED),
        (0.01, 0.0, 0.05, verdict.UNDECIDED),  # its mean is within, its interval is not
    ],
)
def test_the_diagonal(c, a, spread, word):
    found = named(board(spread=spread, **renamed(c=c, a=a)), "the published diagonal")
    assert found.word == word
    assert "judged by DC-ASGD-c" in found.ours


def test_what_is_told_as_the_best_was_chosen_on_validation_text():
    """On test text the other one is the better of either pair."""
    records = board(
        spread=0.002, **renamed(c=0.01, a=0.4), prediction=0.5, rotated=1.0,
        validated={**renamed(c=0.6, a=0.1), "prediction": 0.2},
    )  # fmt: skip
    diagonal = named(records, "the published diagonal")
    assert diagonal.word == verdict.REPRODUCED
    assert "DC-ASGD-a 40 ± 0%; judged by DC-ASGD-c" in diagonal.ours
    assert verdict.target(records).ours.startswith("DC-ASGD-c, by validation loss the best")
    assert "closes 1 ± 2% of Muon's tuned gap" in verdict.headline(records)
    assert verdict.in_short(records).endswith("missed: DC-ASGD-c closes 1 ± 2%")


def test_rules_are_compared_over_the_seeds_that_all_have():
    """The third seed is the easiest, and one rule was stopped before it."""
    runs = [record("Muon", "a", "8", 0.2, seed) for seed in (0, 1, 2)]
    runs += [record("Muon", "b", "8", 0.18, seed) for seed in (0, 1)]
    assert reading.best_rule(runs, "Muon", ("a", "b", "c"), "8") == "b"
    runs += [record("Muon", "c", "8", float("nan"), 0)]
    assert reading.best_rule(runs, "Muon", ("c", "a", "b"), "8") == "b"
    assert reading.best_rule(runs, "AdamW", ("a", "b"), "8") is None


@pytest.mark.parametrize(
    ("adam", "word"), [(1.2, verdict.REPRODUCED), (0.3, verdict.REFUTED), (3.0, verdict.REFUTED)]
)
def test_robustness_is_judged_at_tuned_steps(adam, word):
    records = board(
        gap={rules.ADAMW: adam, rules.MUON: 0.3}, same={rules.ADAMW: 4.0, rules.MUON: 4.0}
    )
    found = named(records, "Muon's robustness")
    assert found.word == word
    assert f"{adam / 0.3:.1f} ± 0.0 times with every" in found.ours
    assert "1.0 ± 0.0 times by the public protocol" in found.ours


@pytest.mark.parametrize(
    ("shaken", "word"), [(0.02, verdict.REPRODUCED), (0.06, verdict.UNDECIDED)]
)
def test_robustness_is_reproduced_only_by_a_whole_interval(shaken, word):
    """The mean is near 4 both times, within 2.6 to 5.3."""
    assert named(board(shaken=shaken), "Muon's robustness").word == word


@pytest.mark.parametrize(
    ("share", "spread", "word"),
    [
        (0.46, 0.005, verdict.REPRODUCED),
        (0.46, 0.015, verdict.UNDECIDED),
        (0.9, 0.005, verdict.REFUTED),
        (0.1, 0.005, verdict.REFUTED),
    ],
)
def test_prediction(share, spread, word):
    assert named(board(prediction=share, spread=spread), "prediction").word == word


def test_a_single_published_figure_has_a_fifth_either_way():
    assert list(verdict.PREDICTED) == pytest.approx([0.368, 0.552])
    assert list(verdict.MILDER) == pytest.approx([2.64, 3.96])
    found = named(board(prediction=0.4), "prediction")
    assert found.theirs == "46% (counted as the same: 37 to 55%)"


@pytest.mark.parametrize(
    ("muon", "adam", "shaken", "word"),
    [
        (0.1, 0.09, 0.002, verdict.REPRODUCED),
        (0.1, 0.09, 0.02, verdict.UNDECIDED),
        (0.1, 0.2, 0.002, verdict.REFUTED),
        (0.2, 0.1, 0.002, verdict.REFUTED),
        (0.1, 0.11, 0.004, verdict.UNDECIDED),  # of Muon alone it is reproduced
    ],
)
def test_the_profile_is_judged_for_both_optimisers(muon, adam, shaken, word):
    records = board(profile={rules.MUON: muon, rules.ADAMW: adam}, shaken=shaken)
    found = named(records, "the profile")
    assert found.word == word
    assert "Muon " in found.ours
    assert "AdamW " in found.ours


def test_the_profile_of_one_optimiser_alone_reproduces_nothing():
    records = [r for r in board() if r.setting["optimiser"] == rules.MUON]
    found = named(records, "the profile")
    assert found.word == verdict.UNDECIDED
    assert found.ours.endswith("Muon 3.0 ± 0.0 times (reproduced)")
    assert named([r for r in records if r.setting["delay"] != "profile"], "the profile").word == (
        verdict.UNMEASURED
    )


@pytest.mark.parametrize(
    ("profile", "word"), [(0.1, verdict.REPRODUCED), (0.3, verdict.REFUTED), (0.0, "not decided")]
)
def test_the_profile(profile, word):
    found = named(board(profile=profile), "the profile")
    assert found.word == word
    assert ("no figure" in found.ours) == (profile == 0.0)


@pytest.mark.parametrize(
    ("share", "spread", "word"),
    [
        (0.9, 0.0, verdict.MET),
        (0.5, 0.0, verdict.MISSED),
        (0.9, 0.1, verdict.UNDECIDED),
    ],
)
def test_the_target(share, spread, word):
    records = board(spread=spread, **{rules.BOTH: share}, rotated=1.0)
    found = verdict.target(records)
    assert found.word == word
    assert found.ours.startswith(
        f"{rules.BOTH}, by validation loss the best of those with one more copy of the weights"
    )
    assert f"Target {word}" in verdict.headline(records)


def test_what_was_not_run_is_not_judged():
    words = {one.word for one in verdict.findings([])}
    assert words == {verdict.UNMEASURED}
    one_seed = Difference(0.45, math.inf, 1)
    assert verdict.judge(one_seed, verdict.PREDICTED) == verdict.UNDECIDED

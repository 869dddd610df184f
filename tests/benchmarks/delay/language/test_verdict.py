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
        (0.5, 0.0, 0.0, verdict.REFUTED),
        (0.5, 0.0, 0.5, verdict.UNDECIDED),
        (0.01, 0.0, 0.5, verdict.UNDECIDED),  # within, but seeds could not have told
    ],
)
def test_the_diagonal(c, a, spread, word):
    found = named(board(spread=spread, **renamed(c=c, a=a)), "the published diagonal")
    assert found.word == word
    assert "DC-ASGD-c" in found.ours


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
    ("share", "word"), [(0.46, verdict.REPRODUCED), (0.9, verdict.REFUTED), (0.1, verdict.REFUTED)]
)
def test_prediction(share, word):
    assert named(board(prediction=share), "prediction").word == word


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
        f"{rules.BOTH}, best of those with one more copy of the weights at most"
    )
    assert f"Target {word}" in verdict.headline(records)


def test_what_was_not_run_is_not_judged():
    words = {one.word for one in verdict.findings([])}
    assert words == {verdict.UNMEASURED}
    one_seed = Difference(0.45, math.inf, 1)
    assert verdict.judge(one_seed, verdict.PREDICTED) == verdict.UNDECIDED

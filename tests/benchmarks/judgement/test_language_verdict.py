"""The public findings on language models, counted."""

import pytest

from benchmarks.delay.language import rules
from benchmarks.judgement.finding import FAILS, HOLDS, PARTLY, UNDECIDED
from benchmarks.judgement.language_verdict import language
from tests.benchmarks.delay.language.made_up import board

AS_PUBLISHED = {rules.CONSTANT: 0.01, rules.ADAPTIVE: 0.0, rules.PREDICTION: 0.46}


@pytest.mark.parametrize(
    ("changed", "profile", "verdict", "reproduced"),
    [
        ({}, 0.1, HOLDS, 4),
        ({rules.PREDICTION: 0.7}, 0.1, PARTLY, 3),
        ({rules.PREDICTION: 0.7}, {rules.MUON: 0.1, rules.ADAMW: 0.2}, PARTLY, 2),
    ],
)
def test_findings_are_counted(changed, profile, verdict, reproduced):
    shares = AS_PUBLISHED | changed
    records = board(profile=profile, spread=0.003, shaken=0.002, **shares)
    found = language({"delayed_language_model": records})
    assert found.verdict == verdict
    assert found.headline.startswith(f"{reproduced} of 4 findings reproduced; our target, 80%")


def test_where_nothing_is_reproduced_the_claim_does_not_hold():
    gap = {rules.ADAMW: 0.3, rules.MUON: 0.3}
    shares = {rules.CONSTANT: 0.9, rules.ADAPTIVE: 0.9, rules.PREDICTION: 0.9}
    found = language({"delayed_language_model": board(gap=gap, profile=0.3, **shares)})
    assert found.verdict == FAILS


def test_what_was_not_run_is_counted_apart():
    found = language({"delayed_language_model": board(prediction=0.46)})
    assert found.verdict == PARTLY
    assert found.headline.startswith("3 of 3 findings reproduced, 1 not measured; our target")
    assert found.headline.endswith("closed, missed: prediction closes 46 ± 0%")


def test_where_little_is_refuted_nothing_is_decided():
    """One finding is refuted, the others are hidden by the spread of the seeds or not run."""
    gap = {rules.ADAMW: 0.3, rules.MUON: 0.3}
    shares = {rules.CONSTANT: 0.1, rules.PREDICTION: 0.46}
    records = [
        record
        for record in board(gap=gap, spread=0.3, **shares)
        if record.setting["delay"] != "profile"
    ]
    assert language({"delayed_language_model": records}).verdict == UNDECIDED

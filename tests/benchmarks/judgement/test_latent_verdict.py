"""Verdicts on latent causes: prediction out of domain, and identifiability."""

import dataclasses

import pytest

from benchmarks.judgement.finding import FAILS, HOLDS, PARTLY, UNDECIDED
from benchmarks.judgement.latent_verdict import domains, identifiability
from common.results.records import Record
from tests.benchmarks.judgement.made_up import (
    COARSE,
    FINE,
    flipped,
    found_from,
    of_domains,
    runs,
    searched_colours,
)


def accuracies(finding):
    """The rows of the table of test accuracies."""
    _, _, table = finding.figures.partition("\n\n")
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]


@pytest.mark.parametrize(
    ("lacim", "learnt", "spread", "verdict"),
    [
        (0.9, 0.85, FINE, HOLDS),  # above all
        (0.6, 0.85, FINE, PARTLY),  # above ERM
        (0.2, 0.85, FINE, FAILS),  # below both
        (0.3, 0.85, FINE, FAILS),
        (0.3, 0.85, 0.4, UNDECIDED),
        (0.9, 0.5, FINE, UNDECIDED),  # nothing is learnt in the training domains
    ],
)
def test_lacim_is_compared_with_erm_and_with_the_best_other(lacim, learnt, spread, verdict):
    found = domains({"lacim_baselines": of_domains(lacim, learnt=learnt, spread=spread)})
    assert found.verdict == verdict
    assert [row[-1] for row in accuracies(found)] == ["IRM 80.0"] * 2
    assert ("50 of 85" in found.figures) == (learnt == 0.5)
    assert ("hoped for 30" in found.figures) == (lacim == 0.3)
    assert found.headline.startswith("LaCIM against ERM ")
    assert "; 1 of the comparisons by the oracle" in found.headline
    assert "In 1 of these comparisons settings are chosen by the oracle" in found.figures


def test_each_part_of_the_claim_has_its_own_verdict():
    """Above ERM in both comparisons, and below IRM: which part fails must be said."""
    found = domains({"lacim_baselines": of_domains(0.6, learnt=0.85, spread=FINE)})
    assert found.figures.startswith(
        f"Better than ERM: {HOLDS}. Better than the best other method that sees several domains: "
        f"{FAILS}. "
    )


def test_the_best_other_method_is_the_one_that_its_rule_chooses():
    """The best of many by test accuracy would be above itself: nobody could have chosen it."""
    records = of_domains(0.9) + [
        record
        for method, seen, tested in (("CORAL", 0.86, 0.4), ("MMD", 0.84, 0.85))
        for record in runs(
            method, {"learning_rate": 0.1}, validation_accuracy=seen, oracle_accuracy=tested,
            test_accuracy=tested,
        )
    ]  # fmt: skip
    found = domains({"lacim_baselines": records})
    assert accuracies(found) == [
        ["coloured digits", "training domains", "90.0", "", "30.0", "CORAL 40.0"],
        ["coloured digits", "oracle", "90.0", "", "30.0", "MMD 85.0"],
    ]


@pytest.mark.parametrize(("known", "verdict"), [(0.78, PARTLY), (0.63, FAILS)])
def test_the_flip_test_counts_as_a_task_on_domains(known, verdict):
    found = domains({"lacim_flip": flipped(known)})
    assert found.verdict == verdict
    by_hand, *_ = accuracies(found)
    assert by_hand == [
        "flipped correlation", "a weight set by hand, noise 0.5", f"{100 * known:.1f}", "78.0",
        "63.0", "",
    ]  # fmt: skip
    # It has no other method that sees several domains.
    assert "several domains" not in found.figures


@pytest.mark.parametrize(("tasks", "verdict"), [(1, PARTLY), (2, PARTLY), (3, FAILS)])
def test_one_task_of_many_is_not_a_part_of_the_claim(tasks, verdict):
    """A quarter of the comparisons with ERM, as in every table: won is one a noise, of two."""
    records = []
    for i in range(tasks):
        for record in flipped(0.78 if i < 1 else 0.63):
            records.append(dataclasses.replace(record, setting={"tau": 0.5 + i}))
    found = domains({"lacim_flip": records})
    assert f"better in 1 of {2 * tasks} comparisons" in found.headline
    assert found.verdict == verdict


@pytest.mark.parametrize(("lacim", "verdict"), [(0.75, HOLDS), (0.1, FAILS)])
def test_coloured_digits_are_judged_after_the_search(lacim, verdict):
    found = domains({"lacim_colored_digits": searched_colours(lacim)})
    assert found.verdict == verdict
    assert [row[2:] for row in accuracies(found)] == [[f"{100 * lacim:.1f}", "", "16.0", ""]]


@pytest.mark.parametrize(
    ("ours", "pooled", "fewer", "spread", "verdict"),
    [
        (0.96, 0.8, 0.9, FINE, HOLDS),
        (0.95, 0.95, 0.9, FINE, PARTLY),
        (0.95, 0.97, 0.99, FINE, PARTLY),
        (0.7, 0.5, 0.6, FINE, FAILS),
        (0.9, 0.8, 0.6, COARSE, UNDECIDED),
    ],
)
def test_identifiability_needs_pooled_data_and_fewer_domains_to_do_worse(
    ours, pooled, fewer, spread, verdict
):
    records = found_from(ours, pooled, fewer, spread=spread)
    found = identifiability({"lacim_identifiability": records})
    assert found.verdict == verdict
    assert f"{ours - pooled:+.2f} over Pool-LaCIM" in found.headline
    assert f"{ours - fewer:+.2f} over 3 domains" in found.headline
    assert f"s has an MCC of {ours:.2f}" in found.headline
    assert "the 0.89 that separating s from v alone gives" in found.headline
    if (pooled, verdict) == (0.95, PARTLY):
        assert "+0.00 over Pool-LaCIM (not as much as hoped)" in found.headline
        assert "over Pool-LaCIM from 0.00 on, over 3 domains" in found.figures


@pytest.mark.parametrize(
    ("many", "spread", "verdict", "said"),
    [
        (0.96, FINE, HOLDS, "from 40 s has 0.96 ± 0.00, shown to be above the target"),
        (0.88, 0.05, PARTLY, "from 40 s has 0.88 ± 0.06, not told from the target"),
        (0.70, FINE, PARTLY, "from 40 s has 0.70 ± 0.00, below the target"),
    ],
)
def test_more_domains_than_suffice_have_to_do_as_well(many, spread, verdict, said):
    """The claim is of enough domains, not of the least number that is enough."""
    setting = {"confounder": "continuous", "num_domains": 40}
    more = runs("LaCIM", setting, spread=spread, s_within=many, v_within=0.95)
    more += [
        Record(method="inverse mixing", setting=setting, seed=0, metrics={"needed_s": 5.0},
               wall_time=0.0)
    ]  # fmt: skip
    found = identifiability({"lacim_identifiability": found_from(0.96, 0.8, 0.9) + more})
    assert found.verdict == verdict
    assert found.headline.startswith("from 5 domains s has an MCC of 0.96")
    assert said in found.headline


@pytest.mark.parametrize(
    ("ours", "v", "verdict", "said"),
    [
        (0.95, 0.95, HOLDS, "v has 0.95 ± 0.00, shown to be above the 0.89"),
        (0.95, 0.8, PARTLY, "v has 0.80 ± 0.00, below the 0.89"),
        (0.87, 0.95, FAILS, "target 0.85 (visible from 0.00 on) and below the 0.89"),
    ],
)
def test_what_turns_s_and_v_at_random_finds_neither(ours, v, verdict, said):
    records = found_from(ours, 0.5, 0.6, v=v)
    found = identifiability({"lacim_identifiability": records})
    assert (found.verdict, said in found.headline) == (verdict, True)

"""Verdicts: each follows the records it is made from, whichever way they go."""

import dataclasses
import math

import pytest

from benchmarks.harness.halving import TUNING
from benchmarks.judgement.finding import FAILS, HOLDS, INCOMPLETE, PARTLY, UNDECIDED
from benchmarks.judgement.latent_verdict import domains, identifiability
from benchmarks.judgement.path_space_verdict import invariance, path_space_training
from benchmarks.judgement.speed_verdict import speed
from common.results.records import Record
from tests.benchmarks.judgement.made_up import (
    COARSE,
    FINE,
    flipped,
    found_from,
    images,
    of_domains,
    runs,
    scaled_apart,
    searched_colours,
    timed,
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
    assert "best other IRM 80.0" in found.figures
    assert ("50 of 85" in found.figures) == (learnt == 0.5)
    assert ("hoped for 30" in found.figures) == (lacim == 0.3)
    assert found.headline.startswith("LaCIM against ERM ")
    assert "; 1 of the comparisons by the oracle" in found.headline
    assert "In 1 of these comparisons settings are chosen by the oracle" in found.figures


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
    figures = domains({"lacim_baselines": records}).figures
    assert "chosen by training domains: LaCIM 90.0, ERM 30.0, best other CORAL 40.0" in figures
    assert "chosen by oracle: LaCIM 90.0, ERM 30.0, best other MMD 85.0" in figures


@pytest.mark.parametrize(("known", "verdict"), [(0.78, PARTLY), (0.63, FAILS)])
def test_the_flip_test_counts_as_a_task_on_domains(known, verdict):
    found = domains({"lacim_flip": flipped(known)})
    assert found.verdict == verdict
    shown = f"LaCIM {100 * known:.1f}, Pool-LaCIM 78.0, ERM 63.0"
    assert f"chosen by a weight set by hand, noise 0.5: {shown}" in found.figures
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
    assert f"LaCIM {100 * lacim:.1f}, ERM 16.0" in found.figures


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


@pytest.mark.parametrize(("ratio", "verdict"), [(1.0, HOLDS), (2.0, FAILS)])
def test_speed_counts_targets_and_names_the_worst(ratio, verdict):
    found = speed({"gsgd_speed": [timed("G-SGD", [], ratio=ratio, compile_ratio=3.0)]})
    assert found.verdict == verdict
    named = f"step in path space, MLP 3x512, {ratio:.2f} of SGD's (target 1.05)"
    met = 1 if ratio == 1 else 0
    assert found.headline == (
        f"targets met: step in path space {met} of 1; {'nearest' if met else 'worst'}: {named}"
    )
    assert f"- {named}: {'met' if met else 'missed'}" in found.figures
    assert "compil" not in found.figures  # no clause of the claim


def test_a_step_is_judged_at_every_batch():
    """The worst ratio may be met, and another, whose turns are spread, too close to tell."""

    def at(batch, ratio, plain, ours):
        return [
            dataclasses.replace(r, setting={"network": "MLP 3x512", "batch_size": batch})
            for r in (timed("SGD", plain, ratio=1.0), timed("G-SGD", ours, ratio=ratio))
        ]

    steady = at(32, 1.03, [1.0, 1.0, 1.0], [1.03, 1.031, 1.029])
    spread = at(128, 1.02, [1.0, 1.0, 1.0], [1.02, 1.2, 0.9])
    found = speed({"gsgd_speed": steady + spread})
    assert found.verdict == PARTLY
    assert "step in path space 1 of 2 (1 too close to tell)" in found.headline
    assert "MLP 3x512, batch 32, 1.03 of SGD's (target 1.05): met" in found.figures
    assert "MLP 3x512, batch 128, 1.02 of SGD's (target 1.05): too close" in found.figures


def test_a_ratio_whose_turns_cover_the_target_is_too_close_to_tell():
    plain = timed("SGD", [1.0, 1.0, 1.0], ratio=1.0)
    near = timed("G-SGD", [1.0, 1.2, 0.9], ratio=1.0)
    found = speed({"gsgd_speed": [plain, near]})
    assert found.verdict == UNDECIDED
    assert "step in path space 0 of 1 (1 too close to tell); nearest" in found.headline
    steady = timed("G-SGD", [1.01, 1.0, 1.01], ratio=1.01)
    assert speed({"gsgd_speed": [plain, steady]}).verdict == HOLDS


@pytest.mark.parametrize(
    ("short", "same", "met"), [(0.01, 0.995, True), (0.02, 1.0, False), (0.0, 0.99, False)]
)
def test_a_fast_search_that_falls_short_misses_its_target(short, same, met):
    """Ten times the loop's images, but not with the loop's answers."""
    records = [
        Record(
            method=way, setting={"task": "latent search", "decoder": "MLP"}, seed=0,
            metrics={"images_per_second": rate, "objective_short": short, "same_labels": same},
            wall_time=0.0,
        )
        for way, rate in (
            ("compiled", 100.0), ("per-batch loop", 10.0), ("per-batch loop, starts at once", 40.0)
        )
    ]  # fmt: skip
    found = speed({"lacim_speed": records})
    assert "10.0 times a loop over batches, 2.5 times one of all starts at once" in found.headline
    assert found.verdict == (HOLDS if met else FAILS)
    assert (f"but short by {short:.3f} nats (at most 0.01)" in found.headline) == (not met)


def test_speed_is_not_decided_where_all_is_too_close():
    wave = {"network": "MLP", "batch_size": 32}
    records = [
        Record(method=method, setting={**wave, **more}, seed=0, metrics={"ratio": 0.95},
               wall_time=0.0, curve={"seconds": seconds})
        for method, more, seconds in (
            ("synchronous SGD", {}, [1.0, 1.0, 1.0]),
            ("wavefront", {"workers": 8, "rule": "ASGD", "log": False}, [1.0, 1.2, 0.9]),
        )
    ]  # fmt: skip
    found = speed({"dcasgd_speed": records})
    assert found.verdict == UNDECIDED
    assert "simulated cluster 0 of 1 (1 too close to tell); nearest: sim" in found.headline

"""Verdicts: each follows the records it is made from, whichever way they go."""

import dataclasses
import math

import pytest

from benchmarks.harness.registry import NAMES
from benchmarks.judgement import verdicts
from benchmarks.judgement.claims import CLAIMS, NOT_MEASURED, judged
from benchmarks.judgement.ladder_verdict import ladder
from benchmarks.judgement.page import BEGIN, END, claim_sections, claim_table, with_claims
from benchmarks.judgement.speed_verdict import speed
from benchmarks.judgement.verdicts import FAILS, HOLDS, PARTLY
from common.results.records import Record

ORIGIN = {
    "command": "python -m benchmarks line",
    "provenance": {"git_commit": "0" * 40, "device": {"count": 1, "kind": "cpu", "cores": 2}},
}


def runs(method, setting, **metrics):
    """Three seeds; every metric is spread by a tenth of a point."""
    return [
        Record(
            method=method, setting=setting, seed=seed, wall_time=0.0, origin=ORIGIN,
            metrics={name: value + 0.001 * seed * (value != 0) for name, value in metrics.items()},
        )
        for seed in range(3)
    ]  # fmt: skip


def images(gsgd, sgd, *, rates=(0.1,)):
    return [
        record
        for method, accuracy in (("G-SGD", gsgd), ("SGD", sgd))
        for rate in rates
        for record in runs(
            method,
            {"network": "plain-34", "learning_rate": rate},
            validation_accuracy=accuracy,
            test_accuracy=accuracy,
        )
    ]


@pytest.mark.parametrize(
    ("gsgd", "sgd", "verdict"), [(0.9, 0.8, HOLDS), (0.8, 0.9, FAILS), (0.9, 0.9, FAILS)]
)
def test_path_space_is_judged_by_pairs_from_the_same_weights(gsgd, sgd, verdict):
    found = verdicts.path_space_training({"gsgd_cifar10": images(gsgd, sgd)})
    assert found.verdict == verdict
    assert found.figures.count("of 1 comparisons") == 2


def test_a_range_of_steps_alone_holds_partly():
    """As good at the best step; at the other step SGD diverges."""
    records = images(0.9, 0.9, rates=(0.1, 1.0))
    lost = [
        Record(method=r.method, setting=r.setting, seed=r.seed, wall_time=0.0,
               metrics=dict.fromkeys(r.metrics, math.nan))
        if (r.method, r.setting["learning_rate"]) == ("SGD", 1.0) else r
        for r in records
    ]  # fmt: skip
    assert verdicts.path_space_training({"gsgd_cifar10": lost}).verdict == PARTLY


@pytest.mark.parametrize(("apart", "verdict"), [(1e-6, HOLDS), (0.5, FAILS)])
def test_invariance_is_a_matter_of_orders_of_magnitude(apart, verdict):
    records = [
        record
        for method, distance in (("G-SGD", apart), ("SGD", 0.7))
        for record in runs(
            method, {"dtype": "float32", "spread": 1.0}, distance=distance, changed_answers=0.1
        )
    ]
    found = verdicts.invariance({"gsgd_invariance": records})
    assert found.verdict == verdict
    wide = [
        dataclasses.replace(r, setting={"dtype": "float64", "spread": 1.0},
                            metrics={**r.metrics, "distance": 1e-9 if "G-" in r.method else 0.7})
        for r in records
    ]  # fmt: skip
    both = verdicts.invariance({"gsgd_invariance": [*records, *wide]})
    assert both.verdict == (HOLDS if verdict == HOLDS else PARTLY)
    assert "float32" in both.headline  # the precision that decides is told, not the last one
    assert "float64" in both.headline


@pytest.mark.parametrize(
    ("accuracy", "verdict"), [((0.95, 0.95), HOLDS), ((0.95, 0.9), PARTLY), ((0.8, 0.9), FAILS)]
)
def test_delay_compensation_is_compared_at_tuned_steps(accuracy, verdict):
    constant, adaptive = accuracy
    records = [
        record
        for method, value in (
            ("ASGD", 0.9), ("m-synchronous SGD", 0.9), ("DC-ASGD-c", constant),
            ("DC-ASGD-a", adaptive),
        )
        for rate, loss in ((0.1, 0.0), (0.2, 0.05))
        for record in runs(
            method, {"workers": 8, "learning_rate": rate},
            validation_accuracy=value - loss, test_accuracy=value - loss,
        )
    ]  # fmt: skip
    found = verdicts.delay({"dcasgd_digits": records})
    assert found.verdict == verdict
    gain = 100 * (adaptive - 0.9)
    assert (f"digits 8: {gain:+.1f}" if gain else "digits 8: 0.0") in found.figures


def test_bearing_larger_steps_is_a_part_of_what_compensation_claims():
    records = [
        record
        for method, at_large in (("ASGD", 0.1), ("DC-ASGD-c", 0.1), ("DC-ASGD-a", 0.85))
        for rate, value in ((0.1, 0.9), (0.8, at_large))
        for record in runs(
            method, {"workers": 8, "learning_rate": rate}, validation_accuracy=value,
            test_accuracy=value,
        )
    ]  # fmt: skip
    found = verdicts.delay({"dcasgd_digits": records})
    assert found.verdict == PARTLY
    assert (
        "does not bear, DC-ASGD-a is better in 1 of 1 comparisons, worse in none: digits 8: +75.0"
        in found.figures
    )


@pytest.mark.parametrize(
    ("hessian", "diagonal", "verdict"),
    [
        (0.3, 0.6, HOLDS),
        (0.3, 0.97, PARTLY),
        (0.72, 0.6, PARTLY),
        (0.72, 0.97, PARTLY),
        (0.95, 0.97, FAILS),
    ],
)
def test_the_ladder_needs_its_top_and_its_lowest_rung(hessian, diagonal, verdict):
    left = {"Hessian": hessian, "diag(lambda G), adaptive": diagonal}
    records = [
        record
        for rung, value in left.items()
        for record in runs(rung, {"activation": "tanh"}, error_left_scaled=value)
    ]
    assert ladder({"dcasgd_hessian_ladder": records}).verdict == verdict


@pytest.mark.parametrize(
    ("lacim", "verdict"), [(0.8, HOLDS), (0.6, PARTLY), (0.3, FAILS)]
)  # above all, above ERM, below both
def test_lacim_is_compared_with_erm_and_with_the_best_other(lacim, verdict):
    records = [
        record
        for method, value in (("ERM", 0.5), ("IRM", 0.7), ("LaCIM", lacim))
        for record in runs(
            method, {"learning_rate": 0.1}, validation_accuracy=0.9, oracle_accuracy=value,
            test_accuracy=value,
        )
    ]  # fmt: skip
    found = verdicts.domains({"lacim_baselines": records})
    assert found.verdict == verdict
    assert "best other IRM 70.1" in found.figures


@pytest.mark.parametrize(
    ("ours", "pooled", "fewer", "verdict"),
    [(0.95, 0.8, 0.9, HOLDS), (0.95, 0.93, 0.9, PARTLY), (0.7, 0.5, 0.6, FAILS)],
)
def test_identifiability_needs_pooled_data_and_fewer_domains_to_do_worse(
    ours, pooled, fewer, verdict
):
    records = [
        record
        for m, method, value in (
            (5, "LaCIM", ours), (5, "Pool-LaCIM", pooled), (3, "LaCIM", fewer),
            (3, "Pool-LaCIM", pooled),
        )
        for record in runs(method, {"confounder": "continuous", "num_domains": m}, s_within=value)
    ]  # fmt: skip
    for m in (3, 5):
        records += [
            Record(method="inverse mixing", setting={"confounder": "continuous", "num_domains": m},
                   seed=0, metrics={"needed_s": 5.0}, wall_time=0.0)
        ]  # fmt: skip
    assert verdicts.identifiability({"lacim_identifiability": records}).verdict == verdict


@pytest.mark.parametrize(
    ("ratio", "compiled", "verdict"), [(1.0, 1.1, HOLDS), (1.0, 3.0, PARTLY), (2.0, 3.0, FAILS)]
)
def test_speed_counts_targets(ratio, compiled, verdict):
    records = runs("G-SGD", {"network": "MLP 3x512"}, ratio=ratio, compile_ratio=compiled)
    assert speed({"gsgd_speed": records}).verdict == verdict


def test_every_claim_names_experiments_there_are_and_is_not_judged_without_its_own():
    for claim in CLAIMS:
        assert claim.needed in claim.experiments
        assert set(claim.experiments) <= set(NAMES)
        assert judged(claim, {}).verdict == NOT_MEASURED


def test_sections_and_table_say_the_verdict_its_source_and_link_to_each_other(tmp_path):
    measured = {"gsgd_speed": runs("G-SGD", {"network": "plain-34"}, ratio=1.0, compile_ratio=1.0)}
    figure = tmp_path / "gsgd_speed" / "cpu_ratio.png"
    sections = claim_sections(measured, {"speed": figure.relative_to(tmp_path)})
    assert "### 7. Speed: holds" in sections
    assert "`python -m benchmarks line`, commit 000000000000, 2 CPU cores." in sections
    assert "![speed](gsgd_speed/cpu_ratio.png)" in sections
    table = claim_table(measured, "pages/README.md")
    assert "[speed](pages/README.md#7-speed-holds)" in table
    assert "| **holds** | 2 of 2 targets met |" in table


def test_a_table_replaces_what_stood_between_the_markers():
    assert with_claims(f"a\n{BEGIN}\nold\n{END}\nb", "new") == f"a\n{BEGIN}\nnew\n{END}\nb"
    with pytest.raises(ValueError, match="needs the lines"):
        with_claims(f"a\n{END}\n{BEGIN}\nb", "new")

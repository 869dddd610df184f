"""The verdict on speed: targets by clause, at every batch, and what is too close to tell."""

import dataclasses

import pytest

from benchmarks.judgement.finding import FAILS, HOLDS, PARTLY, UNDECIDED
from benchmarks.judgement.speed_verdict import speed
from common.results.records import Record
from tests.benchmarks.judgement.made_up import timed


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

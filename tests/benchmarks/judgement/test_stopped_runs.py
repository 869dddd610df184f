"""Verdicts on runs that were stopped: whatever records there are, a claim is judged on them."""

import pytest

from benchmarks.judgement.claims import CLAIMS, NOT_MEASURED, judged
from benchmarks.judgement.finding import INCOMPLETE
from tests.benchmarks.delay.language.made_up import board
from tests.benchmarks.judgement.made_up import (
    delayed,
    flipped,
    found_from,
    images,
    of_domains,
    of_fonts,
    rungs,
    runs,
    scaled_apart,
    timed,
)

DELAYED = {"ASGD": (0.8, 0.9, 0.2), "m-synchronous SGD": (0.8, 0.9, 0.9),
           "DC-ASGD-c": (0.8, 0.9, 0.8), "DC-ASGD-a": (0.8, 0.9, 0.8)}  # fmt: skip


def without_labels():
    """An identifiability run in which the label is not known."""
    return [
        record
        for method in ("LaCIM", "Pool-LaCIM", "PCA")
        for record in runs(method, {"confounder": "none", "num_domains": 3}, bound=1.0, mcc=0.8)
    ]


def searched():
    """Latent searches of three seeds, compiled and in a loop."""
    setting = {"task": "latent search", "decoder": "MLP"}
    return [
        record
        for way, rate in (("compiled", 90.0), ("per-batch loop", 10.0))
        for record in runs(
            way, setting, images_per_second=rate, objective_short=0.001, same_labels=1.0
        )
    ]


RUNS = {
    "training in path space": {"gsgd_mlp": [], "gsgd_cifar10": images(0.9, 0.8, rates=(0.1, 1.0))},
    "invariance": {"gsgd_invariance": scaled_apart(1e-6)},
    "delay compensation": {"dcasgd_digits": delayed(DELAYED, rates=(0.05, 0.1, 0.8))},
    "the Hessian ladder": {"dcasgd_hessian_ladder": rungs(0.3, 0.6)},
    "prediction out of domain": {"lacim_baselines": of_domains(0.9), "lacim_flip": flipped(0.7)},
    "identifiability": {"lacim_identifiability": [*found_from(0.95, 0.8, 0.9), *without_labels()]},
    "speed": {
        "gsgd_speed": [
            timed("SGD", [1.0, 1.0], ratio=1.0, compile_ratio=1.0),
            timed("G-SGD", [1.0, 1.0], ratio=1.0, compile_ratio=1.0),
        ],
        "lacim_speed": searched(),
    },
    "more training domains": {"lacim_fonts": of_fonts(0.3, 0.6)},
    "delay on language models": {"delayed_language_model": board(prediction=0.4)},
}
"""Of each claim, complete records, by experiment."""


def stopped(measured):
    """The records without one method's, and their beginnings."""
    every = [(name, record) for name, records in measured.items() for record in records]
    methods = sorted({record.method for _, record in every})
    parts = [[pair for pair in every if pair[1].method != method] for method in methods]
    parts += [every[:n] for n in range(0, len(every), 3)]
    for part in parts:
        yield {name: [r for of, r in part if of == name] for name in measured}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_a_claim_is_judged_on_what_a_stopped_run_left(claim):
    whole = judged(claim, RUNS[claim.name])
    assert whole.verdict not in (NOT_MEASURED, INCOMPLETE.verdict)
    found = [judged(claim, part) for part in stopped(RUNS[claim.name])]
    for finding in found:
        for sign in ("nan", "inf "):
            assert sign not in finding.headline
    assert {INCOMPLETE, whole.verdict} & {*found, *(one.verdict for one in found)}
    assert any(one == INCOMPLETE or one.verdict == NOT_MEASURED for one in found)

"""The sweep of lambda: which runs a cell of its table is made of, and what it says they show."""

import dataclasses

import pytest

from benchmarks.delay import digits
from benchmarks.delay import lambda_sweep as experiment
from common.results.records import Record


def run_of(method, step, accuracies, **setting):
    """Records of one setting, one a seed; test accuracy is a tenth above validation's."""
    return [
        Record(
            method=method,
            setting={"workers": 4, "learning_rate": step, **setting},
            seed=seed,
            metrics={
                "validation_accuracy": a,
                "test_accuracy": a + 0.1,
                "train_loss": 1.0,
                "simulated_seconds": 20.0,
            },
            curve={
                "gradients": [1, 2],
                "simulated_seconds": [0.25, 0.5],
                "test_accuracy": [a, a + 0.1],
            },
            wall_time=0.0,
        )
        for seed, a in enumerate(accuracies)
    ]


@pytest.fixture
def records():
    """ASGD is tuned at 0.1 and does not bear 0.4, at which lambda 2 still learns."""
    found = []
    for step, sgd, asgd, weak, strong in (
        (0.1, 0.80, 0.70, 0.71, 0.72),
        (0.4, 0.85, 0.10, 0.20, 0.75),
    ):
        found += run_of("SGD", step, [sgd, sgd]) + run_of("m-synchronous SGD", step, [0.6, 0.62])
        found += run_of("ASGD", step, [asgd, asgd])
        for method in ("DC-ASGD-c", "DC-ASGD-a"):
            found += run_of(method, step, [weak, weak], **{"lambda": 0.04})
            found += run_of(method, step, [strong, strong + 0.02], **{"lambda": 2.0})
    return [
        dataclasses.replace(r, setting={**r.setting, "workers": 1}) if r.method == "SGD" else r
        for r in found
    ]


def test_every_lambda_has_its_row_by_both_protocols(records):
    text = experiment.tables(records)
    assert "**4 workers**; the fixed step is 0.4." in text
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]
    (row,) = [r for r in rows if r[:2] == ["DC-ASGD-a", "2"]]
    # Of two steps either is at the edge.
    assert row[2:5] == ["86.00 ± 1.41", "66.00 ± 1.41", "0.4 (edge)"]
    assert row[5:7] == ["86.00 ± 1.41", "6.00 ± 1.41"]
    (row,) = [r for r in rows if r[:2] == ["DC-ASGD-c", "0.04"]]
    assert row[2:7] == ["30.00 ± 0.00", "10.00 ± 0.00", "0.1 (edge)", "81.00 ± 0.00", "1.00 ± 0.00"]
    methods = [r[0] for r in rows if len(r) == 9]
    assert {"SGD", "m-synchronous SGD", "ASGD"} <= set(methods)


def test_the_verdict_compares_what_validation_data_chose(records):
    lines = experiment.verdict(records, 4).splitlines()
    assert lines[1] == (
        "- DC-ASGD-c at tuned steps: lambda 2 is chosen, and ends above ASGD by more than the "
        "spread (6.00 ± 1.41 points, n = 2)."
    )
    one = [r for r in records if r.seed == 0]
    assert "with one seed alone" in experiment.verdict(one, 4)
    same = [
        dataclasses.replace(r, metrics={**r.metrics, "test_accuracy": 0.5 + 0.1 * (r.seed % 2)})
        for r in records
    ]
    assert experiment.verdict(same, 4).count("within one standard deviation of ASGD") == 4


def test_where_asgd_bears_every_step_the_largest_is_fixed(records):
    calm = [r for r in records if r.setting["learning_rate"] == 0.1]
    assert experiment.fixed_step(records, 4) == 0.4
    assert experiment.fixed_step(calm, 4) == 0.1


def test_figures_are_made_of_the_records(records, tmp_path):
    made = experiment.plots(records, tmp_path)
    assert [p.name for p in made] == ["dcasgd_lambda_sweep.png", "dcasgd_lambda_training.png"]
    assert all(p.stat().st_size > 10_000 for p in made)


@pytest.mark.parametrize("name", experiment.PRESETS)
def test_every_preset_sweeps_around_the_published_lambdas(name):
    settings = experiment.PRESETS[name]
    assert settings.workers == (4, 8, 16)
    for lambdas, published in (
        (settings.constant_lambdas, 0.04),
        (settings.adaptive_lambdas, 2.0),
    ):
        assert published in lambdas
        assert max(lambdas) > published
    images = {"mnist5k": 4_000, "mnist": 60_000}[settings.data]
    stretch = digits._stretch(settings, round(images * (1 - settings.validation)))
    assert stretch % 16 == 0

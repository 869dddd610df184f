"""Selection without an oracle: seed by seed, and what the tables say of it."""

import dataclasses

import jax
import pytest

from benchmarks.harness.registry import Context
from benchmarks.latent import selection
from benchmarks.latent.methods import METHODS
from benchmarks.latent.reports.selection import EVERY, seed_by_seed
from benchmarks.latent.trials import trials
from common.progress import Silent
from common.results.records import Record

SETTINGS = dataclasses.replace(
    selection.PRESETS["smoke"], methods=("ERM", "V-REx"), data="digits8x8", size=200, test_size=40,
    widths=(4,), epochs=1, trials=2, batch_size=64,
)  # fmt: skip


def record(seed, method, weight, validation, p_value, test):
    return Record(
        method=method, setting={"label_noise": 0.25, "weight": weight}, seed=seed, wall_time=0.0,
        metrics={
            "validation_accuracy": validation, "oracle_accuracy": test, "test_accuracy": test,
            "invariance_p": p_value, "invariant_accuracy": validation - (p_value <= 0.05),
        },
    )  # fmt: skip


RECORDS = [
    record(0, "ERM", 0.1, 0.85, 1e-9, 0.1), record(1, "ERM", 0.1, 0.85, 1e-7, 0.1),
    record(0, "V-REx", 1.0, 0.84, 1e-5, 0.2), record(1, "V-REx", 1.0, 0.72, 0.5, 0.71),
    record(0, "V-REx", 100.0, 0.6, 0.3, 0.7), record(1, "V-REx", 100.0, 0.6, 0.6, 0.5),
]  # fmt: skip


def test_each_seed_takes_its_best_accepted_trial():
    chosen = seed_by_seed(RECORDS)
    assert [run.metrics["test_accuracy"] for run in chosen["V-REx"]] == [0.7, 0.71]
    assert chosen[EVERY] == chosen["V-REx"]
    # All of ERM's trials are rejected: the least firmly rejected one is taken, and told apart.
    text = selection.tables(RECORDS)
    assert "| ERM" in text
    assert "0 of 2" in text
    assert "- V-REx, by invariance: 70.50 ± 0.71, 70.0 in the worst seed (target 65: met)" in text
    assert "- ERM, by invariance: 10.00 ± 0.00, 10.0 in the worst seed (target 65: missed)" in text


def test_every_trial_of_every_seed_is_recorded_and_drawn(tmp_path):
    context = Context(seeds=(0, 2), data_dir=None, progress=Silent())
    # optax.adam corrects its bias by decay ** count, float32 by int32.
    with jax.numpy_dtype_promotion("standard"):
        records = list(selection.run(SETTINGS, context))
    found = [(r.seed, r.method) for r in records]
    assert found == [(s, m) for s in (0, 2) for m in ("ERM", "V-REx") for _ in range(2)]
    assert [path.name for path in selection.plots(records, tmp_path)] == list(selection.CAPTIONS)


def test_the_weight_of_a_penalty_is_tried_at_its_threefold_range():
    settings = selection.PRESETS["day"]
    for method in ("IRM", "V-REx", "Invariant LaCIM"):
        weights = sorted(trial["weight"] for trial in trials(settings, METHODS[method]))
        assert weights == pytest.approx([1.0, 100.0, 1e4], rel=0.05)

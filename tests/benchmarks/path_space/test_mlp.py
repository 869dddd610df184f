"""The G-SGD experiment: every run is recorded, and its tables and plots read records only."""

import dataclasses
import itertools

import numpy as np
import pytest

from benchmarks.harness import halving
from benchmarks.harness.halving import Halving
from benchmarks.harness.registry import Context
from benchmarks.path_space import mlp as gsgd_mlp
from common.progress import Silent
from common.results.records import Record

SETTINGS = dataclasses.replace(
    gsgd_mlp.PRESETS["smoke"],
    data="digits8x8", widths=(8, 6, 10), epochs=2, learning_rates=(0.01, 0.03),
)  # fmt: skip


@pytest.fixture(scope="module")
def records():
    context = Context(seeds=(0, 1), data_dir=None, progress=Silent())
    return list(gsgd_mlp.run(SETTINGS, context))


def test_there_is_one_record_for_every_run(records):
    found = [(r.method, r.setting["learning_rate"], r.setting["start"], r.seed) for r in records]
    methods = [method.name for method in gsgd_mlp.METHODS]
    wanted = itertools.product(methods, SETTINGS.learning_rates, gsgd_mlp.STARTS, (0, 1))
    assert sorted(found) == sorted(wanted)
    for record in records:
        assert len(record.curve["epoch"]) == SETTINGS.epochs
        assert record.metrics["test_accuracy"] == record.curve["test_accuracy"][-1]


def test_rescaling_changes_what_sgd_learns_and_not_what_gsgd_does(records):
    """Over two epochs the rounding of float32 has no time to grow."""
    rescaled = [r for r in records if r.setting["start"] == "rescaled"]
    changed = {
        name: [r.metrics["changed_answers"] for r in rescaled if r.method.startswith(name)]
        for name in ("SGD", "G-SGD")
    }
    assert max(changed["G-SGD"]) <= 0.01
    assert max(changed["SGD"]) > 0.05


def test_tables_and_plots_come_from_records(records, tmp_path):
    table = gsgd_mlp.tables(records)
    for method in gsgd_mlp.METHODS:
        assert f"| {method.name} " in table
    written = gsgd_mlp.plots(records, tmp_path)
    assert [path.name for path in written] == ["curves.png", "learning_rates.png"]
    assert all(path.stat().st_size > 10_000 for path in written)


def test_the_learning_rate_is_chosen_on_validation_data_alone():
    def record(rate, validation, test):
        metrics = {"validation_accuracy": validation, "test_accuracy": test, "changed_answers": 0.0}
        return [
            Record(method="SGD", setting={"learning_rate": rate, "start": start}, seed=0,
                   metrics=metrics, wall_time=0.0)
            for start in gsgd_mlp.STARTS
        ]  # fmt: skip

    table = gsgd_mlp.tables(record(0.1, 0.9, 0.5) + record(0.3, 0.8, 0.99))
    assert "50.00" in table
    assert "99.00" not in table


def test_with_halving_the_chosen_rate_is_trained_as_without(records, monkeypatch, tmp_path):
    """Shorter runs choose the rate; what is reported does not depend on how it was chosen."""
    sgd = gsgd_mlp.METHODS[0]
    monkeypatch.setattr(gsgd_mlp, "METHODS", (sgd,))
    settings = dataclasses.replace(SETTINGS, halving=Halving(factor=2, seeds=1))
    halved = list(gsgd_mlp.run(settings, Context((0, 1), None, Silent())))
    tried, finished = halving.grid(halved), halving.reported(halved)
    assert [(r.setting["learning_rate"], r.setting["start"]) for r in tried] == [
        (rate, "initial") for rate in SETTINGS.learning_rates
    ]
    best = max(tried, key=lambda r: r.metrics["validation_accuracy"]).setting["learning_rate"]
    whole = [r for r in records if r.method == sgd.name and r.setting["learning_rate"] == best]
    assert [(r.setting, r.seed) for r in finished] == [(r.setting, r.seed) for r in whole]
    for one, other in zip(finished, whole, strict=True):
        np.testing.assert_allclose(one.curve["loss"], other.curve["loss"], rtol=1e-5)
    table = gsgd_mlp.tables(halved)
    assert f"{best:g}: " in table.splitlines()[-1]
    assert "with 1 epoch " in table
    assert f" {best:g} (edge) |" in table  # of both that were tried
    moved = [
        r if r.setting["start"] == "initial"
        else dataclasses.replace(r, metrics={**r.metrics, "validation_accuracy": 0.0})
        for r in halved
    ]  # fmt: skip
    assert gsgd_mlp.tables(moved) == table  # rescaled copies have no part in tuning
    assert all(path.stat().st_size > 10_000 for path in gsgd_mlp.plots(halved, tmp_path))
    # Stopped in its search:
    assert gsgd_mlp.tables(tried).startswith(f"{halving.UNFINISHED}\n\n| method")
    assert [path.name for path in gsgd_mlp.plots(tried, tmp_path)] == ["learning_rates.png"]

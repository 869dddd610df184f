"""Stale gradients on weights and in path space: every run is recorded, chosen on validation."""

import collections
import dataclasses
import itertools

import pytest

from benchmarks.delay.report import ADAPTIVE, ASGD, SYNCHRONOUS
from benchmarks.harness.registry import Context
from benchmarks.together import delay_in_path_space as gsgd_delay
from common.progress import Silent
from common.results.records import Record

SETTINGS = dataclasses.replace(
    gsgd_delay.PRESETS["smoke"],
    data="digits8x8", pool=2, widths=(8, 6, 10), workers=(4,), epochs=1, batch_size=64,
    learning_rates=(0.1, 0.4), adaptive_lambdas=(2.0,), train_sample=100,
)  # fmt: skip
METHODS = (SYNCHRONOUS, ASGD, ADAPTIVE)
SPACES, STARTS = (gsgd_delay.WEIGHTS, gsgd_delay.PATHS), gsgd_delay.STARTS


@pytest.fixture(scope="module")
def records():
    context = Context(seeds=(0,), data_dir=None, progress=Silent())
    return list(gsgd_delay.run(SETTINGS, context))


def test_every_rule_is_run_in_both_spaces_from_both_starts(records):
    found = collections.Counter(
        (r.method, r.setting["space"], r.setting["start"], r.setting["learning_rate"])
        for r in records
    )
    due = itertools.product(METHODS, SPACES, STARTS, SETTINGS.learning_rates)
    assert found == dict.fromkeys(due, 1)


def test_only_on_weights_does_the_start_matter(records):
    """The two starts are one function; in path space their whole training is."""

    def apart(space):
        pairs = itertools.groupby(
            sorted(
                (r for r in records if r.setting["space"] == space),
                key=lambda r: (r.method, r.setting["learning_rate"], r.setting["start"]),
            ),
            key=lambda r: (r.method, r.setting["learning_rate"]),
        )
        losses = [[r.metrics["train_loss"] for r in pair] for _, pair in pairs]
        return max(abs(a - b) / a for a, b in losses)

    assert apart(gsgd_delay.PATHS) < 1e-3  # float32
    assert apart(gsgd_delay.WEIGHTS) > 1e-2


def test_tables_and_plots_are_made_of_the_records(records, tmp_path):
    table = gsgd_delay.tables(records)
    for method, space in itertools.product(METHODS, SPACES):
        assert f"| {method}, {space}" in table
    assert "0.1 (edge)" in table or "0.4 (edge)" in table  # of two steps either is
    (path,) = gsgd_delay.plots(records, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_starts_are_compared_seed_by_seed_at_the_step_of_the_initialisation():
    def record(start, rate, seed, validation, test):
        return Record(
            method=ASGD,
            setting={
                "workers": 4, "space": gsgd_delay.WEIGHTS, "start": start, "learning_rate": rate
            },
            seed=seed, wall_time=0.0,
            metrics={"validation_accuracy": validation, "test_accuracy": test},
        )  # fmt: skip

    records = [
        record(start, rate, seed, 0.9 - rate, 0.8 + 0.01 * seed - loss)
        for seed in (0, 1, 2)
        for rate in (0.1, 0.2, 0.4)
        for start, loss in ((STARTS[0], 0.0), (STARTS[1], 0.1 * rate + 0.001 * seed))
    ]
    first, second = (
        [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines()]
        for part in gsgd_delay.tables(records).split("\n\n")
        if part.startswith("|")
    )
    assert first[-1][:4] == ["ASGD, weights", "4", "0.1 (edge)", "-"]
    # 1.0, 1.1 and 1.2 points; t = 4.303 at two degrees of freedom, the deviation 0.1 over root 3.
    assert second[-1][:3] == ["ASGD, weights", "4", "-1.10 ± 0.25"]
    assert second[-1][4] == "worse"

"""Stale gradients on weights and in path space: every run is recorded, chosen on validation."""

import collections
import dataclasses
import itertools

import pytest

from benchmarks.delay.report import ADAPTIVE, ASGD, SYNCHRONOUS
from benchmarks.harness.registry import Context
from benchmarks.together import delay_in_path_space as gsgd_delay
from common.progress import Silent

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
    (path,) = gsgd_delay.plots(records, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")

"""The invariance experiment: rounding is all that G-SGD leaves, and nothing like it SGD."""

import dataclasses

import jax
import pytest

from benchmarks.harness.registry import Context
from benchmarks.path_space import invariance as gsgd_invariance
from common.progress import Silent

SETTINGS = dataclasses.replace(
    gsgd_invariance.PRESETS["smoke"],
    data="digits8x8", pool=1, widths=(8, 6, 10), batch_size=16, steps=40, points=4, test_size=50,
    methods=("SGD", "G-SGD", "Adam", "G-Adam"), spreads=(0.5, 1.0),
)  # fmt: skip
CONTEXT = Context(seeds=(0,), data_dir=None, progress=Silent())


@pytest.fixture(scope="module")
def records():
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes counts and decays
        return list(gsgd_invariance.run(SETTINGS, CONTEXT))


def test_there_is_one_record_for_every_comparison(records):
    found = {(r.method, r.setting["dtype"], r.setting["spread"]) for r in records}
    assert len(found) == len(records) == 4 * 2 * 2
    for record in records:
        assert record.curve["step"] == [0, 10, 20, 30, 40]


def test_the_copies_are_the_same_function_at_first(records):
    for record in records:
        rounding = 1e-4 if record.setting["dtype"] == "float32" else 1e-12
        assert record.curve["distance"][0] < rounding


def test_path_space_leaves_rounding_and_weights_do_not(records):
    for record in records:
        if record.method.startswith("G-"):
            limit = 1e-3 if record.setting["dtype"] == "float32" else 1e-11
            assert record.metrics["distance"] < limit
        else:
            assert record.metrics["distance"] > 0.05


def test_tables_and_plots_come_from_records(records, tmp_path):
    table = gsgd_invariance.tables(records)
    for line in ("**float32**", "**float64**", "| G-Adam "):
        assert line in table
    assert [p.name for p in gsgd_invariance.plots(records, tmp_path)] == ["distance.png"]


def test_methods_that_are_not_known_are_refused():
    wrong = dataclasses.replace(SETTINGS, methods=("SGDD",))
    with pytest.raises(ValueError, match="got SGDD"):
        next(gsgd_invariance.run(wrong, CONTEXT))


def test_points_that_do_not_divide_the_steps_are_refused():
    with pytest.raises(ValueError, match="multiple of points"):
        dataclasses.replace(SETTINGS, points=3)

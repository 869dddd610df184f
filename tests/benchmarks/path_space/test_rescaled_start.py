"""Rescaled starts: the same function before training, and after it in path space alone."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks.harness.registry import Context
from benchmarks.path_space import rescaled_start
from benchmarks.path_space.rescaled.board import CONTROL, Board
from benchmarks.path_space.rescaled.damage import DAMAGES
from benchmarks.path_space.rescaled.rows import BALANCED, NORMALISED, PATHS, WAYS, WEIGHTS
from benchmarks.path_space.rescaled.runs import Grid
from benchmarks.path_space.rescaled.tasks import ImageTask
from common.progress import Silent

SETTINGS = rescaled_start.Settings(
    tasks=(ImageTask("MLP", data="digits8x8", pool=1, sizes=(12, 8), train_size=320,
                     validation_size=100, test_size=200, batch_size=16, epochs=2),),
    rules=("SGD", "Adam"), spreads=(0.0, 2.0), grid=Grid((0.01, 0.1), 3.0),
)  # fmt: skip
CONTEXT = Context(seeds=(0, 1), data_dir=None, progress=Silent())


@pytest.fixture(scope="module")
def records():
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes counts and decays
        return list(rescaled_start.run(SETTINGS, CONTEXT))


@pytest.fixture(scope="module")
def board(records):
    return Board(records)


def test_there_is_one_record_for_every_row_start_and_seed(records):
    found = {(r.method, r.setting["start"], r.seed) for r in records}
    starts = ["s = 0", "s = 2", CONTROL, *DAMAGES]
    assert len(found) == len(records) == 2 * len(WAYS) * len(starts) * 2
    for record in records:
        tried = record.curve["learning_rate"]
        assert len(tried) == len(SETTINGS.grid.coarse) + 2
        assert tried == sorted(tried)
        assert record.metrics["tuned_rate"] in tried


def test_the_step_chosen_is_the_best_on_validation_data(records):
    for method in {r.method for r in records}:
        for start in ("s = 0", "s = 2", "pruned"):
            own = [r for r in records if (r.method, r.setting["start"]) == (method, start)]
            tried = np.asarray([r.curve["validation_accuracy"] for r in own]).mean(0)
            place = own[0].curve["learning_rate"].index(own[0].metrics["tuned_rate"])
            assert tried[place] == np.nanmax(tried)
            for r in own:
                assert r.metrics["tuned_accuracy"] == r.curve["test_accuracy"][place]


def test_rescaled_starts_are_the_same_function(board):
    np.testing.assert_allclose(board.before("MLP", "s = 0"), board.before("MLP", "s = 2"))
    np.testing.assert_allclose(board.before("MLP", "equalised"), board.before("MLP", "ranges at 1"))


def test_path_space_and_balancing_once_are_flat_and_one_and_weights_are_not(board):
    for protocol in ("tuned", "kept"):
        for rule in SETTINGS.rules:
            values = {
                (way, start): board.values("MLP", rule, way, start, protocol)
                for way in WAYS
                for start in ("s = 0", "s = 2")
            }
            flat = values[PATHS, "s = 0"]
            for other in ((PATHS, "s = 2"), (BALANCED, "s = 0"), (BALANCED, "s = 2")):
                np.testing.assert_allclose(values[other], flat, atol=0.011)  # two images of 200
            for way in (WEIGHTS, NORMALISED):
                assert values[way, "s = 2"].mean() < values[way, "s = 0"].mean() - 0.02


def test_tables_and_plots_come_from_records(records, tmp_path):
    text = rescaled_start.tables(records)
    for part in (
        "What rounding alone does",
        "In path space this moves the mean over seeds by at most",
        "better in none of 2 comparisons",
        "*Is path space flat in s, step size tuned?* Yes",
        "*Does balancing once suffice?* Yes",
        "*What is lost on weights at s = 2, step size kept?*",
        "| Adam, in path space ",
        "| before fine-tuning ",
    ):
        assert part in text
    written = rescaled_start.plots(records, tmp_path)
    assert [path.name for path in written] == ["tuned.png", "kept.png", "damaged.png"]
    assert all(path.stat().st_size > 10_000 for path in written)


def test_a_diverged_run_counts_as_one_that_learnt_nothing(records):
    first = records[0]
    lost = dataclasses.replace(first, metrics={**first.metrics, "kept_accuracy": float("nan")})
    board = Board([lost, *records[1:]])
    values = board.values("MLP", "SGD", WEIGHTS, "s = 0", "kept")
    np.testing.assert_allclose(values, [0.1, records[1].metrics["kept_accuracy"]])
    assert "(1 of 2 diverged)" in rescaled_start.tables([lost, *records[1:]])


@pytest.mark.parametrize(
    "wrong", [{"spreads": (1.0,)}, {"rules": ("SGDD",)}, {"damages": ("burnt",)}]
)
def test_what_cannot_be_compared_is_refused(wrong):
    with pytest.raises(ValueError, match=r"must be 0|are known"):
        dataclasses.replace(SETTINGS, **wrong)

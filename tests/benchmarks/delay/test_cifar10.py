"""Asynchronous training of networks with batch normalisation, in the smallest form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.delay import cifar10 as dcasgd_cifar10
from benchmarks.delay import imagenet as dcasgd_imagenet
from benchmarks.delay import images as asynchronous_images
from benchmarks.delay.images import Case, cases, waited_for
from benchmarks.delay.report import ALL_SYNCHRONOUS, ASGD, METHODS, SGD, SYNCHRONOUS
from benchmarks.delay.training import Run, Trainer
from benchmarks.harness import registry
from benchmarks.harness.courses import rates_of
from benchmarks.harness.halving import TUNING, UNFINISHED, Halving
from benchmarks.harness.registry import Context
from common.progress import Silent
from common.results.records import RecordWriter, read_records

SETTINGS = dataclasses.replace(
    dcasgd_cifar10.PRESETS["smoke"], data="digits8x8", methods=(SYNCHRONOUS, ASGD),
    train_size=160, test_size=50, pool=1, width=0.125, batch_size=4, epochs=1, evaluations=3,
    learning_rates=(0.05,), augment=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def records():
    context = Context(seeds=(0,), data_dir=None, progress=Silent())
    with jax.numpy_dtype_promotion("standard"):  # optax's step schedules mix int32 and floats
        return list(dcasgd_cifar10.run(SETTINGS, context))


def test_every_method_has_a_curve_against_data_and_time(records):
    assert [r.method for r in records] == [SYNCHRONOUS, ASGD]
    for record in records:
        assert list(record.curve["gradients"]) == [12, 24, 36]  # whole rounds of 3 and 1
        assert np.all(np.diff(record.curve["simulated_seconds"]) > 0)
        assert 0 <= record.metrics["test_accuracy"] <= 1
        assert record.metrics["test_accuracy"] == record.curve["test_accuracy"][-1]
    waiting, asynchronous = records
    # Within a round nothing moves; without rounds the weights move while a gradient is computed.
    assert max(waiting.curve["distance"]) == 0
    assert min(asynchronous.curve["distance"]) > 0
    # Waiting for the third of four machines takes longer for as many gradients.
    assert waiting.metrics["simulated_seconds"] > asynchronous.metrics["simulated_seconds"]


def test_halving_tries_steps_on_a_part_of_the_epochs(tmp_path, standard_promotion):
    settings = dataclasses.replace(
        SETTINGS, methods=(ASGD,), epochs=2, evaluations=2, learning_rates=(0.02, 0.05),
        halving=Halving(factor=2, seeds=1), course="rise and fall", stem="3x3, stride 2",
    )  # fmt: skip
    context = Context(seeds=(0, 1), data_dir=None, progress=Silent())
    found = list(dcasgd_cifar10.run(settings, context))
    tried = [r for r in found if r.setting.get(TUNING) == 1]
    ended = [r for r in found if TUNING not in r.setting]
    assert [(r.setting["learning_rate"], r.seed) for r in tried] == [(0.02, 0), (0.05, 0)]
    best = max(tried, key=lambda r: r.metrics["validation_accuracy"]).setting["learning_rate"]
    assert [(r.setting["learning_rate"], r.seed) for r in ended] == [(best, 0), (best, 1)]
    assert [list(r.curve["gradients"]) for r in (tried[0], ended[0])] == [[36], [36, 72]]
    assert "with 1 epoch" in dcasgd_cifar10.tables(found)
    # Stopped in its search it has no curves of the whole budget, and says so.
    assert [path.name for path in dcasgd_cifar10.plots(tried, tmp_path)] == ["steps.png"]
    assert dcasgd_cifar10.tables(tried) == UNFINISHED


def test_the_servers_steps_rise_and_fall():
    """The step of plain SGD is what the server's weights move by, gradients being ones."""
    settings = dataclasses.replace(SETTINGS, course="rise and fall", weight_decay=0.0)
    tx = asynchronous_images.server_rule(ASGD, 1, settings, 10)(0.5)
    state, moved = tx.init(jnp.zeros([])), []
    for _ in range(10):
        update, state = tx.update(jnp.ones([]), state, jnp.zeros([]))
        moved.append(-float(update))
    expected = rates_of("rise and fall", 0.5, epochs=10, per_epoch=1)
    np.testing.assert_allclose(moved, expected, rtol=1e-6)
    assert expected.argmax() == 2


def test_cases_and_rounds():
    settings = dataclasses.replace(SETTINGS, methods=METHODS, workers=(4, 8))
    found = cases(settings)
    assert found.count(Case(SGD, 1)) == 1
    assert len(found) == 1 + 2 * (len(METHODS) - 1)
    assert [waited_for(Case(m, 8)) for m in (ALL_SYNCHRONOUS, SYNCHRONOUS, ASGD)] == [8, 6, None]


@pytest.mark.parametrize("experiment", [dcasgd_cifar10, dcasgd_imagenet])
@pytest.mark.parametrize("preset", ["smoke", "cpu", "day", "full"])
def test_runs_of_some_methods_see_as_many_gradients_as_runs_of_all(preset, experiment):
    whole = experiment.PRESETS[preset]
    budgets = {1, whole.epochs} if whole.halving else {whole.epochs}
    for settings in (asynchronous_images.shortened(whole, epochs) for epochs in budgets):
        arrivals = 3000 * settings.epochs + 7
        due = asynchronous_images.whole_rounds(arrivals, settings)
        assert 0 < due < arrivals
        for method in whole.methods:
            part = registry.with_methods(settings, [method])
            assert part.methods == (method,)
            assert asynchronous_images.whole_rounds(arrivals, part) == due


def test_too_few_gradients_for_a_round_are_refused():
    settings = dataclasses.replace(SETTINGS, workers=(64,), methods=(SYNCHRONOUS,))
    data = asynchronous_images.load_data(settings, None)
    with pytest.raises(ValueError, match="do not make a whole round for every method"):
        Trainer(settings, data)


def test_runs_side_by_side_are_the_runs_alone(records, standard_promotion):
    """Scanned, vmapped, drawn from images on the device: the program of an accelerator."""
    data = asynchronous_images.load_data(SETTINGS, None)
    (alone,) = [record for record in records if record.method == ASGD]
    runs = [Run(0.1, 1), Run(0.05, 0)]
    other, found = Trainer(SETTINGS, data, side_by_side=True).train(Case(ASGD, 4), runs)
    assert (found.setting, found.seed) == (alone.setting, alone.seed)
    assert (other.setting["learning_rate"], other.seed) == (0.1, 1)
    assert found.curve.keys() == alone.curve.keys()
    for name in ("gradients", "simulated_seconds", "staleness"):
        np.testing.assert_allclose(found.curve[name], alone.curve[name], rtol=1e-6)
    np.testing.assert_allclose(found.curve["distance"], alone.curve["distance"], rtol=1e-3)
    for name in ("train_loss", "validation_accuracy", "test_accuracy"):
        np.testing.assert_allclose(found.metrics[name], alone.metrics[name], rtol=1e-3)
    assert other.metrics["train_loss"] != found.metrics["train_loss"]


def test_images_are_reduced_and_standardised():
    data = asynchronous_images.load_data(dataclasses.replace(SETTINGS, pool=2), None)
    images, labels = data.train
    assert images.shape == (160, 4, 4, 1)
    assert labels.shape == (160,)
    assert abs(float(jnp.mean(images))) < 0.05


def test_tables_and_plots_are_made_of_records_read_back(records, tmp_path):
    writer = RecordWriter(tmp_path / "records.jsonl", origin={"run": "1"})
    for record in records:
        writer.write(record)
    found = read_records(tmp_path / "records.jsonl")
    assert ASGD in dcasgd_cifar10.tables(found)
    for path in dcasgd_cifar10.plots(found, tmp_path):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_run_that_was_stopped_before_asgd_has_no_figure_and_says_so(records, tmp_path):
    synchronous = [record for record in records if record.method == SYNCHRONOUS]
    assert dcasgd_cifar10.plots(synchronous, tmp_path) == []
    assert dcasgd_imagenet.plots(synchronous, tmp_path) == []
    assert dcasgd_cifar10.tables(synchronous) == "ASGD was not run yet."

"""The experiment on stale gradients: what it trains, what it chooses by, what it shows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.delay import digits as experiment
from benchmarks.harness.registry import Context
from common.data import epoch_order
from common.networks import MLP
from common.progress import Silent
from common.results.records import read_records
from common.seeds import streams

TINY = experiment.Settings(
    data="digits8x8",
    widths=(6, 10),
    workers=(4,),
    epochs=2,
    evaluations=2,
    train_sample=100,
    learning_rates=(0.1, 0.5),
    constant_lambdas=(0.04,),
    adaptive_lambdas=(2.0, 8.0),
)


@pytest.fixture(scope="module")
def records():
    context = Context(seeds=(0,), data_dir=None, progress=Silent())
    return list(experiment.run(TINY, context))


def test_every_method_is_run_at_every_setting(records):
    tried = [(r.method, *r.setting.values()) for r in records]
    steps = TINY.learning_rates
    assert tried == [
        *[("SGD", 1, step) for step in steps],
        *[("m-synchronous SGD", 4, step) for step in steps],
        *[("ASGD", 4, step) for step in steps],
        *[("DC-ASGD-c", 4, step, 0.04) for step in steps],
        *[("DC-ASGD-a", 4, step, lambda_) for lambda_ in (2.0, 8.0) for step in steps],
    ]


def test_every_method_gets_the_same_gradients_and_its_own_clock(records):
    # 1,298 training images make 40 batches an epoch, 20 between evaluations.
    for record in records:
        assert record.curve["gradients"] == [20, 40, 60, 80]
        workers = record.setting["workers"]
        assert record.metrics["simulated_seconds"] == 80 / workers
        assert record.curve["simulated_seconds"][-1] == 80 / workers


@pytest.mark.parametrize("method", ["SGD", "m-synchronous SGD"])
def test_the_baselines_are_plain_sgd_on_the_stated_order(records, method):
    """Trained anew by a loop that knows nothing of workers."""
    joined = 4 if method == "m-synchronous SGD" else 1
    data = experiment.load_data(TINY, None)
    network = MLP(TINY.widths, activation=jnp.tanh)
    keys = streams(0)
    params = network.init(keys.init, data.train.pixels[:1])["params"]

    def loss(params, images):
        logits = network.apply({"params": params}, images.pixels)
        return optax.softmax_cross_entropy_with_integer_labels(logits, images.labels).mean()

    @jax.jit
    def step(params, rows):
        gradients = jax.grad(loss)(params, jax.tree.map(lambda leaf: leaf[rows], data.train))
        return jax.tree.map(lambda w, g: w - 0.5 * g, params, gradients)

    for epoch in range(TINY.epochs):
        order = epoch_order(keys.order, len(data.train.labels), epoch=epoch)
        for rows in order[: 40 * 32].reshape(-1, 32 * joined):
            params = step(params, rows)
    (record,) = [r for r in records if r.method == method and r.setting["learning_rate"] == 0.5]
    assert record.metrics["train_loss"] == pytest.approx(float(loss(params, data.sample)), rel=1e-4)
    logits = network.apply({"params": params}, data.test.pixels)
    accuracy = (logits.argmax(-1) == data.test.labels).mean()
    assert record.metrics["test_accuracy"] == pytest.approx(float(accuracy), abs=0.004)


def test_tables_and_plots_are_made_of_the_records(records, tmp_path):
    text = experiment.tables(records)
    for record in records:
        assert record.method in text
    made = experiment.plots(records, tmp_path)
    assert [path.name for path in made] == ["dcasgd_digits_curves.png", "dcasgd_digits_steps.png"]
    assert all(path.stat().st_size > 10_000 for path in made)


@pytest.mark.parametrize("name", experiment.PRESETS)
def test_every_preset_gives_every_number_of_workers_whole_rounds(name):
    settings = experiment.PRESETS[name]
    images = {"mnist5k": 4_000, "mnist": 60_000}[settings.data]
    stretch = experiment._stretch(settings, round(images * (1 - settings.validation)))
    assert stretch > 0
    assert all(stretch % workers == 0 for workers in settings.workers)


def test_too_many_evaluations_are_refused():
    with pytest.raises(ValueError, match="leave 2 batches for each, which must be 4 at least"):
        experiment._stretch(dataclasses.replace(TINY, evaluations=20), 1_300)


def test_records_survive_the_file(records, tmp_path):
    """Tables are made from what is read back: JSON has no tuples, no NumPy, no NaN."""
    from common.results.records import RecordWriter

    writer = RecordWriter(tmp_path / "records.jsonl", origin={"benchmark": "dcasgd_digits"})
    gone = dataclasses.replace(
        records[-1], metrics={**records[-1].metrics, "validation_accuracy": np.nan}
    )
    for record in [*records[:-1], gone]:
        writer.write(record)
    again = read_records(tmp_path / "records.jsonl")
    assert experiment.tables(again) == experiment.tables([*records[:-1], gone])

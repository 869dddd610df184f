"""Tolerance of delay: the limits against closed forms, the training against a plain loop."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.delay import quadratic_limits, tolerance_report, tolerance_runs
from benchmarks.delay import tolerance as experiment
from benchmarks.delay.digits import Settings as DigitSettings
from benchmarks.delay.digits import load_data
from benchmarks.harness.registry import Context
from common.networks import MLP
from common.progress import Silent
from common.results.records import Record, RecordWriter, read_records
from common.seeds import streams
from dcasgd_jax import gamma_times, stable_step

TINY = experiment.Settings(
    delays=(0, 3),
    dim=4,
    quadratic_steps=tuple(np.geomspace(0.3, 2.5, 12).tolist()),
    quadratic_length=160,
    data="digits8x8",
    pool=2,
    widths=(10,),
    batch_size=16,
    workers=(2, 4),
    gradients=24,
    points=2,
    learning_rates=(0.1, 0.5),
    constant_lambdas=(0.04,),
    adaptive_lambdas=(2.0,),
    rank=1,
    target_loss=2.2,
)


@pytest.fixture(scope="module")
def records():
    context = Context(seeds=(0, 1), data_dir=None, progress=Silent())
    with jax.numpy_dtype_promotion("standard"):  # optax.MultiSteps divides floats by integers
        return list(experiment.run(TINY, context))


def test_every_rule_is_run_on_both_problems_at_every_setting(records):
    tried = {
        problem: [
            (r.method, *list(r.setting.values())[1:])
            for r in records
            if r.setting["problem"] == problem and r.seed == 0
        ]
        for problem in ("quadratic", "network")
    }
    lambdas = {"DC-ASGD-c": (0.04,), "DC-ASGD-a": (2.0,)}
    rules = ("ASGD", "DC-ASGD-c", "DC-ASGD-a", "low rank", "exact Hessian")
    assert tried["quadratic"] == [
        (rule, delay, *lambdas.get(rule, ())) for rule in rules for delay in (0, 3)
    ]
    assert tried["network"] == [
        *[("SGD", 1, rate) for rate in (0.1, 0.5)],
        *[("m-synchronous SGD", m, rate) for m in (2, 4) for rate in (0.1, 0.5)],
        *[
            (rule, m, rate, *lambdas.get(rule, ()))
            for rule in rules
            for m in (2, 4)
            for rate in (0.1, 0.5)
        ],
    ]


def test_limits_on_the_quadratic_are_the_closed_forms(records):
    """To within one step of the grid, whose steps are a fifth apart."""
    found = {
        (r.method, r.setting["delay"]): r.metrics["largest_stable_step"]
        for r in records
        if r.setting["problem"] == "quadratic" and r.seed == 0
    }
    ratio = (2.5 / 0.3) ** (1 / 11)
    for key, limit in (
        (("ASGD", 0), 2.0),
        (("ASGD", 3), stable_step(3)),
        (("exact Hessian", 3), 2.0),  # delay does not matter
    ):
        assert limit / ratio <= found[key] <= limit * 1.02, key
    assert found["low rank", 3] > 2 * found["ASGD", 3]


def test_the_valley_is_turned_and_has_its_curvatures():
    hessian, start = quadratic_limits.valley(3, 5)
    values, vectors = np.linalg.eigh(np.asarray(hessian, np.float64))
    np.testing.assert_allclose(values, [*np.geomspace(1e-3, 1e-1, 4), 1.0], rtol=1e-3)
    assert np.abs(vectors).max() < 0.999
    np.testing.assert_allclose(np.abs(vectors.T @ np.asarray(start)), 5**-0.5, rtol=1e-3)


@pytest.mark.parametrize(("method", "workers"), [("ASGD", 4), ("m-synchronous SGD", 2)])
def test_training_is_that_of_a_plain_loop(records, method, workers):
    """Rules share a program with slots for the most workers; here there is neither."""
    data = load_data(DigitSettings(data="digits8x8", pool=2), None)
    network, keys = MLP(TINY.widths, activation=jnp.tanh), streams(1)
    rows = tolerance_runs.batches(TINY, keys, len(data.train.labels))
    w = network.init(keys.init, data.train.pixels[:1])["params"]

    def logits(w, pixels) -> Any:
        return network.apply({"params": w}, pixels)

    def loss(w, pixels, labels):
        return optax.softmax_cross_entropy_with_integer_labels(logits(w, pixels), labels).mean()

    @jax.jit
    def gradient(w, rows):
        return jax.grad(loss)(w, data.train.pixels[rows], data.train.labels[rows])

    first = float(loss(w, *data.sample))
    waits = method != "ASGD"
    schedule = gamma_times(
        workers, 24, seed=1, variation=TINY.variation, wait_for=workers if waits else None
    )
    held, distances, round_of = [w] * workers, np.zeros(24), []
    for step in range(24):
        if waits:
            round_of.append(gradient(w, rows[step]))
            if len(round_of) == workers:
                w = jax.tree.map(lambda w, *g: w - 0.1 * sum(g) / workers, w, *round_of)
                round_of = []
            continue
        worker = schedule.worker[step]
        moved = jax.tree.map(lambda a, b: a - b, w, held[worker])
        distances[step] = optax.tree.norm(moved)
        w = jax.tree.map(lambda w, g: w - 0.1 * g, w, gradient(held[worker], rows[step]))
        held[worker] = w
    (record,) = [
        r
        for r in records
        if (r.method, r.seed, r.setting["problem"]) == (method, 1, "network")
        and (r.setting["workers"], r.setting["learning_rate"]) == (workers, 0.1)
    ]
    assert record.metrics["first_loss"] == pytest.approx(first, rel=1e-5)
    assert record.metrics["train_loss"] == pytest.approx(float(loss(w, *data.sample)), rel=1e-4)
    right = (logits(w, data.test.pixels).argmax(-1) == data.test.labels).mean()
    assert record.metrics["test_accuracy"] == pytest.approx(float(right), abs=0.004)
    assert record.metrics["simulated_seconds"] == pytest.approx(schedule.clock[-1])
    expected = np.sqrt((distances.reshape(2, 12) ** 2).mean(axis=1))
    np.testing.assert_allclose(record.curve["distance"], expected, rtol=1e-3)


def test_staleness_is_recorded_as_it_was(records):
    own = [r for r in records if r.setting["problem"] == "staleness"]
    assert len(own) == 2 * 2 * 2  # seeds, workers, steps
    for record in own:
        counts, delays = (np.array(record.curve[c]) for c in ("gradients", "staleness"))
        assert counts.sum() == 24
        assert counts @ delays / 24 == pytest.approx(record.metrics["mean_staleness"])


def test_tables_and_plots_are_made_of_the_records(records, tmp_path):
    writer = RecordWriter(tmp_path / "records.jsonl", origin={"benchmark": "tolerance"})
    for record in records:
        writer.write(record)
    again = read_records(tmp_path / "records.jsonl")
    text = experiment.tables(again)
    assert text == experiment.tables(records)
    assert text.count("m-synchronous SGD |") == 7
    made = experiment.plots(again, tmp_path)
    assert [p.name for p in made] == list(experiment.CAPTIONS)
    assert all(p.stat().st_size > 10_000 for p in made)


def network_run(losses, step, **setting):
    """Records of the network in one setting, one a seed."""
    return [
        Record(
            method="ASGD",
            setting={"problem": "network", "workers": 4, "learning_rate": step, **setting},
            seed=seed,
            metrics={"train_loss": loss, "first_loss": 2.3},
            wall_time=0.0,
        )
        for seed, loss in enumerate(losses)
    ]


def test_a_step_is_stable_if_every_seed_and_every_smaller_step_is():
    runs = network_run([1.0, 1.0], 0.1) + network_run([0.5, 2.2], 0.2)
    assert tolerance_report.largest_stable_step(runs) == 0.2
    runs += network_run([0.5, math.nan], 0.4) + network_run([0.5, 0.5], 0.8)
    assert tolerance_report.largest_stable_step(runs) == 0.2
    runs += [
        dataclasses.replace(r, setting={**r.setting, "lambda": 9.0})
        for step in (0.1, 0.2, 0.4)
        for r in network_run([1.0, 1.0], step)
    ]
    assert tolerance_report.largest_stable_step(runs) == 0.4
    assert tolerance_report.largest_stable_step(network_run([2.4, 1.0], 0.1)) == 0


def test_rounds_that_do_not_come_out_are_refused():
    with pytest.raises(ValueError, match="gradients must be a multiple of 8 "):
        dataclasses.replace(TINY, gradients=20)
    with pytest.raises(ValueError, match=r"got \(3, 4\)"):
        dataclasses.replace(TINY, workers=(3, 4))

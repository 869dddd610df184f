"""The ladder of curvatures: what it measures, against gradients computed one by one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from benchmarks.delay import ladder as experiment
from benchmarks.delay import rungs
from benchmarks.delay.digits import Settings as DigitSettings
from benchmarks.delay.digits import load_data
from benchmarks.harness.registry import Context
from common.progress import Silent
from common.results.records import Record, RecordWriter, read_records
from common.seeds import streams

TINY = experiment.Settings(
    data="digits8x8",
    pool=2,
    widths=(5, 10),
    activations=("tanh",),
    workers=3,
    batch_size=16,
    steps=24,
    ranks=(1,),
    probes=2,
    variance_batches=4,
    repetitions=2,
    arrivals=3,
)


@pytest.fixture(scope="module")
def records():
    context = Context(seeds=(0,), data_dir=None, progress=Silent())
    return list(experiment.run(TINY, context))


def test_every_rung_is_measured(records):
    assert [r.method for r in records] == [
        "Hessian", "Gauss-Newton", "Fisher of the batch", "G = g g^T", "diag(H)",
        "diag(lambda G), constant", "diag(lambda G), adaptive",
        "diagonal, rotated", "low rank 1",
    ]  # fmt: skip
    for record in records:
        assert all(np.isfinite(value) for value in record.metrics.values())
        assert record.metrics["time"] > 0
    copies = {r.method: r.metrics["copies"] for r in records}
    assert copies["Hessian"] == pytest.approx(0, abs=0.05)
    assert copies["diag(lambda G), adaptive"] == pytest.approx(1, abs=0.05)
    # Its direction, the last gradient and its snapshot, beside a few scalars.
    assert copies["low rank 1"] == pytest.approx(3, abs=0.1)


def test_errors_and_variances_are_those_of_a_plain_loop(records):
    """ASGD written out, with the Hessian of the batch made whole."""
    network = rungs.functions(TINY, "tanh")
    data = load_data(DigitSettings(data="digits8x8", pool=2), None).train
    keys = streams(0)
    batches = rungs._batches(TINY, keys, data)
    first = network.init(keys.init, data.pixels[:1])
    flat, back = ravel_pytree(first)

    def loss(w, pixels, labels):
        return network.losses(back(w), (pixels, labels)).mean()

    gradient, matrix = jax.jit(jax.grad(loss)), jax.jit(jax.hessian(loss))
    held, w = [flat] * TINY.workers, flat
    left, stale_error = np.zeros(2), np.zeros(2)
    for step in range(TINY.steps):
        batch, worker = (batches.pixels[step], batches.labels[step]), step % TINY.workers
        stale = held[worker]
        g, fresh = gradient(stale, *batch), gradient(w, *batch)
        u = g + matrix(stale, *batch) @ (w - stale)
        if step >= TINY.workers:
            half = int(step >= TINY.steps // 2)
            left[half] += jnp.sum((u - fresh) ** 2)
            stale_error[half] += jnp.sum((g - fresh) ** 2)
        w = w - TINY.learning_rate * g
        held[worker] = w
    (record,) = [r for r in records if r.method == "Hessian"]
    assert record.metrics["error_left"] == pytest.approx(
        np.sqrt(left[1] / stale_error[1]), rel=2e-3
    )
    oldest = held[TINY.steps % TINY.workers]
    plain, compensated = [], []
    for i in range(TINY.variance_batches):
        batch = (batches.pixels[i], batches.labels[i])
        plain.append(gradient(oldest, *batch))
        compensated.append(plain[-1] + matrix(oldest, *batch) @ (w - oldest))
    ratio = np.var(compensated, axis=0).sum() / np.var(plain, axis=0).sum()
    assert record.metrics["variance"] == pytest.approx(ratio, rel=2e-3)


def test_rungs_beaten_in_cost_and_error_are_not_named():
    def rung(name, cost, left):
        return Record(
            method=name,
            setting={},
            seed=0,
            metrics={"time": cost, "error_left_scaled": left},
            wall_time=0.0,
        )

    found = [rung("a", 1.0, 0.9), rung("b", 2.0, 0.95), rung("c", 3.0, 0.4), rung("d", 0.5, 1.0)]
    said = experiment.verdict({r.method: [r] for r in found})
    assert said.endswith("first: a (10% for 1.00 times ASGD's time); "
                         "c (60% for 3.00 times ASGD's time).")  # fmt: skip
    assert experiment.verdict({"d": [found[3]]}) == "No rung leaves less error than ASGD."


def test_tables_and_plots_are_made_of_the_records(records, tmp_path):
    writer = RecordWriter(tmp_path / "records.jsonl", origin={"benchmark": "ladder"})
    for record in records:
        writer.write(dataclasses.replace(record))
    again = read_records(tmp_path / "records.jsonl")
    text = experiment.tables(again)
    assert "**tanh**, staleness 2:" in text
    assert all(r.method in text for r in records)
    made = experiment.plots(again, tmp_path)
    assert [path.name for path in made] == list(experiment.CAPTIONS)
    assert all(path.stat().st_size > 10_000 for path in made)

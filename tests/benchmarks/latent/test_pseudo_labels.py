"""Pseudo-labels in the test domain: what is recorded, and what the tables say of it."""

import dataclasses

import jax

from benchmarks.harness.registry import Context
from benchmarks.latent import pseudo_labels
from benchmarks.latent.reports.pseudo_labels import (
    ADAPTED,
    ALL_ADAPTED,
    AS_TRAINED,
    SEEN,
    STABLE,
)
from common.progress import Silent
from common.results.records import Record

ROWS = [STABLE, AS_TRAINED, ADAPTED, ALL_ADAPTED, SEEN]
SETTINGS = dataclasses.replace(
    pseudo_labels.PRESETS["smoke"], data="digits8x8", size=200, test_size=60, pool=1, widths=(4,),
    epochs=1, batch_size=64,
)  # fmt: skip


def test_every_way_to_answer_is_recorded_and_drawn(tmp_path):
    context = Context(seeds=(0, 2), data_dir=None, progress=Silent())
    # optax.adam corrects its bias by decay ** count, float32 by int32.
    with jax.numpy_dtype_promotion("standard"):
        records = list(pseudo_labels.run(SETTINGS, context))
    assert [(r.seed, r.method) for r in records] == [(s, row) for s in (0, 2) for row in ROWS]
    assert all(0 <= r.metrics["test_accuracy"] <= 1 for r in records)
    drawn = pseudo_labels.plots(records, tmp_path)
    assert [path.name for path in drawn] == list(pseudo_labels.CAPTIONS)


def test_verdicts_compare_seed_by_seed():
    def record(seed, row, test, **metrics):
        metrics = {"test_accuracy": test, **metrics}
        return Record(method=row, setting={}, seed=seed, metrics=metrics, wall_time=0.0)

    records = [
        r
        for seed, stable, adapted, p_value in ((0, 0.7, 0.85, 0.4), (1, 0.6, 0.55, 0.01))
        for r in (
            record(seed, STABLE, stable, validation_accuracy=0.65, invariance_p=p_value),
            record(seed, ADAPTED, adapted, unstable_accuracy=0.9, pseudo_label_rate=0.6),
        )
    ]
    text = pseudo_labels.tables(records)
    assert f"- {ADAPTED}: 70.00 ± 21.21 (target 80: missed)" in text
    assert f"- over {STABLE}: 5.00 ± 14.14 points, better in 1 of 2 seeds" in text
    assert "accepts 1 of 2" in text
    worst = next(line for line in text.splitlines() if line.startswith(f"| {ADAPTED}"))
    assert worst.split("|")[3].strip() == "55.0"

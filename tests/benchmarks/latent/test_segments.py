"""Sources in segments: every method is recorded and scored, and verdicts follow from records."""

import math

import jax
import pytest

from benchmarks.harness.registry import Context
from benchmarks.latent.reports.segments import (
    HEADS,
    ICA,
    LACIM,
    LINEAR,
    METHODS,
    PCA,
    POOLED,
    SEEN,
    segment_table,
    segments,
)
from benchmarks.latent.segments import SegmentSettings, run_segments
from common.progress import Silent
from common.results.records import Record

SETTINGS = SegmentSettings(
    num_segments=3, size=40, held_out=20, widths=(4,), batch_size=40, epochs=1, starts=2
)


@pytest.fixture(scope="module")
def records():
    # optax.adam corrects its bias by decay ** count, float32 by int32.
    with jax.numpy_dtype_promotion("standard"):
        context = Context(seeds=(0, 1), data_dir=None, progress=Silent())
        return list(run_segments(SETTINGS, context))


def test_every_method_is_recorded_for_every_seed(records):
    assert [(r.method, r.seed) for r in records] == [(m, s) for m in METHODS for s in (0, 1)]
    for record in records:
        assert -1 <= record.metrics["mcc"] <= 1
        assert record.method in LINEAR or math.isfinite(record.metrics["bound"])
    assert all(f"| {method} " in segment_table(records) for method in METHODS)


def test_verdicts_count_seeds():
    def runs(method, *figures):
        return [
            Record(
                method=method, setting={"confounder": "none", "num_domains": 40}, seed=seed,
                metrics={"bound": bound, "mcc": mcc}, wall_time=0.0,
            )
            for seed, (bound, mcc) in enumerate(figures)
        ]  # fmt: skip

    ours = runs(LACIM, (-1.0, 0.9), (-1.0, 0.75))
    others = [*runs(POOLED, (-2.0, 0.6), (-1.5, 0.6)), *runs(HEADS, (-3.0, 0.4), (-3.0, 0.4))]
    others += [r for base, mcc in ((PCA, 0.8), (ICA, 0.7)) for r in runs(base, *[(0.0, mcc)] * 2)]
    others += runs(SEEN, (0.0, 0.86), (0.0, 0.5))
    text = segment_table([*ours, *others])
    assert "bound over Pool-LaCIM, nats: 0.750 ± 0.354 (in 2 of 2 seeds at least 0: met)" in text
    assert "MCC over PCA: 0.025 ± 0.106 (in 1 of 2 seeds at least 0: missed)" in text
    found = segments([*ours, *others])
    assert found is not None
    assert found.text == (
        "without labels, from 40 domains, MCC 0.82 (linear ICA 0.70, PCA 0.80, x as it is 0.68; "
        "above them all in 1 of 2 seeds), the bound +0.75 nats over Pool-LaCIM's (at least as "
        "high in 2)"
    )
    assert not found.all_met
    assert segments([]) is None

"""The identifiability experiment: what is recorded, what is scored, and verdicts from records."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from benchmarks.harness.registry import Context
from benchmarks.latent import identifiability as lacim_identifiability
from benchmarks.latent.identifiability import Setting, load_parts
from benchmarks.latent.reports.identifiability import INVERSE, LACIM, MEAN, POOLED, S_AS_V, TURNED
from common.progress import Silent
from common.results.records import Record

SETTINGS = lacim_identifiability.Settings(
    num_domains=(1, 2), size=120, held_out=80, widths=(6,), batch_size=40, epochs=1, starts=2,
    segments=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def records():
    context = Context(seeds=(0, 1), data_dir=None, progress=Silent())
    # optax.adam corrects its bias by decay ** count, float32 by int32.
    with jax.numpy_dtype_promotion("standard"):
        return list(lacim_identifiability.run(SETTINGS, context))


def test_every_method_is_recorded_for_every_number_of_domains_and_seed(records):
    found = [(r.method, r.setting["num_domains"], r.seed) for r in records]
    methods = (LACIM, POOLED, INVERSE, TURNED, MEAN, S_AS_V)
    assert sorted(found) == sorted((k, m, s) for k in methods for m in (1, 2) for s in (0, 1))
    for record in records:
        if record.method in (LACIM, POOLED):
            assert record.metrics["diverged_starts"] == 0
            for block in ("s", "v"):
                assert -1 <= record.metrics[f"{block}_within"] <= 1
            assert math.isfinite(record.metrics["bound"])
            assert 0 <= record.metrics["accuracy"] <= 1
        if record.method == MEAN:
            assert record.metrics["s_within"] == 0
        if record.method == TURNED:
            # E max(|cos|, |sin|) = 0.90 of the ceiling, over 20 turns of few examples.
            assert 0.75 < record.metrics["s_within"] < 0.97
        if record.method == INVERSE:
            assert record.metrics["s_within"] > 0.9
            assert record.metrics["needed_s"] == 5


def test_with_one_domain_both_methods_are_the_same_runs(records):
    one, other = (
        [r.metrics for r in records if r.method == method and r.setting["num_domains"] == 1]
        for method in (LACIM, POOLED)
    )
    assert one == other


def test_data_are_as_many_whatever_the_number_of_domains_and_never_shared():
    for m in (1, 2, 4):
        causal, parts = load_parts(SETTINGS, Setting("continuous", m), 0)
        assert causal.num_domains == m
        assert [len(part.labels) for part in parts] == [120, 80, 80]
        seen = np.concatenate([part.x[:, 0] for part in parts])
        assert len(np.unique(seen)) == 280
    first, second = (load_parts(SETTINGS, Setting("discrete", m), 0)[0] for m in (2, 4))
    np.testing.assert_array_equal(first.rotations[0], second.rotations[0])


def test_a_run_that_diverges_is_recorded_as_such():
    settings = dataclasses.replace(
        SETTINGS, num_domains=(1,), learning_rate=1e38, epochs=2, starts=1
    )
    context = Context(seeds=(0,), data_dir=None, progress=Silent())
    with jax.numpy_dtype_promotion("standard"):
        records = list(lacim_identifiability.run(settings, context))
    own = next(r for r in records if r.method == LACIM)
    assert own.metrics["diverged_starts"] == 1
    assert math.isnan(own.metrics["s_within"])
    assert "LaCIM 1" in lacim_identifiability.tables(records)
    assert "diverged (1 of 1)" in lacim_identifiability.tables(records)


def test_verdicts_follow_from_the_records():
    def table(five, pooled, three):
        def record(method, m, value, **more):
            values = value if isinstance(value, tuple) else (value,) * 3
            return [
                Record(
                    method=method, setting={"confounder": "continuous", "num_domains": m},
                    seed=seed, metrics={"s_within": each, **more}, wall_time=0.0,
                )
                for seed, each in enumerate(values)
            ]  # fmt: skip

        known = {"needed_s": 5.0, "rank_s": 4.0}
        records = [
            *(r for m in (3, 5) for r in record(INVERSE, m, 0.97, **known)),
            *record(LACIM, 3, three), *record(LACIM, 5, five),
            *record(POOLED, 3, 0.5), *record(POOLED, 5, pooled),
        ]  # fmt: skip
        return lacim_identifiability.tables(records)

    good = table(0.9, 0.7, 0.8)
    assert good.count(", shown to be above") == 3
    assert "runs that diverged: LaCIM 0, Pool-LaCIM 0" in good
    assert "target 0.85: -0.010 ± 0.000, shown to be below" in table(0.84, 0.7, 0.8)
    assert "3 domains (hoped for 0.1): -0.050 ± 0.000, shown to be below" in table(0.9, 0.7, 0.95)
    # A mean above zero is no finding: three seeds that differ by 0.05, of a spread of 0.05.
    assert "3 domains (hoped for 0.1): +0.050 ± 0.124, not told apart" in table(
        0.9, 0.7, (0.8, 0.85, 0.9)
    )
    # Of a spread of 0.005 they would have shown what was hoped for.
    assert "Pool-LaCIM (hoped for 0.1): +0.005 ± 0.012, not as much as hoped" in table(
        0.9, (0.89, 0.895, 0.9), 0.8
    )


def test_plots_are_made_of_the_records(records, tmp_path):
    (path,) = lacim_identifiability.plots(records, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
    text = lacim_identifiability.tables(records)
    assert "MCC, Pearson, within domains" in text
    assert "s scored as v" in text

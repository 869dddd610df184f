"""The speed benchmarks in the smallest form: what is timed is whole, and verdicts are computed."""

import dataclasses

import jax
import pytest

from benchmarks import dcasgd_speed, gsgd_speed, lacim_speed
from benchmarks.registry import Context
from common.progress import Silent
from common.records import Record

CONTEXT = Context(seeds=(0,), data_dir=None, progress=Silent())
SIMULATOR = dataclasses.replace(
    dcasgd_speed.PRESETS["smoke"], width=8, workers=(1, 8), steps=(16, 2), repetitions=2
)
LATENT = lacim_speed.Settings(
    train_images=64, search_images=32, widths=(8,), s_dim=2, v_dim=2, batch_size=16,
    search_steps=2, draws=1, chunk_size=32, repetitions=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def simulated():
    return list(dcasgd_speed.run(SIMULATOR, CONTEXT))


def test_every_engine_is_timed_against_the_baseline(simulated):
    ways = [(r.method, r.setting.get("workers"), r.setting.get("rule")) for r in simulated]
    assert ways[0] == (dcasgd_speed.SYNCHRONOUS, None, None)
    assert simulated[0].metrics["ratio"] == 1
    for engine in (dcasgd_speed.SLOTS, dcasgd_speed.WAVES):
        for workers in (1, 8):
            assert (engine, workers, "ASGD") in ways
    assert (dcasgd_speed.WAVES, 8, "DC-ASGD-c") in ways
    for record in simulated:
        assert len(record.curve["seconds"]) == 2
        assert record.metrics["gradients_per_second"] > 0
    for record in simulated:
        if record.method == dcasgd_speed.SLOTS:
            workers = record.setting["workers"]
            # Of a network this small, logs and counters are a large part.
            assert workers + 1 < record.metrics["copies"] < workers + 8


def fabricated(ratio, copies, *, compensated=1.0):
    """Records of eight workers, as if measured."""

    def record(method, rule, log, value):
        return Record(
            method=method,
            setting={"network": "MLP", "batch_size": 32, "workers": 8, "rule": rule, "log": log},
            seed=0,
            metrics={"gradients_per_second": 1.0, "ratio": value, "copies": copies},
            wall_time=1.0,
        )

    plain = Record(
        method=dcasgd_speed.SYNCHRONOUS,
        setting={"network": "MLP", "batch_size": 32},
        seed=0,
        metrics={"gradients_per_second": 1000.0, "ratio": 1.0},
        wall_time=1.0,
    )
    return [
        plain,
        record(dcasgd_speed.SLOTS, "ASGD", False, ratio),
        record(dcasgd_speed.WAVES, "ASGD", False, ratio),
        record(dcasgd_speed.WAVES, "DC-ASGD-c", False, ratio / compensated),
    ]


@pytest.mark.parametrize(
    ("records", "verdicts"),
    [
        (fabricated(1.2, 10.0), ["0.95: met", "3%: met", "target 3: met"]),
        (fabricated(0.9, 12.0, compensated=1.1), ["0.95: missed", "3%: missed", "3: missed"]),
    ],
)
def test_verdicts_follow_from_the_records(records, verdicts):
    table = dcasgd_speed.tables(records)
    assert all(verdict in table for verdict in verdicts), table


@pytest.mark.usefixtures("standard_promotion")
def test_both_ways_to_train_and_to_search_are_timed(tmp_path):
    records = list(lacim_speed.run(LATENT, CONTEXT))
    ways = {(r.setting["task"], r.method) for r in records}
    assert len(ways) == 4
    for record in records:
        assert record.metrics["images_per_second"] > 0
    table = lacim_speed.tables(records)
    assert "latent search" in table
    assert "5: met" in table or "5: missed" in table
    (path,) = lacim_speed.plots(records, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("standard_promotion")
def test_both_ways_to_search_find_the_same():
    contest = lacim_speed.searching(LATENT, 0, CONTEXT)
    ours, loop = (contest.ways[way]() for way in (lacim_speed.OURS, lacim_speed.LOOP))
    together = jax.numpy.concatenate([jax.numpy.asarray(part) for part in ours], axis=-1)
    apart = jax.numpy.concatenate(loop)
    assert float(abs(together - apart).max()) < 1e-3


def test_plots_of_throughput(simulated, tmp_path):
    (path,) = dcasgd_speed.plots(simulated, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def stepped():
    settings = gsgd_speed.Settings(
        networks=(gsgd_speed.PERCEPTRON,), batch_sizes=((8,), ()), width=1 / 64, steps=(3, 1),
        repetitions=2, traces=1,
    )  # fmt: skip
    return list(gsgd_speed.run(settings, CONTEXT))


def test_a_step_in_path_space_is_timed_against_one_on_weights(stepped, tmp_path):
    perceptron = [r for r in stepped if r.setting["network"] == gsgd_speed.PERCEPTRON]
    found, chosen, weights, paths = perceptron
    assert (found.method, chosen.method) == (gsgd_speed.FIND, gsgd_speed.CHOOSE)
    assert weights.metrics["ratio"] == weights.metrics["compile_ratio"] == 1
    assert weights.metrics["extra_copies"] == 0
    assert paths.metrics["ratio"] > 0
    assert len(paths.curve["seconds"]) == 2
    assert stepped[-1].setting["network"] == gsgd_speed.TRACED
    assert stepped[-1].metrics["seconds"] > 0
    (path,) = gsgd_speed.plots(stepped, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("ratio", "copies", "verdicts"),
    [(1.09, 0.5, ["1.10: met", "0.50: met"]), (1.2, 1.5, ["1.10: missed", "1.50: missed"])],
)
def test_targets_are_met_or_missed_by_the_records(stepped, ratio, copies, verdicts):
    def changed(record):
        if record.method != gsgd_speed.GSGD:
            return record
        metrics = {**record.metrics, "ratio": ratio, "extra_copies": copies}
        return dataclasses.replace(record, metrics=metrics)

    table = gsgd_speed.tables([changed(record) for record in stepped])
    assert all(verdict in table for verdict in verdicts), table

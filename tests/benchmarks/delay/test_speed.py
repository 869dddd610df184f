"""The cost of simulating, in the smallest form: every way is timed, verdicts are computed."""

import dataclasses

import pytest

from benchmarks.delay import speed
from benchmarks.harness.registry import Context
from common.progress import Silent
from common.results.records import Record

CONTEXT = Context(seeds=(0,), data_dir=None, progress=Silent())
SIMULATOR = dataclasses.replace(
    speed.PRESETS["smoke"],
    width=8,
    workers=(1, 8),
    steps=(16, 2),
    repetitions=2,
    push_sizes=(),
    loops=None,
)


@pytest.fixture(scope="module")
def simulated():
    return list(speed.run(SIMULATOR, CONTEXT))


def test_every_engine_is_timed_against_the_baseline(simulated):
    ways = [(r.method, r.setting.get("workers"), r.setting.get("rule")) for r in simulated]
    assert ways[0] == (speed.SYNCHRONOUS, None, None)
    assert simulated[0].metrics["ratio"] == 1
    for engine in (speed.SLOTS, speed.WAVES):
        for workers in (1, 8):
            assert (engine, workers, "ASGD") in ways
    assert (speed.WAVES, 8, "DC-ASGD-c") in ways
    for record in [r for r in simulated if r.method != speed.COUNTED]:
        assert len(record.curve["seconds"]) == 2
        assert record.metrics["gradients_per_second"] > 0
    for record in simulated:
        if record.method == speed.SLOTS:
            workers = record.setting["workers"]
            # Of a network this small, logs and counters are a large part.
            assert workers + 1 < record.metrics["copies"] < workers + 8


def test_what_is_lost_is_told_in_copies_of_the_weights(simulated):
    (copying,) = [r for r in simulated if r.method == speed.COPYING]
    assert copying.setting["workers"] == 8
    same = {"network": "MLP", "batch_size": 32}

    def record(method, ratio, **setting):
        metrics = {"gradients_per_second": 1000.0, "ratio": ratio}
        return Record(method=method, setting=same | setting, seed=0, metrics=metrics, wall_time=1.0)

    table = speed.tables(
        [
            record(speed.SYNCHRONOUS, 1.0),
            record(speed.COPYING, 10.0, workers=64, rule="none", log=False),
            record(speed.SLOTS, 0.9, workers=64, rule="ASGD", log=False),
            record(speed.WAVES, 0.8, workers=64, rule="ASGD", log=False),
        ]
    )
    # 1000 us over 0.8 is 1250; a copy is 100.
    assert "takes 250 µs more than a synchronous one's 1000: 2.5 copies of the weights" in table
    assert "100 µs each" in table


def test_bytes_are_counted_from_compiled_steps(simulated):
    counted = {r.setting["step"]: r.metrics for r in simulated if r.method == speed.COUNTED}
    moved = {step: metrics["moved"] for step, metrics in counted.items()}
    plain, alone, many, compensated, logged = moved.values()
    # A snapshot is written at least; taken out of several; and read by what looks at it.
    assert plain + 1 < alone < many < compensated < logged
    assert counted["slots, M = 8"]["compile_ratio"] > 0


def test_the_table_of_bytes_says_what_they_leave():
    def counted(step, moved, **metrics):
        setting = {"network": "MLP", "batch_size": 32, "step": step}
        metrics = {"moved": moved, **metrics}
        return Record(method=speed.COUNTED, setting=setting, seed=0, metrics=metrics, wall_time=0.0)

    records = [counted(speed.SYNCHRONOUS, 6.0), counted("slots, M = 8", 8.0, compile_ratio=2.5)]
    table = speed.tables([*fabricated(0.9, 9.0), *records])
    (row,) = [line for line in table.splitlines() if "slots, M = 8 |" in line]
    assert [cell.strip() for cell in row.split("|")[3:6]] == ["8.0", "+2.0", "0.75"]
    assert "2.5 times what plain SGD takes at most (target 2: missed)" in table


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
        method=speed.SYNCHRONOUS,
        setting={"network": "MLP", "batch_size": 32},
        seed=0,
        metrics={"gradients_per_second": 1000.0, "ratio": 1.0},
        wall_time=1.0,
    )
    return [
        plain,
        record(speed.SLOTS, "ASGD", False, ratio),
        record(speed.WAVES, "ASGD", False, ratio),
        record(speed.WAVES, "DC-ASGD-c", False, ratio / compensated),
    ]


@pytest.mark.parametrize(
    ("records", "verdicts"),
    [
        (fabricated(1.2, 10.0), ["0.95: met", "3%: met", "target 3: met"]),
        (fabricated(0.9, 12.0, compensated=1.1), ["0.95: missed", "3%: missed", "3: missed"]),
    ],
)
def test_verdicts_follow_from_the_records(records, verdicts):
    table = speed.tables(records)
    assert all(verdict in table for verdict in verdicts), table


def test_pushes_stand_beside_the_networks():
    def pushed(method, ratio):
        metrics = {"seconds": 1e-3 * ratio, "ratio": ratio, "driver_seconds": 1e-3}
        setting = {"network": "real workers", "parameters": 100}
        return Record(method=method, setting=setting, seed=0, metrics=metrics, wall_time=1.0)

    table = speed.tables(
        [*fabricated(1.0, 9.0), pushed("bare actor call", 1.0), pushed("push", 1.1)]
    )
    assert table.count("**Real workers**") == 1
    assert "A push over bare calls: 1.10 at most (target 1.2: met)." in table


def test_plots_of_throughput(simulated, tmp_path):
    (path,) = speed.plots(simulated, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")

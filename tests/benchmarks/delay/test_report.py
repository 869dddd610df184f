"""What the report on stale gradients chooses by, and what it compares."""

import dataclasses

import numpy as np

from benchmarks.delay.report import (
    METHODS,
    intolerable_step,
    plot_training,
    protocol_tables,
    published_table,
)
from benchmarks.harness.halving import TUNING, UNFINISHED
from common.results.records import Record


def asgd(step, accuracies, method="ASGD", **setting):
    """Records of one setting, one a seed; test accuracy is a tenth above validation's."""
    return [
        Record(
            method=method,
            setting={"workers": 4, "learning_rate": step, **setting},
            seed=seed,
            metrics={
                "validation_accuracy": a,
                "test_accuracy": a + 0.1,
                "train_loss": 1.0,
                "simulated_seconds": 20.0,
            },
            wall_time=0.0,
        )
        for seed, a in enumerate(accuracies)
    ]


def test_the_intolerable_step_is_the_first_beyond_the_tuned_one():
    runs = asgd(0.1, [0.5, 0.5]) + asgd(0.2, [0.8, 0.8])
    assert intolerable_step(runs, 4) is None
    runs += asgd(0.4, [0.75, 0.72])
    assert intolerable_step(runs, 4) is None
    assert intolerable_step(runs + asgd(1.6, [0.6, 0.6]), 4) == 1.6
    diverged = asgd(0.8, [0.79, np.nan])
    assert intolerable_step(runs + asgd(1.6, [0.6, 0.6]) + diverged, 4) == 0.8


def test_settings_are_chosen_on_validation_data_and_compared_seed_by_seed():
    runs = asgd(0.1, [0.70, 0.80])
    runs += asgd(0.1, [0.71, 0.81], method="DC-ASGD-c", **{"lambda": 2.0})
    worse = asgd(0.2, [0.2, np.nan], method="DC-ASGD-c", **{"lambda": 2.0})
    better_on_test = [
        dataclasses.replace(r, metrics={**r.metrics, "test_accuracy": 1.0}) for r in worse
    ]
    table = protocol_tables(runs + better_on_test)
    (row,) = [line for line in table.splitlines() if line.startswith("| DC-ASGD-c")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    # Of two steps either is at the edge; of one lambda none is.
    assert cells[1:7] == ["4", "0.1 (edge)", "2", "2", "86.00 ± 7.07", "1.00 ± 0.00"]
    assert "bears every step of the grid" in table


def test_a_step_or_lambda_at_the_edge_of_its_grid_is_marked():
    runs = [
        r
        for step, accuracy in ((0.1, 0.5), (0.2, 0.7), (0.4, 0.65))
        for r in asgd(step, [accuracy, accuracy])
    ]
    runs += [
        r
        for step in (0.2, 0.4)
        for lambda_, more in ((0.5, 0.0), (2.0, 0.1))
        for r in asgd(step, [step + more] * 2, method="DC-ASGD-a", **{"lambda": lambda_})
    ]
    rows = [line.split("|") for line in protocol_tables(runs).splitlines() if line[:1] == "|"]
    shown = {row[1].strip(): [cell.strip() for cell in row[3:5]] for row in rows}
    assert shown == shown | {"ASGD": ["0.2", ""], "DC-ASGD-a": ["0.4 (edge)", "2 (edge)"]}


def test_halved_steps_are_compared_after_the_same_budget():
    """Tried for one epoch at three steps, the chosen one trained to the end."""
    tries = [
        r
        for method, accuracies in (("ASGD", (0.5, 0.7, 0.3)), ("DC-ASGD-a", (0.5, 0.6, 0.65)))
        for step, a in zip((0.1, 0.2, 0.4), accuracies, strict=True)
        for r in asgd(step, [a, a], method=method, **{TUNING: 1})
    ]
    assert protocol_tables(tries) == UNFINISHED
    ended = asgd(0.2, [0.8, 0.8, 0.8]) + asgd(0.4, [0.85, 0.85, 0.85], method="DC-ASGD-a")
    assert intolerable_step(tries + ended, 4) == 0.4
    tables = protocol_tables(tries + ended)
    rows = [[cell.strip() for cell in line.split("|")] for line in tables.splitlines()]
    shown = {row[1]: row[3:8] for row in reversed(rows) if row[1:2] and row[1] in METHODS}
    assert shown["ASGD"] == ["0.2", "", "3", "90.00 ± 0.00", ""]
    assert shown["DC-ASGD-a"] == ["0.4 (edge)", "", "3", "95.00 ± 0.00", "5.00 ± 0.00"]
    assert "**The same step, 0.4, for all, after 1 epoch: the first that ASGD" in tables
    assert "40.00 ± 0.00" in tables.partition("after 1 epoch")[2]
    assert "with 1 epoch | with all |" in " ".join(tables.split())


def test_seeds_whose_machines_took_other_times_share_a_curve(tmp_path):
    def with_curve(record):
        times = [10.0 * (1 + 0.1 * record.seed) * i for i in (1, 2)]
        columns = {"gradients": [10, 20], "simulated_seconds": times, "test_accuracy": [0.5, 0.6]}
        return dataclasses.replace(record, curve=columns)

    runs = [with_curve(r) for r in asgd(0.1, [0.70, 0.80])]
    path = plot_training(runs, tmp_path / "curves.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def record(method, rate, seed, accuracy):
    return Record(
        method=method,
        setting={"workers": 4, "learning_rate": rate},
        seed=seed,
        metrics={"validation_accuracy": accuracy + 0.01, "test_accuracy": accuracy},
        wall_time=1.0,
    )


RECORDS = [
    record("ASGD", rate, seed, accuracy)
    for rate, pair in ((0.1, (0.5, 0.6)), (0.2, (0.25, 0.35)))
    for seed, accuracy in enumerate(pair)
]


def test_errors_of_the_tuned_step_beside_the_published_ones():
    published = {("ASGD", 4): 9.27, ("ASGD", 8): 10.26, ("SGD", 1): 8.65}
    table = published_table(RECORDS, published, source="a paper")
    *_, row = table.splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["ASGD", "4", "9.27", "45.00 ± 7.07"]
    assert "a paper" in table
    assert "10.26" not in table


def test_nothing_where_nothing_published_was_run():
    assert published_table(RECORDS, {("SGD", 1): 8.65}, source="a paper") == ""

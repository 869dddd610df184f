"""Learning-rate curves: rates are chosen on validation data, and no diverged run is hidden."""

import dataclasses
import math

import pytest

from benchmarks.path_space.rates import (
    Line,
    Score,
    choose,
    pair_table,
    rate_figure,
    rate_of,
    rate_table,
    rate_tables,
)
from common.results.records import Record
from common.results.tables import number

NAN = math.nan


def record(rate, validation, test, *, method="SGD", seed=0, **setting):
    return Record(
        method=method, setting={"learning_rate": rate, **setting}, seed=seed, wall_time=0.0,
        metrics={"validation_accuracy": validation, "test_accuracy": test},
    )  # fmt: skip


def cells(table, method):
    """One row of a Markdown table as a mapping from column titles."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n")]
    (row,) = [line for line in lines if line[0] == method]
    return dict(zip(lines[0], row, strict=True))


def test_the_rate_is_chosen_on_validation_data_and_not_on_test():
    records = [record(0.1, 0.9, 0.5), record(0.3, 0.8, 0.99), record(1.0, 0.7, 0.98)]
    found = cells(rate_table(records, fixed_rate=0.3), "SGD")
    assert found["chosen rate"] == "0.1 (edge)"
    assert found["test accuracy % there"] == "50.00 (n = 1)"
    assert found["test accuracy % at 0.3"] == "99.00 (n = 1)"


def test_only_an_inner_rate_is_not_at_the_edge_whatever_the_order_tried():
    records = [record(rate, v, v) for rate, v in ((1.0, 0.6), (0.01, 0.5), (0.1, 0.8))]
    assert choose(records).at_edge is False
    assert choose(records[:1]).at_edge is False  # nothing was chosen
    assert choose(records[::2]).at_edge is True


def test_where_rates_were_halved_the_edge_is_that_of_all_that_were_tried():
    scores = ((0.1, 0.5), (0.3, 0.6), (1.0, 0.7))
    tried = [record(rate, v, v, tuning_epochs=1) for rate, v in scores]
    found = cells(rate_table([*tried, record(1.0, 0.9, 0.8)], fixed_rate=0.3), "SGD")
    assert found == {
        "method": "SGD",
        "test accuracy % at 0.3": "not to the end",
        "chosen rate": "1 (edge)",
        "test accuracy % there": "80.00 (n = 1)",
        "runs diverged": "0 of 1",  # of a single rate nothing is said of those near it
    }
    inner = [*tried, record(0.3, 0.9, 0.8)]
    assert cells(rate_table(inner), "SGD")["chosen rate"] == "0.3"
    # What a part of the budget brought is no figure.
    other = [dataclasses.replace(r, method="G-SGD") for r in [*tried, record(0.1, 0.9, 0.7)]]
    pairs = rate_tables([*inner, *other], [("G-SGD", "SGD")])
    assert pairs.splitlines()[-1].split("|")[2].strip() == "-10.00 (n = 1)"


@pytest.mark.parametrize(
    ("validation", "span"),
    [
        ((0.5, 0.89, 0.90, 0.60), (0.1, 1.0)),
        ((0.885, 0.89, 0.90, 0.89), (0.01, 10.0)),
        ((0.89, 0.5, 0.90, 0.5), (1.0, 1.0)),  # a near rate beyond a gap does not count
        ((0.5, NAN, 0.90, 0.89), (1.0, 10.0)),
    ],
)
def test_the_span_of_rates_is_unbroken_and_bears_every_seed(validation, span):
    rates = (0.01, 0.1, 1.0, 10.0)
    records = [record(rate, v, v) for rate, v in zip(rates, validation, strict=True)]
    assert choose(records).span == span
    # One seed that diverges takes its rate out of the span.
    lost = record(span[1], NAN, NAN, seed=1)
    others = [dataclasses.replace(r, seed=1) for r in records if rate_of(r) != span[1]]
    assert span[1] not in choose([*records, *others, lost]).span


def test_diverged_runs_are_counted_even_where_a_score_was_written_down():
    records = [record(0.1, 0.9, 0.8), record(0.1, 0.7, 0.6, seed=1)]
    records += [record(1.0, NAN, 0.99), record(1.0, 0.95, 0.9, seed=1)]
    found = cells(rate_table(records, fixed_rate=1.0), "SGD")
    assert found["chosen rate"] == "0.1 (edge)"  # never chosen for the seed that survived
    assert found["test accuracy % at 1"] == "90.00 (n = 1) (1 of 2 diverged)"
    assert found["runs diverged"] == "1 of 4"


def test_a_method_that_always_diverged_and_a_rate_not_tried_are_said_to_be():
    records = [record(0.1, NAN, NAN), record(1.0, 0.5, 0.5, method="G-SGD")]
    table = rate_table(records, fixed_rate=1.0)
    assert cells(table, "SGD") == {
        "method": "SGD",
        "test accuracy % at 1": "not tried",
        "chosen rate": "-",
        "test accuracy % there": "diverged (1 of 1)",
        "rates within 0.02 of it": "-",
        "runs diverged": "1 of 1",
    }
    assert cells(table, "G-SGD")["test accuracy % at 1"] == "50.00 (n = 1)"


def test_pairs_are_compared_seed_by_seed_at_each_ones_own_rate():
    records = [record(0.1, 0.5, 0.5 + 0.1 * s, seed=s) for s in range(3)]
    records += [record(0.1, 0.4, 0.9, method="G-SGD", seed=s) for s in range(3)]
    records += [record(0.3, 0.6, 0.52 + 0.1 * s, method="G-SGD", seed=s) for s in range(3)]
    pairs = [("G-SGD", "SGD"), ("G-Adam", "Adam")]
    table = pair_table(records, pairs, Score(show=number))
    assert cells(table, "G-SGD - SGD")["test accuracy, seed by seed"] == "0.020 ± 0.000"
    assert "Adam" not in table
    assert pair_table(records, [("G-Adam", "Adam")]) == ""


def test_other_scores_have_their_own_names_and_units():
    records = [
        dataclasses.replace(r, metrics={"validation_return": 20.0, "test_return": 31.0})
        for r in (record(0.1, 0.0, 0.0), record(1.0, 0.0, 0.0))
    ]
    score = Score("test_return", "validation_return", "return", unit="", show=number)
    table = rate_table(records, score._replace(tolerance=5.0))
    found = cells(table, "SGD")
    assert found["return there"] == "31.000 (n = 1)"
    assert found["rates within 5 of it"] == "0.1 to 1"


def test_the_figure_breaks_its_line_where_a_run_diverged(tmp_path, monkeypatch):
    drawn = {}

    def spy(axes, x, values, *, label, style, marker, percent):
        assert marker
        assert percent, "accuracies end at 0 and 100, and so must their bands"
        drawn[label] = (list(x), values)
        axes.plot(x, values[0], label=label)

    monkeypatch.setattr("benchmarks.path_space.rates.plot_spread", spy)
    records = [
        record(rate, v, v, method=m, seed=s, network=n)
        for n in ("plain", "ResNet")
        for m in ("SGD", "G-SGD")
        for s in (0, 1)
        for rate, v in ((1.0, NAN if (m, s) == ("SGD", 1) else 0.5), (0.1, 0.4))
    ]
    lines = {m: Line("both", m, style) for style, m in enumerate(("SGD", "G-SGD"))}
    path = rate_figure(
        records, tmp_path / "rates.png", lines, row=lambda r: str(r.setting["network"])
    )
    assert path.read_bytes().startswith(b"\x89PNG")
    rates, sgd = drawn["SGD"]
    assert rates == [0.1, 1.0]
    assert sgd[:, 0].tolist() == [40.0, 40.0]
    assert all(map(math.isnan, sgd[:, 1]))  # the survivor alone would flatter
    assert drawn["G-SGD"][1].tolist() == [[40.0, 50.0], [40.0, 50.0]]


def test_a_method_that_always_diverged_is_drawn(tmp_path):
    records = [record(r, 0.5, 0.1 * r, method="SGD") for r in (0.1, 1.0)]
    records += [record(r, NAN, NAN, method="lost", seed=s) for r in (0.1, 1.0) for s in (0, 1)]
    lines = {"SGD": Line("one", "a", 0), "lost": Line("other", "b", 1)}
    path = rate_figure(records, tmp_path / "rates.png", lines, row=lambda r: "row")
    assert path.stat().st_size > 10_000


def test_records_without_a_rate_and_no_records_are_refused(tmp_path):
    without = Record(method="ERM", setting={}, seed=0, metrics={}, wall_time=0.0)
    with pytest.raises(ValueError, match=r"needs a learning_rate .* of 'ERM'; leave out"):
        choose([without])
    with pytest.raises(ValueError, match="a table needs at least one record"):
        rate_table([])
    with pytest.raises(ValueError, match="a figure needs at least one record"):
        rate_figure([], tmp_path / "rates.png", {}, row=str)

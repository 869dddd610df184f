"""Learning-rate curves: how well each method does at every step size, as a table and a figure.

For records of any experiment whose setting has a `learning_rate`, one record a method, rate and
seed. What is told of a method: its score at one given rate; the rate that validation data chooses,
and the score there; over what span of rates it does nearly as well; and how many runs diverged. A
run diverged if its criterion is not finite, and such runs are counted, never left out.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from benchmarks.harness.figures import small_multiples
from benchmarks.harness.halving import reported
from benchmarks.harness.reports import at_edge, by_method, joined
from common.results.plots import COLOURS, MARKERS, plot_curve, plot_spread
from common.results.records import Record
from common.results.selection import best_setting
from common.results.tables import Summary, group, markdown, metric, percent, summarise


class Score(NamedTuple):
    """What methods are compared by, and how it is written."""

    metric: str = "test_accuracy"
    """Reported; larger is better."""
    criterion: str = "validation_accuracy"
    """What rates are chosen by: larger is better, measured on data that no figure is reported on.
    """
    name: str = "test accuracy"
    unit: str = " %"
    """Behind the name, in the head of a column."""
    show: Callable[[Summary], str] = percent
    """How a mean and its spread are written."""
    tolerance: float = 0.02
    """How far below its best a rate's mean criterion may lie for the rate to do nearly as well."""
    scale: float = 100.0
    """Factor on the metric in figures."""


ACCURACY = Score()


class Line(NamedTuple):
    """Where a method is drawn."""

    panel: str
    label: str
    """In the legend: the same word for the same treatment in every panel."""
    style: int
    """Index into the palette."""


class Choice(NamedTuple):
    """What validation data say about one method."""

    rate: float
    """The learning rate chosen."""
    records: list[Record]
    """Its runs, one a seed."""
    at_edge: bool
    """Whether it is the least or the largest of several tried: a wider grid might do better."""
    span: tuple[float, float]
    """The least and the largest rate of an unbroken stretch of the grid, the chosen one in it, at
    which no run diverged and the mean criterion is within the tolerance of the best."""


def rate_of(record: Record) -> float:
    """A record's learning rate.

    Raises:
        ValueError: if its setting has none.
    """
    rate = record.setting.get("learning_rate")
    if not isinstance(rate, (int, float)):
        raise ValueError(
            "a learning-rate curve needs a learning_rate in every record's setting, got "
            f"{dict(record.setting)} of {record.method!r}; leave out records without one."
        )
    return float(rate)


def choose(
    records: Sequence[Record], score: Score = ACCURACY, *, tried: Sequence[Record] | None = None
) -> Choice:
    """The learning rate of a method that is best on validation data, and how far one may stray.

    Nothing but rate and seed may vary among the records.

    Args:
        records: of one method, among whose rates the best is chosen.
        score: what it is chosen by.
        tried: the runs of every rate that was tried, where others had a part of the budget alone
            (`halving`); None for the records.

    Raises:
        ValueError: if there are no records, or one has no learning rate.
    """
    runs = _by_rate(records)
    best = best_setting(records, criterion=score.criterion)
    rates, rate = list(runs), rate_of(best[0])
    of_rate = [metric(runs[r], score.criterion) for r in rates]
    middle = rates.index(rate)
    floor = of_rate[middle].mean - score.tolerance
    near = [summary.failed == 0 and summary.mean >= floor for summary in of_rate]
    low = high = middle
    while low > 0 and near[low - 1]:
        low -= 1
    while high < len(rates) - 1 and near[high + 1]:
        high += 1
    return Choice(
        rate=rate,
        records=best,
        at_edge=at_edge(rate, map(rate_of, records if tried is None else tried)),
        span=(rates[low], rates[high]),
    )


def rate_tables(
    records: Sequence[Record], pairs: Sequence[tuple[str, str]], score: Score = ACCURACY, *,
    fixed_rate: float | None = None,
) -> str:  # fmt: skip
    """Every method by itself, then what one method of each pair adds to the other; Markdown.

    Where rates were halved, records of every budget are given; figures are of the whole one.
    """
    return joined(
        rate_table(records, score, fixed_rate=fixed_rate),
        pair_table(reported(records), pairs, score),
    )


def rate_table(
    records: Sequence[Record], score: Score = ACCURACY, *, fixed_rate: float | None = None
) -> str:
    """A row a method: its score at a given rate, its chosen rate, its score there, its robustness.

    Methods, rates and seeds vary; other settings may differ between methods, not within one. Where
    rates were halved, the chosen one alone has the whole budget, so that nothing is said of others.

    Raises:
        ValueError: if no record has the whole budget, or one has no learning rate.
    """
    finished, tried = by_method(reported(records)), by_method(records)
    if not finished:
        raise ValueError("a table needs at least one record of the whole budget, got none.")
    halved, rows = len(reported(records)) < len(records), []
    for method, runs in finished.items():
        choice = choose(runs, score, tried=tried[method])
        lost = sum(not math.isfinite(r.metrics[score.criterion]) for r in runs)
        low, high = choice.span
        cells = [
            "-" if lost == len(runs) else f"{choice.rate:g}" + " (edge)" * choice.at_edge,
            score.show(_scored(choice.records, score)),
            "-" if lost == len(runs) else f"{low:g}" + (f" to {high:g}" if high > low else ""),
            f"{lost} of {len(runs)}",
        ]
        if halved:
            del cells[2]
        if fixed_rate is not None:
            there = [r for r in runs if rate_of(r) == fixed_rate]
            shorter = fixed_rate in map(rate_of, tried[method])
            missing = "not to the end" if shorter else "not tried"
            cells.insert(0, score.show(_scored(there, score)) if there else missing)
        rows.append([method, *cells])
    title = f"{score.name}{score.unit}"
    header = ["method", "chosen rate", f"{title} there"]
    if not halved:
        header.append(f"rates within {score.tolerance:g} of it")
    if fixed_rate is not None:
        header.insert(1, f"{title} at {fixed_rate:g}")
    return markdown([*header, "runs diverged"], rows)


def pair_table(
    records: Sequence[Record], pairs: Sequence[tuple[str, str]], score: Score = ACCURACY
) -> str:
    """By how much one method exceeds another, seed by seed, each at its own chosen rate.

    Pairs one of which has no records are left out; without any the table is empty.
    """
    methods = by_method(records)
    rows = []
    for one, other in pairs:
        if one in methods and other in methods:
            first, second = (
                {r.seed: _score(r, score) for r in choose(methods[method], score).records}
                for method in (one, other)
            )
            gaps = [first[seed] - second[seed] for seed in first if seed in second]
            rows.append([f"{one} - {other}", score.show(summarise(gaps))])
    return markdown(["difference", f"{score.name}, seed by seed"], rows) if rows else ""


def rate_figure(
    records: Sequence[Record], path: Path, lines: Mapping[str, Line], score: Score = ACCURACY, *,
    row: Callable[[Record], str], label: str = "test accuracy, %",
) -> Path:  # fmt: skip
    """Final score against step size, a line a method: the mean over seeds, and one sd as a band.

    A rate at which any seed diverged is a cross at the foot of the panel, and no point of the line:
    the mean of the survivors would flatter. The rate that validation data chooses is ringed.

    `lines` tells where each method is drawn, `row` to which row of panels a record belongs.

    Raises:
        ValueError: if there are no records, or one has no learning rate.
    """
    if not records:
        raise ValueError("a figure needs at least one record, got none.")
    rows, columns = _places(records, lines, row)
    labels = ("learning rate (x: a run diverged)", label)
    with small_multiples(path, rows, columns, labels=labels) as panels:
        for (title, method), runs in group(records, lambda r: (row(r), r.method)).items():
            _draw(panels[title, lines[method].panel], runs, lines[method], score)
        for axes in panels.values():
            axes.set_xscale("log")
    return path


def training_figure(
    records: Sequence[Record], path: Path, lines: Mapping[str, Line], score: Score, *,
    row: Callable[[Record], str], curve: tuple[str, str], labels: tuple[str, str],
) -> Path:  # fmt: skip
    """Training curves, abscissa and ordinate, at the step sizes that validation data chooses."""
    rows, columns = _places(records, lines, row)
    chosen: dict[Any, list[str]] = {}
    with small_multiples(
        path, rows, columns, labels=labels,
        title=lambda *place: f"{', '.join(place)}; step {' / '.join(chosen.get(place, ()))}",
    ) as panels:  # fmt: skip
        for (title, method), runs in group(records, lambda r: (row(r), r.method)).items():
            place, line = (title, lines[method].panel), lines[method]
            best = choose(runs, score)
            chosen.setdefault(place, []).append(f"{best.rate:g}")
            plot_curve(
                panels[place], best.records, x=curve[0], y=curve[1], label=line.label,
                style=line.style, scale=score.scale,
            )  # fmt: skip
            panels[place].locator_params(axis="x", nbins=4)
    return path


def _places(
    records: Sequence[Record], lines: Mapping[str, Line], row: Callable[[Record], str]
) -> tuple[list[str], list[str]]:
    """Rows and columns of panels, in the order in which they first come."""
    rows, columns = group(records, row), group(records, lambda r: lines[r.method].panel)
    return list(rows), list(columns)


def _draw(axes: Axes, runs: Sequence[Record], line: Line, score: Score) -> None:
    """One method's line, its chosen rate, and where runs diverged."""
    by_rate = _by_rate(runs)
    whole = {
        rate: all(math.isfinite(r.metrics[score.criterion]) for r in seeds)
        for rate, seeds in by_rate.items()
    }
    scores = np.full((max(map(len, by_rate.values())), len(by_rate)), np.nan)
    for column, (rate, seeds) in enumerate(by_rate.items()):
        if whole[rate]:
            scores[: len(seeds), column] = [score.scale * r.metrics[score.metric] for r in seeds]
    plot_spread(
        axes, list(by_rate), scores, label=line.label, style=line.style, marker=True,
        percent=score.scale == 100,
    )  # fmt: skip
    colour, marker = COLOURS[line.style], MARKERS[line.style]
    best = choose(runs, score).rate
    if whole[best]:
        mean = float(np.nanmean(scores[:, list(by_rate).index(best)]))
        axes.plot(best, mean, marker, markersize=9, color=colour, fillstyle="none")
    lost = [rate for rate, survived in whole.items() if not survived]
    # Crosses of different methods at one rate stand above one another.
    foot, height = axes.get_xaxis_transform(), 0.03 + 0.06 * line.style
    axes.plot(lost, [height] * len(lost), "x", color=colour, markersize=5, transform=foot)


def _by_rate(records: Sequence[Record]) -> dict[float, list[Record]]:
    """Runs by learning rate, rising."""
    return dict(sorted(group(records, rate_of).items()))


def _score(record: Record, score: Score) -> float:
    """A run's score; a diverged run has none, whatever was written down for it."""
    return record.metrics[score.metric] if math.isfinite(record.metrics[score.criterion]) else (
        math.nan
    )  # fmt: skip


def _scored(records: Sequence[Record], score: Score) -> Summary:
    return summarise(_score(record, score) for record in records)

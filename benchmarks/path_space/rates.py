"""Learning-rate curves: how well each method does at every step size, as a table and a figure.

For records of any experiment whose setting has a `learning_rate`, one record a method, rate and
seed. What is told of a method: its score at one given rate; the rate that validation data chooses,
and the score there; over what span of rates it does nearly as well; and how many runs diverged. A
run diverged if its criterion is not finite, and such runs are counted, never left out.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from common.results.plots import COLOURS, MARKERS, figure, plot_curve, plot_spread
from common.results.records import Record
from common.results.selection import best_setting
from common.results.tables import Summary, group, markdown, metric, percent, summarise


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

    Args:
        record: of any experiment.

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
    records: Sequence[Record],
    *,
    criterion: str = "validation_accuracy",
    tolerance: float = 0.02,
) -> Choice:
    """The learning rate that is best on validation data, and how far one may stray from it.

    Args:
        records: of one method: every rate, every seed, and nothing else that varies.
        criterion: a metric, larger is better, measured on data that no figure is reported on.
        tolerance: by how much the criterion's mean may be lower than at its best.

    Raises:
        ValueError: if there are no records, or one has no learning rate.

    Example:
        >>> def record(rate, validation):
        ...     return Record(method="SGD", setting={"learning_rate": rate}, seed=0, wall_time=0.0,
        ...                   metrics={"validation_accuracy": validation})
        >>> tried = [(0.01, 0.5), (0.1, 0.89), (1.0, 0.90), (10.0, float("nan"))]
        >>> choice = choose([record(rate, validation) for rate, validation in tried])
        >>> choice.rate, choice.at_edge, choice.span
        (1.0, False, (0.1, 1.0))
    """
    runs = _by_rate(records)
    best = best_setting(records, criterion=criterion)
    rates, rate = list(runs), rate_of(best[0])
    found = [metric(runs[r], criterion) for r in rates]
    middle = rates.index(rate)
    floor = found[middle].mean - tolerance
    near = [summary.failed == 0 and summary.mean >= floor for summary in found]
    low = high = middle
    while low > 0 and near[low - 1]:
        low -= 1
    while high < len(rates) - 1 and near[high + 1]:
        high += 1
    return Choice(
        rate=rate,
        records=best,
        at_edge=len(rates) > 1 and middle in (0, len(rates) - 1),
        span=(rates[low], rates[high]),
    )


def rate_table(
    records: Sequence[Record],
    *,
    score: str = "test_accuracy",
    criterion: str = "validation_accuracy",
    tolerance: float = 0.02,
    fixed_rate: float | None = None,
    name: str = "test accuracy %",
    show: Callable[[Summary], str] = percent,
) -> str:
    """A row a method: its score at a given rate, its chosen rate, its score there, its robustness.

    Args:
        records: of one panel: methods, rates and seeds vary. Other entries of `setting` may differ
            between methods, not within one.
        score: the metric that is reported, larger is better.
        criterion: the metric that rates are chosen by, measured on other data.
        tolerance: of the span of rates, in the criterion's units; see `choose`.
        fixed_rate: a rate at which all methods are shown too; None for no such column.
        name: what the score is called.
        show: how a mean and its spread are written, `percent` or `number`.

    Returns:
        Markdown, rows in the order in which methods first came.

    Raises:
        ValueError: if there are no records, or one has no learning rate.

    Example:
        >>> def record(rate, validation, test):
        ...     metrics = {"validation_accuracy": validation, "test_accuracy": test}
        ...     return Record(method="SGD", setting={"learning_rate": rate}, seed=0,
        ...                   metrics=metrics, wall_time=0.0)
        >>> tried = [record(0.1, 0.9, 0.8), record(1.0, 0.7, 0.85), record(3.0, 0.8, 0.6)]
        >>> print(rate_table(tried, name="test"))
        | method | chosen rate |    test there | rates within 0.02 of it | runs diverged |
        | :----- | ----------: | ------------: | ----------------------: | ------------: |
        | SGD    |  0.1 (edge) | 80.00 (n = 1) |                     0.1 |        0 of 3 |
    """
    methods = group(records, lambda record: record.method)
    if not methods:
        raise ValueError("a table needs at least one record, got none.")
    rows = []
    for method, runs in methods.items():
        choice = choose(runs, criterion=criterion, tolerance=tolerance)
        lost = sum(not math.isfinite(r.metrics[criterion]) for r in runs)
        low, high = choice.span
        all_lost = not any(math.isfinite(r.metrics[criterion]) for r in runs)
        cells = [
            "-" if all_lost else f"{choice.rate:g}" + (" (edge)" if choice.at_edge else ""),
            show(_scored(choice.records, score, criterion)),
            "-" if all_lost else f"{low:g}" + (f" to {high:g}" if high > low else ""),
            f"{lost} of {len(runs)}",
        ]
        if fixed_rate is not None:
            there = [r for r in runs if rate_of(r) == fixed_rate]
            cells.insert(0, show(_scored(there, score, criterion)) if there else "not tried")
        rows.append([method, *cells])
    header = ["method", "chosen rate", f"{name} there", f"rates within {tolerance:g} of it"]
    if fixed_rate is not None:
        header.insert(1, f"{name} at {fixed_rate:g}")
    return markdown([*header, "runs diverged"], rows)


def pair_table(
    records: Sequence[Record],
    pairs: Sequence[tuple[str, str]],
    *,
    score: str = "test_accuracy",
    criterion: str = "validation_accuracy",
    name: str = "test accuracy",
    show: Callable[[Summary], str] = percent,
) -> str:
    """By how much one method exceeds another, seed by seed, each at its own chosen rate.

    Args:
        records: of one panel.
        pairs: two methods each; pairs one of which has no records are left out.
        score: the metric that is reported.
        criterion: the metric that rates are chosen by.
        name: what the score is called.
        show: how a mean and its spread are written.

    Returns:
        Markdown; "" if no pair is there.

    Example:
        >>> def record(method, seed, test):
        ...     metrics = {"validation_accuracy": 0.5, "test_accuracy": test}
        ...     return Record(method=method, setting={"learning_rate": 0.1}, seed=seed,
        ...                   metrics=metrics, wall_time=0.0)
        >>> found = [record("a", 0, 0.6), record("a", 1, 0.8), record("b", 0, 0.5),
        ...          record("b", 1, 0.5)]
        >>> print(pair_table(found, [("a", "b")]))
        | difference | test accuracy, seed by seed |
        | :--------- | --------------------------: |
        | a - b      |               20.00 ± 14.14 |
    """
    methods = group(records, lambda record: record.method)
    rows = []
    for one, other in pairs:
        if one in methods and other in methods:
            scores = [
                {
                    r.seed: r.metrics[score] if math.isfinite(r.metrics[criterion]) else math.nan
                    for r in choose(methods[method], criterion=criterion).records
                }
                for method in (one, other)
            ]
            gaps = [scores[0][seed] - scores[1][seed] for seed in scores[0] if seed in scores[1]]
            rows.append([f"{one} - {other}", show(summarise(gaps))])
    return markdown(["difference", f"{name}, seed by seed"], rows) if rows else ""


def rate_figure(
    records: Sequence[Record],
    path: Path,
    *,
    score: str = "test_accuracy",
    criterion: str = "validation_accuracy",
    panel: Callable[[Record], str] | None = None,
    name: str = "test accuracy, %",
    scale: float = 100.0,
) -> Path:
    """Final score against step size, a line a method: the mean over seeds, and one sd as a band.

    A rate at which any seed diverged is a cross at the foot of the panel, and no point of the line:
    the mean of the survivors would flatter. The rate that validation data chooses is ringed.

    Args:
        records: of any number of panels.
        path: the PNG file to write.
        score: the metric that is drawn.
        criterion: the metric that rates are chosen by.
        panel: from a record to the title of the panel it belongs to; None for a single one.
        name: what the score is called.
        scale: factor on it, 100 for percent.

    Returns:
        `path`.

    Raises:
        ValueError: if there are no records, or one has no learning rate.
    """
    panels = group(records, panel or (lambda _: ""))
    if not panels:
        raise ValueError("a figure needs at least one record, got none.")
    order = list(group(records, lambda record: record.method))
    with figure(path, columns=len(panels), panel=(5.6, 4.0)) as axes_:
        for axes, (title, own) in zip(axes_[0], panels.items(), strict=True):
            for method, runs in group(own, lambda record: record.method).items():
                _draw(axes, method, runs, order.index(method), len(order), score, criterion, scale)
            axes.set(title=title, xscale="log", xlabel="learning rate (x: a run diverged)")
        axes_[0, 0].set_ylabel(name)
        handles = {
            label: handle
            for axes in axes_[0]
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        axes_[0, -1].legend(
            handles.values(), handles, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9
        )
    return path


def training_figure(
    records: Sequence[Record],
    path: Path,
    *,
    x: str,
    y: str,
    criterion: str = "validation_accuracy",
    panel: Callable[[Record], str],
    labels: tuple[str, str],
    scale: float = 1.0,
) -> Path:
    """Training curves at the step sizes that validation data chooses, a line a method.

    Args:
        records: of any number of panels.
        path: the PNG file to write.
        x: name of the curve's abscissa.
        y: name of its ordinate.
        criterion: the metric that step sizes are chosen by.
        panel: which panel a record belongs to.
        labels: of the two axes.
        scale: factor on the ordinate, 100 for percent.

    Returns:
        `path`.
    """
    panels = group(records, panel)
    with figure(path, columns=len(panels)) as every:
        for axes, (title, own) in zip(every[0], panels.items(), strict=True):
            for i, runs in enumerate(group(own, lambda record: record.method).values()):
                best = choose(runs, criterion=criterion)
                label = f"{runs[0].method}, {best.rate:g}"
                plot_curve(axes, best.records, x=x, y=y, label=label, style=i, scale=scale)
            axes.set(title=title, xlabel=labels[0])
            axes.legend(fontsize=8)
        every[0, 0].set_ylabel(labels[1])
    return path


def _draw(
    axes: Axes,
    method: str,
    runs: Sequence[Record],
    style: int,
    methods: int,
    score: str,
    criterion: str,
    scale: float,
) -> None:
    """One method's line, its chosen rate, and where runs diverged."""
    by_rate = _by_rate(runs)
    whole = {r: all(math.isfinite(x.metrics[criterion]) for x in s) for r, s in by_rate.items()}
    seeds = max(map(len, by_rate.values()))
    values = np.full((seeds, len(by_rate)), np.nan)
    for column, (rate, own) in enumerate(by_rate.items()):
        if whole[rate]:
            values[: len(own), column] = [scale * r.metrics[score] for r in own]
    plot_spread(axes, list(by_rate), values, label=method, style=style, marker=True)
    colour = COLOURS[style % len(COLOURS)]
    if style >= len(COLOURS):  # a palette's second round is told apart by its dashes
        axes.lines[-1].set_linestyle("--")
    chosen = choose(runs, criterion=criterion)
    if whole[chosen.rate]:
        mean = float(np.nanmean(values[:, list(by_rate).index(chosen.rate)]))
        axes.plot(
            chosen.rate, mean, MARKERS[style % len(MARKERS)], markersize=9, color=colour,
            fillstyle="none",
        )  # fmt: skip
    lost = [rate for rate, survived in whole.items() if not survived]
    # Crosses of different methods at one rate stand above one another.
    height = 0.02 + 0.3 * style / methods
    axes.plot(
        lost, [height] * len(lost), "x", color=colour, markersize=5,
        transform=axes.get_xaxis_transform(),
    )  # fmt: skip


def _by_rate(records: Sequence[Record]) -> dict[float, list[Record]]:
    """Runs by learning rate, rising."""
    return dict(sorted(group(records, rate_of).items()))


def _scored(records: Sequence[Record], score: str, criterion: str) -> Summary:
    """The score over seeds; a diverged run has none, whatever was written down for it."""
    return summarise(
        r.metrics[score] if math.isfinite(r.metrics[criterion]) else math.nan for r in records
    )

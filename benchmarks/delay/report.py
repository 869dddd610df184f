"""Tables and figures of runs by workers whose gradients come late, made from records only.

A record's setting holds workers, learning_rate and, where the rule has one, lambda; its metrics
validation_accuracy, test_accuracy, train_loss and simulated_seconds; its curve gradients,
simulated_seconds and test_accuracy. Settings are chosen by mean validation accuracy over seeds.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from common.results.plots import figure, plot_curve, plot_spread
from common.results.records import Record
from common.results.selection import best_setting
from common.results.tables import Summary, group, markdown, metric, number, percent, summarise

SGD, ALL_SYNCHRONOUS, SYNCHRONOUS, ASGD, CONSTANT, ADAPTIVE = METHODS = (
    "SGD",
    "synchronous SGD",
    "m-synchronous SGD",
    "ASGD",
    "DC-ASGD-c",
    "DC-ASGD-a",
)
STYLES = {SGD: 6, ALL_SYNCHRONOUS: 3, SYNCHRONOUS: 4, ASGD: 1, CONSTANT: 5, ADAPTIVE: 0}
"""Each method's colour and marker, in every figure."""

INTOLERABLE = 0.1
"""The drop in validation accuracy that marks a step as beyond what ASGD bears."""


def protocol_tables(records: Sequence[Record]) -> str:
    """Both protocols: each rule at its own tuned step, and all at a step ASGD does not bear.

    Args:
        records: of one experiment, every method at every setting.

    Returns:
        Markdown.
    """
    tuned = [[best_setting(runs) for runs in _methods(records, m)] for m in _workers(records)]
    sections = [
        "**Each rule at its own tuned step** (and lambda), chosen on validation data.",
        _table(records, tuned),
    ]
    for workers in _workers(records):
        step = intolerable_step(records, workers)
        if step is None:
            sections.append(
                f"**{workers} workers:** ASGD bears every step of the grid above its tuned one, so "
                "there is no step at which the rules could be compared beyond its limit."
            )
            continue
        at_step = [r for r in records if _step(r) == step]
        chosen = [best_setting(runs) for runs in _methods(at_step, workers)]
        sections += [
            f"**The same step, {step:g}, for all: the first that ASGD with {workers} workers does "
            "not bear.** Lambda is chosen on validation data at this step.",
            _table(at_step, [chosen]),
        ]
    return "\n\n".join(sections)


def intolerable_step(records: Sequence[Record], workers: int) -> float | None:
    """The first step above ASGD's tuned one that ASGD does not bear.

    Args:
        records: of the experiment.
        workers: M.

    Returns:
        The smallest step of the grid, above the tuned one, whose mean validation accuracy is
        `INTOLERABLE` below that of the tuned one, or at which a run diverged; None if there is
        none.
    """
    runs = [r for r in records if r.method == ASGD and _num_workers(r) == workers]
    tuned = best_setting(runs)
    bar = metric(tuned, "validation_accuracy").mean - INTOLERABLE
    by_step = group(runs, _step)
    for step in sorted(step for step in by_step if step > _step(tuned[0])):
        found = metric(by_step[step], "validation_accuracy")
        if found.failed or found.mean < bar:
            return step
    return None


def paired(runs: Sequence[Record], base: Sequence[Record]) -> Summary:
    """Differences in test accuracy, seed by seed.

    Args:
        runs: one record a seed.
        base: likewise, of what is compared with.
    """
    of_seed = {r.seed: r.metrics["test_accuracy"] for r in base}
    return summarise(
        r.metrics["test_accuracy"] - of_seed[r.seed] for r in runs if r.seed in of_seed
    )


def _step(record: Record) -> float:
    return float(record.setting["learning_rate"] or 0.0)


def _num_workers(record: Record) -> int:
    return int(record.setting["workers"] or 0)


def _workers(records: Sequence[Record]) -> list[int]:
    """The numbers of workers that ASGD was run with, in the order run."""
    return list(group((r for r in records if r.method == ASGD), _num_workers))


def _methods(records: Sequence[Record], workers: int) -> list[list[Record]]:
    """The runs of each method that belong beside ASGD with M workers, SGD first."""
    beside = [r for r in records if r.method == SGD or _num_workers(r) == workers]
    found = group(beside, lambda r: r.method)
    return [found[method] for method in METHODS if method in found]


def _table(records: Sequence[Record], chosen: Sequence[Sequence[Sequence[Record]]]) -> str:
    """A row for each method and number of workers; SGD once.

    Args:
        records: all that the settings were chosen among.
        chosen: for each number of workers, each method's runs in the chosen setting.
    """
    rows = []
    for i, methods in enumerate(chosen):
        asgd = [r for runs in methods if runs[0].method == ASGD for r in runs]
        for runs in methods:
            method, setting = runs[0].method, runs[0].setting
            if method == SGD and i > 0:
                continue
            tried = group(
                (
                    r
                    for r in records
                    if (r.method, r.setting["workers"]) == (method, setting["workers"])
                ),
                lambda r: str(r.setting),
            )
            gain = paired(runs, asgd)
            rows.append(
                [
                    method,
                    str(setting["workers"]),
                    f"{_step(runs[0]):g}",
                    f"{setting['lambda']:g}" if "lambda" in setting else "",
                    str(len(tried)),
                    percent(metric(runs, "test_accuracy")),
                    "" if method in (SGD, ASGD) else percent(gain),
                    number(metric(runs, "train_loss")),
                    f"{metric(runs, 'simulated_seconds').mean:g}",
                ]
            )
    return markdown(
        [
            "method",
            "workers",
            "step",
            "lambda",
            "settings tried",
            "test accuracy %",
            "minus ASGD, paired",
            "training loss",
            "simulated seconds",
        ],
        rows,
    )


def plot_training(records: Sequence[Record], path: Path) -> Path:
    """Accuracy while training, each rule at its tuned setting: against data and against time.

    Args:
        records: of one experiment.
        path: the PNG file to write.

    Returns:
        `path`.
    """
    workers = _workers(records)
    with figure(path, rows=len(workers), columns=2) as panels:
        for row, m in zip(panels, workers, strict=True):
            chosen = [_at_mean_times(best_setting(runs)) for runs in _methods(records, m)]
            for axes, x, label in (
                (row[0], "gradients", "gradients received by the server"),
                (row[1], "simulated_seconds", "simulated time, in times of one gradient"),
            ):
                for runs in chosen:
                    plot_curve(
                        axes,
                        runs,
                        x=x,
                        y="test_accuracy",
                        label=_label(runs[0]),
                        style=STYLES[runs[0].method],
                        scale=100.0,
                    )
                axes.set(xlabel=label, ylabel="test accuracy, %", title=f"{m} workers, tuned steps")
            row[1].set_xscale("log", base=2)
            row[1].xaxis.set_major_formatter("{x:g}")
            # One worker takes M times as long: below its curve there is room.
            row[1].legend(loc="lower right", fontsize=8)
    return path


def _at_mean_times(runs: Sequence[Record]) -> list[Record]:
    """The seeds of one setting, each point at its mean time: machines' times differ by seed."""
    times = np.mean([run.curve["simulated_seconds"] for run in runs], axis=0).tolist()
    return [
        dataclasses.replace(run, curve={**run.curve, "simulated_seconds": times}) for run in runs
    ]


def plot_tolerance(records: Sequence[Record], path: Path) -> Path:
    """Final accuracy of each rule against the step size, lambda chosen anew at each step.

    Args:
        records: of one experiment.
        path: the PNG file to write.

    Returns:
        `path`.
    """
    workers = _workers(records)
    with figure(path, columns=len(workers)) as panels:
        for axes, m in zip(panels[0], workers, strict=True):
            _plot_steps(axes, _methods(records, m))
            axes.set(title=f"{m} workers", xlabel="step size", ylabel="final test accuracy, %")
        panels[0, 0].legend(loc="lower left")
    return path


def _label(record: Record) -> str:
    """The legend's entry: the method and its chosen setting."""
    lambda_ = f", λ = {record.setting['lambda']:g}" if "lambda" in record.setting else ""
    return f"{record.method}, step {_step(record):g}{lambda_}"


def _plot_steps(axes: Axes, methods: Sequence[Sequence[Record]]) -> None:
    """Final accuracy of each method at each step, lambda chosen on validation data at that step."""
    steps = sorted(group((r for runs in methods for r in runs), _step))
    for runs in methods:
        by_step = group(runs, _step)
        best = {step: best_setting(by_step[step]) for step in sorted(by_step)}
        values = np.array(
            [[r.metrics["test_accuracy"] for r in chosen] for chosen in best.values()]
        ).T
        plot_spread(
            axes,
            list(best),
            100.0 * values,
            label=runs[0].method,
            style=STYLES[runs[0].method],
            marker=True,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [f"{step:g}" for step in steps])

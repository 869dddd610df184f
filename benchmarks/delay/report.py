"""Tables and figures of runs by workers whose gradients come late, made from records only.

A record's setting holds workers, learning_rate and, where the rule has one, lambda; its metrics
validation_accuracy, test_accuracy, train_loss and simulated_seconds; its curve gradients,
simulated_seconds and test_accuracy. Settings are chosen by mean validation accuracy over seeds.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness.figures import doubling, plot_by, share_range, small_multiples
from benchmarks.harness.halving import TUNING, UNFINISHED, grid, reported, tuning_table
from benchmarks.harness.reports import (
    best_by_method,
    by_method,
    by_setting,
    joined,
    marked,
    numeric,
    paired,
    where,
)
from common.results.plots import plot_curve
from common.results.records import Record
from common.results.selection import best_setting
from common.results.tables import group, markdown, metric, number, percent, summarise

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

GROUPS = {
    "without staleness": (SGD, ALL_SYNCHRONOUS, SYNCHRONOUS),
    "asynchronous": (ASGD, CONSTANT, ADAPTIVE),
}
"""Methods that share a panel."""

INTOLERABLE = 0.1
"""The drop in validation accuracy that marks a step as beyond what ASGD bears."""

TRAINING_CAPTION = (
    "Test accuracy during training, each rule at its tuned setting: against the gradients that the "
    "server received, and against simulated time. Mean and one standard deviation over seeds. "
    "Waiting costs time, staleness costs accuracy; compare where each curve ends."
)
STEPS_CAPTION = (
    "Test accuracy against the step size, lambda chosen anew at each step; mean and one standard "
    "deviation over seeds. Look for the step at which each rule falls. Where steps were halved, it "
    "is that after the smallest budget, with which all were tried."
)


def worker_counts(records: Sequence[Record]) -> list[int]:
    """The numbers of workers that ASGD was run with, in the order run."""
    return [int(m or 0) for m in by_setting(where(records, ASGD), "workers")]


Published = Mapping[tuple[str, int], float]
"""(method, workers) -> test error in percent."""


def protocol_tables(
    records: Sequence[Record], published: Published | None = None, *, source: str = ""
) -> str:
    """Both protocols, as Markdown: each rule at its own tuned step, and all at one step.

    The one step is the first that ASGD does not bear (`intolerable_step`). Below stand published
    errors, if there are any, and where they are from. Where steps were halved, the second protocol
    is after the smallest budget, with which all were tried.
    """
    finished, tried = reported(records), grid(records)
    tuned = {m: best_by_method(_beside(finished, m)) for m in worker_counts(finished)}
    if not tuned:
        return "ASGD was not run yet." if finished else UNFINISHED
    sections = [
        "**Each rule at its own tuned step** (and lambda), chosen on validation data.",
        _table(tried, tuned),
    ]
    sections += [tuning_table(_beside(records, m)) for m in tuned]
    budget = numeric(tried[0], TUNING)
    after = f", after {budget:g} epoch{'s' * (budget != 1)}" if budget else ""
    for workers in tuned:
        step = intolerable_step(records, workers)
        if step is None:
            sections.append(
                f"**{workers} workers:** ASGD bears every step of the grid above its tuned one, so "
                "there is no step at which the rules could be compared beyond its limit."
            )
            continue
        at_step = where(tried, learning_rate=step)
        sections += [
            f"**The same step, {step:g}, for all{after}: the first that ASGD with {workers} "
            "workers does not bear.** Lambda is chosen on validation data at this step.",
            _table(at_step, {workers: best_by_method(_beside(at_step, workers))}),
        ]
    return joined(*sections, published_table(finished, published or {}, source=source))


def intolerable_step(records: Sequence[Record], workers: int) -> float | None:
    """The first step above ASGD's tuned one that ASGD does not bear.

    That is the smallest of the grid whose mean validation accuracy is `INTOLERABLE` below that of
    the tuned one, or at which a run diverged; None if there is none. Where steps were halved, all
    of this is after the smallest budget.
    """
    runs = where(grid(records), ASGD, workers=workers)
    tuned = best_setting(runs)
    bar = metric(tuned, "validation_accuracy").mean - INTOLERABLE
    by_step = by_setting(runs, "learning_rate")
    for step in sorted(step for step in by_step if step > numeric(tuned[0], "learning_rate")):
        accuracy = metric(by_step[step], "validation_accuracy")
        if accuracy.failed or accuracy.mean < bar:
            return step
    return None


def _beside(records: Sequence[Record], workers: int) -> list[Record]:
    """The runs that belong beside ASGD with M workers, method by method, SGD first."""
    beside = by_method(r for r in records if r.method == SGD or r.setting["workers"] == workers)
    return [r for method in METHODS for r in beside.get(method, ())]


def _table(records: Sequence[Record], chosen: Mapping[int, Mapping[str, Sequence[Record]]]) -> str:
    """A row for each method and number of workers, SGD once.

    `records` are those among which the settings were chosen, `chosen` the runs of each method in
    its chosen setting, by number of workers. What lies at the edge of its grid is marked.
    """
    header = [
        "method", "workers", "step", "lambda", "settings tried", "test accuracy %",
        "minus ASGD, paired", "training loss", "simulated seconds",
    ]  # fmt: skip
    rows = []
    for workers, methods in chosen.items():
        for method, runs in methods.items():
            setting = runs[0].setting
            if method == SGD and workers != next(iter(chosen)):
                continue
            tried = where(records, method, workers=setting["workers"])
            gain = "" if method in (SGD, ASGD) else percent(paired(runs, methods[ASGD]))
            rows.append(
                [
                    method,
                    str(setting["workers"]),
                    marked("learning_rate", runs, tried),
                    marked("lambda", runs, tried),
                    str(len(group(tried, lambda r: str(r.setting)))),
                    percent(metric(runs, "test_accuracy")),
                    gain,
                    number(metric(runs, "train_loss")),
                    f"{metric(runs, 'simulated_seconds').mean:g}",
                ]
            )
    return markdown(header, rows)


def published_table(records: Sequence[Record], published: Published, *, source: str) -> str:
    """Published test errors beside those of the records, a row for each that was run."""
    runs = group(records, lambda r: (r.method, int(numeric(r, "workers"))))
    rows = []
    for (method, workers), error in published.items():
        if (method, workers) in runs:
            chosen = best_setting(runs[method, workers])
            ours = summarise(1.0 - r.metrics["test_accuracy"] for r in chosen)
            rows.append([method, str(workers), f"{error:.2f}", percent(ours)])
    if not rows:
        return ""
    header = ["method", "workers", "published error %", "here, at the tuned step"]
    return f"**Beside the published errors** ({source}):\n\n{markdown(header, rows)}"


def plot_training(records: Sequence[Record], path: Path) -> Path:
    """Accuracy while training, each rule at its tuned setting: against data and against time."""
    abscissae = {
        "gradients": "gradients received by the server",
        "simulated_seconds": "simulated time, in times of one gradient",
    }
    records = reported(records)
    workers, columns = worker_counts(records), list(itertools.product(abscissae, GROUPS))
    with small_multiples(
        path, workers, columns,
        labels=(lambda column: abscissae[column[0]], "test accuracy, %"),
        title=lambda m, column: f"{m} workers, {column[1]}",
    ) as panels:  # fmt: skip
        for (m, (x, name)), axes in panels.items():
            tuned = best_by_method(_beside(records, m))
            for method in (each for each in GROUPS[name] if each in tuned):
                plot_curve(
                    axes, _at_mean_times(tuned[method]), x=x, y="test_accuracy", label=method,
                    style=STYLES[method], scale=100.0,
                )  # fmt: skip
            if x == "simulated_seconds":
                axes.set_xscale("log", base=2)
                axes.xaxis.set_major_formatter("{x:g}")
        for m, x in itertools.product(workers, abscissae):
            share_range([panels[m, (x, name)] for name in GROUPS], "x")
    return path


def _at_mean_times(runs: Sequence[Record]) -> list[Record]:
    """The seeds of one setting, each point at its mean time: machines' times differ by seed."""
    times = np.mean([run.curve["simulated_seconds"] for run in runs], axis=0).tolist()
    return [
        dataclasses.replace(run, curve={**run.curve, "simulated_seconds": times}) for run in runs
    ]


def plot_tolerance(records: Sequence[Record], path: Path) -> Path:
    """Accuracy of each rule against the step size, lambda chosen anew at each step.

    Where steps were halved, it is that after the smallest budget, with which all were tried.
    """
    records = grid(records)
    workers = worker_counts(records)
    steps = sorted({numeric(r, "learning_rate") for r in records})
    with small_multiples(
        path, workers, list(GROUPS), labels=("step size", "test accuracy, %"),
        title=lambda m, group: f"{m} workers, {group}", panel=(4.6, 2.7),
    ) as panels:  # fmt: skip
        for (m, name), axes in panels.items():
            methods = by_method(_beside(records, m))
            for method in (each for each in GROUPS[name] if each in methods):
                by_step = dict(sorted(by_setting(methods[method], "learning_rate").items()))
                best = {step: best_setting(runs) for step, runs in by_step.items()}
                plot_by(
                    axes, best, "test_accuracy", label=method, style=STYLES[method], scale=100.0
                )
            doubling(axes, steps)
    return path

"""How the strength of delay compensation matters: accuracy against lambda, constant and adaptive.

DC-ASGD adds lambda g*g*(w - w_stale) to a stale gradient. Lambda 0 is ASGD; how much helps, and how
much harms, depends on the step size and on the number of workers M, so the whole grid is run: every
lambda at every step, for M = 4, 8, 16 workers that take turns, on MNIST digits. Beside them stand
SGD (one worker) and m-synchronous SGD (m = M), over the same steps. Two protocols:

1. at the same step for all: for each M the first of the grid that ASGD does not bear (above its
   tuned one, its validation accuracy is ten points lower or a run diverges);
2. for each lambda its own tuned step, chosen by mean validation accuracy over the seeds, as for the
   baselines.

Refuted, that compensation helps: if at its own tuned step no lambda ends above lambda 0 by more
than the spread of the paired differences. That it widens the range of steps: if at ASGD's
intolerable step no lambda does. The lines under the tables say which, computed from the records.

Cost: smoke 1 minute on two cores, cpu 1 on one, day 15; full, for one accelerator, was not run.
Command: python -m benchmarks dcasgd_lambda_sweep --preset day --seeds 10
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from benchmarks.delay.digits import Settings, run
from benchmarks.delay.report import (
    ADAPTIVE,
    ASGD,
    CONSTANT,
    SGD,
    STYLES,
    SYNCHRONOUS,
    TRAINING_CAPTION,
    intolerable_step,
    plot_training,
    worker_counts,
)
from benchmarks.harness.figures import share_range, small_multiples
from benchmarks.harness.reports import by_setting, marked, numeric, paired, where
from common.results.plots import COLOURS, plot_spread
from common.results.records import Record
from common.results.selection import best_setting
from common.results.tables import Summary, markdown, metric, number, percent

PUBLISHED = {CONSTANT: 0.04, ADAPTIVE: 2.0}
"""The paper's lambdas, for CIFAR-10."""

_SWEEP = Settings(
    workers=(4, 8, 16), epochs=4, learning_rates=(0.05, 0.1, 0.2, 0.4, 0.8),
    constant_lambdas=(0.04, 0.4, 4.0, 40.0), adaptive_lambdas=(0.5, 2.0, 8.0, 32.0),
)  # fmt: skip

PRESETS = {
    "smoke": _SWEEP,
    "cpu": dataclasses.replace(
        _SWEEP, data="mnist", epochs=1, evaluations=1, learning_rates=(0.05, 0.2, 0.8),
        constant_lambdas=(0.04, 2.0, 32.0), adaptive_lambdas=(0.5, 2.0, 8.0),
    ),
    "day": dataclasses.replace(
        _SWEEP, data="mnist", epochs=3, evaluations=2,
        learning_rates=(0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2),
        constant_lambdas=(0.04, 0.4, 2.0, 8.0, 32.0, 128.0),
        adaptive_lambdas=(0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
    ),
    "full": dataclasses.replace(
        _SWEEP, data="mnist", pool=1, widths=(256, 256, 10), epochs=20, train_sample=10_000,
        learning_rates=tuple(0.00625 * 2.0**k for k in range(9)),
        constant_lambdas=tuple(0.04 * 4.0**k for k in range(7)),
        adaptive_lambdas=tuple(0.25 * 2.0**k for k in range(8)),
    ),
}  # fmt: skip

__all__ = ["CAPTIONS", "PRESETS", "plots", "run", "tables"]


def tables(records: Sequence[Record]) -> str:
    """For each number of workers, a row for each lambda and baseline; and what they amount to."""
    header = [
        "method", "lambda", "test % at the fixed step", "minus ASGD, paired",
        "own tuned step", "test % at it", "minus ASGD, paired", "training loss",
        "simulated seconds",
    ]  # fmt: skip
    sections = []
    for m in worker_counts(records):
        fixed, rows = fixed_step(records, m), []
        asgd = where(records, ASGD, workers=m)
        asgd_fixed, asgd_tuned = where(asgd, learning_rate=fixed), best_setting(asgd)
        for method, lambda_, runs in _rows(records, m):
            there, tuned = where(runs, learning_rate=fixed), best_setting(runs)
            gains = ["", ""]
            if method not in (SGD, ASGD):
                gains = [percent(paired(there, asgd_fixed)), percent(paired(tuned, asgd_tuned))]
            rows.append(
                [
                    method,
                    lambda_,
                    percent(metric(there, "test_accuracy")),
                    gains[0],
                    marked("learning_rate", tuned, runs),
                    percent(metric(tuned, "test_accuracy")),
                    gains[1],
                    number(metric(tuned, "train_loss")),
                    f"{metric(tuned, 'simulated_seconds').mean:g}",
                ]
            )
        sections += [
            f"**{m} workers**; the fixed step is {fixed:g}.",
            markdown(header, rows),
            verdict(records, m),
        ]
    return "\n\n".join(sections)


def verdict(records: Sequence[Record], workers: int) -> str:
    """What the lambda that validation data choose gains over lambda 0, by either protocol."""
    fixed, asgd = fixed_step(records, workers), where(records, ASGD, workers=workers)
    sentences = []
    for method in (CONSTANT, ADAPTIVE):
        runs = where(records, method, workers=workers)
        fixed_runs, fixed_base = (where(side, learning_rate=fixed) for side in (runs, asgd))
        for protocol, tried, base in (
            (f"at step {fixed:g}", fixed_runs, fixed_base),
            ("at tuned steps", runs, asgd),
        ):
            chosen = best_setting(tried)
            gain = paired(chosen, best_setting(base))
            sentences.append(
                f"- {method} {protocol}: lambda {chosen[0].setting['lambda']:g} is chosen, and "
                f"ends {_said(gain)} ({percent(gain)} points, n = {gain.n})."
            )
    return "\n".join(sentences)


def _said(gain: Summary) -> str:
    """In words, what a paired difference of at least two seeds shows."""
    if gain.failed:
        return "in comparison with runs that diverged, which no difference describes"
    if not gain.n > 1:
        return "with one seed alone, from which no spread can be told"
    if abs(gain.mean) <= gain.sd:
        return "within one standard deviation of ASGD"
    return "above ASGD by more than the spread" if gain.mean > 0 else "below ASGD"


def fixed_step(records: Sequence[Record], workers: int) -> float:
    """The step of the first protocol: the first that ASGD does not bear, else the largest."""
    step = intolerable_step(records, workers)
    return max(numeric(r, "learning_rate") for r in records) if step is None else step


CAPTIONS = {
    "dcasgd_lambda_sweep.png": "Test accuracy against lambda, which is over the squared gradient "
    "in DC-ASGD-c and over its size in DC-ASGD-a: at the step that ASGD does not bear, and "
    "with each lambda at its own step; mean and one standard deviation over the seeds that did "
    "not diverge, which the tables count. Circled: the published lambdas. Lines: means of ASGD "
    "and m-synchronous SGD (m = M). At the left compensation rescues; at the right there is "
    "nothing to rescue.",
    "dcasgd_lambda_training.png": TRAINING_CAPTION,
}


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Accuracy against lambda by both protocols; and training at the tuned settings."""
    sweep, protocols = out / "dcasgd_lambda_sweep.png", ("at one step", "each at its own step")
    with small_multiples(
        sweep, worker_counts(records), protocols, labels=("λ", "test accuracy, %"), share="none",
        title=lambda m, protocol: f"{m} workers, {protocol}", panel=(4.2, 2.7),
    ) as panels:  # fmt: skip
        for (m, protocol), axes in panels.items():
            step = fixed_step(records, m) if protocol == protocols[0] else None
            _plot_sweep(axes, records, m, step)
            if step is not None:
                axes.set_ylim(0, 100)  # some settings end at chance, and spreads reach below
        for m in worker_counts(records):
            share_range([panels[m, protocol] for protocol in protocols], "x")
    return [sweep, plot_training(records, out / "dcasgd_lambda_training.png")]


def _plot_sweep(axes: Axes, records: Sequence[Record], workers: int, step: float | None) -> None:
    """One panel; `step` None lets each lambda have its own."""

    def chosen(runs: Sequence[Record]) -> np.ndarray:
        best = best_setting(runs if step is None else where(runs, learning_rate=step))
        return 100.0 * np.array([r.metrics["test_accuracy"] for r in best])

    axes.set_xscale("log")
    for method in (CONSTANT, ADAPTIVE):
        by_lambda = by_setting(where(records, method, workers=workers), "lambda")
        scores = np.array([chosen(runs) for runs in by_lambda.values()]).T
        plot_spread(axes, list(by_lambda), scores, label=method, style=STYLES[method], marker=True)
        published = PUBLISHED[method]
        if published in by_lambda:
            at = list(by_lambda).index(published)
            axes.plot(published, scores[:, at].mean(), "o", ms=12, mfc="none", color="black")
    for method, line in ((ASGD, "--"), (SYNCHRONOUS, ":")):
        level = chosen(where(records, method, workers=workers)).mean()
        axes.axhline(level, color=COLOURS[STYLES[method]], linestyle=line, label=method)


_Row = tuple[str, str, list[Record]]
"""Method, lambda, and runs at every step."""


def _rows(records: Sequence[Record], workers: int) -> list[_Row]:
    """The rows of a table."""
    rows = [(SGD, "", where(records, SGD))]
    rows += [(SYNCHRONOUS, "", where(records, SYNCHRONOUS, workers=workers))]
    rows += [(ASGD, "0", where(records, ASGD, workers=workers))]
    for method in (CONSTANT, ADAPTIVE):
        by_lambda = by_setting(where(records, method, workers=workers), "lambda")
        rows += [(method, f"{lambda_:g}", runs) for lambda_, runs in by_lambda.items()]
    return rows

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

Cost: smoke 1 minute on two cores, cpu 6 on one; full is sized for one accelerator and was not run.
Command: python -m benchmarks dcasgd_lambda_sweep --preset cpu --seeds 3
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from benchmarks.delay import digits as dcasgd_digits
from benchmarks.delay.digits import Settings
from benchmarks.delay.report import (
    ADAPTIVE,
    ASGD,
    CONSTANT,
    SGD,
    STYLES,
    SYNCHRONOUS,
    intolerable_step,
    paired,
    plot_training,
)
from benchmarks.harness.registry import Context
from common.results.plots import figure, plot_spread
from common.results.records import Record
from common.results.selection import best_setting
from common.results.tables import Summary, group, markdown, metric, number, percent

PUBLISHED = {CONSTANT: 0.04, ADAPTIVE: 2.0}
"""The paper's lambdas, for CIFAR-10."""

_SWEEP = Settings(
    workers=(4, 8, 16),
    epochs=4,
    learning_rates=(0.05, 0.1, 0.2, 0.4, 0.8),
    constant_lambdas=(0.04, 0.4, 4.0, 40.0),
    adaptive_lambdas=(0.5, 2.0, 8.0, 32.0),
)

PRESETS = {
    "smoke": _SWEEP,
    "cpu": dataclasses.replace(
        _SWEEP,
        data="mnist",
        epochs=3,
        evaluations=2,
        learning_rates=(0.025, 0.05, 0.1, 0.2, 0.4, 0.8),
        constant_lambdas=(0.04, 0.4, 2.0, 8.0, 32.0, 128.0),
        adaptive_lambdas=(0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
    ),
    "full": dataclasses.replace(
        _SWEEP,
        data="mnist",
        pool=1,
        widths=(256, 256, 10),
        epochs=20,
        train_sample=10_000,
        learning_rates=tuple(0.00625 * 2.0**k for k in range(9)),
        constant_lambdas=tuple(0.04 * 4.0**k for k in range(7)),
        adaptive_lambdas=tuple(0.25 * 2.0**k for k in range(8)),
    ),
}


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each method, number of workers, step size, lambda and seed.

    Args:
        settings: of the runs, with the lambdas that are swept.
        context: seeds, data, progress.
    """
    yield from dcasgd_digits.run(settings, context)


def tables(records: Sequence[Record]) -> str:
    """For each number of workers, a row for each lambda and baseline; and what they amount to."""
    header = [
        "method", "lambda", "test % at the fixed step", "minus ASGD, paired",
        "own tuned step", "test % at it", "minus ASGD, paired", "training loss",
        "simulated seconds",
    ]  # fmt: skip
    sections = []
    for m in _workers(records):
        fixed, rows = fixed_step(records, m), []
        asgd = _at(records, ASGD, m)
        asgd_fixed, asgd_tuned = _with_step(asgd, fixed), best_setting(asgd)
        for method, lambda_, runs in _rows(records, m):
            there, tuned = _with_step(runs, fixed), best_setting(runs)
            gains = ["", ""]
            if method not in (SGD, ASGD):
                gains = [percent(paired(there, asgd_fixed)), percent(paired(tuned, asgd_tuned))]
            rows.append(
                [
                    method,
                    lambda_,
                    percent(metric(there, "test_accuracy")),
                    gains[0],
                    f"{_step(tuned[0]):g}",
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
    """What the lambda that validation data choose gains over lambda 0, by either protocol.

    Args:
        records: of the experiment.
        workers: M.

    Returns:
        A sentence for each rule and protocol.
    """
    fixed, asgd, sentences = fixed_step(records, workers), _at(records, ASGD, workers), []
    for method in (CONSTANT, ADAPTIVE):
        runs = _at(records, method, workers)
        for where, own, base in (
            (f"at step {fixed:g}", _with_step(runs, fixed), _with_step(asgd, fixed)),
            ("at tuned steps", runs, asgd),
        ):
            chosen = best_setting(own)
            gain = paired(chosen, best_setting(base))
            sentences.append(
                f"- {method} {where}: lambda {chosen[0].setting['lambda']:g} is chosen, and ends "
                f"{_said(gain)} ({percent(gain)} points, n = {gain.n})."
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
    """The step of the first protocol: the first that ASGD does not bear, else the largest.

    Args:
        records: of the experiment.
        workers: M.
    """
    step = intolerable_step(records, workers)
    return max(map(_step, records)) if step is None else step


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Accuracy against lambda by both protocols; and training at the tuned settings."""
    sweep = out / "dcasgd_lambda_sweep.png"
    every = _workers(records)
    with figure(sweep, rows=len(every), columns=2, panel=(5.2, 3.2)) as panels:
        for row, m in zip(panels, every, strict=True):
            fixed = fixed_step(records, m)
            for axes, step, title in (
                (row[0], fixed, f"all at step {fixed:g}"),
                (row[1], None, "each at its own tuned step"),
            ):
                _plot_sweep(axes, records, m, step)
                axes.set(title=f"{m} workers, {title}", ylabel="test accuracy, %")
            row[0].set_ylim(0, 100)  # some settings end at chance, and spreads reach below
        for axes in panels[-1]:
            axes.set_xlabel("λ (of -c: over squared gradient; of -a: over gradient)")
        panels[0, 1].legend(loc="lower left", fontsize=8)
    return [sweep, plot_training(records, out / "dcasgd_lambda_training.png")]


def _plot_sweep(axes: Axes, records: Sequence[Record], workers: int, step: float | None) -> None:
    """One panel; `step` None lets each lambda have its own."""

    def chosen(runs: list[Record]) -> np.ndarray:
        own = best_setting(runs if step is None else _with_step(runs, step))
        return 100.0 * np.array([r.metrics["test_accuracy"] for r in own])

    axes.set_xscale("log")
    swept: list[float] = []
    for method in (CONSTANT, ADAPTIVE):
        by_lambda = group(_at(records, method, workers), _lambda)
        values = np.array([chosen(runs) for runs in by_lambda.values()]).T
        plot_spread(axes, list(by_lambda), values, label=method, style=STYLES[method], marker=True)
        published = PUBLISHED[method]
        if published in by_lambda:
            at = list(by_lambda).index(published)
            axes.plot(published, values[:, at].mean(), "o", ms=12, mfc="none", color="black")
        swept += by_lambda
    ends = [min(swept), max(swept)]
    for method in (ASGD, SYNCHRONOUS):
        level = chosen(_at(records, method, workers))[:, None]
        plot_spread(axes, ends, np.repeat(level, 2, axis=1), label=method, style=STYLES[method])


def _rows(records: Sequence[Record], workers: int) -> list[tuple[str, str, list[Record]]]:
    """(method, lambda, runs at every step) of each row of a table."""
    found = [(SGD, "", [r for r in records if r.method == SGD])]
    found += [(SYNCHRONOUS, "", _at(records, SYNCHRONOUS, workers))]
    found += [(ASGD, "0", _at(records, ASGD, workers))]
    for method in (CONSTANT, ADAPTIVE):
        by_lambda = group(_at(records, method, workers), _lambda)
        found += [(method, f"{lambda_:g}", runs) for lambda_, runs in by_lambda.items()]
    return found


def _workers(records: Sequence[Record]) -> list[int]:
    return list(
        group((r for r in records if r.method == ASGD), lambda r: int(_number(r, "workers")))
    )


def _at(records: Sequence[Record], method: str, workers: int) -> list[Record]:
    return [r for r in records if r.method == method and r.setting["workers"] == workers]


def _with_step(records: Sequence[Record], step: float) -> list[Record]:
    return [r for r in records if _step(r) == step]


def _step(record: Record) -> float:
    return _number(record, "learning_rate")


def _lambda(record: Record) -> float:
    return _number(record, "lambda")


def _number(record: Record, name: str) -> float:
    return float(record.setting[name] or 0.0)

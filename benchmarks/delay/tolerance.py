"""How much delay each rule tolerates: its largest stable step, and its loss, against staleness.

ASGD on a quadratic of curvature h is stable for steps below 2 sin(pi / (2 (2 tau + 1))) / h, which
falls as 1/tau. What compensation buys should show here first, if anywhere. Two problems:

- a turned quadratic with one sharp direction (`quadratic_limits.py`), where the limit is
  searched for on a grid of steps, beside the closed form;
- a tanh perceptron on MNIST digits, trained by M machines whose times vary by a tenth (gamma
  distributed; mean staleness M - 1). Its largest stable step is the largest of the grid at which,
  and below which, every seed ends at a training loss below that of the start.

Rules: ASGD, DC-ASGD-c, DC-ASGD-a, the low-rank compensator, the exact Hessian of the batch; SGD
(one machine) and m-synchronous SGD (m = M), which wait instead. All get equally many gradients of
the same data in the same order. Two protocols: all at the step that is best for ASGD with the
middle one of the numbers of machines; and each rule at its own, by mean validation accuracy over
the seeds. Lambdas are tuned with either.

Refuted, that a rule tolerates delay better than ASGD: if its largest stable step is ASGD's.
Refuted, that this is worth anything: if at tuned steps it does not reach the target loss before
ASGD and m-synchronous SGD, or ends at a higher loss than they do.

Cost: smoke 1 minute on two cores, cpu 1 on one, day 30; full, for one accelerator, was not run.
Command: python -m benchmarks dcasgd_delay_tolerance --preset day --seeds 10
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.delay.digits import Settings as DigitSettings
from benchmarks.delay.digits import load_data
from benchmarks.delay.report import SYNCHRONOUS
from benchmarks.delay.tolerance_report import (
    CAPTIONS,
    plot_diagnostics,
    plot_limits,
    plot_times,
    tolerance_tables,
)
from benchmarks.delay.tolerance_runs import RULES, Settings, on_quadratic, trainer
from benchmarks.harness.registry import Context
from common.results.records import Record

__all__ = ["CAPTIONS", "PRESETS", "plots", "run", "tables"]

PRESETS = {
    "smoke": Settings(),
    "cpu": Settings(
        data="mnist", learning_rates=(0.025, 0.1, 0.4), workers=(2, 8, 32), target_loss=0.6
    ),
    "day": Settings(
        delays=(0, 1, 3, 7, 15, 31, 63), dim=32, quadratic_length=3200, data="mnist",
        quadratic_steps=tuple(np.geomspace(0.015, 2.5, 48).tolist()),
        workers=(2, 4, 8, 16, 32, 64), gradients=2560, points=20,
        learning_rates=tuple(0.003125 * 2.0**k for k in range(11)),
        constant_lambdas=(0.04, 0.4, 4.0, 40.0), adaptive_lambdas=(0.5, 2.0, 8.0, 32.0),
        target_loss=0.35,
    ),
    "full": Settings(
        delays=(0, 1, 3, 7, 15, 31, 63), dim=32, quadratic_length=6400, data="mnist", pool=1,
        quadratic_steps=tuple(np.geomspace(0.015, 2.5, 104).tolist()), widths=(256, 256, 10),
        workers=(2, 4, 8, 16, 32, 64), gradients=20_480, points=20,
        learning_rates=tuple(0.0125 * 2 ** (k / 2) for k in range(15)),
        constant_lambdas=(0.04, 0.4, 4.0, 40.0), adaptive_lambdas=(0.5, 2.0, 8.0), target_loss=0.1,
    ),
}  # fmt: skip


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each rule and delay on the quadratic, and for each run of the network."""
    total = len(RULES) + (1 + len(RULES)) * len(context.seeds)
    with context.progress.task("delay tolerance", total=total) as bar:
        for rule in RULES:
            yield from context.stages.of(
                f"{rule}, quadratic", functools.partial(on_quadratic, rule, settings, context.seeds)
            )
            bar.advance(note=f"{rule}, quadratic")
        data = load_data(DigitSettings(data=settings.data, pool=settings.pool), context.data_dir)
        for method in (SYNCHRONOUS, *RULES):
            train = trainer(method, settings)
            for seed in context.seeds:
                for workers in (
                    (1, *settings.workers) if method == SYNCHRONOUS else settings.workers
                ):
                    yield from context.stages.of(
                        f"{method}, M = {workers}, seed {seed}",
                        functools.partial(train, workers, seed, data),
                    )
                bar.advance(note=f"{method}, network")


tables = tolerance_tables


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Limits and losses against staleness; and what the diagnostics of the runs say."""
    return [
        plot_limits(records, out / "dcasgd_delay_tolerance.png"),
        plot_diagnostics(records, out / "dcasgd_delay_diagnostics.png"),
        plot_times(records, out / "dcasgd_delay_times.png"),
    ]

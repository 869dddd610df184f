"""From the exact Hessian down to diag(lambda G): what each rung removes, and what it costs.

A stale gradient g misses H (w - w_stale). The ladder replaces H by ever cheaper matrices: the
Hessian itself, Gauss-Newton, the Fisher matrix of a batch, the outer product G = g g^T, a diagonal
of the Hessian, diag(lambda G) of DC-ASGD; a diagonal in the eigenbasis of Shampoo's factors; and
the low-rank curvature learnt from the gradients that arrive. A perceptron is trained by ASGD, M
workers taking turns; at every arrival each rung compensates the same stale gradient, and is
compared with the fresh gradient of the same batch. The run is not influenced by what is measured.

- error left: the root of the summed squares of u - fresh over those of g - fresh; 1 without
  compensation. "As is": with the published or natural factor. "Best scaled": with the one factor
  that is best on the first half of the arrivals, judged on the second.
- variance: of the compensated gradient over batches at one point, over that of the stale one.
- cost: the time of an arrival (its gradient, the rule, the step) over that of ASGD's, medians of
  turns in one process; storage beside the snapshots, in copies of the parameters. Timed are the
  first arrivals of a run, where the rotated diagonal computes its bases anew at 0, 1, 2, 4, 8, ...;
  later it does so at one in 40.

Refuted, that a rung is worth its cost: if a cheaper one leaves as little. The line under each
table names, from the records, the rungs that no other beats in both.

Cost: smoke 1 minute on two cores, cpu 2 on one, day 4; full, for one accelerator, was not run.
Command: python -m benchmarks dcasgd_hessian_ladder --preset day --seeds 3
"""

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.delay.digits import Settings as DigitSettings
from benchmarks.delay.digits import load_data
from benchmarks.delay.rungs import Measurement, Settings, functions, measurement
from benchmarks.harness.figures import dots_figure
from benchmarks.harness.registry import Context
from benchmarks.harness.reports import by_method, by_setting, numeric, values
from common.results.records import Record
from common.results.tables import markdown, metric, number
from common.seeds import streams

PRESETS = {
    "smoke": Settings(activations=("tanh",), steps=400, ranks=(1, 4), repetitions=8),
    "cpu": Settings(data="mnist", steps=1000, repetitions=10),
    "day": Settings(data="mnist", steps=4000),
    "full": Settings(
        data="mnist", pool=1, widths=(256, 256, 10), batch_size=128, steps=20_000, repetitions=50
    ),
}  # fmt: skip


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each rung, activation and seed."""
    data = load_data(DigitSettings(data=settings.data, pool=settings.pool), context.data_dir).train
    total = len(settings.activations) * len(context.seeds)
    with context.progress.task("Hessian ladder", total=total) as bar:
        for activation in settings.activations:
            measure = measurement(settings, functions(settings, activation))

            def of_seed(
                seed: int, activation: str = activation, measure: Measurement = measure
            ) -> Iterator[Record]:
                begun = time.perf_counter()
                rungs = measure(streams(seed), data)
                seconds = time.perf_counter() - begun
                for name, metrics in rungs.items():
                    yield Record(
                        method=name,
                        setting={"activation": activation, "workers": settings.workers},
                        seed=seed,
                        metrics=metrics,
                        wall_time=seconds,
                    )

            for seed in context.seeds:
                yield from context.stages.of(
                    f"{activation}, seed {seed}", functools.partial(of_seed, seed)
                )
                bar.advance(note=activation)


def tables(records: Sequence[Record]) -> str:
    """A row a rung, a table an activation."""
    header = [
        "curvature", "error left, as is", "best scaled", "factor", "variance / stale",
        "arrival / ASGD's", "copies stored",
    ]  # fmt: skip
    sections = []
    for activation, of_activation in by_setting(records, "activation").items():
        by_rung = by_method(of_activation)
        rows = [
            [
                name,
                number(metric(runs, "error_left"), digits=2),
                number(metric(runs, "error_left_scaled"), digits=2),
                _factor(metric(runs, "factor").mean),
                number(metric(runs, "variance"), digits=2),
                f"{metric(runs, 'time').mean:.2f}",
                f"{metric(runs, 'copies').mean:.1f}",
            ]
            for name, runs in by_rung.items()
        ]
        sections += [
            f"**{activation}**, staleness {numeric(of_activation[0], 'workers') - 1:g}:",
            markdown(header, rows),
            verdict(by_rung),
        ]
    return "\n\n".join(sections)


def _factor(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def verdict(by_rung: Mapping[str, Sequence[Record]]) -> str:
    """Which rungs, of one activation, no other beats in both cost and error, cheapest first."""
    points = {
        name: (metric(runs, "time").mean, metric(runs, "error_left_scaled").mean)
        for name, runs in by_rung.items()
    }
    best = [
        name
        for name, (cost, left) in points.items()
        if left < 1
        and not any(c <= cost and e <= left and (c, e) != (cost, left) for c, e in points.values())
    ]
    if not best:
        return "No rung leaves less error than ASGD."
    listed = "; ".join(
        f"{name} ({1 - points[name][1]:.0%} for {points[name][0]:.2f} times ASGD's time)"
        for name in sorted(best, key=lambda name: points[name])
    )
    return (
        "What each rung removes of the error, best scaled, and what an arrival costs; those that "
        f"no other beats in both, cheapest first: {listed}."
    )


CAPTIONS = {
    "dcasgd_hessian_ladder.png": "The staleness error that each rung leaves at its best factor "
    "(1, the line: what ASGD has), for two activations: dots are seeds, the mark their mean "
    "with one standard deviation. The Hessian and Gauss-Newton leave least; the diagonals "
    "hardly help.",
    "dcasgd_hessian_costs.png": "Time of an arrival over that of ASGD (the line), on a "
    "logarithmic axis. The diagonal of the Hessian, by probes, costs most.",
}


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """What the best scaled rung leaves of the error, and what it costs."""

    def panels(metric: str) -> dict[str, dict[str, list[float]]]:
        return {
            activation: {rung: values(runs, metric) for rung, runs in by_method(rungs).items()}
            for activation, rungs in by_setting(records, "activation").items()
        }

    return [
        dots_figure(
            out / "dcasgd_hessian_ladder.png", panels("error_left_scaled"),
            label="staleness error left, best scaled", reference=1.0,
        ),
        dots_figure(
            out / "dcasgd_hessian_costs.png", panels("time"),
            label="time of an arrival, over ASGD's", reference=1.0, log=True,
        ),
    ]  # fmt: skip

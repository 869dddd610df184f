"""Delay compensation in path space: do the two ideas add up?

A ReLU perceptron on MNIST digits, trained by M simulated workers that take turns. The server steps
on weights or, by `in_path_space(..., stale_gradients=True)`, on path values: gradients are pulled
back at the weights where they were taken, and the compensation g + lambda g g (v - v_stale) is that
of path values. Nothing had to be written for it but that one argument.

Rows: ASGD, DC-ASGD-a and m-synchronous SGD with m = M, which waits for all workers and is what
asynchrony has to beat, each on weights and in path space, from the same initialisation, each at
every step size and every lambda of one grid, chosen by mean validation accuracy over the seeds.
Each is run again from a copy in which every hidden unit is rescaled at random, the same function.
In exact arithmetic that makes no difference in path space. Whether it makes one to the accuracy, on
weights and in path space, is what the paired differences ask.

Cost: cpu 1 minute on one core, day 12, five seeds. Full is sized for one accelerator and was not
run.
Command: python -m benchmarks gsgd_delay --preset day --seeds 5
"""

import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax

from benchmarks.delay import digits
from benchmarks.delay.digits import Case, load_data, records_of
from benchmarks.delay.report import ADAPTIVE, ASGD, SYNCHRONOUS
from benchmarks.harness.figures import doubling, plot_by, small_multiples
from benchmarks.harness.registry import Context
from benchmarks.harness.reports import by_setting, joined, marked, numeric, where
from common.networks import MLP
from common.results.comparison import Difference, paired_difference
from common.results.power import smallest_visible, told_apart
from common.results.records import Record
from common.results.selection import best_setting
from common.results.tables import group, markdown, metric, percent
from common.seeds import streams
from dcasgd_jax import dcasgd
from gsgd_jax import Gauge, in_path_space, mlp_gauge

WEIGHTS, PATHS = "weights", "path space"
STARTS = ("initial", "rescaled")


@dataclasses.dataclass(frozen=True)
class Settings(digits.Settings):
    """What the experiment depends on."""

    widths: tuple[int, ...] = (32, 32, 10)
    workers: tuple[int, ...] = (8,)
    learning_rates: tuple[float, ...] = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
    adaptive_lambdas: tuple[float, ...] = (0.5, 2.0)
    rescaling: float = 0.5
    """Standard deviation of the log-scales of the rescaled copies."""


PRESETS = {
    "smoke": Settings(),
    "cpu": Settings(data="mnist", workers=(8,), epochs=2),
    "day": Settings(
        data="mnist", workers=(8, 16), epochs=4,
        learning_rates=(0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2),
    ),
    "full": Settings(
        data="mnist", pool=1, widths=(256, 256, 10), workers=(8, 16, 32), epochs=20,
        learning_rates=tuple(0.0125 * 2.0**k for k in range(8)),
        adaptive_lambdas=(0.5, 1.0, 2.0, 4.0),
    ),
}  # fmt: skip


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each method, space, start, number of workers, step, lambda and seed."""
    data = load_data(settings, context.data_dir)
    network = MLP(settings.widths, use_bias=False)
    cases = [
        Case(method, workers, lambdas)
        for workers in settings.workers
        for method, lambdas in (
            (SYNCHRONOUS, ()),
            (ASGD, ()),
            (ADAPTIVE, settings.adaptive_lambdas),
        )
    ]
    init = jax.jit(lambda key, images: network.init(key, images)["params"])
    starts = {
        seed: _starts(init(streams(seed).init, data.train.pixels[:1]), seed, settings)
        for seed in context.seeds
    }
    rules = {WEIGHTS: _rule(None), PATHS: _rule(mlp_gauge(starts[context.seeds[0]].initial))}
    num_train, total = len(data.train.labels), 2 * len(cases) * len(context.seeds)
    with context.progress.task("stale gradients", total=total) as bar:
        for case, space, seed in itertools.product(cases, (WEIGHTS, PATHS), context.seeds):

            def both_starts(
                case: Case = case, space: str = space, seed: int = seed
            ) -> Iterator[Record]:
                train = digits.trainer(case, settings, network, num_train, rule=rules[space])
                for start in STARTS:
                    begun = time.perf_counter()
                    measured = train(getattr(starts[seed], start), streams(seed).order, data)
                    seconds = time.perf_counter() - begun
                    for record in records_of(case, settings, seed, measured, num_train, seconds):
                        setting = {**record.setting, "space": space, "start": start}
                        yield dataclasses.replace(record, setting=setting)

            title = f"{case.method} on {space}, M = {case.workers}"
            yield from context.stages.of(f"{title}, seed {seed}", both_starts)
            bar.advance(note=title)


class Starts(NamedTuple):
    """The same function twice."""

    initial: Any
    """The usual initialisation."""
    rescaled: Any
    """A copy with its hidden units rescaled at random."""


def _starts(params: Any, seed: int, settings: Settings) -> Starts:
    key = jax.random.fold_in(streams(seed).init, 1)
    return Starts(params, mlp_gauge(params).rescale(params, key, spread=settings.rescaling))


def _rule(gauge: Gauge | None) -> digits.Rule:
    """What the server does, on weights or on path values."""

    def rule(
        case: Case, settings: digits.Settings, rate: jax.Array, lambda_: jax.Array
    ) -> optax.GradientTransformation:
        inner = (
            dcasgd(rate, lambda_, mean_square_decay=settings.mean_square_decay)
            if case.method == ADAPTIVE
            else optax.sgd(rate)
        )
        return inner if gauge is None else in_path_space(inner, gauge, stale_gradients=True)

    return rule


def _tuned(records: Sequence[Record]) -> dict[tuple[int, str, str], list[Record]]:
    """By workers, method and space, the best setting's runs from the usual initialisation."""
    rows = group(
        where(records, start="initial"),
        lambda r: (int(numeric(r, "workers")), r.method, str(r.setting["space"])),
    )
    return {row: best_setting(tried) for row, tried in rows.items()}


def tables(records: Sequence[Record]) -> str:
    """Test accuracy at each row's tuned step, from both starts; and their differences."""
    rows, apart, titles = [], [], []
    for (workers, method, space), best in _tuned(records).items():
        setting = best[0].setting
        tried = where(records, method, workers=workers, space=space, start="initial")
        rescaled = where(records, method, **{**setting, "start": "rescaled"})
        rows.append(
            [
                f"{method}, {space}",
                f"{workers}",
                marked("learning_rate", best, tried),
                marked("lambda", best, tried) if setting.get("lambda") is not None else "-",
                percent(metric(best, "test_accuracy")),
                percent(metric(rescaled, "test_accuracy")),
            ]
        )
        titles.append(rows[-1][:2])
        apart.append(paired_difference(rescaled, best, "test_accuracy"))
    header = ["method", "M", "step", "lambda", "test accuracy %", "from a rescaled start %"]
    note = "(edge) marks the least or the largest of what was tried."
    return joined(markdown(header, rows), note, _differences(titles, apart))


def _differences(titles: Sequence[list[str]], apart: Sequence[Difference]) -> str:
    """What rescaling the start does to each row, seed by seed."""
    words, rows = {0: "no", 1: "better", -1: "worse"}, []
    for title, gap, sign in zip(titles, apart, told_apart(apart), strict=True):
        cells = ["-", "-"]
        if gap.n > 1:
            interval = f"{100 * gap.mean:+.2f} ± {100 * gap.half_width:.2f}"
            cells = [interval, f"{100 * smallest_visible(gap):.2f}"]
        rows.append([*title, *cells, words[sign]])
    header = ["method", "M", "rescaled minus initial", "visible from", "told apart"]
    return (
        "Points of test accuracy from the rescaled start minus those from the initialisation, seed "
        "by seed, ± half of a 95% interval; the least difference that so many seeds would have "
        "shown; and whether one is shown, corrected for all rows. Pairs are left out of which a "
        f"run diverged.\n\n{markdown(header, rows)}"
    )


CAPTIONS = {
    "steps.png": "Test accuracy against the step size, from the initialisation and, below, from a "
    "rescaled copy of it: mean and one standard deviation over seeds. At large steps runs are "
    "lost on either side: on weights they leave the numbers and are not drawn; in path space, "
    "where weights stay within a bound, they end at chance and are. m-synchronous SGD has m = M.",
}


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Accuracy against the step size at each row's best lambda; a column of panels a method."""
    path, tuned = out / "steps.png", _tuned(records)
    steps = sorted({numeric(r, "learning_rate") for r in records})
    rows = list(itertools.product(dict.fromkeys(workers for workers, *_ in tuned), STARTS))
    methods = list(dict.fromkeys(method for _, method, _ in tuned))
    with small_multiples(
        path, rows, methods, labels=("step size", "test accuracy, %"), share="all",
        panel=(4.2, 2.7),
        title=lambda row, method: f"{method}, M = {row[0]}" + ", rescaled" * (row[1] != STARTS[0]),
    ) as panels:  # fmt: skip
        for (workers, method, space), best in tuned.items():
            for start in STARTS:
                varied = {"workers": workers, "space": space, "start": start}
                runs = where(records, method, **varied, **{"lambda": best[0].setting.get("lambda")})
                plot_by(
                    panels[(workers, start), method], by_setting(runs, "learning_rate"),
                    "test_accuracy", scale=100, label=space, style=int(space == WEIGHTS),
                )  # fmt: skip
        for axes in panels.values():
            doubling(axes, steps)
            axes.set_ylim(0, 102)
    return [path]

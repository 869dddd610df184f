"""Delay compensation in path space: do the two ideas add up?

A ReLU perceptron on MNIST digits, trained by M simulated workers that take turns. The server steps
on weights or, by `in_path_space(..., stale_gradients=True)`, on path values: gradients are pulled
back at the weights where they were taken, and the compensation g + lambda g g (v - v_stale) is that
of path values. Nothing had to be written for it but that one argument.

Rows: ASGD, DC-ASGD-a and synchronous SGD, which waits for all M gradients and is what asynchrony
has to beat, each on weights and in path space, from the same initialisation, each at every step
size and every lambda of one grid, chosen by mean validation accuracy over the seeds.
Each is run again from a copy in which every hidden unit is rescaled at random, the same function:
what stale gradients do to it should not depend on that, and on weights it does.

Cost: cpu 4 minutes on one core; full is sized for one accelerator and was not run.
Command: python -m benchmarks gsgd_delay --preset smoke --seeds 3
"""

import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from benchmarks.delay import digits as dcasgd_digits
from benchmarks.delay.digits import Case, load_data, records_of
from benchmarks.delay.report import ADAPTIVE, ASGD, SYNCHRONOUS
from benchmarks.harness.registry import Context
from common.networks import MLP
from common.results.plots import figure, plot_spread
from common.results.records import Record
from common.results.selection import best_setting
from common.results.tables import group, markdown, metric, percent
from common.seeds import streams
from dcasgd_jax import dcasgd
from gsgd_jax import Skeleton, balance, choose_skeleton, in_path_space, mlp_gauge

WEIGHTS, PATHS = "weights", "path space"
STARTS = ("initial", "rescaled")


@dataclasses.dataclass(frozen=True)
class Settings(dcasgd_digits.Settings):
    """What the experiment depends on."""

    widths: tuple[int, ...] = (32, 32, 10)
    workers: tuple[int, ...] = (8,)
    learning_rates: tuple[float, ...] = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
    adaptive_lambdas: tuple[float, ...] = (0.5, 2.0)
    rescaling: float = 0.5
    """Standard deviation of the log-scales of the rescaled copies."""


PRESETS = {
    "smoke": Settings(),
    "cpu": Settings(data="mnist", workers=(8, 16), epochs=4),
    "full": Settings(
        data="mnist",
        pool=1,
        widths=(256, 256, 10),
        workers=(8, 16, 32),
        epochs=20,
        learning_rates=tuple(0.0125 * 2.0**k for k in range(8)),
        adaptive_lambdas=(0.5, 1.0, 2.0, 4.0),
    ),
}


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
    num_train, total = len(data.train.labels), 2 * len(cases) * len(context.seeds)
    with context.progress.task("stale gradients", total=total) as bar:
        for case, space, seed in itertools.product(cases, (WEIGHTS, PATHS), context.seeds):

            def both_starts(
                case: Case = case, space: str = space, seed: int = seed
            ) -> Iterator[Record]:
                # The largest weights differ from seed to seed, and with them the skeleton.
                rule = _rule(starts[seed].skeleton if space == PATHS else None)
                train = dcasgd_digits.trainer(case, settings, network, num_train, rule=rule)
                for start in STARTS:
                    begun = time.perf_counter()
                    found = train(getattr(starts[seed], start), streams(seed).order, data)
                    seconds = time.perf_counter() - begun
                    for record in records_of(case, settings, seed, found, num_train, seconds):
                        setting = {**record.setting, "space": space, "start": start}
                        yield dataclasses.replace(record, setting=setting)

            title = f"{case.method} on {space}, M = {case.workers}"
            yield from context.stages.of(f"{title}, seed {seed}", both_starts)
            bar.advance(note=title)


class Starts(NamedTuple):
    """The same function twice, and the coordinates of its path space."""

    initial: Any
    """The usual initialisation, its hidden units balanced."""
    rescaled: Any
    """A copy with its hidden units rescaled at random."""
    skeleton: Skeleton


def _starts(params: Any, seed: int, settings: Settings) -> Starts:
    gauge = mlp_gauge(params)
    balanced = balance(params, gauge)
    key = jax.random.fold_in(streams(seed).init, 1)
    return Starts(
        initial=balanced,
        rescaled=gauge.rescale(balanced, key, spread=settings.rescaling),
        skeleton=choose_skeleton(
            gauge, balanced, rule="largest", basis="cycles", tree_values="balanced"
        ),
    )


def _rule(skeleton: Skeleton | None) -> dcasgd_digits.Rule:
    """What the server does, on weights or on path values."""

    def rule(
        case: Case, settings: dcasgd_digits.Settings, rate: jax.Array, lambda_: jax.Array
    ) -> optax.GradientTransformation:
        inner = (
            dcasgd(rate, lambda_, mean_square_decay=settings.mean_square_decay)
            if case.method == ADAPTIVE
            else optax.sgd(rate)
        )
        return inner if skeleton is None else in_path_space(inner, skeleton, stale_gradients=True)

    return rule


def _of(records: Sequence[Record], start: str) -> dict[tuple[int, str, str], list[Record]]:
    """Runs from a start by number of workers, method and space."""
    own = [r for r in records if r.setting["start"] == start]
    return group(own, lambda r: (int(r.setting["workers"] or 0), r.method, str(r.setting["space"])))


def tables(records: Sequence[Record]) -> str:
    """Test accuracy at each row's tuned step, from both starts."""
    rescaled = _of(records, "rescaled")
    rows = []
    for (workers, method, space), tried in _of(records, "initial").items():
        best = best_setting(tried)
        wanted = {**best[0].setting, "start": "rescaled"}
        other = [r for r in rescaled[workers, method, space] if r.setting == wanted]
        lambda_ = best[0].setting.get("lambda")
        rows.append(
            [
                f"{method}, {space}",
                f"{workers}",
                f"{best[0].setting['learning_rate']:g}",
                "-" if lambda_ is None else f"{lambda_:g}",
                percent(metric(best, "test_accuracy")),
                percent(metric(other, "test_accuracy")),
            ]
        )
    return markdown(
        ["method", "M", "step", "lambda", "test accuracy %", "from a rescaled start %"], rows
    )


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Accuracy against the step size at each row's best lambda; a column of panels a start."""
    counts = sorted({int(r.setting["workers"] or 0) for r in records})
    steps = sorted({float(r.setting["learning_rate"] or 0) for r in records})
    path = out / "steps.png"
    with figure(path, rows=len(counts), columns=len(STARTS)) as panels:
        for row, workers in zip(panels, counts, strict=True):
            for axes, start in zip(row, STARTS, strict=True):
                every = [k for k in _of(records, "initial") if k[0] == workers]
                for style, key in enumerate(every):
                    lambda_ = best_setting(_of(records, "initial")[key])[0].setting.get("lambda")
                    runs = [
                        r for r in _of(records, start)[key] if r.setting.get("lambda") == lambda_
                    ]
                    by_rate = group(runs, lambda r: float(r.setting["learning_rate"] or 0))
                    values = [
                        [100 * r.metrics["test_accuracy"] for r in own] for own in by_rate.values()
                    ]
                    plot_spread(
                        axes, list(by_rate), np.asarray(values).T, label=f"{key[1]}, {key[2]}",
                        style=style, marker=True,
                    )  # fmt: skip
                axes.set(xlabel="step size (no point: every seed diverged)", ylim=(0, 102))
                axes.set_xscale("log", base=2)
                axes.set_xticks(steps, [f"{step:g}" for step in steps])
                axes.set_title(f"M = {workers}, {start} start")
            row[0].set_ylabel("test accuracy, %")
        panels[0, 0].legend(loc="lower left")
    return [path]

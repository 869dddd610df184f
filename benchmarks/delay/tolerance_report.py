"""Tables and figures of what delay each rule tolerates, made from records only.

A record's setting tells its problem. Of the quadratic: delay and, where the rule has one, lambda;
metrics largest_stable_step and closed_form. Of the network: workers, learning_rate and lambda, and
the metrics and curves of `dcasgd_delay_tolerance`. Of its staleness: a histogram, as a curve.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from benchmarks.delay.report import ADAPTIVE, ASGD, CONSTANT, SGD, STYLES, SYNCHRONOUS, paired
from common.results.plots import COLOURS, figure, plot_spread
from common.results.records import Record
from common.results.selection import best_setting
from common.results.tables import group, markdown, metric, number, percent, summarise

LOW_RANK, HESSIAN = "low rank", "exact Hessian"
METHODS = (SGD, SYNCHRONOUS, ASGD, CONSTANT, ADAPTIVE, LOW_RANK, HESSIAN)
QUADRATIC, NETWORK, STALENESS = "quadratic", "network", "staleness"

_STYLES = STYLES | {LOW_RANK: 2, HESSIAN: 7}


def tolerance_tables(records: Sequence[Record]) -> str:
    """Limits on both problems; then losses, accuracies and times by both protocols.

    Args:
        records: of one experiment.

    Returns:
        Markdown.
    """
    network = _of(records, NETWORK)
    workers, step = _workers(network), fixed_step(network)
    target = network[0].metrics["target_loss"]

    def at_step(runs: list[Record]) -> list[Record]:
        return best_setting([r for r in runs if r.setting["learning_rate"] == step])

    def by_workers(cell: Callable[[list[Record]], str]) -> str:
        rows = [
            [method, *(cell(_runs(network, method, m)) for m in workers)]
            for method in METHODS
            if method != SGD and _runs(network, method, workers[0])
        ]
        sgd = [r for r in network if r.method == SGD]
        first = [SGD, cell(sgd), *[""] * (len(workers) - 1)]
        return markdown(["method", *(f"M = {m}" for m in workers)], [first, *rows])

    return "\n\n".join(
        [
            "**Largest stable step on the quadratic** (times its largest curvature), by delay; "
            "the best lambda of those tried.",
            _quadratic_table(records),
            "**Largest stable step of the network**: at it and all smaller ones of the grid every "
            "seed ends below the loss of the start; the best lambda of those tried. SGD has one "
            "machine.",
            by_workers(lambda runs: f"{largest_stable_step(runs):g}"),
            f"**All at step {step:g}, the one tuned for ASGD with {_middle(network)} workers: "
            "training loss**, over the seeds that end below the start's.",
            by_workers(lambda runs: _loss(at_step(runs))),
            f"**All at step {step:g}: test accuracy, %.**",
            by_workers(lambda runs: percent(metric(at_step(runs), "test_accuracy"))),
            "**Each at its own tuned step: training loss [step, lambda].**",
            by_workers(lambda runs: _tuned(best_setting(runs))),
            "**Each at its own tuned step: test accuracy, %.**",
            by_workers(lambda runs: percent(metric(best_setting(runs), "test_accuracy"))),
            f"**Each at its own tuned step: simulated time to training loss {target:g}**, in mean "
            "times of one gradient.",
            by_workers(lambda runs: _time(best_setting(runs))),
            "**Simulated time of the whole run**, equally many gradients for all.",
            by_workers(lambda runs: f"{metric(runs, 'simulated_seconds').mean:.0f}"),
            "**What this amounts to:**",
            verdict(network),
        ]
    )


def verdict(records: Sequence[Record]) -> str:
    """For each rule: the steps it bears, and what it gains at its tuned one.

    Args:
        records: of the network.

    Returns:
        Markdown, a line a rule.
    """
    lines = []
    for method in (CONSTANT, ADAPTIVE, LOW_RANK, HESSIAN):
        gains: dict[str, list[str]] = {ASGD: [], SYNCHRONOUS: []}
        wider = []
        for m in _workers(records):
            runs = _runs(records, method, m)
            if largest_stable_step(runs) > largest_stable_step(_runs(records, ASGD, m)):
                wider.append(str(m))
            for rival, above in gains.items():
                other = best_setting(_runs(records, rival, m))
                gain = paired(best_setting(runs), other)
                if gain.n > 1 and not gain.failed and gain.mean > gain.sd:
                    above.append(f"{m} ({percent(gain)})")
        lines.append(
            f"- {method} bears larger steps than ASGD at {_listed(wider)}. At tuned steps its test "
            "accuracy exceeds, by more than one standard deviation of the paired differences (in "
            f"points), ASGD's at {_listed(gains[ASGD])}, and that of {SYNCHRONOUS} after as many "
            f"gradients at {_listed(gains[SYNCHRONOUS])}."
        )
    return "\n".join(lines)


def _listed(items: Sequence[str]) -> str:
    return f"M = {', '.join(items)}" if items else "no M"


def fixed_step(records: Sequence[Record]) -> float:
    """The step tuned for ASGD with the middle one of the numbers of workers.

    With fewer workers it is smaller than need be, with more it is larger than ASGD bears.

    Args:
        records: of the network.
    """
    chosen = best_setting(_runs(records, ASGD, _middle(records)))
    return float(chosen[0].setting["learning_rate"] or 0.0)


def largest_stable_step(records: Sequence[Record]) -> float:
    """The largest step at which, and at all smaller ones, every seed ends below its start's loss.

    Args:
        records: of one method at one number of workers; of several lambdas the best counts.

    Returns:
        0 where no step of the grid is stable.
    """
    best = 0.0
    for runs in group(records, _lambda).values():
        by_step = group(runs, lambda r: float(r.setting["learning_rate"] or 0.0))
        for step in sorted(by_step):
            if not all(map(_learnt, by_step[step])):
                break
            best = max(best, step)
    return best


def plot_limits(records: Sequence[Record], path: Path) -> Path:
    """Largest stable step and final loss against staleness.

    Args:
        records: of one experiment.
        path: the PNG file to write.

    Returns:
        `path`.
    """
    network = _of(records, NETWORK)
    workers, step = _workers(network), fixed_step(network)
    with figure(path, rows=2, columns=2, panel=(5.4, 3.7)) as panels:
        quadratic, limits, fixed, tuned = panels.ravel()
        _plot_quadratic(quadratic, records)
        for method in METHODS:
            runs = {m: _runs(network, method, m) for m in workers}
            if not runs[workers[0]]:
                continue
            style: dict[str, Any] = {"label": method, "style": _STYLES[method], "marker": True}
            found = [[largest_stable_step(own) or math.nan for own in runs.values()]]
            plot_spread(limits, workers, np.array(found), **style)
            for axes, only in ((fixed, step), (tuned, None)):
                chosen = [best_setting(_with_step(own, only)) for own in runs.values()]
                losses = [[_shown(one, r.metrics["train_loss"]) for r in one] for one in chosen]
                plot_spread(axes, workers, np.array(losses).T, **style)
        sgd = [r for r in network if r.method == SGD]
        chance = network[0].metrics["first_loss"]
        for axes in (fixed, tuned):
            loss = metric(best_setting(sgd), "train_loss").mean
            axes.axhline(loss, color=COLOURS[_STYLES[SGD]], linestyle=":", label="SGD, no delay")
            axes.set(ylabel="final training loss, if below the start's", ylim=(0, 1.05 * chance))
        limits.axhline(largest_stable_step(sgd), color=COLOURS[_STYLES[SGD]], linestyle=":")
        for axes in (limits, fixed, tuned):
            axes.set_xscale("log", base=2)
            axes.set_xticks(workers, [str(m) for m in workers])
            axes.set_xlabel("workers M (mean staleness M - 1)")
        limits.set_yscale("log", base=2)
        limits.set(title="perceptron", ylabel="largest stable step of the grid")
        fixed.set_title(f"perceptron, all at step {step:g}")
        tuned.set_title("perceptron, each at its own tuned step")
        quadratic.legend(fontsize=8)
        tuned.legend(fontsize=8)
    return path


def _plot_quadratic(axes: Axes, records: Sequence[Record]) -> None:
    by_method = group(_of(records, QUADRATIC), lambda r: r.method)
    for method, runs in by_method.items():
        found = _limits(runs)
        delays = np.array(list(found))
        values = np.array(list(found.values())).T
        plot_spread(axes, delays + 1, values, label=method, style=_STYLES[method], marker=True)
    exact = {_delay(r): r.metrics["closed_form"] for r in _of(records, QUADRATIC)}
    axes.plot(
        np.array(list(exact)) + 1, list(exact.values()), "k--", linewidth=1,
        label=r"$2 \sin(\pi / (2 (2 \tau + 1)))$",
    )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([d + 1 for d in exact], [str(d) for d in exact])
    axes.set(title="quadratic", xlabel="staleness τ", ylabel="largest stable step, times curvature")


def plot_diagnostics(records: Sequence[Record], path: Path) -> Path:
    """How stale ASGD's gradients were, how far the weights had moved, and the time to the target.

    Args:
        records: of one experiment.
        path: the PNG file to write.

    Returns:
        `path`.
    """
    network, staleness = _of(records, NETWORK), _of(records, STALENESS)
    workers = _workers(network)
    most = workers[-1]
    with figure(path, rows=2, columns=2, panel=(5.4, 3.7)) as panels:
        histogram, distance, times, training = panels.ravel()
        for i, m in enumerate(workers):
            rate = best_setting(_runs(network, ASGD, m))[0].setting["learning_rate"]
            chosen = _with_step(_runs(staleness, ASGD, m), rate)
            counts = np.nan_to_num(_padded([r.curve["gradients"] for r in chosen]))
            moved = _padded([r.curve["distance"] for r in chosen])
            share = counts / counts.sum(axis=1, keepdims=True)
            delays = np.arange(counts.shape[1])
            style: dict[str, Any] = {"label": f"M = {m}", "style": i}
            plot_spread(histogram, delays + 1, share, **style)
            plot_spread(distance, delays[1:] + 1, moved[:, 1:], **style)
        for axes in (histogram, distance):
            axes.set_xscale("log", base=2)
            axes.set_xlabel("staleness τ + 1")
        histogram.set(title="ASGD's gradients", ylabel="share of the gradients")
        distance.set_yscale("log")
        distance.set(title="ASGD at its tuned step", ylabel="|w - snapshot|, root mean square")
        target = network[0].metrics["target_loss"]
        for method in METHODS:
            runs = {m: _runs(network, method, m) for m in workers}
            if not runs[most]:
                continue
            style = {"label": method, "style": _STYLES[method]}
            tuned = {m: best_setting(own) for m, own in runs.items()}
            values = np.array(
                [[r.metrics["seconds_to_target"] for r in own] for own in tuned.values()]
            )
            # A mean over the seeds that get there would flatter a rule that some never do with.
            values[~np.isfinite(values).all(axis=1)] = np.nan
            plot_spread(times, workers, values.T, marker=True, **style)
            # Machines' times are drawn from the seed: the abscissa is the mean clock.
            clocks = np.array([r.curve["simulated_seconds"] for r in tuned[most]]).mean(axis=0)
            losses = np.array([r.curve["train_loss"] for r in tuned[most]])
            losses[:, ~(losses < network[0].metrics["first_loss"]).all(axis=0)] = np.nan
            plot_spread(training, clocks, losses, **style)
        times.set_xscale("log", base=2)
        times.set_yscale("log")
        times.set_xticks(workers, [str(m) for m in workers])
        times.set(
            title="each at its own tuned step", xlabel="workers M",
            ylabel=f"simulated time to training loss {target:g}",
        )  # fmt: skip
        training.set(
            title=f"{most} workers, tuned steps", ylabel="training loss",
            xlabel="simulated time, in mean times of one gradient",
        )  # fmt: skip
        histogram.legend(fontsize=8)
        training.legend(fontsize=8)
    return path


def _of(records: Sequence[Record], problem: str) -> list[Record]:
    return [r for r in records if r.setting["problem"] == problem]


def _runs(records: Sequence[Record], method: str, workers: int) -> list[Record]:
    return [r for r in records if r.method == method and r.setting["workers"] == workers]


def _workers(records: Sequence[Record]) -> list[int]:
    """The numbers of workers that ASGD was run with, in the order run."""
    own = group((r for r in records if r.method == ASGD), lambda r: r.setting["workers"])
    return [int(m or 0) for m in own]


def _middle(records: Sequence[Record]) -> int:
    workers = _workers(records)
    return workers[(len(workers) - 1) // 2]


def _learnt(record: Record) -> bool:
    return record.metrics["train_loss"] < record.metrics["first_loss"]


def _shown(runs: Sequence[Record], value: float) -> float:
    """The value, if no seed of its setting ended above the start: a mean of the rest flatters."""
    return value if all(map(_learnt, runs)) else math.nan


def _loss(runs: Sequence[Record]) -> str:
    """Mean final loss of the seeds that learnt, and how many did not."""
    learnt = [r for r in runs if _learnt(r)]
    if not learnt:
        return "none below the start"
    text = number(metric(learnt, "train_loss"))
    missed = len(runs) - len(learnt)
    return text + (f" ({missed} of {len(runs)} above the start)" if missed else "")


def _with_step(records: Sequence[Record], step: Any) -> list[Record]:
    """Of one step size; None for all."""
    return [r for r in records if step is None or r.setting["learning_rate"] == step]


def _lambda(record: Record) -> float:
    return float(record.setting.get("lambda") or 0.0)


def _delay(record: Record) -> int:
    return int(record.setting["delay"] or 0)


def _padded(columns: Sequence[Sequence[float]]) -> np.ndarray:
    """Columns of unequal length as rows, the shorter ones filled up with NaN."""
    found = np.full((len(columns), max(map(len, columns))), np.nan)
    for row, column in zip(found, columns, strict=True):
        row[: len(column)] = column
    return found


def _limits(records: Sequence[Record]) -> dict[int, list[float]]:
    """By delay, the seeds' largest stable steps on the quadratic, of the lambda with the best."""
    return {
        delay: max(
            (
                [r.metrics["largest_stable_step"] for r in own]
                for own in group(runs, _lambda).values()
            ),
            key=np.mean,
        )
        for delay, runs in group(records, _delay).items()
    }


def _quadratic_table(records: Sequence[Record]) -> str:
    by_method = {
        method: _limits(runs)
        for method, runs in group(_of(records, QUADRATIC), lambda r: r.method).items()
    }
    exact = {_delay(r): r.metrics["closed_form"] for r in _of(records, QUADRATIC)}
    rows = [
        [f"{delay}", f"{limit:.3f}", *(number(summarise(f[delay])) for f in by_method.values())]
        for delay, limit in exact.items()
    ]
    return markdown(["delay", "closed form for ASGD", *by_method], rows)


def _tuned(runs: Sequence[Record]) -> str:
    setting = runs[0].setting
    chosen = f"{setting['learning_rate']:g}" + (
        f", {setting['lambda']:g}" if "lambda" in setting else ""
    )
    return f"{_loss(runs)} [{chosen}]"


def _time(runs: Sequence[Record]) -> str:
    """Mean simulated time to the target over the seeds that reach it."""
    found = metric(runs, "seconds_to_target")
    if not found.n:
        return "never"
    missed = f" ({found.failed} of {len(runs)} never)" if found.failed else ""
    return (
        f"{found.mean:.0f}" if math.isnan(found.sd) else f"{found.mean:.0f} ± {found.sd:.0f}"
    ) + missed

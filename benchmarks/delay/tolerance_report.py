"""Tables and figures of what delay each rule tolerates, made from records only.

A record's setting tells its problem. Of the quadratic: delay and, where the rule has one, lambda;
metrics largest_stable_step and closed_form. Of the network: workers, learning_rate and lambda, and
the metrics and curves of `dcasgd_delay_tolerance`. Of its staleness: a histogram, as a curve.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from benchmarks.delay.report import (
    ADAPTIVE,
    ASGD,
    CONSTANT,
    SGD,
    STYLES,
    SYNCHRONOUS,
    worker_counts,
)
from benchmarks.harness.figures import doubling, on_whole_numbers, plot_by, small_multiples
from benchmarks.harness.reports import by_method, by_setting, marked, numeric, paired, values, where
from common.results.plots import COLOURS, plot_spread
from common.results.records import Record
from common.results.selection import best_setting
from common.results.tables import group, markdown, metric, number, percent, summarise

LOW_RANK, HESSIAN = "low rank", "exact Hessian"
METHODS = (SGD, SYNCHRONOUS, ASGD, CONSTANT, ADAPTIVE, LOW_RANK, HESSIAN)
RULES = (CONSTANT, ADAPTIVE, LOW_RANK, HESSIAN)
"""That compensate: a column of panels each, beside ASGD and m-synchronous SGD."""
QUADRATIC, NETWORK, STALENESS = "quadratic", "network", "staleness"

_STYLES = STYLES | {LOW_RANK: 2, HESSIAN: 7}


def tolerance_tables(records: Sequence[Record]) -> str:
    """Limits on both problems; then losses, accuracies and times by both protocols; Markdown."""
    network = where(records, problem=NETWORK)
    workers, step = worker_counts(network), fixed_step(network)
    middle = where(network, ASGD, workers=_middle(network))
    fixed = marked("learning_rate", best_setting(middle), middle)

    def at_step(runs: list[Record]) -> list[Record]:
        return best_setting(where(runs, learning_rate=step))

    def accuracy(runs: list[Record]) -> str:
        return percent(metric(runs, "test_accuracy"))

    def by_workers(cell: Callable[[list[Record]], str]) -> str:
        rows = [
            [method, *(cell(where(network, method, workers=m)) for m in workers)]
            for method in METHODS
            if method != SGD and where(network, method)
        ]
        first = [SGD, cell(where(network, SGD)), *[""] * (len(workers) - 1)]
        return markdown(["method", *(f"M = {m}" for m in workers)], [first, *rows])

    return "\n\n".join(
        [
            "**Largest stable step on the quadratic** (times its largest curvature), by delay; "
            "the best lambda of those tried.",
            _quadratic_table(where(records, problem=QUADRATIC)),
            "**Largest stable step of the network**: at it and all smaller ones of the grid every "
            "seed ends below the loss of the start; the best lambda of those tried. SGD has one "
            "machine.",
            by_workers(lambda runs: f"{largest_stable_step(runs):g}"),
            f"**All at step {fixed}, the one tuned for ASGD with {_middle(network)} workers: "
            "training loss**, over the seeds that end below the start's.",
            by_workers(lambda runs: _loss(at_step(runs))),
            f"**All at step {step:g}: test accuracy, %.**",
            by_workers(lambda runs: accuracy(at_step(runs))),
            "**Each at its own tuned step: training loss [step, lambda].**",
            by_workers(_tuned),
            "**Each at its own tuned step: test accuracy, %.**",
            by_workers(lambda runs: accuracy(best_setting(runs))),
            "**Each at its own tuned step: simulated time to training loss "
            f"{network[0].metrics['target_loss']:g}**, in mean times of one gradient.",
            by_workers(lambda runs: _time(best_setting(runs))),
            "**Simulated time of the whole run**, equally many gradients for all.",
            by_workers(lambda runs: f"{metric(runs, 'simulated_seconds').mean:.0f}"),
            "**What this amounts to** (gains in points of test accuracy, where they exceed one "
            "standard deviation of the paired differences):",
            verdict(network),
        ]
    )


def verdict(records: Sequence[Record]) -> str:
    """For each rule, of the network: the steps it bears, and what it gains at its tuned one."""
    lines = []
    for method in RULES:
        gains: dict[str, list[str]] = {ASGD: [], SYNCHRONOUS: []}
        wider = []
        for m in worker_counts(records):
            runs, asgd = (where(records, name, workers=m) for name in (method, ASGD))
            if largest_stable_step(runs) > largest_stable_step(asgd):
                wider.append(str(m))
            for rival, larger in gains.items():
                other = best_setting(where(records, rival, workers=m))
                gain = paired(best_setting(runs), other)
                if gain.n > 1 and not gain.failed and gain.mean > gain.sd:
                    larger.append(f"{m} ({percent(gain)})")
        lines.append(
            f"- {method} bears larger steps than ASGD at {_listed(wider)}. At tuned steps it is "
            f"more accurate than ASGD at {_listed(gains[ASGD])}, and than {SYNCHRONOUS} after as "
            f"many gradients at {_listed(gains[SYNCHRONOUS])}."
        )
    return "\n".join(lines)


def _listed(items: Sequence[str]) -> str:
    return f"M = {', '.join(items)}" if items else "no M"


def fixed_step(records: Sequence[Record]) -> float:
    """The step tuned for ASGD with the middle one of the numbers of workers, of the network.

    With fewer workers it is smaller than need be, with more it is larger than ASGD bears.
    """
    chosen = best_setting(where(records, ASGD, workers=_middle(records)))
    return numeric(chosen[0], "learning_rate")


def _middle(records: Sequence[Record]) -> int:
    workers = worker_counts(records)
    return workers[(len(workers) - 1) // 2]


def largest_stable_step(records: Sequence[Record]) -> float:
    """The largest step at which, and at all smaller ones, every seed ends below its start's loss.

    Of one method at one number of workers; of several lambdas the best counts. 0 where no step of
    the grid is stable.
    """
    best = 0.0
    for runs in group(records, lambda r: numeric(r, "lambda")).values():
        by_step = by_setting(runs, "learning_rate")
        for step in sorted(by_step):
            if not all(map(_learnt, by_step[step])):
                break
            best = max(best, step)
    return best


CAPTIONS = {
    "dcasgd_delay_tolerance.png": "A column for each rule that compensates, beside ASGD and "
    "m-synchronous SGD (m = M). From above: the largest stable step on the quadratic (dashed: "
    "ASGD's in closed form) and of the perceptron; the final training loss with all at one step, "
    "and with each at its own (dotted: SGD without delay). No mark: a seed ended above the start. "
    "DC-ASGD-a bears larger steps than ASGD on the quadratic, and on the network from eight "
    "workers on; at tuned steps there is little left to gain.",
    "dcasgd_delay_diagnostics.png": "How stale ASGD's gradients were, and how far the weights had "
    "moved by the time they arrived: means over seeds. Staleness gathers around M - 1; the "
    "distance grows with it.",
    "dcasgd_delay_times.png": "Above, simulated time until the training loss reaches its target, "
    "no mark where a seed never gets there; below, the loss during training with the most "
    "workers. Where its cost is not counted the exact Hessian is the fastest with many workers, "
    "and with two the slowest but SGD.",
}


def plot_limits(records: Sequence[Record], path: Path) -> Path:
    """Largest stable step and final loss against staleness, a column for each rule."""
    network, quadratic = where(records, problem=NETWORK), where(records, problem=QUADRATIC)
    workers, step = worker_counts(network), fixed_step(network)
    exact = {numeric(r, "delay") + 1: r.metrics["closed_form"] for r in quadratic}
    rows = {
        "quadratic": "largest stable step",
        "perceptron": "largest stable step",
        f"all at step {step:g}": "final training loss",
        "tuned steps": "final training loss",
    }
    with small_multiples(
        path, list(rows), RULES, labels=("workers M (mean staleness M - 1)", rows.__getitem__)
    ) as panels:
        for (row, rule), axes in panels.items():
            for method in (SYNCHRONOUS, ASGD, rule):
                if row == "quadratic":
                    _plot_limits(axes, method, where(quadratic, method))
                else:
                    only = step if row.startswith("all") else None
                    runs = {m: where(network, method, workers=m) for m in workers}
                    _plot_network(axes, method, runs, only, loss=row != "perceptron")
            if row == "quadratic":
                axes.plot(*zip(*exact.items(), strict=True), "k--", linewidth=1)
            elif row != "perceptron":
                loss = metric(best_setting(where(network, SGD)), "train_loss").mean
                axes.axhline(loss, color=COLOURS[_STYLES[SGD]], linestyle=":", label=SGD)
            axes.set_yscale("log", base=2)
            axes.yaxis.set_major_formatter("{x:.3g}")
            doubling(axes, sorted(exact) if row == "quadratic" else workers)
            axes.tick_params(axis="x", labelsize=8)
    return path


def _plot_limits(axes: Axes, method: str, runs: Sequence[Record]) -> None:
    if runs:
        limits = _limits(runs)
        columns = np.array(list(limits.values())).T
        delays = [delay + 1 for delay in limits]
        plot_spread(axes, delays, columns, label=method, style=_STYLES[method], marker=True)


def _plot_network(
    axes: Axes, method: str, runs: Mapping[int, list[Record]], step: float | None, *, loss: bool
) -> None:
    """A method's final loss at one step, or at its own; or the largest stable one."""
    if not any(runs.values()):
        return
    if loss:
        tried = [where(r, learning_rate=step) if step else r for r in runs.values()]
        chosen = map(best_setting, tried)
        # A mean over the seeds that learnt would flatter a setting at which some did not.
        rows = [
            [r.metrics["train_loss"] if all(map(_learnt, seeds)) else math.nan for r in seeds]
            for seeds in chosen
        ]
    else:
        rows = [[largest_stable_step(tried) or math.nan] for tried in runs.values()]
    columns = np.array(rows).T
    plot_spread(axes, list(runs), columns, label=method, style=_STYLES[method], marker=True)


def plot_diagnostics(records: Sequence[Record], path: Path) -> Path:
    """How stale ASGD's gradients were, and how far the weights had moved by then; means."""
    network, staleness = where(records, problem=NETWORK), where(records, problem=STALENESS)
    columns = {"gradients": "share of the gradients", "distance": "|w - snapshot|, rms"}
    with small_multiples(
        path, [""], list(columns), labels=("staleness τ + 1", ""), share="none", panel=(4.4, 3.0),
        title=lambda row, column: columns[column],
    ) as panels:  # fmt: skip
        for style, m in enumerate(worker_counts(network)):
            tuned = best_setting(where(network, ASGD, workers=m))[0].setting["learning_rate"]
            runs = where(staleness, ASGD, workers=m, learning_rate=tuned)
            for column in columns:
                rows = on_whole_numbers([(r.curve["staleness"], r.curve[column]) for r in runs])
                if column == "gradients":
                    rows = np.nan_to_num(rows)
                    rows = rows / rows.sum(axis=1, keepdims=True)
                delays = np.arange(rows.shape[1]) + 1
                first = column == "distance"  # no weights move without a delay
                mean = np.ma.masked_invalid(rows[:, first:]).mean(axis=0).filled(np.nan)
                panels["", column].plot(
                    delays[first:], mean, color=COLOURS[style], label=f"M = {m}"
                )
        for axes in panels.values():
            axes.set_xscale("log", base=2)
        panels["", "distance"].set_yscale("log")
    return path


def plot_times(records: Sequence[Record], path: Path) -> Path:
    """Simulated time to the target, and the loss during training with the most workers."""
    network = where(records, problem=NETWORK)
    workers, first = worker_counts(network), network[0].metrics["first_loss"]
    rows = (f"time to loss {network[0].metrics['target_loss']:g}", f"loss, M = {workers[-1]}")
    labels = ("simulated time", lambda row: row.partition(",")[0])
    with small_multiples(path, rows, RULES, labels=labels) as panels:
        for (row, rule), axes in panels.items():
            for method in (SYNCHRONOUS, ASGD, rule):
                look = {"label": method, "style": _STYLES[method]}
                tuned = {m: where(network, method, workers=m) for m in workers}
                tuned = {m: best_setting(runs) for m, runs in tuned.items() if runs}
                if row == rows[0]:
                    # A mean over the seeds that get there would flatter, as above.
                    reached = {
                        m: runs
                        for m, runs in tuned.items()
                        if np.isfinite(values(runs, "seconds_to_target")).all()
                    }
                    if reached:
                        plot_by(axes, reached, "seconds_to_target", **look)
                elif workers[-1] in tuned:
                    # Machines' times are drawn from the seed: the abscissa is the mean clock.
                    runs = tuned[workers[-1]]
                    clock = np.mean([r.curve["simulated_seconds"] for r in runs], axis=0)
                    losses = np.array([r.curve["train_loss"] for r in runs])
                    losses[:, ~(losses < first).all(axis=0)] = np.nan
                    plot_spread(axes, clock, losses, **look)
            if row == rows[0]:
                axes.set_yscale("log", base=2)
                axes.yaxis.set_major_formatter("{x:g}")
                doubling(axes, workers)
                axes.set_xlabel("workers M")
    return path


def _learnt(record: Record) -> bool:
    return record.metrics["train_loss"] < record.metrics["first_loss"]


def _loss(runs: Sequence[Record]) -> str:
    """Mean final loss of the seeds that learnt, and how many did not."""
    learnt = [r for r in runs if _learnt(r)]
    if not learnt:
        return "none below the start"
    missed = len(runs) - len(learnt)
    text = number(metric(learnt, "train_loss"))
    return text + (f" ({missed} of {len(runs)} above the start)" if missed else "")


def _limits(records: Sequence[Record]) -> dict[int, list[float]]:
    """By delay, the seeds' largest stable steps on the quadratic, of the lambda with the best."""
    return {
        delay: max(
            (
                values(seeds, "largest_stable_step")
                for seeds in group(runs, lambda r: numeric(r, "lambda")).values()
            ),
            key=np.mean,
        )
        for delay, runs in by_setting(records, "delay").items()
    }


def _quadratic_table(records: Sequence[Record]) -> str:
    limits = {method: _limits(runs) for method, runs in by_method(records).items()}
    exact = {int(numeric(r, "delay")): r.metrics["closed_form"] for r in records}
    rows = [
        [f"{delay}", f"{limit:.3f}", *(number(summarise(of[delay])) for of in limits.values())]
        for delay, limit in exact.items()
    ]
    return markdown(["delay", "closed form for ASGD", *limits], rows)


def _tuned(runs: Sequence[Record]) -> str:
    best = best_setting(runs)
    chosen = [marked(name, best, runs) for name in ("learning_rate", "lambda")]
    return f"{_loss(best)} [{', '.join(filter(None, chosen))}]"


def _time(runs: Sequence[Record]) -> str:
    """Mean simulated time to the target over the seeds that reach it."""
    time = metric(runs, "seconds_to_target")
    if not time.n:
        return "never"
    missed = f" ({time.failed} of {len(runs)} never)" if time.failed else ""
    return f"{time.mean:.0f}" + ("" if math.isnan(time.sd) else f" ± {time.sd:.0f}") + missed

"""Tables and figures of selection by a test of invariance, from records alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness.figures import dots_figure
from benchmarks.harness.reports import by_method, met, values
from benchmarks.latent.reports import domains
from common.results.plots import COLOURS, figure
from common.results.records import Record
from common.results.tables import group, markdown, metric, number, percent
from lacim_jax import Trial, select_invariant

TARGET = 0.65
"""Test accuracy without an oracle."""
EVERY = "all methods"

CAPTIONS = {
    "selection.png": "Test accuracy of each method, its settings chosen by each rule: dots are "
    "seeds, the mark their mean with one standard deviation.",
    "p_values.png": "Every trial of every seed: its p-value in the test of invariance, held-out "
    "images of the training domains, and its accuracy on the test domain. To the left of the line "
    "trials are rejected.",
}


def seed_by_seed(records: Sequence[Record]) -> dict[str, list[Record]]:
    """For each method, and for all together, the trial that `select_invariant` takes in each seed.

    It sees a trial's accuracy and p-value on held-out images of the training domains.
    """
    chosen: dict[str, list[Record]] = {}
    for method, tried in (*by_method(records).items(), (EVERY, list(records))):
        for runs in group(tried, lambda record: record.seed).values():
            trials = [
                Trial(run.metrics["validation_accuracy"], run.metrics["invariance_p"])
                for run in runs
            ]
            chosen.setdefault(method, []).append(runs[select_invariant(trials).chosen])
    return chosen


def tables(records: Sequence[Record]) -> str:
    """Test accuracy by rule; by the test of invariance seed by seed; every setting's p-values."""
    rules = domains.chosen(records)
    methods = list(by_method(records))
    rows = [
        [method, *(percent(metric(of[method], "test_accuracy")) for of in rules.values())]
        for method in methods
    ]
    by_rule = markdown(["test %, one setting for all seeds, by", *rules], rows)
    rows = []
    for method, runs in seed_by_seed(records).items():
        row = [method, *(percent(metric(runs, f"{part}_accuracy")) for part in _PARTS)]
        accepted = sum(run.metrics["invariance_p"] > 0.05 for run in runs)
        rows.append([*row, f"{accepted} of {len(runs)}"])
    header = ["chosen by invariance in each seed", *_PARTS.values(), "accepted"]
    seeds = markdown(header, rows)
    return f"{by_rule}\n\n{seeds}\n\n{_verdicts(records)}\n\n{_settings(records)}"


_PARTS = {"validation": "training domains, held out %", "test": "test %"}


def _verdicts(records: Sequence[Record]) -> str:
    lines = []
    for method, runs in seed_by_seed(records).items():
        found = metric(runs, "test_accuracy")
        least = min(values(runs, "test_accuracy"))
        lines.append(
            f"- {method}, by invariance: {percent(found)}, {100 * least:.1f} in the worst seed "
            f"(target {100 * TARGET:g}: {met(found.mean, TARGET)})"
        )
    return "\n".join(lines)


def _settings(records: Sequence[Record]) -> str:
    """What every setting comes to, and how often it is accepted."""
    rows = []
    for method, tried in by_method(records).items():
        for setting, runs in group(tried, lambda record: _named(record)).items():
            p_values = values(runs, "invariance_p")
            rows.append(
                [
                    method, setting, percent(metric(runs, "validation_accuracy")),
                    percent(metric(runs, "test_accuracy")),
                    number(metric(runs, "invariance_p")),
                    f"{sum(p > 0.05 for p in p_values)} of {len(runs)}",
                ]
            )  # fmt: skip
    header = ["method", "setting", "held out %", "test %", "p", "accepted"]
    return markdown(header, rows)


def _named(record: Record) -> str:
    hyper = {k: v for k, v in record.setting.items() if k not in ("label_noise", "search_steps")}
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in hyper.items())


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Accuracy as chosen by each rule; and every trial's p-value beside its test accuracy."""
    dots, spread = out / "selection.png", out / "p_values.png"
    scores = {
        rule: {method: values(runs, "test_accuracy") for method, runs in of.items()}
        for rule, of in domains.chosen(records).items()
    }
    scores["invariance, each seed"] = {
        method: values(runs, "test_accuracy")
        for method, runs in seed_by_seed(records).items()
        if method != EVERY
    }
    dots_figure(dots, scores, label="test accuracy, %", scale=100)
    with figure(spread) as panels:
        axes = panels[0, 0]
        for color, (method, runs) in zip(COLOURS, by_method(records).items(), strict=False):
            p_values = np.maximum(values(runs, "invariance_p"), 1e-12)
            tests = 100 * np.asarray(values(runs, "test_accuracy"))
            axes.plot(p_values, tests, ".", color=color, label=method)
        axes.axvline(0.05, color="black", linestyle=":", linewidth=1.0)
        axes.set(
            xscale="log", ylim=(0, 80), xlabel="p-value of invariance", ylabel="test accuracy, %"
        )
        axes.legend()
    return [dots, spread]

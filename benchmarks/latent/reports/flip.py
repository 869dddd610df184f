"""Tables and figures of the flip test, from its records alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness.figures import small_multiples
from benchmarks.harness.reports import by_setting, met, paired, values, where
from common.results.plots import plot_curve
from common.results.records import Record
from common.results.tables import markdown, metric, number

ERM_, LIKELIHOOD, POOLED, LACIM = "erm", "likelihood", "pool-lacim", "lacim"
CHOSEN = "lacim, chosen on validation"
TARGETS = {0.5: 0.08, 1.0: 0.30}
"""By how much LaCIM is meant to exceed ERM."""
NEAR = 0.02
"""How near it is meant to come to the likelihood's rule."""

CAPTIONS = {
    "search_steps.png": "Test accuracy along the latent search, mean and one standard deviation "
    "over seeds; lines for what needs no search. The search climbs from ERM's level to that of "
    "the rule which knows the answer."
}


def tables(records: Sequence[Record]) -> str:
    """Test accuracy of every method at every noise, and whether the targets are met."""
    taus = by_setting(records, "tau")
    methods = [m for m in (ERM_, LIKELIHOOD, POOLED, LACIM, CHOSEN) if where(records, m)]
    rows = [
        [method, *(number(metric(where(runs, method), "accuracy")) for runs in taus.values())]
        for method in methods
    ]
    header = ["test accuracy", *(f"tau = {tau:g}" for tau in taus)]
    detail = [
        [
            f"{tau:g}",
            *(number(metric(where(runs, m), "held_out_accuracy")) for m in (ERM_, LACIM)),
            *(number(metric(where(runs, m), "weight_of_x2")) for m in (POOLED, LACIM)),
        ]
        for tau, runs in taus.items()
    ]
    titles = [
        "tau", "training domains' accuracy, erm", LACIM,
        "weight of x2 by that of x1 in the most likely s, pool-lacim", LACIM,
    ]  # fmt: skip
    verdicts = "\n".join(f"- {line}" for line in map(_verdict, taus, taus.values()))
    return f"{markdown(header, rows)}\n\n{verdicts}\n\n{markdown(titles, detail)}"


def _verdict(tau: float, records: Sequence[Record]) -> str:
    over_erm, over_rule = (
        paired(where(records, LACIM), where(records, other), "accuracy")
        for other in (ERM_, LIKELIHOOD)
    )
    text = f"tau = {tau:g}: lacim - erm {number(over_erm)}"
    if tau in TARGETS:
        text += f" (target {TARGETS[tau]:g}: {met(over_erm.mean, TARGETS[tau])})"
    near = met(over_rule.mean, -NEAR)
    return f"{text}; lacim - likelihood {number(over_rule)} (target {-NEAR:g}: {near})."


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Test accuracy along the search, a panel a noise; what needs no search as a line."""
    taus, path = by_setting(records, "tau"), out / "search_steps.png"
    with small_multiples(
        path, [""], list(taus), labels=("steps of the latent search", "test accuracy"),
        title=lambda _, tau: f"tau = {tau:g}", panel=(4.2, 3.0),
    ) as panels:  # fmt: skip
        for (_, tau), axes in panels.items():
            for style, method in enumerate((LACIM, POOLED)):
                runs = [r for r in where(taus[tau], method) if r.curve]
                if runs:
                    plot_curve(axes, runs, x="step", y="accuracy", label=method, style=style)
            for method, line in ((LIKELIHOOD, "--"), (ERM_, ":")):
                level = float(np.nanmean(values(where(taus[tau], method), "accuracy")))
                axes.axhline(level, color="black", linestyle=line, linewidth=1.2, label=method)
            axes.set_ylim(0, 1)
    return [path]

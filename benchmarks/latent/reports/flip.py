"""Tables and plots of the flip test, from its records alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.results.plots import figure, plot_curve
from common.results.records import Record
from common.results.tables import group, markdown, metric, number, summarise

ERM_, LIKELIHOOD, POOLED, LACIM = "erm", "likelihood", "pool-lacim", "lacim"
CHOSEN = "lacim, chosen on validation"
TARGETS = {0.5: 0.08, 1.0: 0.30}
"""By how much LaCIM is meant to exceed ERM."""
NEAR = 0.02
"""How near it is meant to come to the likelihood's rule."""


def tables(records: Sequence[Record]) -> str:
    """Test accuracy of every method at every noise, and whether the targets are met.

    Args:
        records: of one experiment.

    Returns:
        Markdown.
    """
    taus = group(records, lambda r: float(r.setting["tau"] or 0))
    methods = [m for m in (ERM_, LIKELIHOOD, POOLED, LACIM, CHOSEN) if _of(records, m)]
    rows = [
        [method, *(number(metric(_of(own, method), "accuracy")) for own in taus.values())]
        for method in methods
    ]
    header = ["test accuracy", *(f"tau = {tau:g}" for tau in taus)]
    detail = [
        [
            f"{tau:g}",
            *(number(metric(_of(own, m), "held_out_accuracy")) for m in (ERM_, LACIM)),
            *(number(metric(_of(own, m), "weight_of_x2")) for m in (POOLED, LACIM)),
        ]
        for tau, own in taus.items()
    ]
    titles = [
        "tau", "training domains' accuracy, erm", LACIM,
        "weight of x2 by that of x1 in the most likely s, pool-lacim", LACIM,
    ]  # fmt: skip
    verdicts = "\n".join(f"- {line}" for line in map(_verdict, taus, taus.values()))
    return f"{markdown(header, rows)}\n\n{verdicts}\n\n{markdown(titles, detail)}"


def _of(records: Sequence[Record], method: str) -> list[Record]:
    return [record for record in records if record.method == method]


def _paired(records: Sequence[Record], one: str, other: str) -> list[float]:
    """The difference of two methods' accuracies, a seed each."""
    accuracy: Mapping[str, dict[int, float]] = {
        method: {r.seed: r.metrics["accuracy"] for r in _of(records, method)}
        for method in (one, other)
    }
    return [accuracy[one][seed] - accuracy[other][seed] for seed in accuracy[one]]


def _verdict(tau: float, records: Sequence[Record]) -> str:
    over, below = (summarise(_paired(records, LACIM, m)) for m in (ERM_, LIKELIHOOD))
    text = f"tau = {tau:g}: lacim - erm {number(over)}"
    if tau in TARGETS:
        text += f" (target {TARGETS[tau]:g}: {'met' if over.mean >= TARGETS[tau] else 'missed'})"
    near = "met" if below.mean >= -NEAR else "missed"
    return f"{text}; lacim - likelihood {number(below)} (target {-NEAR:g}: {near})."


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Test accuracy along the search, a panel a noise; what needs no search as a line.

    Args:
        records: of one experiment.
        out: the folder.

    Returns:
        The files written.
    """
    taus = group(records, lambda r: float(r.setting["tau"] or 0))
    path = out / "search_steps.png"
    with figure(path, columns=len(taus), panel=(4.6, 3.4)) as panels:
        for axes, (tau, own) in zip(panels[0], taus.items(), strict=True):
            for style, method in enumerate((LACIM, POOLED)):
                runs = [r for r in _of(own, method) if r.curve]
                if runs:
                    plot_curve(axes, runs, x="step", y="accuracy", label=method, style=style)
            for method, line in ((LIKELIHOOD, "--"), (ERM_, ":")):
                level = float(np.nanmean([r.metrics["accuracy"] for r in _of(own, method)]))
                axes.axhline(level, color="black", linestyle=line, linewidth=1.2, label=method)
            axes.set(title=f"tau = {tau:g}", xlabel="steps of the latent search", ylim=(0, 1))
        panels[0, 0].set_ylabel("test accuracy")
        panels[0, 0].legend(loc="lower right")
    return [path]

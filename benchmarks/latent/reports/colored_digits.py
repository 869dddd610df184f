"""Tables and plots of the LaCIM experiment, from its records alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.latent.image_grids import plot_picture
from common.results.plots import figure, plot_bars, plot_spread
from common.results.records import Record
from common.results.selection import best_setting
from common.results.tables import group, markdown, metric, number, percent, summarise

ERM_, POOLED, LACIM, COLORLESS = METHODS = ("ERM", "Pool-LaCIM", "LaCIM", "ERM without colour")
DIAGNOSIS = "diagnosis"
"""In the setting of a record that says what the latents of a chosen model hold."""
NAMES = {
    "learning_rate": "rate",
    "weight_decay": "decay",
    "beta": "beta",
    "label_weight": "label",
    "search_weight": "prior",
}
"""What settings are called in tables."""


class Chosen(NamedTuple):
    """The records of a method's chosen training settings, one a seed each."""

    trained: list[Record]
    searched: list[Record]
    """With the chosen weight; empty where nothing is searched."""
    diagnosed: list[Record]
    """What the latents hold; empty where there are none."""


def _chosen(records: Sequence[Record]) -> dict[str, dict[str, Chosen]]:
    """For every label noise and method what was chosen on validation data."""
    found: dict[str, dict[str, Chosen]] = {}
    figures = [record for record in records if "red" not in record.curve]
    for noise, own in group(figures, lambda record: record.setting["label_noise"]).items():
        methods = group(own, lambda record: record.method)
        share = f"{100 * float(noise or 0):g}%" if noise else "No"
        found[f"{share} labels flipped"] = {
            method: Chosen(
                best_setting(r for r in tried if not {"search_weight", DIAGNOSIS} & set(r.setting)),
                [r for r in tried if "test_accuracy" in r.curve],
                [r for r in tried if DIAGNOSIS in r.setting],
            )
            for method, tried in methods.items()
        }
    return found


def tables(records: Sequence[Record]) -> str:
    """Accuracy as chosen on validation data and along the search; what the bound is made of."""
    return "\n\n".join(
        f"{title}:\n\n{_accuracies(methods)}\n\n{_terms(methods)}{_held(methods)}"
        for title, methods in _chosen(records).items()
    )


def _accuracies(methods: Mapping[str, Chosen]) -> str:
    steps = _steps(methods)
    rows = []
    for method, (trained, searched, _) in methods.items():
        best = searched or trained
        chosen = [f"{NAMES[k]} {v:g}" for k, v in best[0].setting.items() if k in NAMES]
        row = [method, ", ".join(chosen)]
        row += [percent(metric(best, f"{part}_accuracy")) for part in ("validation", "test")]
        row.append(f"{best[0].metrics['step']:g}" if searched else "-")
        for i in range(len(steps)):
            along = summarise(r.curve["test_accuracy"][i] for r in searched)
            row.append(percent(along) if searched else "-")
        rows.append(row)
    header = ["method", "chosen", "validation %", "test %", "steps"]
    return markdown([*header, *(f"test % at {step:g}" for step in steps)], rows)


def _terms(methods: Mapping[str, Chosen]) -> str:
    rows = []
    for method, (trained, searched, _) in methods.items():
        if searched:
            row = [number(metric(trained, f"validation_{n}"), digits=1) for n in _TERMS]
            parts = ("validation", "test")
            row += [number(metric(searched, f"{part}_disagreement")) for part in parts]
            rows.append([method, *row])
    header = ["nats an image", *_TERMS.values(), "starts disagree, validation", "test"]
    return markdown(header, rows)


def _held(methods: Mapping[str, Chosen]) -> str:
    """What s and v hold of colour and digit, and whether the label needs the colour."""
    rows = [
        [method, *(percent(metric(c.diagnosed, name)) for name in _PROBES)]
        for method, c in methods.items()
        if c.diagnosed
    ]
    if not rows:
        return ""
    found = next(c.diagnosed for c in methods.values() if c.diagnosed)
    digit, color, both = (
        number(metric(found, f"label_given_{name}")) for name in ("digit", "color", "both")
    )
    return (
        f"\n\n{markdown(['a linear probe finds', *_PROBES.values()], rows)}\n\n"
        f"Nats of the label that are left: given the class of the digit {digit}, given the colour "
        f"{color}, given both {both}."
    )


_PROBES = {
    "s_tells_color": "colour in s, %",
    "s_tells_digit": "class of the digit in s, %",
    "v_tells_color": "colour in v, %",
    "v_tells_digit": "class of the digit in v, %",
}

_TERMS = {"reconstruction": "E log p(x given s, v)", "kl": "KL from the prior", "kl_s": "of it s"}


def _steps(methods: Mapping[str, Chosen]) -> list[float]:
    """The numbers of steps along the search."""
    return next((list(c.searched[0].curve["step"]) for c in methods.values() if c.searched), [])


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Accuracy along the search, accuracy as chosen, and what is decoded from the latents."""
    chosen = _chosen(records)
    along, bars, latents = (out / f"{n}.png" for n in ("search_steps", "accuracy", "latents"))
    with figure(along, columns=len(chosen)) as panels:
        for axes, (title, methods) in zip(panels[0], chosen.items(), strict=True):
            steps = _steps(methods)
            for i, (method, (trained, searched, _)) in enumerate(methods.items()):
                curves = [r.curve["test_accuracy"] for r in searched] or [
                    [r.metrics["test_accuracy"]] * len(steps) for r in trained
                ]
                values = 100 * np.asarray(curves)
                plot_spread(axes, steps, values, label=method, style=i, marker=bool(searched))
            axes.set(title=title, xlabel="steps of the latent search", ylim=(0, 100))
        panels[0, 0].set_ylabel("test accuracy, %")
        panels[0, 0].legend()
    with figure(bars, columns=len(chosen), panel=(5.2, 2.4)) as panels:
        for axes, (title, methods) in zip(panels[0], chosen.items(), strict=True):
            values = [
                [r.metrics["test_accuracy"] for r in searched or trained]
                for trained, searched, _ in methods.values()
            ]
            plot_bars(axes, list(methods), values, scale=100)
            axes.set(title=title, xlabel="test accuracy, %", xlim=(0, 100))
    pictures = [record for record in records if "red" in record.curve]
    if pictures:
        plot_picture(pictures[0], latents)
    return [along, bars, *([latents] if pictures else [])]

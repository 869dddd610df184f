"""Tables and figures of the experiment on coloured digits, from its records alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.harness.figures import dots_figure, small_multiples
from benchmarks.harness.reports import by_method, by_setting, values
from benchmarks.latent.colored.grid import plot_picture
from common.results.plots import COLOURS, plot_spread
from common.results.records import Record
from common.results.selection import best_setting
from common.results.tables import markdown, metric, number, percent, summarise

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


def chosen(records: Sequence[Record]) -> dict[str, dict[str, Chosen]]:
    """For every label noise and method what was chosen on validation data."""
    found: dict[str, dict[str, Chosen]] = {}
    figures = [record for record in records if "red" not in record.curve]
    for noise, runs in by_setting(figures, "label_noise").items():
        share = f"{100 * noise:g}%" if noise else "No"
        found[f"{share} labels flipped"] = {
            method: Chosen(
                best_setting(r for r in tried if not {"search_weight", DIAGNOSIS} & set(r.setting)),
                [r for r in tried if "test_accuracy" in r.curve],
                [r for r in tried if DIAGNOSIS in r.setting],
            )
            for method, tried in by_method(runs).items()
        }
    return found


def tables(records: Sequence[Record]) -> str:
    """Accuracy as chosen on validation data and along the search; what the bound is made of."""
    return "\n\n".join(
        f"{title}:\n\n{_accuracies(methods)}\n\n{_terms(methods)}{_held(methods)}"
        for title, methods in chosen(records).items()
    )


def _accuracies(methods: Mapping[str, Chosen]) -> str:
    steps = _steps(methods)
    rows = []
    for method, (trained, searched, _) in methods.items():
        best = searched or trained
        setting = [f"{NAMES[k]} {v:g}" for k, v in best[0].setting.items() if k in NAMES]
        row = [method, ", ".join(setting)]
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
    diagnosed = next(c.diagnosed for c in methods.values() if c.diagnosed)
    digit, color, both = (
        number(metric(diagnosed, f"label_given_{name}")) for name in ("digit", "color", "both")
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


CAPTIONS = {
    "search_steps.png": "Test accuracy along the latent search, mean and one standard deviation "
    "over seeds; broken lines for methods without a search. Further steps do not help here, "
    "and without flipped labels they harm.",
    "accuracy.png": "Test accuracy as chosen on validation data: dots are seeds, the mark their "
    "mean with one standard deviation. With flipped labels all but the colour-blind follow the "
    "colour.",
    "latents.png": "Images of the test domain, decoded from the best start and from where the "
    "search led; below, the first one while one latent moves over 2.5 standard deviations "
    "either side.",
}


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Accuracy along the search, accuracy as chosen, and what is decoded from the latents."""
    tasks = chosen(records)
    along, dots, latents = (out / f"{n}.png" for n in ("search_steps", "accuracy", "latents"))
    with small_multiples(
        along, [""], list(tasks), labels=("steps of the latent search", "test accuracy, %"),
        title=lambda _, column: column, panel=(4.2, 3.0),
    ) as panels:  # fmt: skip
        for (_, title), axes in panels.items():
            steps = _steps(tasks[title])
            for style, (method, (trained, searched, _)) in enumerate(tasks[title].items()):
                if searched:
                    scores = 100 * np.asarray([r.curve["test_accuracy"] for r in searched])
                    plot_spread(axes, steps, scores, label=method, style=style, marker=True)
                else:
                    level = 100 * metric(trained, "test_accuracy").mean
                    axes.axhline(level, color=COLOURS[style], linestyle="--", label=method)
            axes.set_ylim(0, 100)
    scores = {
        title: {
            method: values(searched or trained, "test_accuracy")
            for method, (trained, searched, _) in methods.items()
        }
        for title, methods in tasks.items()
    }
    dots_figure(dots, scores, label="test accuracy, %", scale=100)
    pictures = [record for record in records if "red" in record.curve]
    if pictures:
        plot_picture(pictures[0], latents)
    return [along, dots, *([latents] if pictures else [])]

"""The table of our search beside the authors', from its records alone."""

from collections.abc import Sequence

import numpy as np

from benchmarks.harness.reports import joined, met, where
from common.results.records import Record
from common.results.tables import markdown, metric

BESIDE_AUTHORS = "latent search beside the authors'"
AUTHORS, ENOUGH = "the authors' loop, PyTorch", "compiled, to their objective"
OURS = "compiled"
TARGET = 10.0
"""The images a second that are searched to the authors' objective over theirs."""


def table(networks: dict[str, list[Record]]) -> str:
    """Images a second of every way, the objective that each reaches, and the ratio.

    Args:
        networks: the task's records, by decoder.
    """
    rows, verdicts = [], []
    for name, runs in networks.items():
        ours = where(runs, OURS)
        reached = {OURS: "objective", ENOUGH: "enough_objective", AUTHORS: "authors_objective"}
        for way, objective in reached.items():
            if where(runs, way):
                rates = ("images_per_second", "images_per_cpu_second")
                cells = [_median(runs, way, rate) for rate in rates]
                value = metric(ours, objective).mean
                rows.append([name, way, *(f"{cell:,.1f}" for cell in cells), f"{value:.2f}"])
        if where(runs, AUTHORS):
            verdicts.append(_verdict(name, runs))
        else:
            verdicts.append(f"- {name}: not installed, so left out: torch.")
    header = ["decoder", "way", "images/s", "images/CPU s", "objective, nats"]
    return joined(markdown(header, rows), "\n".join(verdicts))


def _verdict(name: str, runs: Sequence[Record]) -> str:
    enough, theirs = (_median(runs, way, "images_per_second") for way in (ENOUGH, AUTHORS))
    of = {
        name: metric(where(runs, OURS), name).mean
        for name in ("enough_steps", "enough_objective", "authors_objective")
    }
    steps, ratio = of["enough_steps"], enough / theirs
    if of["enough_objective"] < of["authors_objective"]:
        return f"- {name}: their objective is not reached within {steps:.0f} steps: missed."
    return (
        f"- {name}: their objective takes {steps:.0f} steps from the best start, at {ratio:.1f} "
        f"times the images a second of their loop (target {TARGET:g}: {met(ratio, TARGET)}); the "
        f"search by default, which goes on to a higher one, has {of_default(runs):.1f} times as "
        "many."
    )


def of_default(runs: Sequence[Record]) -> float:
    """Images a second of the search as it is by default over those of the authors' loop.

    Args:
        runs: of one decoder.
    """
    ours, theirs = (_median(runs, way, "images_per_second") for way in (OURS, AUTHORS))
    return ours / theirs


def ratios(runs: Sequence[Record]) -> list[float]:
    """Images a second to their objective over theirs, a seed each; none where it is not reached.

    Args:
        runs: of one decoder.
    """
    reached = {
        r.seed: r.metrics["enough_objective"] >= r.metrics["authors_objective"]
        for r in where(runs, OURS)
        if "authors_objective" in r.metrics
    }
    ours, theirs = (
        {r.seed: r.metrics["images_per_second"] for r in where(runs, way)}
        for way in (ENOUGH, AUTHORS)
    )
    return [ours[seed] / theirs[seed] for seed in ours.keys() & theirs.keys() if reached[seed]]


def _median(runs: Sequence[Record], way: str, rate: str) -> float:
    return float(np.median([record.metrics[rate] for record in where(runs, way)]))

"""What all reports are made of: small functions of records.

A report reads records only. It picks runs (`where`), sets them side by side (`by_method`,
`by_setting`), compares two methods seed by seed (`paired`), and says whether a target is met.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from common.results.comparison import Difference, interval
from common.results.origin import shortened
from common.results.power import told_apart
from common.results.records import Record
from common.results.selection import best_setting
from common.results.tables import Summary, group, summarise

MET, MISSED, CLOSE = "met", "missed", "too close to tell"
"""What is said of a target."""


def where(records: Iterable[Record], method: str | None = None, **setting: Any) -> list[Record]:
    """The records of a method, where one is named, whose settings have the values given."""
    return [
        record
        for record in records
        if (method is None or record.method == method)
        and all(record.setting.get(name) == value for name, value in setting.items())
    ]


def by_method(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by method, in the order in which methods first came."""
    return group(records, lambda record: record.method)


def by_setting(records: Iterable[Record], name: str) -> dict[Any, list[Record]]:
    """Records by the value of one setting, in the order in which values first came."""
    return group(records, lambda record: record.setting[name])


def numeric(record: Record, name: str) -> float:
    """A setting that is a number; 0 where the record has none."""
    return float(record.setting.get(name) or 0)


def best_by_method(
    records: Iterable[Record], criterion: str = "validation_accuracy"
) -> dict[str, list[Record]]:
    """Of each method the records of its best setting (`common.selection.best_setting`)."""
    return {
        method: best_setting(tried, criterion=criterion)
        for method, tried in by_method(records).items()
    }


def at_edge(value: float, tried: Iterable[float]) -> bool:
    """Whether a value is the least or the largest of several tried: others might do better."""
    grid = sorted(set(tried))
    return len(grid) > 1 and value in (grid[0], grid[-1])


def marked(name: str, runs: Sequence[Record], tried: Iterable[Record]) -> str:
    """A setting of runs chosen among those tried, with "(edge)" at the edge of its grid.

    Empty where the runs have no such setting.
    """
    if name not in runs[0].setting:
        return ""
    value = numeric(runs[0], name)
    return f"{value:g}" + " (edge)" * at_edge(value, (numeric(r, name) for r in tried))


def values(records: Iterable[Record], metric: str) -> list[float]:
    """A metric of each record."""
    return [record.metrics[metric] for record in records]


def paired(
    runs: Sequence[Record], base: Sequence[Record], metric: str = "test_accuracy"
) -> Summary:
    """Differences of a metric, seed by seed, of the seeds that both sides have."""
    of_seed = {record.seed: record.metrics[metric] for record in base}
    return summarise(r.metrics[metric] - of_seed[r.seed] for r in runs if r.seed in of_seed)


def met(value: float, target: float, *, at_most: bool = False) -> str:
    """Says whether a target, the least value wanted or the largest, is "met" or "missed"."""
    return MET if (value <= target if at_most else value >= target) else MISSED


def reached(
    ratio: float, target: float, over: np.ndarray | None = None, *, at_most: bool = False
) -> str:
    """As `met`; but where the ratio's values over several turns cover the target, neither.

    A program's repetitions are its statistics: the 95% interval of their mean is looked at.
    """
    if over is not None and len(over) > 1:
        # Seconds are multiplied by what else the machine does: compared as logarithms.
        spread = interval(np.log(over))
        if abs(np.log(target) - spread.mean) < spread.half_width:
            return CLOSE
    return met(ratio, target, at_most=at_most)


def turns(over: Record, under: Sequence[Record]) -> np.ndarray | None:
    """Seconds of one way by those of another's of the same turn; None where they are not kept."""
    seconds = [record.curve.get("seconds", ()) for record in (over, *under[:1])]
    if len(seconds) < 2 or not len(seconds[0]) or len(seconds[0]) != len(seconds[1]):
        return None
    return np.divide(*map(np.asarray, seconds))


def magnitude(value: float, *, digits: int = 1, rounded: Callable[[float], float] = round) -> str:
    """A distance in the form in which its order of magnitude is read: 0.9, or 3 · 10⁻¹⁴.

    It is `rounded` to digits: up by `math.ceil` and down by `math.floor`, as bounds have to be.
    """
    if value > 0 and math.isfinite(value):
        shown = 2 if 0.01 <= value < 100 else digits
        unit = 10.0 ** (math.floor(math.log10(value)) - shown + 1)
        units = round(value / unit, 6)  # 0.84 is 84 hundredths, not a rounding less
        value = rounded(units) * unit
    if value == 0 or not math.isfinite(value) or 0.01 <= value < 100:
        return f"{value:.2g}"
    leading, exponent = f"{value:.{digits - 1}e}".split("e")
    raised = f"{int(exponent)}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{leading} · 10{raised}"


def won_and_lost(differences: Sequence[Difference]) -> str:
    """How many of the comparisons of one table are won and lost, Holm's correction made."""
    if not differences:
        return "not compared"
    found = told_apart(differences)
    better, worse = found.count(1) or "none", found.count(-1) or "none"
    return f"better in {better} of {len(differences)} comparisons, worse in {worse}"


def source(origin: Mapping[str, Any]) -> str:
    """Command, commit and hardware that records came from, in one line."""
    made = origin["provenance"]
    commit = shortened(made["git_commit"])
    return f"`{origin['command']}`, commit {commit}, {hardware(made['device'])}"


def hardware(device: Mapping[str, Any]) -> str:
    """A device in words: "2 CPU cores", or "1 NVIDIA H100 beside 16 CPU cores"."""
    cores = f"{device['cores']} CPU core{'s' * (device['cores'] != 1)}"
    if device["kind"] == "cpu":
        return cores if device["count"] == 1 else f"{device['count']} CPU devices on {cores}"
    return f"{device['count']} {device['kind']} beside {cores}"


def joined(*sections: str) -> str:
    """Sections of a page with an empty line between them; empty ones are left out."""
    return "\n\n".join(section for section in sections if section)

"""Successive halving: all settings are tried on a small budget, the best of them on larger ones.

A budget is a number of epochs. Every rung trains from the start, since what changes the step in the
course of training depends on the budget. Settings that are tried on less than the whole budget
leave records too: their setting has one more entry, `TUNING`, and no figure is reported on them.

Source: Jamieson and Talwalkar, 2016, arxiv.org/abs/1502.07943.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.harness import hosts
from benchmarks.harness.reports import by_method, by_setting, numeric, where
from benchmarks.harness.stages import Stages
from common.results.records import Record
from common.results.selection import best_setting
from common.results.tables import Summary, markdown, metric, percent

TUNING = "tuning_epochs"
"""In the settings of records of a part of the budget: how many epochs it was."""

UNFINISHED = "No run has had all epochs yet."
"""Stands for tables of a run that was stopped in its search."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Halving:
    """How settings are tried."""

    factor: int = 3
    """From rung to rung the budget grows by it, and the number of settings falls."""
    seeds: int = 2
    """So many seeds try settings; all take the one that is chosen."""


class Rung(NamedTuple):
    """A budget, and what is trained with it."""

    epochs: int
    values: tuple[float, ...]
    """The settings tried."""
    seeds: tuple[int, ...]
    setting: Mapping[str, int]
    """What its records' settings have beside: nothing for the whole budget."""

    @property
    def is_last(self) -> bool:
        """Whether it has the whole budget."""
        return not self.setting

    @property
    def label(self) -> str:
        """What the names of its stages end with."""
        return "" if self.is_last else f", {self.epochs} epochs"


Work = Callable[[Rung], Iterable[tuple[str, Callable[[], Iterable[Record]]]]]
"""From a rung to its stages: names, and what makes their records."""


def budgets(values: int, epochs: int, halving: Halving | None) -> list[tuple[int, int]]:
    """Epochs and number of settings of every rung.

    Args:
        values: how many settings there are, at least 1.
        epochs: the whole budget.
        halving: None to try all settings with all of it.

    Returns:
        The rungs, the smallest budget first.

    Raises:
        ValueError: if the budget has too few epochs for so many rungs.

    Example:
        >>> budgets(5, 18, Halving(factor=3))
        [(2, 5), (6, 2), (18, 1)]
        >>> budgets(5, 18, None)
        [(18, 5)]
    """
    counts = [values]
    while halving is not None and counts[-1] > 1:
        counts.append(-(-counts[-1] // halving.factor))
    shares = [1 if halving is None else halving.factor**i for i in reversed(range(len(counts)))]
    if epochs < shares[0]:
        raise ValueError(
            f"{values} settings are tried in {len(counts)} rungs, the first with 1/{shares[0]} of "
            f"the epochs, and there are {epochs}; give more epochs or fewer settings."
        )
    return [(epochs // share, count) for share, count in zip(shares, counts, strict=True)]


def runs(values: int, epochs: int, seeds: int, halving: Halving | None) -> list[tuple[int, int]]:
    """Epochs and number of runs of every rung: what a progress bar counts.

    Args:
        values: how many settings there are.
        epochs: the whole budget.
        seeds: how many seeds there are.
        halving: None to try all settings with all of it.
    """
    rungs = budgets(values, epochs, halving)
    few = seeds if halving is None else min(seeds, halving.seeds)
    return [
        (epochs, count * (seeds if place == len(rungs) - 1 else few))
        for place, (epochs, count) in enumerate(rungs)
    ]


def halved(
    values: Sequence[float], seeds: Sequence[int], epochs: int, halving: Halving | None,
    stages: Stages, work: Work, *, method: str, setting: Mapping[str, Any],
    name: str = "learning_rate", criterion: str = "validation_accuracy",
) -> Iterator[Record]:  # fmt: skip
    """Yields the records of all rungs, those of an earlier run left out.

    Where stages are left out that are not there, it ends with the first rung that lacks records.

    Args:
        values: the settings to try, at least one.
        seeds: of the chosen setting's runs; the first of them try the others.
        epochs: the whole budget.
        halving: None to try all settings with all seeds and the whole budget.
        stages: what is computed already.
        work: from a rung to its stages.
        method: whose settings these are, as records name it.
        setting: what else in their settings tells its records from others.
        name: of the setting, in records.
        criterion: a metric, larger is better, by whose mean over seeds settings are kept; a setting
            that diverged in a seed comes behind those that did so in fewer.
    """
    rungs, chosen = budgets(len(values), epochs, halving), tuple(values)
    for place, (budget, _) in enumerate(rungs):
        last = place == len(rungs) - 1
        some = seeds if last or halving is None else seeds[: halving.seeds]
        for stage, make in work(
            Rung(budget, chosen, tuple(some), {} if last else {TUNING: budget})
        ):
            yield from stages.of(stage, make)
        if not last:
            tried = where(stages.known, method, **{**setting, TUNING: budget})
            if not stages.computes_all and not _complete(tried, name, chosen, some):
                return  # of a run that was stopped here: nothing says which settings went on
            best = functools.partial(_best, tried, rungs[place + 1][1], name, criterion)
            # Only the process that reads the folder knows the records of an earlier run.
            chosen = tuple(hosts.from_first(best))


def _complete(
    tried: Sequence[Record], name: str, values: Sequence[float], seeds: Sequence[int]
) -> bool:
    """Whether a rung has a record of each setting from each seed."""
    return len({(r.setting[name], r.seed) for r in tried}) >= len(values) * len(seeds)


def _best(records: Sequence[Record], count: int, name: str, criterion: str) -> list[float]:
    """The best settings, in the order in which they were tried."""
    left, found = list(records), []
    for _ in range(count):
        value: Any = best_setting(left, criterion=criterion)[0].setting[name]
        found.append(value)
        left = [record for record in left if record.setting[name] != value]
    return [value for value in by_setting(records, name) if value in found]


def reported(records: Iterable[Record]) -> list[Record]:
    """The runs that had the whole budget.

    Args:
        records: of an experiment.
    """
    return [record for record in records if TUNING not in record.setting]


def grid(records: Sequence[Record]) -> list[Record]:
    """The runs of the smallest budget, with which every setting was tried.

    Args:
        records: of an experiment, tuned with halving or not.
    """
    least = min(map(_budget, records), default=math.inf)
    return [record for record in records if _budget(record) == least]


def _budget(record: Record) -> float:
    """Epochs; infinite for the whole budget."""
    return numeric(record, TUNING) or math.inf


def tuning_table(
    records: Sequence[Record], *, name: str = "learning_rate",
    criterion: str = "validation_accuracy", show: Callable[[Summary], str] = percent,
) -> str:  # fmt: skip
    """What settings scored with every budget, a row a method; Markdown, empty without halving.

    Args:
        records: of one task.
        name: of the setting.
        criterion: what settings were kept by.
        show: how a mean and its spread are written.
    """
    parts = sorted({_budget(record) for record in records} - {math.inf})
    if not parts:
        return ""
    rows = []
    for method, of_method in by_method(records).items():
        cells = []
        for budget in (*parts, math.inf):
            tried = by_setting([r for r in of_method if _budget(r) == budget], name)
            scores = {value: show(metric(runs, criterion)) for value, runs in tried.items()}
            cells.append("; ".join(f"{value:g}: {score}" for value, score in scores.items()))
        rows.append([method, *cells])
    head = [f"with {budget:g} epoch{'s' * (budget != 1)}" for budget in parts]
    what = f"{name.replace('_', ' ')}: {criterion.replace('_', ' ')}"
    return markdown([f"method ({what})", *head, "with all"], rows)

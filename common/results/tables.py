"""Records summarised over seeds, as Markdown tables."""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from common.results.records import Record

Key = TypeVar("Key", bound=Hashable)


class Summary(NamedTuple):
    """Mean and spread of one figure over seeds."""

    mean: float
    """Over the finite values; NaN if there are none."""
    sd: float
    """Sample standard deviation (divisor n - 1); NaN for fewer than two finite values."""
    n: int
    """How many finite values there are."""
    failed: int
    """How many were not finite: diverged runs, which the mean leaves out."""


def summarise(values: Iterable[float]) -> Summary:
    """Mean, sample standard deviation and count; values that are not finite are counted apart.

    Example:
        >>> summarise([0.9, 0.8, float("nan")])
        Summary(mean=0.85..., sd=0.07..., n=2, failed=1)
    """
    every = np.asarray(list(values), dtype=np.float64)
    finite = every[np.isfinite(every)]
    return Summary(
        mean=float(finite.mean()) if finite.size else math.nan,
        sd=float(finite.std(ddof=1)) if finite.size > 1 else math.nan,
        n=int(finite.size),
        failed=int(every.size - finite.size),
    )


def percent(summary: Summary) -> str:
    """A fraction in percent, "97.01 ± 0.14".

    Diverged runs are counted, "97.01 ± 0.14 (1 of 3 diverged)", and a single run, which has no
    spread, is marked, "97.01 (n = 1)". Where nothing was measured, it is "-".

    Example:
        >>> percent(summarise([0.97, 0.98, 0.96]))
        '97.00 ± 1.00'
    """
    return _spread(summary, scale=100.0, digits=2)


def number(summary: Summary, *, digits: int = 3) -> str:
    """A figure without a factor, "0.551 ± 0.012"; diverged runs are counted as by `percent`.

    Example:
        >>> number(summarise([1.0]))
        '1.000 (n = 1)'
    """
    return _spread(summary, scale=1.0, digits=digits)


def _spread(summary: Summary, *, scale: float, digits: int) -> str:
    """Mean and standard deviation as text."""
    total = summary.n + summary.failed
    if total == 0:
        return "-"
    if summary.n == 0:
        return f"diverged ({summary.failed} of {total})"
    text = f"{scale * summary.mean:.{digits}f}"
    text += f" ± {scale * summary.sd:.{digits}f}" if summary.n > 1 else f" (n = {summary.n})"
    return text + (f" ({summary.failed} of {total} diverged)" if summary.failed else "")


def group(records: Iterable[Record], key: Callable[[Record], Key]) -> dict[Key, list[Record]]:
    """Records by `key`, groups and members in the order in which they first came."""
    groups: dict[Key, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def metric(records: Iterable[Record], name: str) -> Summary:
    """One metric summarised over the records that have it.

    A run that diverged has it, as NaN; one that lacks it was not measured, and is left out.
    """
    return summarise(record.metrics[name] for record in records if name in record.metrics)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, columns padded to line up in plain text; numbers to the right.

    Args:
        header: column titles. The first column is set left, the others right.
        rows: cells, each row as long as the header.

    Raises:
        ValueError: if a row is not as long as the header.

    Example:
        >>> print(markdown(["method", "accuracy"], [["sgd", "97.98"], ["gsgd", "97.01"]]))
        | method | accuracy |
        | :----- | -------: |
        | sgd    |    97.98 |
        | gsgd   |    97.01 |
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row has {len(row)} cells, the header {len(header)}: {row}.")
    # Each column as wide as its widest cell; a rule's colon marks the side to which it is set.
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join([line(header), line(rule), *map(line, rows)])

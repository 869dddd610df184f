"""Records of rescaled starts by network, rule, way and start."""

import math
from collections.abc import Sequence

import numpy as np

from benchmarks.path_space.rescaled.rows import RULES, WAYS, Way, row_name
from common.results.records import Record
from common.results.tables import group

PROTOCOLS = ("tuned", "kept")

CONTROL = "s = 0, one rounding on"
"""The start that differs from that of s = 0 in the last digit of every weight."""


class Board:
    """What is asked of the records, in one place."""

    def __init__(self, records: Sequence[Record]):
        """Sorts the records.

        Args:
            records: of one run of the experiment.
        """
        self._cells = group(records, lambda r: (r.setting["problem"], r.method, r.setting["start"]))
        self._first = group(records, lambda r: str(r.setting["problem"]))
        methods = {record.method for record in records}
        self.problems = list(self._first)
        self.rules = [r.name for r in RULES if row_name(r.name, WAYS[0].name) in methods]

    def row(self, rule: str, way: Way) -> str:
        """What a row is called."""
        return row_name(rule, way.name)

    def rescaled(self, problem: str) -> list[str]:
        """The starts that were rescaled at random, by rising spread."""
        return [n for n in self._starts(problem) if self._spread(problem, n) is not None]

    def damages(self, problem: str) -> list[str]:
        """The starts to which something was done in earnest: not rescaled, not the control."""
        others = [n for n in self._starts(problem) if self._spread(problem, n) is None]
        return [n for n in others if n != CONTROL]

    def spread(self, problem: str, start: str) -> float:
        """The s of a start that was rescaled at random."""
        spread = self._spread(problem, start)
        assert spread is not None
        return spread

    def _spread(self, problem: str, start: str) -> float | None:
        found = next(r for r in self._first[problem] if r.setting["start"] == start)
        spread = found.setting["spread"]
        return None if spread is None else float(spread)

    def _starts(self, problem: str) -> list[str]:
        return list(group(self._first[problem], lambda r: str(r.setting["start"])))

    def records(self, problem: str, rule: str, way: Way, start: str) -> list[Record]:
        """One a seed."""
        return self._cells[problem, row_name(rule, way.name), start]

    def raw(self, problem: str, rule: str, way: Way, start: str, protocol: str) -> list[float]:
        """Test accuracy seed by seed; NaN where training diverged."""
        own = self.records(problem, rule, way, start)
        return [record.metrics[f"{protocol}_accuracy"] for record in own]

    def values(self, problem: str, rule: str, way: Way, start: str, protocol: str) -> np.ndarray:
        """Test accuracy seed by seed; a run that diverged counts as one that learnt nothing."""
        own = self.records(problem, rule, way, start)
        chance = own[0].metrics["chance_accuracy"]
        found = self.raw(problem, rule, way, start, protocol)
        return np.asarray([v if math.isfinite(v) else chance for v in found])

    def before(self, problem: str, start: str) -> list[float]:
        """Test accuracy of a start, seed by seed."""
        own = self.records(problem, self.rules[0], WAYS[0], start)
        return [record.metrics["start_accuracy"] for record in own]

"""When comparisons decide, and when they cannot: the rule behind every verdict on accuracy.

Each comparison is of two methods over the same seeds. It is won or lost where Student's t test of
the paired differences, corrected by Holm's method for the number of comparisons of its table, is
significant at 5%. Where it is neither it says "no difference as large as hoped" only if the seeds
could have seen the difference that was hoped for, with a power of 80%, and their 95% interval
excludes it. Else it decides nothing; nor does it where the better side has less than `SHARE` of the
accuracy that the task allows, since what is true of a network that has hardly learnt anything need
not be true of one that has.
"""

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.judgement.finding import FAILS, HOLDS, PARTLY, UNDECIDED
from common.results.comparison import Difference
from common.results.power import smallest_visible, told_apart

SHARE = 0.8
"""The least share of what a task allows at which a comparison is taken to say anything of it."""

BETTER, WORSE, NONE = "better", "worse", "no difference as large as hoped"
BLIND, UNTRAINED = "not told apart", "too little learnt"


class Comparison(NamedTuple):
    """Two methods on one task, all figures in points of a hundred."""

    task: str
    gain: Difference
    hoped: float
    """The published gain, or the least that one would change the method for."""
    reached: float = 100.0
    """The score of the better side."""
    allowed: float = 100.0
    """The score that the task allows, as published or measured where nothing was spared."""

    @property
    def visible(self) -> float:
        """The smallest gain that its seeds could have seen."""
        return smallest_visible(self.gain)


def points(gain: Difference, *, scale: float = 100.0) -> Difference:
    """A difference of fractions in points, or of scores by the points that one of them is worth."""
    return gain._replace(mean=scale * gain.mean, half_width=scale * gain.half_width)


def outcomes(comparisons: Sequence[Comparison]) -> list[str]:
    """What each comparison of one table says."""
    return [
        _outcome(comparison, sign)
        for comparison, sign in zip(
            comparisons, told_apart([c.gain for c in comparisons]), strict=True
        )
    ]


def _outcome(comparison: Comparison, sign: int) -> str:
    if comparison.reached < SHARE * comparison.allowed:
        return UNTRAINED
    if sign:
        return BETTER if sign > 0 else WORSE
    gain, hoped = comparison.gain, comparison.hoped
    excluded = gain.mean + gain.half_width < hoped
    return NONE if comparison.visible <= hoped and excluded else BLIND


def verdict(comparisons: Sequence[Comparison]) -> str:
    """The verdict on "better", from all comparisons of one table.

    It holds if all are won, and partly if at least a quarter is, and more than are lost: chance
    alone wins one in forty. It does not hold if at least half of them say something, and that is
    less; else it is not decided.
    """
    found, n = outcomes(comparisons), len(comparisons)
    better, worse = found.count(BETTER), found.count(WORSE)
    if n and better == n:
        return HOLDS
    if 4 * better >= max(1, n) and better > worse:
        return PARTLY
    decided = better + worse + found.count(NONE)
    return FAILS if n and 2 * decided >= n else UNDECIDED


def words(comparisons: Sequence[Comparison]) -> str:
    """How many comparisons say what, each with the figures of one of them."""
    if not comparisons:
        return "not compared"
    of = {kind: [] for kind in (BETTER, WORSE, NONE, BLIND, UNTRAINED)}
    for comparison, kind in zip(comparisons, outcomes(comparisons), strict=True):
        of[kind].append(comparison)
    best = _gain(max(of[BETTER], key=lambda c: c.gain.mean)) if of[BETTER] else ""
    least = _gain(min(of[WORSE], key=lambda c: c.gain.mean)) if of[WORSE] else ""
    said = [
        f"better in {len(of[BETTER]) or 'none'} of {len(comparisons)} comparisons{best}, "
        f"worse in {len(of[WORSE]) or 'none'}{least}"
    ]
    if of[NONE]:
        said.append(f"no difference as large as hoped in {len(of[NONE])} ({_power(of[NONE])})")
    if of[BLIND]:
        said.append(f"not told apart in {len(of[BLIND])} ({_power(of[BLIND])})")
    if of[UNTRAINED]:
        nearest = max(of[UNTRAINED], key=lambda c: c.reached / c.allowed)
        said.append(
            f"too little learnt in {len(of[UNTRAINED])} (at best {nearest.task}: "
            f"{nearest.reached:.0f} of {nearest.allowed:.0f}, where {100 * SHARE:.0f}% of it is "
            "asked for)"
        )
    return "; ".join(said)


def in_short(comparisons: Sequence[Comparison]) -> str:
    """How many comparisons are won and lost, and the commonest reason why the others tell nothing.

    For a table's cell; `words` has all of it.
    """
    if not comparisons:
        return "not compared"
    found = outcomes(comparisons)
    of = {kind: [c for c, k in zip(comparisons, found, strict=True) if k == kind] for kind in found}
    best = _gain(max(of[BETTER], key=lambda c: c.gain.mean)) if BETTER in of else ""
    said = (
        f"better in {found.count(BETTER) or 'none'} of {len(found)} comparisons{best}, "
        f"worse in {found.count(WORSE) or 'none'}"
    )
    blind, untrained = of.get(BLIND, []), of.get(UNTRAINED, [])
    if count := len(blind) + len(untrained):
        said += f", not decided in {count} ("
        if len(blind) >= len(untrained):
            said += f"most seeds see {_number(_middle(blind).visible)} points, "
            said += f"{_middle(blind).hoped:.2g} are hoped for)"
        else:
            said += "most networks have learnt too little)"
    return said


def _gain(comparison: Comparison) -> str:
    return f" (most: {comparison.task}, {comparison.gain.mean:+.1f} points)"


def _power(comparisons: Sequence[Comparison]) -> str:
    """What the seeds could have seen in the comparison that stands in the middle of some."""
    middle = _middle(comparisons)
    return (
        f"{middle.task}: visible from {_number(middle.visible)} points on, hoped for "
        f"{middle.hoped:.2g}"
    )


def _middle(comparisons: Sequence[Comparison]) -> Comparison:
    """The one whose seeds see neither best nor worst what is hoped for."""
    return sorted(comparisons, key=lambda c: c.visible / c.hoped)[len(comparisons) // 2]


def _number(value: float) -> str:
    """Of points; with a single seed nothing is visible."""
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2f}"

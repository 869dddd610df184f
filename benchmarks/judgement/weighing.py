"""When comparisons decide, and when they cannot: the rule behind every verdict on accuracy.

Each comparison is of two methods over the same seeds. It is won or lost where Student's t test of
the paired differences, corrected by Holm's method for the number of comparisons of its table, is
significant at 5%. Where it is neither it says "no gain as large as hoped" only if the seeds could
have seen the gain that was hoped for, with a power of 80%, and their 95% interval excludes it.
Power and interval are those of the comparison by itself: what is said to be absent is not corrected
for the number of comparisons. Else it decides nothing; nor does it where the better side has less
than `SHARE` of the accuracy that the task allows, since what is true of a network that has hardly
learnt anything need not be true of one that has; nor where the baseline's step is at the edge of
its grid, since with a wider grid the baseline might be better.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.judgement.finding import FAILS, HOLDS, PARTLY, UNDECIDED
from common.results.comparison import Difference
from common.results.power import smallest_visible, told_apart

SHARE = 0.8
"""The least share of what a task allows at which a comparison is taken to say anything of it."""

BETTER, WORSE, NONE = "better", "worse", "no gain as large as hoped"
BLIND, UNTRAINED = "not told apart", "too little learnt"
EDGE = "baseline's step at the edge of its grid"


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
    at_edge: bool = False
    """Whether the baseline's step is the least or the largest of its grid."""

    @property
    def visible(self) -> float:
        """The smallest gain that its seeds could have seen, were it the only comparison."""
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
    if comparison.at_edge:
        return EDGE
    if sign:
        return BETTER if sign > 0 else WORSE
    gain, hoped = comparison.gain, comparison.hoped
    excluded = gain.mean + gain.half_width < hoped
    return NONE if comparison.visible <= hoped and excluded else BLIND


def verdict(comparisons: Sequence[Comparison]) -> str:
    """The verdict on "better", from all comparisons of one table.

    It holds if all are won, and partly if at least a quarter is, and more than are lost. By chance
    alone any of them is won in one table of forty. It does not hold if at least half of them say
    something, and that is less; else it is not decided.
    """
    found, n = outcomes(comparisons), len(comparisons)
    better, worse = found.count(BETTER), found.count(WORSE)
    if n and better == n:
        return HOLDS
    if 4 * better >= max(1, n) and better > worse:
        return PARTLY
    decided = better + worse + found.count(NONE)
    return FAILS if n and 2 * decided >= n else UNDECIDED


def as_good(comparisons: Sequence[Comparison]) -> str:
    """The verdict on "no worse", from all comparisons of one table.

    One that is lost refutes it. It holds if none is and at least half are won or exclude a loss as
    large as the gain hoped for, which their seeds could have seen; else it is not decided.
    """
    found = outcomes(_the_other_way(comparisons))
    if BETTER in found:
        return FAILS
    excluded = found.count(NONE) + found.count(WORSE)
    return HOLDS if found and 2 * excluded >= len(found) else UNDECIDED


def _the_other_way(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Losses as gains: of the baseline over the method."""
    return [c._replace(gain=c.gain._replace(mean=-c.gain.mean)) for c in comparisons]


def words(comparisons: Sequence[Comparison]) -> str:
    """How many comparisons say what, each with the figures of one of them."""
    if not comparisons:
        return "not compared"
    of = _by_outcome(comparisons)
    said = [_won_and_lost(of), *_uncorrected(of, gains=True)]
    said += [
        f"{kind} in {len(of[kind])} ({_power(of[kind])})" for kind in (NONE, BLIND) if of[kind]
    ]
    if of[EDGE]:
        said.append(f"{EDGE} in {len(of[EDGE])} ({of[EDGE][0].task} the first)")
    if of[UNTRAINED]:
        nearest = max(of[UNTRAINED], key=lambda c: c.reached / c.allowed)
        said.append(
            f"{UNTRAINED} in {len(of[UNTRAINED])} (at best {nearest.task}: "
            f"{nearest.reached:.0f} of {nearest.allowed:.0f}, where {100 * SHARE:.0f}% of it is "
            "asked for)"
        )
    return "; ".join(said)


def in_short(comparisons: Sequence[Comparison]) -> str:
    """How many comparisons say what, and why some decide nothing.

    For a table's cell; `words` has more of it.
    """
    if not comparisons:
        return "not compared"
    of = _by_outcome(comparisons)
    said = [_won_and_lost(of), *_uncorrected(of, gains=False)]
    if of[NONE]:
        said.append(f"{NONE} in {len(of[NONE])}")
    return ", ".join(said + _undecided(of))


def losses_in_short(comparisons: Sequence[Comparison]) -> str:
    """How many comparisons are lost, and how many exclude a loss (see `as_good`)."""
    if not comparisons:
        return "not compared"
    of = _by_outcome(_the_other_way(comparisons))
    lost, excluded = of[BETTER], len(of[NONE]) + len(of[WORSE])
    worst = max(lost, key=lambda c: c.gain.mean, default=None)
    most = f" (most: {worst.task}, {-worst.gain.mean:+.1f} points)" if worst else ""
    said = [f"worse in {len(lost) or 'none'} of {len(comparisons)} comparisons{most}"]
    if excluded:
        said.append(f"a loss as large as the gain hoped for is excluded in {excluded}")
    return ", ".join(said + _undecided(of))


def _undecided(of: Mapping[str, Sequence[Comparison]]) -> list[str]:
    """How many comparisons decide nothing, and why; nothing if all decide."""
    reasons = {UNTRAINED: "too little is learnt", EDGE: EDGE}
    if of[BLIND]:
        reasons = {BLIND: f"typically {_visible(_middle(of[BLIND]))}", **reasons}
    counts = {kind: len(of[kind]) for kind in reasons if of[kind]}
    if not counts:
        return []
    said = [
        f"{count}: {reasons[kind]}" if len(counts) > 1 else reasons[kind]
        for kind, count in counts.items()
    ]
    return [f"not decided in {sum(counts.values())} ({'; '.join(said)})"]


def _by_outcome(comparisons: Sequence[Comparison]) -> dict[str, list[Comparison]]:
    """The comparisons of each outcome, none of some."""
    of = {kind: [] for kind in (BETTER, WORSE, NONE, BLIND, EDGE, UNTRAINED)}
    for comparison, kind in zip(comparisons, outcomes(comparisons), strict=True):
        of[kind].append(comparison)
    return of


def _won_and_lost(of: Mapping[str, Sequence[Comparison]]) -> str:
    """How many are won and how many lost, each with the one that is so by most."""
    better, worse = of[BETTER], of[WORSE]
    best = _gain(max(better, key=lambda c: c.gain.mean)) if better else ""
    least = _gain(min(worse, key=lambda c: c.gain.mean)) if worse else ""
    count = sum(map(len, of.values()))
    if not better and not worse:
        return f"better or worse in none of {count} comparisons"
    return (
        f"better in {len(better) or 'none'} of {count} comparisons{best}, "
        f"worse in {len(worse) or 'none'}{least}"
    )


def _uncorrected(of: Mapping[str, Sequence[Comparison]], *, gains: bool) -> list[str]:
    """How many more would be lost, and if asked for won, were each the only comparison."""
    left = [*of[NONE], *of[BLIND]]
    above = [c for c in left if c.gain.above] if gains else []
    below = [c for c in left if c.gain.below]
    said = []
    if above:
        said.append(f"better in {len(above)} more{_gain(max(above, key=lambda c: c.gain.mean))}")
    if below:
        said.append(f"worse in {len(below)} more{_gain(min(below, key=lambda c: c.gain.mean))}")
    return [f"without correction {' and '.join(said)}"] if said else []


def _gain(comparison: Comparison) -> str:
    return f" (most: {comparison.task}, {comparison.gain.mean:+.1f} points)"


def _power(comparisons: Sequence[Comparison]) -> str:
    """What the seeds could have seen in the comparison that stands in the middle of some."""
    middle = _middle(comparisons)
    return f"{middle.task}: {_visible(middle)}"


def _visible(comparison: Comparison) -> str:
    """What its seeds could have seen, and what they should."""
    hoped = f"hoped for {comparison.hoped:.2g}"
    if comparison.visible > 100:
        return f"too few seeds to see anything, {hoped}"
    return f"visible from {_number(comparison.visible)} points on, {hoped}"


def _middle(comparisons: Sequence[Comparison]) -> Comparison:
    """The one whose seeds see neither best nor worst what is hoped for."""
    return sorted(comparisons, key=lambda c: c.visible / c.hoped)[len(comparisons) // 2]


def _number(value: float) -> str:
    """Of points, the second decimal where the first is not enough."""
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2f}"

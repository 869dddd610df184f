"""The public findings on delayed language models, each judged by one rule from the records."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.delay.language import reading, rules
from benchmarks.delay.language.settings import PROFILE
from benchmarks.harness.reports import numeric, where
from common.results.comparison import Difference
from common.results.records import Record

REPRODUCED, REFUTED, UNDECIDED, UNMEASURED = (
    "reproduced", "refuted", "not decided", "not measured",
)  # fmt: skip
MET, MISSED = "met", "missed"

DELAY = "8"
"""The staleness at which the public figures are given."""
TARGET = 0.8
"""Of Muon's gap, to be closed by a rule that keeps one more copy of the weights at most."""


TOLERANCE = 0.2
"""How far from a single published figure ours may be, as a share of it: the figures are of two
seeds, without an interval, and of another network, which no closer match could be expected of."""


class Range(NamedTuple):
    """What counts as the public finding."""

    low: float
    high: float

    @classmethod
    def around(cls, figure: float) -> "Range":
        """That of a single published figure: `TOLERANCE` either way."""
        return cls((1 - TOLERANCE) * figure, (1 + TOLERANCE) * figure)


class Judged(NamedTuple):
    """One finding, or our own target, with what was found here."""

    name: str
    word: str
    ours: str
    theirs: str
    why: str
    """What may make the difference."""


DIAGONAL = Range(-math.inf, 0.03)
"""Published as "at most": what harms is within."""
ROBUST = Range(2.6, 5.3)
"""As published, without any tolerance."""
PREDICTED = Range.around(0.46)
MILDER = Range.around(3.3)


def judge(found: Difference, published: Range) -> str:
    """The word for a figure and its 95% interval.

    Reproduced: the whole interval is within the published range. Refuted: the whole interval is
    outside. Else it is not decided.

    Example:
        >>> [judge(Difference(x, 0.02, 3), PREDICTED) for x in (0.46, 0.9, 0.38)]
        ['reproduced', 'refuted', 'not decided']
    """
    if not found.n or math.isnan(found.mean):
        return UNMEASURED if not found.n else UNDECIDED
    low, high = found.mean - found.half_width, found.mean + found.half_width
    if low > published.high or high < published.low:
        return REFUTED
    return REPRODUCED if published.low <= low and high <= published.high else UNDECIDED


def findings(records: Sequence[Record], delay: str = DELAY) -> list[Judged]:
    """All four public findings, then the target; each judged with every step tuned."""
    return [
        _diagonal(records, delay),
        _robust(records, delay),
        _predicted(records, delay),
        _milder(records),
        target(records, delay),
    ]


def closed(
    records: Sequence[Record], optimiser: str, rule: str, delay: str, *, same_step: bool = False
) -> Difference:
    """The share of a gap that a rule closes: of the tuned one, or of that at one step."""
    nothing = (
        reading.at_the_same_step(records, optimiser, delay)
        if same_step
        else reading.tuned(records, optimiser, rules.NOTHING, delay)
    )
    runs = reading.tuned(records, optimiser, rule, delay)
    return reading.share_closed(runs, nothing, reading.undelayed(records, optimiser))


def _diagonal(records: Sequence[Record], delay: str) -> Judged:
    shares = {
        rule: closed(records, rules.ADAMW, rule, delay) for rule in (rules.CONSTANT, rules.ADAPTIVE)
    }
    best = reading.best_rule(records, rules.ADAMW, shares, delay) or rules.CONSTANT
    listed = ", ".join(f"{rule} {percent(share)}" for rule, share in shares.items())
    return Judged(
        "the published diagonal with Adam",
        judge(shares[best], DIAGONAL),
        f"of AdamW's tuned gap at a staleness of {delay}, {listed}; judged by {best}, whose "
        "validation loss is the lower",
        "at most 3%",
        "here lambda is searched for, and every row has its own step",
    )


def _robust(records: Sequence[Record], delay: str) -> Judged:
    def ratio(nothing: Callable[[str], list[Record]]) -> Difference:
        pairs = [
            (nothing(optimiser), reading.undelayed(records, optimiser))
            for optimiser in (rules.ADAMW, rules.MUON)
        ]
        return reading.ratio_of_gaps(*pairs[0], *pairs[1])

    own = ratio(lambda optimiser: reading.tuned(records, optimiser, rules.NOTHING, delay))
    one = ratio(lambda optimiser: reading.at_the_same_step(records, optimiser, delay))
    return Judged(
        "Muon's robustness",
        judge(own, ROBUST),
        f"AdamW's gap over Muon's {times(own)} with every step tuned, {times(one)} by the public "
        "protocol, at each optimiser's step of no delay",
        "2.6 to 5.3 times",
        "the public runs have one step for all arms and thousands of steps, ours are short: who "
        "learns faster has more to lose by being late",
    )


def _predicted(records: Sequence[Record], delay: str) -> Judged:
    own = closed(records, rules.MUON, rules.PREDICTION, delay)
    base = reading.undelayed(records, rules.MUON)
    step = numeric(base[0], "learning_rate") if base else math.nan
    one = reading.share_closed(
        where(
            records, rules.PREDICTION, optimiser=rules.MUON, delay=delay, learning_rate=step
        )[:1],
        reading.at_the_same_step(records, rules.MUON, delay)[:1],
        base[:1],
    )  # fmt: skip
    return Judged(
        "prediction along Muon's step",
        judge(own, PREDICTED),
        f"{percent(own)} of Muon's tuned gap; {percent(one)} with the step of no delay on both "
        "sides",
        f"46% (counted as the same: {_within(PREDICTED, 100, '%', 0)})",
        "the public figure is at one step for all arms; how well a step foretells the next ones "
        "depends on its noise, and so on the batch, which is small here",
    )


def _of_both(one: str, other: str) -> str:
    """The word for a finding on both optimisers: refuted if it is of either."""
    if one == other:
        return one
    return REFUTED if REFUTED in (one, other) else UNDECIDED


def _milder(records: Sequence[Record]) -> Judged:
    staged = where(records, rules.NOTHING, delay=PROFILE)
    longest = f"{max((r.metrics['largest_staleness'] for r in staged), default=math.nan):.0f}"

    def ratio(optimiser: str) -> Difference:
        base = reading.undelayed(records, optimiser)
        uniform, profile = (
            reading.tuned(records, optimiser, rules.NOTHING, delay) for delay in (longest, PROFILE)
        )
        return reading.ratio_of_gaps(uniform, base, profile, base)

    ratios = {optimiser: ratio(optimiser) for optimiser in (rules.MUON, rules.ADAMW)}
    words = {optimiser: judge(found, MILDER) for optimiser, found in ratios.items()}
    listed = ", ".join(
        f"{optimiser} {times(found)} ({words[optimiser]})"
        for optimiser, found in ratios.items()
        if found.n
    )
    return Judged(
        "the profile of a pipeline",
        _of_both(*words.values()),
        f"the gap with every stage {longest} steps late, as the first is, over that with the true "
        f"profile, every step tuned: {listed}",
        f"3.3 times, six stages (counted as the same: {_within(MILDER, 1, '', 1)})",
        "here a stage is half a block, the embedding is with the latest, and the steps are tuned "
        "on both sides",
    )


def target(records: Sequence[Record], delay: str = DELAY) -> Judged:
    """Whether a rule with one more copy of the weights closes enough of Muon's gap."""
    best, own = _cheapest(records, delay)
    one = closed(records, rules.MUON, best, delay, same_step=True)
    return Judged(
        "the target",
        _reached(own),
        f"{best}, by validation loss the best of those with one more copy of the weights at most, "
        f"closes {percent(own)} of Muon's tuned gap and {percent(one)} of that at the step of no "
        "delay",
        f"at least {TARGET:.0%}",
        "presumably the part of the movement that no past step foretells, made by the gradients "
        "still under way",
    )


def _cheapest(records: Sequence[Record], delay: str) -> tuple[str, Difference]:
    """Of the rules with one more copy of the weights the best on validation text.

    Its share is of test text, which had no part in choosing it.
    """
    cheap = [rule for rule in rules.RULES[1:] if rules.COPIES.get(rule, math.inf) <= 1]
    best = reading.best_rule(records, rules.MUON, cheap, delay) or cheap[0]
    return best, closed(records, rules.MUON, best, delay)


def _reached(own: Difference) -> str:
    """The word for a share beside the target."""
    if not own.n:
        return UNMEASURED
    if own.mean - own.half_width >= TARGET:
        return MET
    return MISSED if own.mean < TARGET else UNDECIDED


def headline(records: Sequence[Record], delay: str = DELAY) -> str:
    """The deciding figure, in a line."""
    found = target(records, delay)
    return f"Target {found.word}: {found.ours}. The aim: {found.theirs}"


def in_short(records: Sequence[Record], delay: str = DELAY) -> str:
    """The target and what came of it, for a table's cell."""
    best, own = _cheapest(records, delay)
    if not own.n:
        return "our target was not measured"
    return (
        f"our target, {TARGET:.0%} of Muon's tuned gap closed, {_reached(own)}: {best} closes "
        f"{percent(own)}"
    )


def percent(share: Difference) -> str:
    """A share with its interval."""
    return _with_interval(100 * share.mean, 100 * share.half_width, "%", 0)


def times(ratio: Difference) -> str:
    """A ratio with its interval."""
    return _with_interval(ratio.mean, ratio.half_width, " times", 1)


def _within(published: Range, scale: float, unit: str, digits: int) -> str:
    """A range, in words."""
    low, high = (f"{scale * bound:.{digits}f}" for bound in published)
    return f"{low} to {high}{unit}"


def _with_interval(mean: float, half: float, unit: str, digits: int) -> str:
    if math.isnan(mean):
        return "no figure"
    spread = f" ± {half:.{digits}f}" if math.isfinite(half) else ""
    mean = round(mean, digits) + 0.0  # never "-0"
    return f"{mean:.{digits}f}{spread}{unit}" + ("" if spread else " (one seed)")

"""What the records say of the public findings on delay with language models."""

from benchmarks.delay.language import verdict
from benchmarks.judgement.finding import (
    FAILS,
    HOLDS,
    INCOMPLETE,
    PARTLY,
    UNDECIDED,
    Finding,
    Measured,
)

PUBLISHED = 4
"""Findings."""


def language(measured: Measured) -> Finding:
    """The four public findings, counted; the headline adds our own target.

    The claim holds if all are reproduced, and partly if some are. It does not hold if none is and
    at least half are refuted; else it is not decided.
    """
    records = measured["delayed_language_model"]
    found = verdict.findings(records)[:-1]
    found = [one for one in found if one.word != verdict.UNMEASURED]
    if not found:
        return INCOMPLETE
    outcomes = [one.word for one in found]
    reproduced, refuted = map(outcomes.count, (verdict.REPRODUCED, verdict.REFUTED))
    words = "; ".join(
        f"{one.name}, {one.word}: {one.ours} (published: {one.theirs})" for one in found
    )
    if reproduced:
        word = HOLDS if reproduced == PUBLISHED else PARTLY
    else:
        word = FAILS if 2 * refuted >= PUBLISHED else UNDECIDED
    left = f", {PUBLISHED - len(found)} not measured" if len(found) < PUBLISHED else ""
    return Finding(
        word,
        f"{reproduced} of {len(found)} findings reproduced{left}; {verdict.in_short(records)}",
        f"{words[:1].upper()}{words[1:]}.",
    )

"""What the records say of the public findings on delay with language models."""

from benchmarks.delay.language import verdict
from benchmarks.judgement.finding import FAILS, HOLDS, PARTLY, Finding, Measured

PUBLISHED = 4
"""Findings."""


def language(measured: Measured) -> Finding:
    """The four public findings, counted; the headline is our own target."""
    records = measured["delayed_language_model"]
    found = verdict.findings(records)[:-1]
    found = [one for one in found if one.word != verdict.UNMEASURED]
    reproduced = sum(one.word == verdict.REPRODUCED for one in found)
    words = "; ".join(
        f"{one.name}, {one.word}: {one.ours} (published: {one.theirs})" for one in found
    )
    word = FAILS if not reproduced else HOLDS if reproduced == PUBLISHED else PARTLY
    left = f", {PUBLISHED - len(found)} not measured" if len(found) < PUBLISHED else ""
    return Finding(
        word,
        f"{reproduced} of {len(found)} findings reproduced{left}. {verdict.headline(records)}",
        f"{words[:1].upper()}{words[1:]}.",
    )

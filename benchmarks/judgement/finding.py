"""What a verdict on a claim is: one of four, with the figures that decide it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from common.results.records import Record

HOLDS, PARTLY, FAILS = "holds", "holds partly", "does not hold here"
UNDECIDED = "not decided"
"""Where the runs could not have seen what is claimed, were it there."""

Measured = Mapping[str, Sequence[Record]]
"""The records of each experiment that has been measured."""


class Finding(NamedTuple):
    """What the records say of one claim."""

    verdict: str
    headline: str
    """The figures that decide, in plain words."""
    figures: str
    """All that the verdict rests on, in a sentence or two."""
    unused: tuple[str, ...] = ()
    """Experiments whose records do not enter, as they are of other data than is claimed of."""


INCOMPLETE = Finding(UNDECIDED, "not compared", "The records compare nothing yet.")
"""Where a run was stopped before it had both sides of any comparison."""


def joint(one: str, other: str) -> str:
    """The verdict on a claim of two parts, from those on either part."""
    if one == other:
        return one
    # What is shown of one part is a part of the claim, whatever the other comes to.
    return PARTLY if {one, other} & {HOLDS, PARTLY} else UNDECIDED

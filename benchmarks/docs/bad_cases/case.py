"""One bad input of the page, as a program that meets it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Case(NamedTuple):
    """One bad input."""

    topic: str
    """What the cases beside it have in common; a table each."""
    input: str
    """What is bad, in words."""
    where: str
    """What refuses it."""
    kind: type[BaseException]
    """Of the error."""
    attempt: Callable[[Path], Any]
    """Does it; given an empty folder, and called with `FOLDER` for its path in what is shown."""
    left: str = "nothing was begun"
    """What is intact afterwards."""


LAST = "every checkpoint saved before"
"""What is intact where a state could not be saved."""

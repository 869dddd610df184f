"""What happens when the input is bad: the tables of the page of that name, made anew.

Each case is tried, and the page prints what its error says; the tests demand that it is one error,
of the type given. So the page cannot say what the code does not.
"""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax

from benchmarks.docs.bad_cases import CASES, Case


class Shown(NamedTuple):
    """A case that was tried."""

    case: Case
    error: BaseException
    """What came of it."""
    text: str
    """What it says, the folder's path left out."""


FOLDER = "results"
"""What stands for the folder in messages."""


def tried(cases: tuple[Case, ...] = CASES) -> Iterator[Shown]:
    """Every case with the error that it ends in.

    Args:
        cases: those of the page, by default.

    Raises:
        AssertionError: if a case is not refused, or by an error of another type.
    """
    for case in cases:
        with tempfile.TemporaryDirectory() as scratch:
            # As users have jax, not as the tests do.
            with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
                error = _error(case, Path(scratch).resolve())
            text = " ".join(str(error).split()).replace(str(Path(scratch).resolve()), FOLDER)
            yield Shown(case, error, text.replace(scratch, FOLDER))


def _error(case: Case, folder: Path) -> BaseException:
    found = None
    try:
        case.attempt(folder)
    except case.kind as error:
        found = error
    assert found is not None, f"{case.input}: not refused"
    assert type(found) is case.kind, f"{case.input}: {found!r} is no {case.kind.__name__}"
    return found


def page() -> str:
    """The tables, one a topic, as Markdown."""
    parts, topic = [], ""
    for case, error, text in tried():
        if case.topic != topic:
            topic = case.topic
            parts.append(f"\n## {topic}\n\n| input | refused by | error | left intact |")
            parts.append("| :-- | :-- | :-- | :-- |")
        said = re.sub(r"([|*_`\[\]])", r"\\\1", text).replace("<", "&lt;")
        cells = (case.input, f"`{case.where}`", f"`{type(error).__name__}`: {said}", case.left)
        parts.append(f"| {' | '.join(cells)} |")
    return "\n".join(parts).strip()

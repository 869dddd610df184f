"""Text set for the terminal it is read on; where the output is none, as it is."""

import shutil
import sys
import textwrap
from collections.abc import Mapping

from rich.console import Console

PROGRAM = "python -m benchmarks"

_WIDEST = 100


def width() -> int:
    """The columns that text is set to."""
    return max(20, min(_WIDEST, shutil.get_terminal_size().columns))


def indented(paragraph: str, *, hanging: int = 0) -> str:
    """A paragraph in lines of the terminal's width, set in by two spaces.

    Args:
        paragraph: its own line breaks do not count.
        hanging: by how many spaces more all lines but the first are set in.
    """
    text = " ".join(paragraph.split())
    return textwrap.fill(
        text, width(), initial_indent="  ", subsequent_indent="  " + " " * hanging,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def complain(text: str) -> None:
    """Prints what is wrong to standard error: to a terminal in lines of its width.

    Args:
        text: a sentence or two; elsewhere it is one line.
    """
    line = f"{PROGRAM}: {text}"
    if sys.stderr.isatty():
        line = textwrap.fill(
            line, width(), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    print(line, file=sys.stderr)


def listing(claims: Mapping[str, str], console: Console) -> str:
    """Names with what is said of each, in two columns; below each other where these are narrow.

    Args:
        claims: what is said, by name.
        console: what it will be printed on; one that is no terminal gets a line for each name.
    """
    names = max(map(len, claims), default=0)
    if not console.is_terminal or names + 2 + max(map(len, claims.values())) <= width():
        return "\n".join(f"{name:<{names}}  {claim}" for name, claim in claims.items())
    if width() < 2 * names + 20:
        return "\n".join(f"{name}\n{indented(claim)}" for name, claim in claims.items())
    return "\n".join(
        textwrap.fill(claim, width(), initial_indent=f"{name:<{names}}  ",
                      subsequent_indent=" " * (names + 2))
        for name, claim in claims.items()
    )  # fmt: skip

"""Progress bars, as an optional argument of whatever takes long."""

import contextlib
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as RichProgress,
)


class Bar(Protocol):
    """One bar: `advance` moves it and may replace the note at its end."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Moves the bar by `amount`; a non-empty `note` replaces the text at its end."""
        ...


class Progress(Protocol):
    """Where bars are drawn."""

    def task(self, description: str, *, total: float) -> contextlib.AbstractContextManager[Bar]:
        """A bar for `total` units of work, drawn until the context ends."""
        ...


class _SilentBar:
    def advance(self, amount: float = 1, note: str = "") -> None:
        pass


class Silent:
    """Draws nothing: the default of tests and of library callers."""

    @contextlib.contextmanager
    def task(self, description: str, *, total: float) -> Iterator[Bar]:
        """A bar that is not drawn."""
        yield _SilentBar()


class _RichBar:
    def __init__(self, progress: RichProgress, task: int):
        self._progress, self._task = progress, task

    def advance(self, amount: float = 1, note: str = "") -> None:
        fields = {"note": note} if note else {}
        self._progress.update(self._task, advance=amount, **fields)  # pyright: ignore[reportArgumentType] (TaskID is an int)


class Bars:
    """Bars on a terminal, drawn by rich; where the output is no terminal, one line per task."""

    def __init__(self, console: Console):
        """Draws on `console`."""
        self._console = console
        self._progress: RichProgress | None = None

    @contextlib.contextmanager
    def task(self, description: str, *, total: float) -> Iterator[Bar]:
        """A bar for `total` units of work; tasks may be nested."""
        if self._progress is not None:
            task = self._progress.add_task(description, total=total, note="")
            yield _RichBar(self._progress, task)
            self._progress.remove_task(task)
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with RichProgress(*columns, console=self._console) as self._progress:
            try:
                task = self._progress.add_task(description, total=total, note="")
                yield _RichBar(self._progress, task)
            finally:
                self._progress = None

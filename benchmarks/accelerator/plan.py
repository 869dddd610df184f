"""The plan: which pieces, how much of each fits into the minutes, and what it takes."""

import bisect
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from benchmarks.accelerator.cards import Card
from benchmarks.accelerator.costs import Cost, cost
from benchmarks.accelerator.pieces import Piece
from benchmarks.accelerator.work import Work
from benchmarks.harness import registry
from benchmarks.harness.halving import budgets
from benchmarks.harness.reports import joined
from common.results.tables import markdown

START = 0.25
"""Minutes that a piece takes before its first program: imports, the device, the data. About."""

BEGUN, DRIVEN = 1e-4, 2e-3
"""Seconds that a step takes at least: in a compiled loop, and begun from Python. About."""


class Fitted(NamedTuple):
    """What makes a piece fit into its minutes."""

    narrow: bool = False
    """Whether it is the comparison asked for most alone."""
    epochs: int | None = None
    """Where fewer than the preset's fit."""


class Planned(NamedTuple):
    """A piece at its settings."""

    piece: Piece
    settings: Any
    fitted: Fitted
    whole: int | None
    """The preset's epochs; None where there are none."""
    seeds: int
    minutes: float | None
    """Its share, or its budget; None for no limit."""
    works: tuple[Work, ...]
    costs: tuple[Cost, ...]
    """Of a step of each."""
    expected: float
    """Minutes that it should take, at the share of the peak that it should reach."""

    @property
    def operations(self) -> float:
        """Of all steps."""
        return sum(w.steps * c.operations for w, c in zip(self.works, self.costs, strict=True))


class Planner:
    """Makes plans for one card; what is counted of a step is counted once."""

    def __init__(self, card: Card, preset: str):
        """Counts nothing yet."""
        self._card, self._preset = card, preset
        self._costs: dict[str, Cost] = {}

    def all(self, pieces: Sequence[Piece], *, minutes: float, seeds: int) -> list[Planned]:
        """Every piece in order, with as much of it as fits into its share.

        Args:
            pieces: what is planned.
            minutes: in all.
            seeds: of each; what times programs gets one.
        """
        whole = sum(piece.share for piece in pieces)
        return [
            self.fitting(piece, minutes * piece.share / whole, seeds_of(piece, seeds))
            for piece in pieces
        ]

    def fitting(self, piece: Piece, minutes: float, seeds: int) -> Planned:
        """As much of a piece as fits: all of it, fewer epochs of it, or what is asked for most.

        The comparison asked for most is taken where not even half of the epochs fit. A piece has
        the fewest epochs that it can have, and one without epochs what is asked for most, whether
        or not that fits.
        """
        whole = fitted = Fitted()
        for narrow in (False, True):
            whole = Fitted(narrow)
            if narrow and unfit(piece, self._preset, whole):
                break
            fitted = whole
            if self._expected(piece, whole, seeds) <= minutes:
                break
            if piece.cut is None:
                continue
            settings = settings_of(piece, self._preset, narrow=narrow)
            least = min(least_epochs(settings), settings.epochs)
            fits = bisect.bisect_right(
                range(least, settings.epochs), minutes,
                key=lambda epochs: self._expected(piece, Fitted(narrow, epochs), seeds),
            )  # fmt: skip
            epochs = max(least, least + fits - 1)
            fitted = Fitted(narrow, epochs if epochs < settings.epochs else None)
            if fits and 2 * epochs >= settings.epochs:
                break
        return self.alone(piece, fitted, seeds=seeds, minutes=minutes)

    def alone(self, piece: Piece, fitted: Fitted, *, seeds: int, minutes: float | None) -> Planned:
        """One piece as it is asked for, whether or not that fits into its minutes.

        Args:
            piece: the experiment.
            fitted: what is asked for; `unfit` has nothing against it.
            seeds: how many.
            minutes: that it has; None for no limit.
        """
        settings = self._settings(piece, fitted)
        works = piece.work(settings, seeds)
        whole = None if piece.cut is None else settings_of(piece, self._preset).epochs
        costs = tuple(map(self._cost, works))
        expected = self._expected(piece, fitted, seeds)
        return Planned(piece, settings, fitted, whole, seeds, minutes, works, costs, expected)

    def _settings(self, piece: Piece, fitted: Fitted) -> Any:
        return settings_of(piece, self._preset, narrow=fitted.narrow, epochs=fitted.epochs)

    def _expected(self, piece: Piece, fitted: Fitted, seeds: int) -> float:
        """Minutes: operations / (peak * reach), but at least what a step takes, and compilation."""
        seconds = 60 * START
        for work in piece.work(self._settings(piece, fitted), seeds):
            computing = work.steps * self._cost(work).operations
            computing /= self._card.peak(work.half) * piece.reach
            least = work.steps / work.together * (DRIVEN if work.driven else BEGUN)
            seconds += work.compiled * work.compile_seconds + max(computing, least)
        return seconds / 60

    def _cost(self, work: Work) -> Cost:
        if work.name not in self._costs:
            self._costs[work.name] = cost(work.program())
        return self._costs[work.name]


def settings_of(
    piece: Piece, preset: str, *, narrow: bool = False, epochs: int | None = None
) -> Any:
    """A piece's settings: the preset's, at the full one with the piece's changes.

    Args:
        piece: the experiment.
        preset: the name of a preset.
        narrow: whether the comparison asked for most is all that there is time for.
        epochs: instead of the preset's; None for these.

    Raises:
        UnknownNameError: if the preset is unknown.
    """
    settings: Any = registry.preset(registry.load(piece.name), preset)
    if preset == "full":
        changes = {**piece.changes, **(piece.narrow if narrow else {})}
        settings = dataclasses.replace(settings, **changes)
    return settings if epochs is None or piece.cut is None else piece.cut(settings, epochs)


def seeds_of(piece: Piece, asked: int) -> int:
    """With how many seeds a piece is run: what times programs has one."""
    return 1 if piece.name in registry.TIMED else asked


def least_epochs(settings: Any) -> int:
    """The fewest epochs that settings can be cut to: with halving, one for the first rung."""
    halving = getattr(settings, "halving", None)
    if halving is None:
        return 1
    grids = (settings.learning_rates, getattr(settings, "adaptive_rates", ()))
    rungs = (len(budgets(len(grid), settings.epochs, halving)) for grid in grids if grid)
    return halving.factor ** (max(rungs) - 1)


def unfit(piece: Piece, preset: str, fitted: Fitted) -> str | None:
    """Why a piece cannot be had as it is asked for; None where it can."""
    settings = settings_of(piece, preset)
    if fitted.epochs is not None and piece.cut is None:
        return f"{piece.name} is not cut to epochs, it has none: leave --epochs out."
    if fitted.narrow and not (piece.narrow and preset == "full"):
        return f"{piece.name} has nothing narrower at preset {preset}: leave --narrow out."
    if fitted.epochs is not None:
        least = least_epochs(settings_of(piece, preset, narrow=fitted.narrow))
        if fitted.epochs < least:
            narrow = " or name --narrow" if piece.narrow and preset == "full" else ""
            return (
                f"{piece.name} tries its steps on parts of the epochs, and needs {least} or more, "
                f"got {fitted.epochs}: give more of the {settings.epochs}{narrow}."
            )
    return None


def table(planned: Iterable[Planned], card: str, note: str = "") -> str:
    """The plan as Markdown: what each piece takes, and what it should reach of which card."""
    planned = list(planned)
    rows = [_row(each) for each in planned]
    header = [
        "piece, in order", "minutes", "expected", "of it compiling", "runs (side by side)",
        "epochs", "GFLOP a step", "PFLOP in all", "GB", "% of the peak",
    ]  # fmt: skip
    reasons = "\n".join(
        f"- {each.piece.name}: {100 * each.piece.reach:.0f}%{_numbers(each)}, as {each.piece.why}."
        for each in planned
    )
    return joined(
        markdown(header, rows),
        note,
        f"The share of the peak of {card} that each should reach:",
        reasons,
        "Operations are XLA's count of a gradient; memory is before fusion, a bound from above. "
        "Minutes are estimates: of starting and compiling, and of operations at this share of the "
        "peak.",
    )


def _numbers(planned: Planned) -> str:
    """In which numbers its products are."""
    names = dict.fromkeys("bfloat16" if work.half else "float32" for work in planned.works)
    return f" in {' and '.join(names)}" if names else ""


def _row(each: Planned) -> list[str]:
    kept = [c.kept * w.together for w, c in zip(each.works, each.costs, strict=True)]
    runs = sum(work.runs for work in each.works)
    together = max((work.together for work in each.works if work.runs), default=1)
    names = {work.name: cost for work, cost in zip(each.works, each.costs, strict=True)}
    compiling = sum(work.compiled * work.compile_seconds for work in each.works) / 60
    return [
        each.piece.name,
        "" if each.minutes is None else f"{each.minutes:.1f}",
        f"{each.expected:.1f}",
        f"{compiling:.1f}",
        f"{runs} ({together})" if runs else "-",
        "-" if each.whole is None else f"{each.settings.epochs} of {each.whole}",
        ", ".join(f"{found.operations / 1e9:.3g}" for found in names.values()),
        f"{each.operations / 1e15:.3g}",
        f"{max(kept, default=0) / 1e9:.2f}",
        f"{100 * each.piece.reach:.0f}",
    ]

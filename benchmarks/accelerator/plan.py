"""The plan: which pieces, how much of each fits into the minutes, and what it takes."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.accelerator.costs import Cost, cost
from benchmarks.accelerator.pieces import PIECES, Piece, Work
from benchmarks.harness import registry
from common.results.tables import markdown


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
    """The preset's epochs."""
    minutes: float | None
    """Its share, or its budget; None for no limit."""
    work: Work | None
    cost: Cost | None
    expected: float | None
    """Minutes that its training should take at the share of the peak it should reach."""


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
    return settings if epochs is None else dataclasses.replace(settings, epochs=epochs)


def plan(preset: str, *, minutes: float, seeds: int, peak: float) -> list[Planned]:
    """Every piece that this checkout has, in order, with as many epochs as fit into its share.

    Args:
        preset: of every experiment.
        minutes: in all.
        seeds: of each.
        peak: of the card, in operations a second.
    """
    known = [piece for piece in PIECES if piece.name in registry.NAMES]
    whole = sum(piece.share for piece in known)
    return [
        _planned(piece, preset, minutes * piece.share / whole, seeds=seeds, peak=peak)
        for piece in known
    ]


def alone(
    piece: Piece, preset: str, fitted: Fitted, *, seeds: int, peak: float, minutes: float | None
) -> Planned:
    """One piece as it is asked for, whether or not that fits into its minutes.

    Args:
        piece: the experiment.
        preset: the name of a preset.
        fitted: what is asked for; `unfit` has nothing against it.
        seeds: how many.
        peak: of the card, in operations a second.
        minutes: that it has; None for no limit.
    """
    settings = settings_of(piece, preset, narrow=fitted.narrow, epochs=fitted.epochs)
    if piece.work is None:
        return Planned(piece, settings, fitted, None, minutes, None, None, None)
    work, whole = piece.work(settings, seeds), settings_of(piece, preset).epochs
    counted = cost(work.program)
    expected = _epoch(piece, work, counted, peak) * settings.epochs
    return Planned(piece, settings, fitted, whole, minutes, work, counted, expected)


def unfit(piece: Piece, preset: str, fitted: Fitted) -> str | None:
    """Why a piece cannot be had as it is asked for; None where it can."""
    names = {field.name for field in dataclasses.fields(settings_of(piece, preset))}
    if fitted.epochs is not None and "epochs" not in names:
        return f"{piece.name} is not cut to epochs, it has none: leave --epochs out."
    if fitted.narrow and not (piece.narrow and preset == "full"):
        return f"{piece.name} has nothing narrower at preset {preset}: leave --narrow out."
    return None


def _planned(piece: Piece, preset: str, minutes: float, *, seeds: int, peak: float) -> Planned:
    settings = settings_of(piece, preset)
    if piece.work is None:
        return Planned(piece, settings, Fitted(), None, minutes, None, None, None)
    whole, narrow = settings.epochs, False
    work = piece.work(settings, seeds)
    counted = cost(work.program)
    if preset == "full" and minutes < whole / 2 * _epoch(piece, work, counted, peak):
        narrow, settings = True, settings_of(piece, preset, narrow=True)
        work = piece.work(settings, seeds)
    epoch = _epoch(piece, work, counted, peak)
    epochs = min(whole, max(1, int(minutes / epoch)))
    settings = dataclasses.replace(settings, epochs=epochs)
    fitted = Fitted(narrow, epochs if epochs < whole else None)
    return Planned(piece, settings, fitted, whole, minutes, work, counted, epoch * epochs)


def _epoch(piece: Piece, work: Work, counted: Cost, peak: float) -> float:
    """Minutes of an epoch of all runs: operations / (peak * reach) / 60."""
    return counted.operations * work.runs * work.steps / (peak * piece.reach) / 60


def table(planned: Sequence[Planned], card: str) -> str:
    """The plan as Markdown: what each piece takes, and what it should reach."""
    rows = []
    for each in planned:
        work, counted = each.work, each.cost
        row = [each.piece.name, "" if each.minutes is None else f"{each.minutes:.1f}"]
        if work is None or counted is None or each.expected is None:
            row += ["", "", "", "", "", ""]
        else:
            together = min(work.together, work.runs)
            epochs = each.settings.epochs
            row += [
                f"{each.expected:.1f}",
                f"{work.runs} ({together})",
                f"{epochs} of {each.whole}",
                f"{counted.operations / 1e9:.3g}",
                f"{counted.operations * work.runs * work.steps * epochs / 1e15:.3g}",
                f"{counted.kept * together / 1e9:.2f}",
            ]
        rows.append([*row, f"{100 * each.piece.reach:.0f}"])
    header = [
        "piece, in order", "minutes", "expected", "runs (side by side)", "epochs",
        "GFLOP a step", "PFLOP in all", "GB", "% of the peak",
    ]  # fmt: skip
    reasons = "\n".join(
        f"- {each.piece.name}: {100 * each.piece.reach:.0f}%, as {each.piece.why}."
        for each in planned
    )
    return (
        f"{markdown(header, rows)}\n\nThe share of the peak of {card} that each should reach:\n\n"
        f"{reasons}\n\nOperations are XLA's count of a gradient; memory is before fusion, a bound "
        "from above. Where there is no count, programs of many shapes are timed or trained."
    )

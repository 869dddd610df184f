"""What became of the pieces: how fast they were, what is kept, how one was begun that goes on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from benchmarks.accelerator.cards import Card
from benchmarks.accelerator.pieces import Piece
from benchmarks.accelerator.plan import Fitted, Planned, settings_of, unfit
from benchmarks.harness.everything import FINISHED, Outcome
from benchmarks.harness.registry import UnknownNameError
from benchmarks.harness.terminal import PROGRAM
from common.results.records import json_ready
from common.results.tables import markdown


class Begun(NamedTuple):
    """How a run was begun that is to be gone on with."""

    fitted: Fitted
    seeds: int


def begun(piece: Piece, preset: str, folder: Path) -> Begun | None:
    """How the last run in a folder was begun; None if it is none of this piece and preset.

    Args:
        piece: the experiment.
        preset: the name of a preset.
        folder: of its records.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        configuration, seeds = dict(manifest["configuration"]), len(manifest["seeds"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # the run itself says what is damaged
    epochs = None if piece.cut is None else configuration.get("epochs")
    for narrow in (False, True):
        for fitted in (Fitted(narrow), Fitted(narrow, epochs)):
            if _is(configuration, piece, preset, fitted):
                return Begun(fitted, seeds)
    return None


def _is(configuration: Mapping[str, object], piece: Piece, preset: str, fitted: Fitted) -> bool:
    """Whether a run had these settings."""
    try:
        if unfit(piece, preset, fitted) is not None:
            return False
        settings = settings_of(piece, preset, narrow=fitted.narrow, epochs=fitted.epochs)
    except (UnknownNameError, ValueError, TypeError, ZeroDivisionError):
        return False
    return json_ready(asdict(settings)) == configuration


def reached(outcomes: Sequence[Outcome], planned: Sequence[Planned], card: Card, name: str) -> str:
    """Operations a second of the pieces that ran to their ends, as Markdown; empty where none did.

    Args:
        outcomes: how pieces ended that were begun anew.
        planned: what was planned.
        card: whose peak shares are of.
        name: what the card is called.
    """
    of_name, rows = {each.piece.name: each for each in planned}, []
    for outcome in outcomes:
        each = of_name[outcome.job.name]
        if outcome.status != FINISHED or not outcome.minutes > 0:
            continue
        halves = {work.half for work in each.works}
        rate = each.operations / (60 * outcome.minutes)
        share = "-" if len(halves) != 1 else f"{100 * rate / card.peak(halves.pop()):.2g}"
        rows.append(
            [
                each.piece.name, f"{outcome.minutes:.1f}", f"{each.expected:.1f}",
                f"{each.operations / 1e15:.3g}", f"{rate / 1e12:.3g}", share,
                f"{100 * each.piece.reach:.0f}",
            ]
        )  # fmt: skip
    if not rows:
        return ""
    header = [
        "piece", "minutes", "expected", "PFLOP", "TFLOP/s", "% of the peak", "expected of training"
    ]  # fmt: skip
    return (
        f"What was reached on {name}, starting, compiling and evaluation included:\n\n"
        f"{markdown(header, rows)}"
    )


def hand_in(outcomes: Sequence[Outcome], out: Path) -> str:
    """Which folders can be kept as evidence, and by which commands; empty where there are none."""
    kept = [(out / each.job.name, each.status) for each in outcomes]
    kept = [(folder, status) for folder, status in kept if _has_records(folder)]
    whole = [str(folder) for folder, status in kept if status == FINISHED]
    parts = [str(folder) for folder, status in kept if status != FINISHED]
    said = []
    if whole:
        said.append(f"To keep what is finished as evidence: {PROGRAM} report --take "
                    f"{' '.join(whole)}")  # fmt: skip
    if parts:
        said.append(
            f"Unfinished, with records: {', '.join(parts)}. --resume goes on with them; one that "
            "its page can be made of can be taken likewise, by itself."
        )
    return "\n".join(said)


def _has_records(folder: Path) -> bool:
    path = folder / "records.jsonl"
    return path.is_file() and path.stat().st_size > 0

"""`python -m benchmarks accelerator`: what one GPU or TPU measures in the minutes there are."""

import dataclasses
import functools
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import jax
import tyro
from rich.console import Console

from benchmarks.accelerator import cards
from benchmarks.accelerator.outcomes import Begun, begun, hand_in, reached
from benchmarks.accelerator.pieces import PIECES, Piece
from benchmarks.accelerator.plan import (
    Fitted,
    Planned,
    Planner,
    seeds_of,
    settings_of,
    table,
    unfit,
)
from benchmarks.harness import everything, registry
from benchmarks.harness.compiled import keep_compiled_programs
from benchmarks.harness.registry import Context
from benchmarks.harness.runner import alone_in, check_folder, run_experiment
from benchmarks.harness.terminal import PROGRAM
from benchmarks.subcommands import UsageError, show
from common.files import inside, write_whole
from common.progress import Bars

MINUTES = 10.0
"""In all, where nothing else is asked for."""

PATIENCE = 1.3
"""A piece that takes so many times its share is interrupted, and keeps its finished stages."""

CHILD = (sys.executable, "-m", "benchmarks", "accelerator")
"""What runs a piece, with its name and options behind."""

_NO_ACCELERATOR = (
    "full presets are for an accelerator, and jax finds none here; install jax for it (make "
    "ACCELERATOR=cuda13), or see what would be run with --dry-run."
)

SPARE = 0.5
"""Minutes kept back: 20 seconds in which an interrupted piece writes what it has finished, and 10
for the beginning and the end of this command itself."""

DRY_CARD = "H100"
"""The card that a dry run plans for, where none is named."""


@dataclasses.dataclass(frozen=True)
class AcceleratorArguments:
    """Measures full presets on one accelerator, by worth a minute, and stops in time.

    Each piece is an experiment in a process of its own, with its share of the minutes; where not
    all epochs of the preset fit, it gets as many as do. Records are written stage by stage.
    """

    piece: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="PIECE")] = None
    """One piece alone; by default all of them. Without --minutes it runs in this process, whole."""
    minutes: Annotated[float | None, tyro.conf.arg(metavar="MINUTES")] = None
    """In all, from the command's beginning to its end; 10 by default. A piece that is named is
    fitted into them and stopped by then."""
    dry_run: bool = False
    """Run nothing, and need no accelerator: print the plan, memory and operations of each piece, or
    of the one, and the share of the card's peak that it should reach."""
    card: Annotated[str | None, tyro.conf.arg(metavar="CARD")] = None
    """The card that --dry-run plans for, one of those whose peak is known; H100 by default."""
    preset: Annotated[str, tyro.conf.arg(metavar="|".join(registry.PRESET_NAMES))] = "full"
    """Of all pieces; any other than full also runs without an accelerator."""
    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 3
    """How many seeds: 0, 1, ...; what times programs gets one."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of prepared tensorflow-datasets data sets; by default that package's own."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("results/accelerator")
    """Folder for records and plots: of all pieces, a folder each, or of the one without --minutes.
    """
    resume: bool = False
    """Continues runs that were stopped there, as they were begun: with their own seeds and epochs.
    """
    epochs: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Of one piece: instead of its preset's."""
    narrow: bool = False
    """Of one piece: the comparison asked for most alone."""
    time_budget: Annotated[float | None, tyro.conf.arg(metavar="MINUTES")] = None
    """Of one piece: no further stage begins after so many minutes."""


def accelerate(arguments: AcceleratorArguments) -> int:
    """Carries the command out; the exit status, 3 where time was spent before all was done."""
    began, console = time.monotonic(), Console()
    _check(arguments)
    pieces = [piece for piece in PIECES if piece.name in registry.NAMES]
    if arguments.piece is not None:
        pieces = [piece for piece in pieces if piece.name == arguments.piece]
        if arguments.minutes is None:
            return _one(arguments, pieces[0], console)
    return _fitted(arguments, pieces, console, began)


def device() -> tuple[str, str]:
    """Platform and name of the first device, asked in a process that gives it back."""
    asked = "import jax; d = jax.devices()[0]; print(d.platform, d.device_kind, sep='|')"
    done = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=False
    )
    platform, _, kind = done.stdout.strip().partition("|")
    return platform or "none", kind


def _check(arguments: AcceleratorArguments) -> None:
    if arguments.minutes is not None and not arguments.minutes > SPARE:
        raise UsageError(f"--minutes must be above {SPARE:g}, got {arguments.minutes:g}.")
    if arguments.seeds < 1 or (arguments.epochs is not None and arguments.epochs < 1):
        raise UsageError("--seeds and --epochs must be at least 1.")
    if arguments.card is not None and not arguments.dry_run:
        raise UsageError("--card is of --dry-run: a run is planned for the card that is there.")
    if arguments.card is not None and arguments.card not in cards.NAMES:
        raise registry.UnknownNameError("card", arguments.card, cards.NAMES)
    names = tuple(piece.name for piece in PIECES if piece.name in registry.NAMES)
    if arguments.piece is not None and arguments.piece not in names:
        raise registry.UnknownNameError("piece", arguments.piece, names)
    given = _of_one_piece(arguments)
    are = "is" if len(given) == 1 else "are"
    if given and arguments.piece is None:
        raise UsageError(
            f"{' and '.join(given)} {are} of one piece, and none is named: name one of "
            f"{', '.join(names)}, or leave it out."
        )
    if given and arguments.minutes is not None:
        raise UsageError(
            f"{' and '.join(given)} {are} what --minutes chooses: give one or the other."
        )


def _of_one_piece(arguments: AcceleratorArguments) -> list[str]:
    """The options given that mean something for one piece alone."""
    given = {
        "--epochs": arguments.epochs is not None, "--narrow": arguments.narrow,
        "--time-budget": arguments.time_budget is not None,
    }  # fmt: skip
    return [option for option, is_given in given.items() if is_given]


def _fitted(
    arguments: AcceleratorArguments, pieces: Sequence[Piece], console: Console, began: float
) -> int:
    """Fits pieces into the minutes and runs them, each in a process of its own."""
    kind, whole = arguments.card or DRY_CARD, arguments.minutes or MINUTES

    def left() -> float:
        return whole - SPARE - (0.0 if arguments.dry_run else (time.monotonic() - began) / 60)

    if not arguments.dry_run:
        platform, named = device()
        if platform in ("cpu", "none") and arguments.preset == "full":
            raise UsageError(_NO_ACCELERATOR)
        kind = named or platform
    # Operations are counted on the host: the accelerator is for the pieces alone.
    jax.config.update("jax_platforms", "cpu")
    card, note = cards.planned_for(kind)
    planner = Planner(card, arguments.preset)
    planned = planner.all(pieces, minutes=left(), seeds=arguments.seeds)
    resumed = _begun(arguments, pieces)
    planned = [
        planner.alone(each.piece, how.fitted, seeds=how.seeds, minutes=each.minutes)
        if (how := resumed.get(each.piece.name))
        else each
        for each in planned
    ]
    show(console, table(planned, card.name, note))
    if arguments.dry_run:
        return 0
    check_folder(arguments.out)
    with alone_in(arguments.out):
        outcomes = everything.run_jobs(
            _jobs(planned, arguments), minutes=left(), patience=PATIENCE,
            report=functools.partial(show, console),
            program=CHILD,
        )  # fmt: skip
        anew = [outcome for outcome in outcomes if outcome.job.name not in resumed]
        if rates := reached(anew, planned, card, kind):
            write_whole(arguments.out / "reached.md", f"{rates}\n")
            show(console, f"\n{rates}")
    if hint := hand_in(outcomes, arguments.out):
        show(console, f"\n{hint}")
    return _status(outcomes)


def _begun(arguments: AcceleratorArguments, pieces: Sequence[Piece]) -> dict[str, Begun]:
    """How runs were begun that are to be gone on with, by piece."""
    if not arguments.resume:
        return {}
    found = {
        piece.name: begun(piece, arguments.preset, inside(arguments.out, piece.name))
        for piece in pieces
    }
    return {name: how for name, how in found.items() if how is not None}


def _status(outcomes: Sequence[everything.Outcome]) -> int:
    ends = {outcome.status for outcome in outcomes}
    if ends - {everything.FINISHED, everything.STOPPED, everything.INTERRUPTED}:
        return 1
    return everything.FINISHED if ends == {everything.FINISHED} else everything.STOPPED


def _jobs(planned: Sequence[Planned], arguments: AcceleratorArguments) -> list[everything.Job]:
    jobs, left = [], sum(each.piece.share for each in planned)
    for each in planned:
        name = each.piece.name
        options = ["--preset", arguments.preset, "--seeds", str(each.seeds)]
        if each.fitted.narrow:
            options.append("--narrow")
        if each.fitted.epochs is not None:
            options += ["--epochs", str(each.fitted.epochs)]
        if arguments.data_dir is not None:
            options += ["--data-dir", str(arguments.data_dir.resolve())]
        if arguments.resume:
            options.append("--resume")
        # In the order of the pieces: what is timed runs alone anyhow, as all of them do.
        folder = inside(arguments.out, name).resolve()
        jobs.append(everything.Job(name, True, tuple(options), folder, each.piece.share / left))
        left -= each.piece.share
    return jobs


def _one(arguments: AcceleratorArguments, piece: Piece, console: Console) -> int:
    """One piece, whole or as it is asked for, in this process; or its plan."""
    name, seeds = piece.name, seeds_of(piece, arguments.seeds)
    fitted = Fitted(arguments.narrow, arguments.epochs)
    how = begun(piece, arguments.preset, arguments.out) if arguments.resume else None
    if how is not None and fitted == Fitted():
        fitted, seeds = how
    if reason := unfit(piece, arguments.preset, fitted):
        raise UsageError(reason)
    if arguments.dry_run:
        jax.config.update("jax_platforms", "cpu")  # operations are counted on the host
        card, note = cards.planned_for(arguments.card or DRY_CARD)
        planner = Planner(card, arguments.preset)
        planned = planner.alone(piece, fitted, seeds=seeds, minutes=arguments.time_budget)
        show(console, table([planned], card.name, note))
        return 0
    if arguments.preset == "full" and jax.default_backend() == "cpu":
        raise UsageError(_NO_ACCELERATOR)
    settings = settings_of(piece, arguments.preset, narrow=fitted.narrow, epochs=fitted.epochs)
    if name not in registry.TIMED:
        keep_compiled_programs()
    context = Context(
        seeds=tuple(range(seeds)), data_dir=arguments.data_dir, progress=Bars(console)
    )
    narrow = " --narrow" if fitted.narrow else ""
    shorter = f" --epochs {fitted.epochs}" if fitted.epochs is not None else ""
    chosen = f"--preset {arguments.preset} --seeds {seeds}{narrow}{shorter}"
    budget = arguments.time_budget
    done = run_experiment(
        name, registry.load(name), settings, context, preset=arguments.preset,
        command=f"{PROGRAM} accelerator {name} {chosen}", out=arguments.out,
        resume=arguments.resume, seconds=None if budget is None else 60 * budget,
    )  # fmt: skip
    show(console, f"\n{done.tables}\n\n{done.records} records in {done.seconds:.0f} s")
    return 0

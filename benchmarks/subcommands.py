"""What `python -m benchmarks` can do beside running experiments: "report" and "again"."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from benchmarks.harness import again, registry
from benchmarks.harness.terminal import complain
from common.files import OutsideError
from common.progress import Bars
from common.results.tables import markdown


@dataclasses.dataclass(frozen=True)
class ReportArguments:
    """Makes the pages of benchmarks/evidence from the summaries of records there."""

    take: tuple[Path, ...] = ()
    """Folders of finished runs; the latest run of each is kept, in summary form, as the evidence of
    its experiment and preset. A run that has finished nothing yet is left out."""
    check: bool = False
    """Write nothing; fail when a page is not what its records say."""


@dataclasses.dataclass(frozen=True)
class AgainArguments:
    """Computes one recorded row anew, and compares.

    The exit status is 0 where all figures agree, 1 where one does not, 2 for bad input.
    """

    record: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECORD")]
    """Whose rows: an experiment's name, for its evidence; a file of records (records.jsonl of a
    run, or a summary in benchmarks/evidence); or a folder that holds one."""
    row: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Which row, counted from 1; without it, rows are listed and nothing is run."""
    preset: Annotated[str | None, tyro.conf.arg(metavar="PRESET")] = None
    """Whose evidence, where an experiment has several."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of prepared tensorflow-datasets data sets; by default that package's own."""


class UsageError(ValueError):
    """A command that cannot be carried out; the message says why."""


def show(console: Console, text: str) -> None:
    """Prints text as it is, whatever the width of the terminal."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def report(arguments: ReportArguments) -> int:
    """Makes the pages of evidence, or checks them; the exit status."""
    # It knows every experiment's report: two thirds of the time that this module took to import.
    from benchmarks.judgement import evidence

    console = Console()
    try:
        if arguments.check:
            evidence.check()
            return 0
        if arguments.take:
            kept = evidence.keep(arguments.take)
        else:
            kept = evidence.Kept([], [], evidence.render())
        for run in kept.left_out:
            complain(f"{run} holds no finished record yet, and is left out.")
        for run, target in kept.taken:
            show(console, f"{run} -> {target}")
        for path in kept.written:
            show(console, str(path))
    except (evidence.StaleEvidenceError, FileNotFoundError, ValueError) as error:
        return refused(error)
    return 0


def refused(error: Exception) -> int:
    """Says what was wrong with the input; the exit status."""
    complain(str(error))
    return 2


def rerun(arguments: AgainArguments) -> int:
    """One row anew, beside what was recorded; the exit status."""
    from benchmarks.judgement import evidence  # late, as above

    console = Console()
    try:
        records = again.recorded(arguments.record, evidence.FOLDER, arguments.preset)
        if arguments.row is None:
            for number, record in enumerate(records, start=1):
                show(console, f"{number}  {again.described(record)}")
            return 0
        wanted = again.row(records, arguments.row)
        show(console, f"{again.described(wanted)}: {wanted.origin.get('command')}")
        for line in again.differences(wanted.origin):
            complain(f"not as recorded. {line}.")
        found = again.again(
            records, arguments.row, data_dir=arguments.data_dir, progress=Bars(console),
            begin=lambda stage: show(console, f"stage {stage!r}"),
        )  # fmt: skip
    except (again.RowError, registry.UnknownNameError, OutsideError, OSError, ValueError) as error:
        return refused(error)
    agree = all(figure.agrees for figure in found.figures)
    show(console, f"\n{_table(found)}\n\n{'All figures agree.' if agree else 'They differ.'}")
    return 0 if agree else 1


def _table(found: again.Again) -> str:
    rows = []
    for figure in found.figures:
        of_machine = math.isinf(figure.allowed)
        said = "not compared" if of_machine else "agrees" if figure.agrees else "DIFFERS"
        allowed = "" if of_machine else f"{figure.allowed:.3g}"
        rows.append([figure.name, f"{figure.recorded:.6g}", f"{figure.again:.6g}", allowed, said])
    return markdown(["figure", "recorded", "again", "may differ by", ""], rows)

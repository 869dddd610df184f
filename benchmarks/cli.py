"""The command line: what can be asked for, and what is printed."""

import contextlib
import dataclasses
import functools
import io
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console

from benchmarks.accelerate import AcceleratorArguments, accelerate
from benchmarks.harness import everything, hosts, registry, terminal
from benchmarks.harness.compiled import COMPILED, keep_compiled_programs
from benchmarks.harness.runner import (
    DiskFullError,
    OtherRunError,
    OutputError,
    RunInterruptedError,
    RunStoppedError,
    alone_in,
    check_folder,
    run_experiment,
)
from benchmarks.harness.terminal import PROGRAM, complain
from benchmarks.subcommands import (
    AgainArguments,
    ReportArguments,
    UsageError,
    report,
    rerun,
    show,
)
from common.files import OutsideError, inside
from common.progress import Bars, Silent

_TITLE = "Experiments of G-SGD, DC-ASGD and LaCIM."

_DESCRIPTION = """Without a name: the list of experiments. With one: runs it, prints its tables, and
leaves records.jsonl, manifest.json, tables.md and plots in --out. Records are appended, never
overwritten; tables and plots show the latest run. With "all": runs every one. With "report": makes
the pages of evidence from the records that are kept with the code; see "report --help". With
"again": computes one recorded row anew and compares. With "accelerator": measures what is worth the
minutes of one GPU or TPU. Each has a --help of its own."""

_COMPILED = COMPILED


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None
    """Which experiment to run; "demo" runs one of each method, "all" every one, each in a process
    of its own."""
    preset: Annotated[str, tyro.conf.arg(metavar="|".join(registry.PRESET_NAMES))] = "smoke"
    """Its size: smoke (about a minute, data that come with the packages), cpu (minutes of a core,
    to show that it runs), day (minutes to hours on two cores, what the evidence is taken at), full
    (the published setting, one accelerator)."""
    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 3
    """How many seeds: 0, 1, ..."""
    methods: Annotated[tuple[str, ...], tyro.conf.arg(metavar="METHOD ...")] = ()
    """Only these of the experiment's methods, by their names in its tables; by default all. When
    the folder's latest run is taken as evidence, their rows replace those of runs that are equal in
    all else."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of prepared tensorflow-datasets data sets; by default that package's own."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder for records and plots; by default results/NAME."""
    resume: bool = False
    """Continues the folder's last run, if that was stopped: what it finished is not computed
    again. Needs the same code, versions, device, preset and seeds."""
    time_budget: Annotated[float | None, tyro.conf.arg(metavar="MINUTES")] = None
    """No further stage begins after so many minutes; the exit status is then 3, and --resume
    continues the run."""
    jobs: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """For "all": how many experiments run at the same time, each on its share of the cores. Those
    that compare the speed of programs always run alone; what repeats its measurements within a
    seed has one. Where day and full need more seeds than were asked for, they have them."""
    distributed: bool = False
    """Trains on all devices of several processes; start each with this same command line. SLURM,
    Open MPI and Cloud TPUs are recognised; elsewhere give the three options below. Process 0
    writes the results."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """For --distributed: process 0's address, with a port that is free there."""
    num_processes: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """For --distributed: how many processes there are."""
    process_id: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """For --distributed: which of them this is, counted from 0."""

    def command(self) -> str:
        """The command line again, without the machine's own paths."""
        shared = " --distributed" if self.distributed else ""
        chosen = f"--preset {self.preset} --seeds {self.seeds}{shared}"
        some = f" --methods {shlex.join(self.methods)}" if self.methods else ""
        return f"python -m benchmarks {self.name} {chosen}{some}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    That is 0, 1 where an experiment of "all" failed or the disk is full, 2 for bad input, 3 when
    time was spent, 130 when interrupted. Arguments are by default the process's own.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        return _carried_out(argv)
    except BrokenPipeError:  # a reader that has gone away; no `ConnectionError` of a cluster
        raise
    except tuple(_STATUS) as error:
        complain(str(error))
        return next(status for kind, status in _STATUS.items() if isinstance(error, kind))


def _carried_out(argv: Sequence[str]) -> int:
    """What a command line asks for; its exit status, unless it ends in one of `_STATUS`."""
    for name, (kind, command) in _SUBCOMMANDS.items():
        if argv and argv[0] == name:
            return command(_parsed(kind, f"{PROGRAM} {name}", argv[1:]))
    arguments = _parsed(Arguments, PROGRAM, argv, _description())
    console = Console()
    if arguments.name is None:
        _list(console)
        return 0
    if arguments.name == "all":
        return _run_all(arguments, console)
    _run(arguments, console)
    return 0


_SUBCOMMANDS: dict[str, tuple[type[Any], Callable[[Any], int]]] = {
    "report": (ReportArguments, report),
    "again": (AgainArguments, rerun),
    "accelerator": (AcceleratorArguments, accelerate),
}

_T = TypeVar("_T")


def _parsed(
    kind: type[_T], program: str, argv: Sequence[str], description: str | None = None
) -> _T:
    """What a command line says; the parser itself does not know of NO_COLOR, but of no terminal."""
    parse = functools.partial(tyro.cli, kind, prog=program, description=description, args=argv)
    if not os.environ.get("NO_COLOR"):
        return parse()
    shown, complaints = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(complaints):
            return parse()
    finally:
        sys.stdout.write(shown.getvalue())
        sys.stderr.write(complaints.getvalue())


_REFUSED = (
    registry.UnknownNameError,
    registry.NoMethodsError,
    UsageError,
    OtherRunError,
    OutputError,
    OutsideError,
    FileNotFoundError,
    ConnectionError,
)
_STATUS = {
    **dict.fromkeys(_REFUSED, 2),
    RunInterruptedError: everything.INTERRUPTED,
    DiskFullError: 1,
    RunStoppedError: everything.STOPPED,  # what the two above are, too
}
"""Exit status by error, the first that fits."""


def _description() -> str:
    """What --help begins with. The parser joins lines, but for those that begin with a space."""
    claims = [
        terminal.indented(f"{name}: {registry.claim(name)}", hanging=2) for name in registry.NAMES
    ]
    return "\n".join([_TITLE, terminal.indented(_DESCRIPTION), "", "Experiments:", *claims])


def _list(console: Console) -> None:
    usage = (
        f"python -m benchmarks NAME --preset {'|'.join(registry.PRESET_NAMES)} --seeds 3 "
        "--data-dir FOLDER --out FOLDER\npython -m benchmarks all --preset cpu --jobs 2\n"
        "python -m benchmarks report --take FOLDER\n"
        "python -m benchmarks again NAME --row 1\n"
        "python -m benchmarks accelerator --minutes 10 --dry-run\n"
        "python -m benchmarks --help"
    )
    claims = {name: registry.claim(name) for name in registry.NAMES}
    if console.is_terminal:
        usage = "\n".join(terminal.indented(line, hanging=2) for line in usage.splitlines())
    show(console, f"{terminal.listing(claims, console)}\n\n{usage}")


def _checked(arguments: Arguments) -> None:
    for option, value in (("seeds", arguments.seeds), ("jobs", arguments.jobs)):
        if value < 1:
            raise UsageError(f"--{option} must be at least 1, got {value}.")
    if arguments.jobs > 1 and arguments.name != "all":
        raise UsageError('--jobs is of "all"; one experiment is one process.')
    if arguments.methods and arguments.name in ("all", "demo"):
        raise UsageError("--methods are those of one experiment: name it.")
    named = (arguments.coordinator, arguments.num_processes, arguments.process_id)
    if any(option is not None for option in named) and (None in named or not arguments.distributed):
        raise UsageError(
            "--coordinator, --num-processes and --process-id go together, and with --distributed; "
            "where the cluster is recognised, leave all three out."
        )
    if arguments.distributed and arguments.name not in registry.DISTRIBUTED:
        raise registry.UnknownNameError(
            "experiment that trains on several hosts", str(arguments.name), registry.DISTRIBUTED
        )
    if arguments.time_budget is not None and not arguments.time_budget > 0:
        raise UsageError(f"--time-budget must be above 0 minutes, got {arguments.time_budget}.")


def _note_no_run(out: Path) -> None:
    """Says that --resume finds nothing: the folder's name may be mistaken."""
    complain(f"--resume finds no run to go on with in {out}; this one begins anew there.")


def _run_all(arguments: Arguments, console: Console) -> int:
    _checked(arguments)
    if arguments.preset not in registry.PRESET_NAMES:
        raise registry.UnknownNameError("preset", arguments.preset, registry.PRESET_NAMES)
    base = arguments.out or Path("results") / arguments.preset
    if arguments.resume and not base.exists():
        _note_no_run(base)
    check_folder(base)
    with alone_in(base):
        return _run_all_in(base, arguments, console)


def _run_all_in(base: Path, arguments: Arguments, console: Console) -> int:
    jobs = []
    for name in registry.names_with(arguments.preset):
        timed = name in registry.TIMED
        seeds = registry.seeds_of(name, arguments.preset, arguments.seeds)
        options = ["--preset", arguments.preset, "--seeds", str(seeds)]
        if arguments.data_dir is not None:
            options += ["--data-dir", str(arguments.data_dir.resolve())]
        if arguments.resume:
            options.append("--resume")
        folder = inside(base, name)
        if folder.exists():
            check_folder(folder)  # before its log is opened
        jobs.append(everything.Job(name, timed, tuple(options), folder.resolve()))
    try:
        outcomes = everything.run_jobs(
            jobs,
            at_once=arguments.jobs,
            minutes=arguments.time_budget,
            report=functools.partial(show, console),
        )
    except KeyboardInterrupt:
        raise RunInterruptedError(
            f"interrupted; what is finished is kept in {base}; --resume goes on from there."
        ) from None
    statuses = {outcome.status for outcome in outcomes}
    if statuses - {everything.FINISHED, everything.STOPPED}:
        return 1
    if everything.STOPPED in statuses:
        raise RunStoppedError(f"time is spent; {base} keeps what is finished, --resume goes on.")
    show(console, f"\nTo keep all as evidence: python -m benchmarks report --take {base}/*")
    return 0


def _run(arguments: Arguments, console: Console) -> None:
    assert arguments.name is not None
    _checked(arguments)
    mesh = None
    if arguments.distributed:
        # First of all: no process may have computed anything before they have met.
        hosts.join(arguments.coordinator, arguments.num_processes, arguments.process_id)
        mesh = hosts.mesh()
    writes = mesh is None or hosts.is_first()
    console = console if writes else Console(quiet=True)
    deadline = None
    if arguments.time_budget is not None:
        deadline = time.monotonic() + 60 * arguments.time_budget
    demo = arguments.name == "demo"
    names = registry.DEMO if demo else (arguments.name,)
    # All names are looked up before the first runs, so that a wrong one costs nothing.
    experiments = [(name, registry.load(name)) for name in names]
    settings = [
        registry.with_methods(registry.preset(experiment, arguments.preset), arguments.methods)
        for _, experiment in experiments
    ]
    if not set(names) & set(registry.TIMED):
        keep_compiled_programs(_COMPILED)
    base = arguments.out or Path("results")
    for (name, experiment), chosen in zip(experiments, settings, strict=True):
        out = base if arguments.out and not demo else inside(base, name)
        if arguments.resume and writes and not (out / "manifest.json").exists():
            _note_no_run(out)
        console.rule(f"[bold]{name}[/bold] · {arguments.preset}")
        show(console, registry.claim(name))
        context = registry.Context(
            seeds=tuple(range(arguments.seeds)),
            data_dir=arguments.data_dir,
            progress=Bars(console) if writes else Silent(),
            mesh=mesh,
        )
        command = dataclasses.replace(arguments, name=name).command()
        done = run_experiment(
            name, experiment, chosen, context, preset=arguments.preset, command=command, out=out,
            resume=arguments.resume,
            seconds=None if deadline is None else deadline - time.monotonic(),
        )  # fmt: skip
        show(console, f"\n{done.tables}\n")
        plots = ", ".join(path.name for path in done.plots)
        show(
            console,
            f"{done.records} records in {done.seconds:.0f} s: {out}/records.jsonl; "
            f"tables.md; plots {plots}\n",
        )

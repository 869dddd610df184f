"""The command line: what can be asked for, and what is printed."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from benchmarks import registry
from benchmarks.runner import RunInterruptedError, run_experiment
from common.progress import Bars

_DESCRIPTION = """Experiments of G-SGD, DC-ASGD and LaCIM.

Without a name: the list of experiments. With one: runs it, prints its tables, and leaves
records.jsonl, manifest.json, tables.md and plots in --out. Records are appended, never overwritten;
tables and plots show the latest run."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    name: Annotated[str | None, tyro.conf.Positional] = None
    """Which experiment to run; "demo" runs one of each method."""
    preset: str = "smoke"
    """Its size: smoke (about a minute, data that come with the packages), cpu (minutes on two
    cores, full data sets), full (the published setting, one accelerator)."""
    seeds: int = 3
    """How many seeds: 0, 1, ..."""
    data_dir: Path | None = None
    """Folder of prepared tensorflow-datasets data sets; by default that package's own."""
    out: Path | None = None
    """Folder for records and plots; by default results/NAME."""

    def command(self) -> str:
        """The command line again, without the machine's own paths."""
        return f"python -m benchmarks {self.name} --preset {self.preset} --seeds {self.seeds}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 0, 2 for bad input, 130 when interrupted.

    Args:
        argv: arguments without the program's name; by default the process's own.
    """
    arguments = tyro.cli(
        Arguments, prog="python -m benchmarks", description=_DESCRIPTION, args=argv
    )
    console = Console()
    if arguments.name is None:
        _list(console)
        return 0
    try:
        _run(arguments, console)
    except (registry.UnknownNameError, UsageError, FileNotFoundError) as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        return 2
    except RunInterruptedError as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        return 130
    return 0


class UsageError(ValueError):
    """An option out of its range."""


def _list(console: Console) -> None:
    width = max(map(len, registry.NAMES))
    for name in registry.NAMES:
        console.print(f"{name:<{width}}  {registry.claim(name)}", highlight=False, markup=False)
    console.print(
        f"\npython -m benchmarks NAME --preset {'|'.join(registry.PRESET_NAMES)} --seeds 3 "
        "--data-dir FOLDER --out FOLDER\npython -m benchmarks --help",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _run(arguments: Arguments, console: Console) -> None:
    assert arguments.name is not None
    if arguments.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, got {arguments.seeds}.")
    demo = arguments.name == "demo"
    names = registry.DEMO if demo else (arguments.name,)
    # All names are looked up before the first runs, so that a wrong one costs nothing.
    experiments = [(name, registry.load(name)) for name in names]
    settings = [registry.preset(experiment, arguments.preset) for _, experiment in experiments]
    base = arguments.out or Path("results")
    for (name, experiment), chosen in zip(experiments, settings, strict=True):
        out = base if arguments.out and not demo else base / name
        console.rule(f"[bold]{name}[/bold] · {arguments.preset}")
        console.print(registry.claim(name), highlight=False, markup=False, soft_wrap=True)
        context = registry.Context(
            seeds=tuple(range(arguments.seeds)),
            data_dir=arguments.data_dir,
            progress=Bars(console),
        )
        command = dataclasses.replace(arguments, name=name).command()
        report = run_experiment(
            name, experiment, chosen, context, preset=arguments.preset, command=command, out=out
        )
        console.print(f"\n{report.tables}\n", highlight=False, markup=False, soft_wrap=True)
        plots = ", ".join(path.name for path in report.plots)
        console.print(
            f"{report.records} records in {report.seconds:.0f} s: {out}/records.jsonl; "
            f"tables.md; plots {plots}\n",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

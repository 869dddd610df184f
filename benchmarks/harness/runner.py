"""Runs one experiment and leaves its evidence: records, manifest, tables, plots.

A run that was stopped can be gone on with. The new run is a run of its own, and begins with the
records of the stages that the old one finished, provided that both come from the same code,
versions, device and settings: a table never mixes two of them. Whatever stops a run, Ctrl-C or a
full disk included, leaves every record that was finished.
"""

import contextlib
import dataclasses
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import hosts
from benchmarks.harness.registry import Context, Experiment
from benchmarks.harness.reports import source
from benchmarks.harness.stages import Stages, TimeBudgetSpentError
from common.files import (
    InUseError,
    clear_partials,
    full_disk,
    links_outside,
    locked,
    write_whole,
)
from common.results.origin import now, provenance, shortened
from common.results.records import Record, RecordWriter, json_ready, last_run, read_records


class Report(NamedTuple):
    """What a finished experiment left."""

    tables: str
    """Markdown."""
    plots: list[Path]
    records: int
    seconds: float


class RunStoppedError(RuntimeError):
    """A run that ended before its time; the message says what was kept, and how to go on."""


class RunInterruptedError(RunStoppedError):
    """Ctrl-C during a run."""


class DiskFullError(RunStoppedError):
    """A disk without room for another record, table or figure."""


class OtherRunError(ValueError):
    """A run that cannot be gone on with; the message says why."""


class OutputError(ValueError):
    """A folder that results cannot be written to; the message says why."""


def check_folder(out: Path) -> None:
    """Makes a folder for results, or refuses one that cannot be it or that leads elsewhere.

    Raises:
        OutputError: naming what is in the way.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"results need a folder, and {out} is none and cannot be made one "
            f"({error.strerror}); name another with --out."
        ) from error
    for link in links_outside(out):
        raise OutputError(
            f"everything that a run writes lies in {out}, but {link.name} in it is a link to "
            f"{link.resolve()}; remove the link, or name that folder with --out."
        )


@contextlib.contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Keeps a folder for results to this process.

    Raises:
        OutputError: if another process writes to it, which is named, or nothing can be written.
    """
    with contextlib.ExitStack() as ours:
        try:
            ours.enter_context(locked(out))
        except InUseError as error:
            raise OutputError(f"{error}") from None
        except OSError as error:
            if full_disk(error):
                raise DiskFullError(
                    f"the disk of {out} is full ({error}): make room; nothing was begun."
                ) from error
            raise OutputError(
                f"results are written to {out}, and nothing can be ({error.strerror}); name "
                "another folder with --out."
            ) from error
        yield


def run_experiment(
    name: str, experiment: Experiment, settings: Any, context: Context, *, preset: str,
    command: str, out: Path, resume: bool = False, seconds: float | None = None,
) -> Report:  # fmt: skip
    """Runs an experiment into a folder.

    Where several processes run it together, process 0 alone reads and writes the folder.

    Args:
        name: the experiment's name.
        experiment: its module.
        settings: a frozen dataclass, one of its presets or a variation of one.
        context: seeds, data, progress; its stages are this function's.
        preset: the name of the preset, for the records.
        command: the command line that gives these figures, for the records.
        out: the folder; records are appended to those it holds, all else shows this run.
        resume: whether stages that the folder's last run finished are taken from it. A folder
            without a run is begun.
        seconds: after which no further stage is begun; None for no limit.

    Returns:
        Tables and plots, made from the records as they were read back from the file; none but in
        the process that writes.

    Raises:
        OtherRunError: if the folder's last run is of other settings, seeds, code, versions or
            device, or cannot be read; nothing is computed then, and nothing written.
        OutputError: if the folder cannot be one for results, or another process writes to it;
            nothing is computed then either.
        RunInterruptedError: on Ctrl-C; the records finished by then are kept and counted.
        RunStoppedError: if time is spent, or (`DiskFullError`) there is no room; as on Ctrl-C.
    """
    origin = {
        "benchmark": name,
        "preset": preset,
        "run": f"{now()}-{secrets.token_hex(2)}",
        "command": command,
        "configuration": dataclasses.asdict(settings),
        "seeds": list(context.seeds),
        "provenance": provenance(dtype=dtype_of(settings)),
    }
    finished: dict[str, list[Record]] = {}
    with contextlib.ExitStack() as ours:

        def names_of_finished() -> list[str]:
            finished.update(_kept(out, origin, resume, ours))
            return list(finished)

        names = hosts.from_first(names_of_finished, OtherRunError, OutputError)
        run = _Run(out, origin)
        try:
            # What an earlier run finished is this one's before anything can go wrong in it.
            for stage, records in finished.items():
                for record in records:
                    run.write(record)
                run.note_stage(stage, len(records))
            run.write_manifest("running")
            stages = Stages(
                {name: finished.get(name, []) for name in names},
                seconds=seconds,
                on_finished=run.finish_stage,
                agreed=lambda spent: hosts.from_first(lambda: spent),
            )
            for record in experiment.run(settings, context._replace(stages=stages)):
                run.write(record)
            return run.report(experiment)
        except TimeBudgetSpentError as spent:
            raise RunStoppedError(f"{spent} {run.stop('stopped')}") from None
        except KeyboardInterrupt:
            raise RunInterruptedError(f"interrupted; {run.stop('interrupted')}") from None
        except BaseException as error:
            kept = run.stop("failed")
            if full_disk(error):
                raise DiskFullError(
                    f"the disk of {out} is full ({error}): make room; {kept}"
                ) from error
            raise


def dtype_of(settings: Any) -> str:
    """The dtype in which networks compute, as settings say, or those of the network among them.

    Args:
        settings: of an experiment.
    """
    groups = (settings, getattr(settings, "size", None))
    return "bfloat16" if any(getattr(group, "bfloat16", False) for group in groups) else "float32"


class _Run:
    """A run's records and manifest; only the process that writes does anything with them."""

    def __init__(self, out: Path, origin: Mapping[str, Any]):
        self._out, self._origin = out, origin
        self._path, self._writes = out / "records.jsonl", hosts.is_first()
        self._writer = RecordWriter(self._path, origin=origin) if self._writes else None
        self._started, self._written = time.perf_counter(), 0
        self._stages: list[dict[str, Any]] = []

    def write(self, record: Record) -> None:
        if self._writer is not None:
            self._writer.write(record)
        self._written += 1

    def note_stage(self, stage: str, records: int) -> None:
        """The stage whose records were written last."""
        if any(stage == other["name"] for other in self._stages):
            name = self._origin["benchmark"]
            raise ValueError(f"stages need names of their own, got {stage!r} twice in {name}.")
        first = self._written - records
        self._stages.append({"name": stage, "first": first, "records": records})

    def finish_stage(self, stage: str, records: int) -> None:
        self.note_stage(stage, records)
        self.write_manifest("running")

    def write_manifest(self, status: str, files: Sequence[Path] = ()) -> None:
        if not self._writes:
            return
        manifest = {
            **self._origin,
            "status": status,
            "records": self._written,
            "stages": self._stages,
            "wall_time": time.perf_counter() - self._started,
            "files": [file.name for file in files],
        }
        text = json.dumps(manifest, indent=2, default=str)
        write_whole(self._out / "manifest.json", f"{text}\n")

    def stop(self, status: str) -> str:
        """Notes how a run ended, and says what it leaves."""
        # The disk may be full: then the manifest stays as it was, and says "running".
        with contextlib.suppress(OSError):
            self.write_manifest(status, [self._path])
        kept = f"{self._written} finished records are kept in {self._path}"
        return f"{kept}; --resume goes on from there."

    def report(self, experiment: Experiment) -> Report:
        """Tables and plots of the records as they were read back."""
        if not self._writes:
            return Report("", [], self._written, time.perf_counter() - self._started)
        records, table = last_run(read_records(self._path)), self._out / "tables.md"
        tables = experiment.tables(records)
        write_whole(table, f"{tables}\n\n{made_by(self._origin)}\n")
        plots = experiment.plots(records, self._out)
        self.write_manifest("finished", [self._path, table, *plots])
        return Report(tables, plots, self._written, time.perf_counter() - self._started)


def _kept(
    out: Path, origin: Mapping[str, Any], resume: bool, ours: contextlib.ExitStack
) -> dict[str, list[Record]]:
    """The stages that a folder's last run finished, if asked for; checks and locks the folder."""
    check_folder(out)
    ours.enter_context(alone_in(out))
    for name in ("manifest.json", "tables.md"):
        clear_partials(out / name)
    path = out / "records.jsonl"
    if path.exists():
        try:
            read_records(path)  # a damaged one is found before hours are spent, not after
        except ValueError as error:
            raise OutputError(str(error)) from error
    return _finished(out, origin) if resume else {}


def _finished(out: Path, origin: Mapping[str, Any]) -> dict[str, list[Record]]:
    """The stages that the last run in a folder finished, if there is one."""
    if not (out / "manifest.json").exists():
        return {}
    try:
        last = json.loads((out / "manifest.json").read_bytes())
        identity, run = _identity(last), last["run"]
        stages = [(str(s["name"]), int(s["first"]), int(s["records"])) for s in last["stages"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise OtherRunError(
            f"--resume needs to know the last run, but {out / 'manifest.json'} is damaged "
            f"({error!r}); remove it to begin anew there (records are kept)."
        ) from error
    ours = _identity(origin)
    differing = [key for key, value in identity.items() if value != ours[key]]
    if differing:
        ways = [
            "leave it out to begin anew there (records are appended)",
            "name another folder with --out",
        ]
        if _CODE in differing:
            then, here = (shortened(str(either[_CODE])) for either in (identity, ours))
            ways.insert(0, f"go back to the code of that run, {then} (here it is {here})")
        raise OtherRunError(
            f"--resume needs a run of the same {', '.join(differing)} in {out}; "
            f"{', '.join(ways[:-1])}, or {ways[-1]}."
        )
    records = [r for r in read_records(out / "records.jsonl") if r.origin.get("run") == run]
    parts = [(name, records[max(first, 0) :][:count], count) for name, first, count in stages]
    # A stage that has lost a record, with the end of the file say, is computed again.
    return {name: part for name, part, count in parts if len(part) == count}


_CODE = "code (commit)"


def _identity(origin: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs have in common if the one may go on with the other's records, by its name."""
    source = origin["provenance"]
    keys = ("benchmark", "preset", "configuration", "seeds")
    return json_ready(
        {key: origin[key] for key in keys}
        | {_CODE: source["git_commit"]}
        | {key: source[key] for key in ("versions", "device", "dtype")}
    )


def made_by(origin: Mapping[str, Any], sources: str | None = None) -> str:
    """Where a table's figures came from, in one line; by default all from one run, the origin's.

    The sources are commands with their commits, hardware, versions and dtypes.
    """
    made, seeds = origin["provenance"], len(origin["seeds"])
    one = f"{source(origin)}, jax {made['versions']['jax']}, {made['dtype']}"
    spread = ", mean ± sample standard deviation where nothing else is said" * (seeds != 1)
    return f"{sources or one}, n = {seeds} seed{'s' * (seeds != 1)}{spread}."

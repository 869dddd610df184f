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
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import hosts
from benchmarks.harness.registry import Context, Experiment
from benchmarks.harness.reports import source
from benchmarks.harness.stages import Stages, TimeBudgetSpentError
from common.files import full_disk, links_outside, write_whole
from common.provenance import now, provenance
from common.records import Record, RecordWriter, last_run, plain, read_records


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
    """Refuses a folder that results cannot be written to, or that leads elsewhere by a link.

    Args:
        out: made where it is missing.

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


def run_experiment(
    name: str,
    experiment: Experiment,
    settings: Any,
    context: Context,
    *,
    preset: str,
    command: str,
    out: Path,
    resume: bool = False,
    seconds: float | None = None,
) -> Report:
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
        OutputError: if the folder cannot be one for results; likewise.
        RunInterruptedError: on Ctrl-C; the records finished by then are kept and counted.
        RunStoppedError: if time is spent, or (`DiskFullError`) there is no room; likewise.
    """
    origin = {
        "benchmark": name,
        "preset": preset,
        "run": f"{now()}-{secrets.token_hex(2)}",
        "command": command,
        "configuration": dataclasses.asdict(settings),
        "seeds": list(context.seeds),
        "provenance": provenance(),
    }
    path = out / "records.jsonl"
    writes, finished = hosts.is_first(), {}

    def names_of_finished() -> list[str]:
        check_folder(out)
        if path.exists():
            try:
                read_records(path)  # a damaged one is found before hours are spent, not after
            except ValueError as error:
                raise OutputError(str(error)) from error
        finished.update(_finished(out, origin) if resume else {})
        return list(finished)

    names = hosts.from_first(names_of_finished, OtherRunError, OutputError)
    writer = RecordWriter(path, origin=origin) if writes else None
    started, written = time.perf_counter(), 0
    stages: list[dict[str, Any]] = []

    def write(record: Record) -> None:
        if writer is not None:
            writer.write(record)

    def manifest(status: str, files: list[Path]) -> None:
        if not writes:
            return
        write_whole(
            out / "manifest.json",
            json.dumps(
                {
                    **origin,
                    "status": status,
                    "records": written,
                    "stages": stages,
                    "wall_time": time.perf_counter() - started,
                    "files": [file.name for file in files],
                },
                indent=2,
                default=str,
            )
            + "\n",
        )

    def stage_finished(stage: str, records: int) -> None:
        if any(stage == other["name"] for other in stages):
            raise ValueError(f"stages need names of their own, got {stage!r} twice in {name}.")
        stages.append({"name": stage, "first": written - records, "records": records})
        manifest("running", [])

    def stop(status: str) -> str:
        """Notes how a run ended, and says what it leaves."""
        # The disk may be full: then the manifest stays as it was, and says "running".
        with contextlib.suppress(OSError):
            manifest(status, [path])
        return f"{written} finished records are kept in {path}; --resume goes on from there."

    try:
        # What an earlier run finished is this one's before anything can go wrong in it.
        for stage, records in finished.items():
            for record in records:
                write(record)
            written += len(records)
            first = written - len(records)
            stages.append({"name": stage, "first": first, "records": len(records)})
        manifest("running", [])
        limited = Stages(
            names,
            seconds=seconds,
            on_finished=stage_finished,
            agreed=lambda spent: hosts.from_first(lambda: spent),
        )
        for record in experiment.run(settings, context._replace(stages=limited)):
            write(record)
            written += 1
        if not writes:
            return Report("", [], written, time.perf_counter() - started)
        records = last_run(read_records(path))
        tables = experiment.tables(records)
        write_whole(out / "tables.md", f"{tables}\n\n{made_by(origin)}\n")
        plots = experiment.plots(records, out)
        manifest("finished", [path, out / "tables.md", *plots])
    except TimeBudgetSpentError as spent:
        raise RunStoppedError(f"{spent} {stop('stopped')}") from None
    except KeyboardInterrupt:
        raise RunInterruptedError(f"interrupted; {stop('interrupted')}") from None
    except BaseException as error:
        kept = stop("failed")
        if full_disk(error):
            raise DiskFullError(
                f"the disk of {out} is full ({error}): make room; {kept}"
            ) from error
        raise
    return Report(tables, plots, written, time.perf_counter() - started)


def _finished(out: Path, origin: Mapping[str, Any]) -> dict[str, list[Record]]:
    """The stages that the last run in a folder finished, if there is one."""
    if not (out / "manifest.json").exists():
        return {}
    try:
        last = json.loads((out / "manifest.json").read_bytes())
        identity, run, stages = _identity(last), last["run"], list(last["stages"])
    except (ValueError, KeyError, TypeError) as error:
        raise OtherRunError(
            f"--resume needs to know the last run, but {out / 'manifest.json'} is damaged "
            f"({error!r}); remove it to begin anew there (records are kept)."
        ) from error
    differing = [key for key, value in identity.items() if value != _identity(origin)[key]]
    if differing:
        raise OtherRunError(
            f"--resume needs a run of the same {', '.join(differing)} in {out}; leave it out to "
            "begin anew there (records are appended), or name another folder with --out."
        )
    records = [r for r in read_records(out / "records.jsonl") if r.origin.get("run") == run]
    # A stage that has lost a record, with the end of the file say, is computed again.
    found = {
        stage["name"]: records[stage["first"] : stage["first"] + stage["records"]]
        for stage in stages
    }
    return {
        stage["name"]: found[stage["name"]]
        for stage in stages
        if len(found[stage["name"]]) == stage["records"]
    }


def _identity(origin: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs have in common if the one may go on with the other's records, by its name."""
    source = origin["provenance"]
    keys = ("benchmark", "preset", "configuration", "seeds")
    return plain(
        {key: origin[key] for key in keys}
        | {"code (commit)": source["git_commit"]}
        | {key: source[key] for key in ("versions", "device", "dtype")}
    )


def made_by(origin: Mapping[str, Any]) -> str:
    """Where a table's figures came from, in one line."""
    made = origin["provenance"]
    return (
        f"{source(origin)}, jax {made['versions']['jax']}, {made['dtype']}, n = "
        f"{len(origin['seeds'])} seeds, mean ± sample standard deviation."
    )

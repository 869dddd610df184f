"""Runs one experiment and leaves its evidence: records, manifest, tables, plots."""

import dataclasses
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.registry import Context, Experiment
from common.provenance import now, provenance
from common.records import RecordWriter, last_run, read_records


class Report(NamedTuple):
    """What a finished experiment left."""

    tables: str
    """Markdown."""
    plots: list[Path]
    records: int
    seconds: float


class RunInterruptedError(RuntimeError):
    """Ctrl-C during a run; the message says what was kept."""


def run_experiment(
    name: str,
    experiment: Experiment,
    settings: Any,
    context: Context,
    *,
    preset: str,
    command: str,
    out: Path,
) -> Report:
    """Runs an experiment into a folder.

    Args:
        name: the experiment's name.
        experiment: its module.
        settings: a frozen dataclass, one of its presets or a variation of one.
        context: seeds, data, progress.
        preset: the name of the preset, for the records.
        command: the command line that gives these figures, for the records.
        out: the folder; records are appended to those it holds, all else shows this run.

    Returns:
        Tables and plots, made from the records as they were read back from the file.

    Raises:
        RunInterruptedError: on Ctrl-C; the records finished by then are kept and counted.
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
    writer = RecordWriter(path, origin=origin)
    started, written = time.perf_counter(), 0

    def manifest(status: str, files: list[Path]) -> None:
        _write_whole(
            out / "manifest.json",
            json.dumps(
                {
                    **origin,
                    "status": status,
                    "records": written,
                    "wall_time": time.perf_counter() - started,
                    "files": [file.name for file in files],
                },
                indent=2,
                default=str,
            )
            + "\n",
        )

    manifest("running", [])
    try:
        for record in experiment.run(settings, context):
            writer.write(record)
            written += 1
    except KeyboardInterrupt:
        manifest("interrupted", [path])
        message = f"interrupted; {written} finished records are kept in {path}."
        raise RunInterruptedError(message) from None
    except BaseException:
        manifest("failed", [path])
        raise
    records = last_run(read_records(path))
    tables = experiment.tables(records)
    _write_whole(out / "tables.md", f"{tables}\n\n{caption(origin)}\n")
    plots = experiment.plots(records, out)
    manifest("finished", [path, out / "tables.md", *plots])
    return Report(tables, plots, written, time.perf_counter() - started)


def caption(origin: Mapping[str, Any]) -> str:
    """Where a table's figures came from, in one line."""
    source = origin["provenance"]
    device, versions = source["device"], source["versions"]
    return (
        f"`{origin['command']}`, commit {source['git_commit'][:12]}, "
        f"{device['count']} x {device['kind']} ({device['cores']} cores), jax {versions['jax']}, "
        f"{source['dtype']}, n = {len(origin['seeds'])} seeds, mean ± sample standard deviation."
    )


def _write_whole(path: Path, text: str) -> None:
    """Replaces a file in one go, so that a reader never sees half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)

"""Bad files and names: checkpoints, records, disks, and what must not be written or unpickled."""

import dataclasses
import errno
import os
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.docs.bad_cases.case import LAST, Case
from benchmarks.harness import registry, runner
from benchmarks.harness.stages import Stages
from benchmarks.judgement import evidence
from common import files
from common.data import read_npz
from common.progress import Silent
from common.results import records
from common.training import checkpoints
from common.training.checkpoints import Checkpoints

_STATE = {"w": np.arange(6.0, dtype=np.float32)}


def _saved(folder: Path, *steps: int) -> Path:
    with Checkpoints(folder / "run") as opened:
        for step in steps:
            opened.save(step, _STATE, {})
    return folder / "run"


def _restored(run: Path, template: Any = None) -> Any:
    with Checkpoints(run) as opened:
        return opened.restore(_STATE if template is None else template)


def _all_cut(folder: Path) -> Any:
    run = _saved(folder, 1, 2)
    for path in run.glob("*/notes/metadata"):
        path.write_bytes(path.read_bytes()[:-3])
    return _restored(run)


def _nan_saved(folder: Path) -> Any:
    with Checkpoints(folder / "run") as opened:
        opened.save(1, _STATE, {})
        opened.save(2, {"w": _STATE["w"] * np.nan}, {}, allow_nan=True)
        return opened.restore(_STATE)


def _nan_saved_by_default(folder: Path) -> Any:
    with Checkpoints(folder / "run") as opened:
        opened.save(1, {"w": _STATE["w"] * np.nan}, {})


def _full(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _interrupted(*_: Any) -> Any:
    raise KeyboardInterrupt


def _unwritten(folder: Path) -> Any:
    run = _saved(folder, 1)
    with mock.patch.object(checkpoints, "write_whole", _full), Checkpoints(run) as opened:
        opened.save(2, _STATE, {})


def _record(**changes: Any) -> records.Record:
    fields = {"method": "m", "setting": {}, "seed": 0, "metrics": {}, "wall_time": 0.0}
    return records.Record(**(fields | changes))


def _damaged_records(folder: Path) -> Any:
    path = folder / "records.jsonl"
    records.RecordWriter(path, origin={"run": "1"}).write(_record())
    path.write_text("!" + path.read_text())
    return records.read_records(path)


@dataclasses.dataclass(frozen=True)
class _Settings:
    pass


class _Experiment:
    """An experiment of two seeds, of which the second meets `fault`."""

    PRESETS: Mapping[str, Any] = types.MappingProxyType({})

    def __init__(self, fault: Callable[..., Any]):
        self._fault = fault

    def run(self, settings: Any, context: registry.Context) -> Iterator[records.Record]:
        del settings, context
        yield _record()
        self._fault()
        yield _record(seed=1)

    def tables(self, records: Any) -> str:
        return f"{len(records)} records"

    def plots(self, records: Any, out: Path) -> list[Path]:
        del records, out
        return []


def _run(folder: Path, fault: Callable[..., Any]) -> Any:
    context = registry.Context((0, 1), None, Silent(), Stages())
    return runner.run_experiment(
        "gsgd_mlp", _Experiment(fault), _Settings(), context, preset="smoke",
        command="python -m benchmarks gsgd_mlp", out=folder,
    )  # fmt: skip


def _warned(act: Callable[..., Any], *arguments: Any) -> Any:
    """Raises what is warned of, so that the page can show it beside the errors."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        act(*arguments)
    raise next(w.message for w in seen if isinstance(w.message, UserWarning))


def _one_cut(folder: Path) -> Any:
    run = _saved(folder, 1, 2)
    (run / "2" / "notes" / "metadata").write_bytes(b"{")
    return _warned(_restored, run)


def _torn_records(folder: Path) -> Any:
    path = folder / "records.jsonl"
    writer = records.RecordWriter(path, origin={"run": "1"})
    for seed in (0, 1):
        writer.write(_record(seed=seed))
    path.write_bytes(path.read_bytes()[:-5])
    return _warned(records.read_records, path)


def _full_records(folder: Path) -> Any:
    with mock.patch.object(files, "_write", _full):
        return records.RecordWriter(folder / "records.jsonl", origin={}).write(_record())


def _damaged_manifest(folder: Path) -> Any:
    (folder / "manifest.json").write_text("{")
    context = registry.Context((0,), None, Silent(), Stages())
    return runner.run_experiment(
        "gsgd_mlp", _Experiment(_full), _Settings(), context, preset="smoke",
        command="python -m benchmarks gsgd_mlp", out=folder, resume=True,
    )  # fmt: skip


def _linked(folder: Path) -> Any:
    (folder / "out").mkdir()
    (folder / "out" / "tables.md").symlink_to(folder / "precious.md")
    return runner.check_folder(folder / "out")


def _taken(folder: Path) -> Any:
    origin = {"benchmark": "gsgd_mlp", "preset": "../../escape"}
    records.RecordWriter(folder / "run" / "records.jsonl", origin=origin).write(_record())
    return evidence.take(folder / "run", folder / "evidence")


def _pickled(folder: Path) -> Any:
    np.savez(folder / "data.npz", images=np.asarray([{}], object))
    return read_npz(folder / "data.npz")


_KEPT = "Checkpoints, records and disks"
_NAMES = "Names and pickles"
_OLD = "what was there before"
_RUN = "every finished record; `--resume` goes on"

CASES = (
    Case(
        _KEPT, "the newest checkpoint damaged or cut short (a warning)",
        "common.training.Checkpoints", UserWarning, _one_cut,
        "the checkpoint before it, which is gone on from",
    ),
    Case(
        _KEPT, "all checkpoints damaged", "common.training.Checkpoints",
        checkpoints.DamagedCheckpointError, _all_cut, "all files, as they are",
    ),
    Case(
        _KEPT, "a checkpoint of another state", "common.training.Checkpoints", ValueError,
        lambda folder: _restored(_saved(folder, 1), {"w": np.zeros(3, np.float32)}), LAST,
    ),
    Case(
        _KEPT, "NaN in a state to be saved", "common.training.Checkpoints",
        checkpoints.NotANumberError,
        _nan_saved_by_default, LAST,
    ),
    Case(
        _KEPT, "NaN in a checkpoint", "common.training.Checkpoints",
        checkpoints.NotANumberError, _nan_saved, "all files, as they are",
    ),
    Case(
        _KEPT, "a full disk while a checkpoint is written", "common.training.Checkpoints",
        checkpoints.UnwrittenCheckpointError, _unwritten, LAST,
    ),
    Case(
        _KEPT, "a damaged line among records", "common.results.read_records", ValueError,
        _damaged_records, "the file, as it is; a run refuses it before it computes anything",
    ),
    Case(
        _KEPT, "a last record that a power cut tore (a warning)", "common.results.read_records",
        UserWarning, _torn_records, "every record before it; the next writer cuts the rest off",
    ),
    Case(
        _KEPT, "a full disk while a record is written", "common.results.RecordWriter", OSError,
        _full_records, "every line before it, and no part of this one",
    ),
    Case(
        _KEPT, "a full disk during a run", "python -m benchmarks", runner.DiskFullError,
        lambda folder: _run(folder, _full), _RUN,
    ),
    Case(
        _KEPT, "Ctrl-C during a run", "python -m benchmarks", runner.RunInterruptedError,
        lambda folder: _run(folder, _interrupted), _RUN,
    ),
    Case(
        _KEPT, "a damaged manifest, with `--resume`", "python -m benchmarks", runner.OtherRunError,
        _damaged_manifest, _OLD,
    ),
    Case(
        _NAMES, "an experiment called `../escape`", "python -m benchmarks",
        registry.UnknownNameError, lambda _: registry.load("../escape"),
    ),
    Case(
        _NAMES, "a name with `..` in it", "common.files.inside", files.OutsideError,
        lambda folder: files.inside(folder / "out", "../escape"),
    ),
    Case(
        _NAMES, "a link out of the folder of `--out`", "python -m benchmarks", runner.OutputError,
        _linked, _OLD,
    ),
    Case(
        _NAMES, "records whose preset is called `../../escape`", "python -m benchmarks report",
        registry.UnknownNameError, _taken, _OLD,
    ),
    Case(
        _NAMES, "a data set with pickled objects", "common.data.read_npz", ValueError, _pickled,
        "nothing was unpickled",
    ),
)  # fmt: skip

"""What is known of a real run: its trace, its batches, and the state of its servers in a file.

The file is NumPy's own archive of arrays (.npz), read with `allow_pickle=False`: nothing in it is
executed. It is written whole beside the old one, forced to disk, and put in its place in one move:
whatever happens in between, a good one is there.
"""

import contextlib
import glob
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dcasgd_jax.actors.host_arrays import host_shapes
from dcasgd_jax.schedules.schedule import Schedule, from_arrivals
from dcasgd_jax.simulator.state import ServerState

_COLUMNS = {
    "worker": np.int32,
    "staleness": np.int32,
    "batch": np.int32,
    "clock": np.float64,
    "distance": np.float64,
}
_FORMAT = 1


class Recording(NamedTuple):
    """What `read_recording` finds in a checkpoint, and what replaying it takes."""

    schedule: Schedule  # who arrived when, and how stale
    batch: np.ndarray  # shape=(num_steps,), dtype=int32: the number of each step's batch
    distance: np.ndarray | None  # shape=(num_steps,), float64: |w - snapshot|, where it was logged


class TraceColumns:
    """The columns of a trace, as they grow."""

    def __init__(self, num_workers: int, **columns: np.ndarray):
        """Begins with what was recorded before.

        Args:
            num_workers: M.
            **columns: arrays of equal lengths; none for an empty trace.
        """
        self.num_workers = num_workers
        empty = np.zeros(0)
        self.columns = {name: columns.get(name, empty).tolist() for name in _COLUMNS}

    def __len__(self) -> int:
        return len(self.columns["worker"])

    def append(self, **entries: int | float) -> None:
        """Adds a server step, with an entry for every column."""
        for name, entry in entries.items():
            self.columns[name].append(entry)

    def cut(self, num_steps: int) -> None:
        """Keeps the first steps and forgets what came after."""
        for column in self.columns.values():
            del column[num_steps:]

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns as arrays."""
        return {name: np.array(self.columns[name], dtype) for name, dtype in _COLUMNS.items()}

    def recording(self) -> Recording:
        """The trace as a schedule, and what is beside it; refuses what cannot have been."""
        arrays = self.arrays()
        logged = not np.isnan(arrays["distance"]).any()
        return Recording(
            schedule=from_arrivals(
                arrays["worker"],
                arrays["clock"],
                num_workers=self.num_workers,
                staleness=arrays["staleness"],
            ),
            batch=arrays["batch"],
            distance=arrays["distance"] if logged else None,
        )


def save(path: str | Path, state: ServerState, columns: TraceColumns) -> None:
    """Writes a checkpoint, whole or not at all: the state on the host, the trace up to it."""
    path = Path(path)
    leaves = {f"state/{name}": _plain(leaf) for name, leaf in _named(state)}
    arrays = {**leaves, **columns.arrays()}
    numbers = {"format": _FORMAT, "num_workers": columns.num_workers}
    arrays |= {name: np.array(number) for name, number in numbers.items()}
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
    ) as file:
        try:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(file.name).unlink()
            raise
    # The move itself is on disk only when the folder is.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def clear_parts(path: str | Path) -> None:
    """Removes what runs that were killed while they saved have left beside a checkpoint."""
    path = Path(path)
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        part.unlink(missing_ok=True)


def restore(path: str | Path, template: ServerState) -> tuple[ServerState, TraceColumns]:
    """The state on the host, and the trace so far; refuses a file that is damaged or another's."""
    arrays, columns = _read(Path(path))
    expected = dict(_named(host_shapes(template)))
    saved = {n.removeprefix("state/"): a for n, a in arrays.items() if n.startswith("state/")}
    if expected.keys() != saved.keys():
        first = sorted(expected.keys() ^ saved.keys())[0]
        difference = "it lacks" if first in expected else "it alone has"
        raise ValueError(
            f"{path} is the checkpoint of another run: {difference} `{first}`; name another file, "
            "or restore the parameters, the rule and the model state that it was made with."
        )
    for name, leaf in expected.items():
        array = saved[name]
        # NumPy writes bfloat16 and its like as so many bytes each.
        as_bytes = np.dtype((np.void, leaf.dtype.itemsize))
        if array.shape != leaf.shape or array.dtype not in (leaf.dtype, as_bytes):
            raise ValueError(
                f"{path} is the checkpoint of another run: `{name}` is {array.dtype} of shape "
                f"{array.shape} in it, {leaf.dtype} of shape {leaf.shape} here; name another file."
            )
        saved[name] = array.view(leaf.dtype)
    structure = jax.tree.structure(template)
    state = jax.tree.unflatten(structure, [saved[name] for name in expected])
    if int(state.step) != len(columns):
        raise ValueError(
            f"{path} is damaged: {len(columns)} arrivals, but {int(state.step)} server steps; "
            "delete it to start again."
        )
    return state, columns


def read_recording(path: str | os.PathLike[str]) -> Recording:
    """The trace in a checkpoint of `run_asynchronously`: who arrived when, on which batch.

    For a run that was stopped, or still goes on, as far as its last checkpoint. Nothing is
    executed, and Ray is not needed.

    Args:
        path: of the checkpoint.

    Returns:
        The recording; `write_trace(recording.schedule, path, batch=recording.batch)` makes a text
        file of it.

    Raises:
        ValueError: naming the file, if it is none of these or damaged.
    """
    return _read(Path(path))[1].recording()


def _read(path: Path) -> tuple[dict[str, np.ndarray], TraceColumns]:
    """All arrays of a checkpoint, and its trace; refuses what `save` did not write."""
    try:
        # Opened here, since NumPy leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            # What `save` writes is as large as its file: no array can be larger than that.
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.zip.infolist()):
                raise ValueError("its arrays are packed")
            arrays = {name: archive[name] for name in archive.files}
        if arrays["format"] != _FORMAT:
            raise ValueError(f"format {arrays['format']}, not {_FORMAT}")
        trace = {name: arrays[name] for name in _COLUMNS}
        length = trace["worker"].shape
        if any(a.dtype != _COLUMNS[name] or a.shape != length for name, a in trace.items()):
            raise ValueError("the columns of the trace do not fit each other")
        columns = TraceColumns(int(arrays["num_workers"]), **trace)
        order = columns.recording().batch
        if (order < 0).any() or np.unique(order).size < order.size:
            raise ValueError("a batch was used twice")
    except _NOT_OURS as error:
        raise ValueError(
            f"{path} is not a complete checkpoint of run_asynchronously ({error}); delete it to "
            "start again."
        ) from error
    return arrays, columns


_NOT_OURS = (
    ValueError, KeyError, EOFError, zipfile.BadZipFile, AttributeError, TypeError,
    MemoryError, OverflowError,  # arrays of shapes that cannot be
    NotImplementedError, RuntimeError,  # packed or encrypted in ways that zipfile does not know
)  # fmt: skip


def _named(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree with their paths, as they are called in a checkpoint."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def _plain(leaf: np.ndarray) -> np.ndarray:
    """A leaf as NumPy can write it: the bytes of an extension dtype, which it has no name for."""
    leaf = np.asarray(leaf)
    return leaf.view(np.dtype((np.void, leaf.dtype.itemsize))) if leaf.dtype.kind == "V" else leaf

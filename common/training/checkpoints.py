"""Checkpoints through orbax: written whole or not at all, checked when read, nothing unpickled.

A checkpoint is JSON and numbers. When it is complete and on the disk it is sealed: a last file,
seal.json, holds the length and the checksum of every other. A checkpoint that was cut short or
altered is therefore never used; a run resumes from the one before it, with a warning.
"""

import gc
import json
import shutil
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from common._absl_log import silenced, without_messages
from common.files import sync, write_whole

_SEAL = "seal.json"


class Restored(NamedTuple):
    """What a checkpoint held."""

    step: int
    """How many steps had been taken."""
    state: Any
    """The state, in the structure, dtypes and shardings of the template."""
    notes: dict[str, Any]
    """The JSON object that was saved beside it."""


class DamagedCheckpointError(ValueError):
    """No checkpoint of a folder can be read; the message gives the reason for each."""


class NotANumberError(ValueError):
    """A state with NaN in it, from which training cannot usefully go on."""


class UnwrittenCheckpointError(OSError):
    """A checkpoint that could not be written; earlier ones are intact."""


class Checkpoints:
    """The checkpoints of one run: the newest few, in a folder of their own."""

    def __init__(self, folder: Path, *, keep: int = 2):
        """Opens `folder`, creating it where it is missing.

        Args:
            folder: the run's own folder.
            keep: how many to keep; with two, the last good one exists while another is written.
        """
        self._folder = folder.resolve()
        with silenced():  # of damaged ones, of which `restore` speaks
            self._manager = ocp.CheckpointManager(
                self._folder,
                options=ocp.CheckpointManagerOptions(
                    # Saving in the background would let a later step's failure hide a failed save.
                    max_to_keep=keep,
                    enable_async_checkpointing=False,
                ),
                item_names=("state", "notes"),
            )

    def save(
        self, step: int, state: Any, notes: dict[str, Any], *, allow_nan: bool = False
    ) -> None:
        """Writes a checkpoint; it appears under its name only when it is complete.

        Args:
            step: how many steps have been taken; larger than in any checkpoint saved before.
            state: a pytree of arrays.
            notes: a JSON object.
            allow_nan: whether NaN in the state is kept; by default it would push out the last good
                checkpoints.

        Raises:
            ValueError: if the step is not larger.
            NotANumberError: a ValueError, if there is NaN in the state.
            UnwrittenCheckpointError: if it could not be written, on a full disk say; earlier
                checkpoints are intact.
        """
        latest = self._manager.latest_step()
        if latest is not None and step <= latest:
            raise ValueError(
                f"steps of checkpoints must ascend, and {self._folder} has one of step {latest}, "
                f"got {step}; give another run a folder of its own."
            )
        if not allow_nan and (leaves := leaves_with_nan(state)):
            raise NotANumberError(
                f"a state to resume from must hold no NaN, but {', '.join(leaves)} of step {step} "
                "does; take a smaller learning rate, or pass allow_nan=True to save it anyway."
            )
        described = {"leaves": _described(state), "notes": notes}
        try:
            with without_messages("raised an exception"):  # it is raised as well
                self._manager.save(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(described)
                    ),
                )
            if jax.process_index() == 0:
                _seal(self._folder / str(step))
            if jax.process_count() > 1:  # no process reads it before it is sealed
                multihost_utils.sync_global_devices(f"checkpoint {step} is sealed")
        except BaseException as error:
            for partial in self._folder.glob(f"{step}.orbax-checkpoint-tmp*"):
                shutil.rmtree(partial, ignore_errors=True)
            if not (self._folder / str(step) / _SEAL).exists():
                shutil.rmtree(self._folder / str(step), ignore_errors=True)
                self._manager.reload()
            if not isinstance(error, Exception):  # Ctrl-C
                raise
            kept = ", ".join(map(str, sorted(self._manager.all_steps()))) or "none"
            raise UnwrittenCheckpointError(
                f"the checkpoint {self._folder / str(step)} could not be written "
                f"({_first(error)}); make room and resume. Kept there, by step: {kept}."
            ) from error

    def restore(self, template: Any, *, allow_nan: bool = False) -> Restored | None:
        """Reads the newest checkpoint that is whole, or None where none was ever finished.

        One that is damaged is set aside as STEP.damaged, with a warning, if an older one is whole,
        or if the run was stopped while it wrote its first, so that nothing finished is lost.

        Args:
            template: a pytree of arrays of the structure, shapes and dtypes that were saved.
            allow_nan: whether a state with NaN in it is accepted.

        Raises:
            ValueError: if what was saved does not fit the template.
            NotANumberError: a ValueError, if there is NaN in the state.
            DamagedCheckpointError: a ValueError, if all checkpoints are damaged.
        """
        damaged: dict[int, _DamageError] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._read(step, template)
            except _DamageError as damage:
                damaged[step] = damage
                continue
            if not allow_nan and (leaves := leaves_with_nan(restored.state)):
                raise NotANumberError(
                    f"a state to resume from must hold no NaN, but {', '.join(leaves)} of the "
                    f"checkpoint {self._folder / str(step)} does; remove that folder to resume "
                    "from the one before it, or pass allow_nan=True."
                )
            self._set_aside(damaged, f"resumes from {self._folder / str(step)}")
            return restored
        if not all(isinstance(damage, _CutShortError) for damage in damaged.values()):
            raise DamagedCheckpointError(
                "no checkpoint can be read: "
                + "; ".join(f"{self._folder / str(step)} ({why})" for step, why in damaged.items())
                + f". Put a copy back, or remove {self._folder} to begin anew."
            )
        self._set_aside(damaged, "begins anew")
        return None

    def _read(self, step: int, template: Any) -> Restored:
        """One checkpoint, if it is as it was sealed."""
        path = self._folder / str(step)
        _check_seal(path)  # before orbax reads any of it
        described = self._item(step, notes=ocp.args.JsonRestore())
        try:
            leaves, notes = dict(described["leaves"]), described["notes"]
        except (TypeError, KeyError, ValueError):
            raise _DamageError("its notes are not what is written there") from None
        _check_template(leaves, template, path)
        # Where what is stored is larger than the template, or no numbers, orbax stops before it
        # reads any of it.
        state = self._item(step, state=ocp.args.StandardRestore(template))
        return Restored(step=step, state=state, notes=notes)

    def _item(self, step: int, **arguments: Any) -> Any:
        """One item of a checkpoint; what orbax cannot read, though all is there, is damaged."""
        (name,) = arguments
        with silenced():
            try:
                return self._manager.restore(step, args=ocp.args.Composite(**arguments))[name]
            except MemoryError:  # there may be nothing wrong with it
                raise
            except Exception as error:
                damage = _first(error)
            gc.collect()  # orbax's other tasks complain as they end: here, while nobody hears it
        raise _DamageError(damage)

    def _set_aside(self, damaged: dict[int, "_DamageError"], then: str) -> None:
        """Renames damaged checkpoints, so that nothing reads them again, and warns."""
        for step, why in damaged.items():
            path = self._folder / str(step)
            shutil.rmtree(path.with_suffix(".damaged"), ignore_errors=True)
            path.rename(path.with_suffix(".damaged"))
            warnings.warn(
                f"the checkpoint {path} is damaged ({why}); it is set aside as "
                f"{step}.damaged, and training {then}.",
                stacklevel=3,
            )
        if damaged:
            with silenced():
                self._manager.reload()

    def close(self) -> None:
        """Releases the folder."""
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def leaves_with_nan(state: Any) -> list[str]:
    """The names of the leaves that hold NaN. Infinity is allowed: line searches begin with it.

    Args:
        state: a pytree of arrays.
    """
    return [
        name
        for name, leaf in _named(state)
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and bool(jnp.isnan(leaf).any())
    ]


class _DamageError(Exception):
    """What is wrong with a checkpoint."""


class _CutShortError(_DamageError):
    """The run was stopped while it wrote the checkpoint, which was never finished."""


def _named(state: Any) -> Iterator[tuple[str, Any]]:
    """Each leaf with its name."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        yield jax.tree_util.keystr(path) or "the state", array


def _described(state: Any) -> dict[str, str]:
    """What each leaf is, by its name."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in _named(state)}


def _check_template(saved: dict[str, str], template: Any, path: Path) -> None:
    """Refuses a template whose leaves are not, in name, dtype and shape, those saved."""
    present = _described(template)
    for name in [*present, *saved]:
        was, now = (leaves.get(name, "no such leaf") for leaves in (saved, present))
        if was != now:
            raise ValueError(
                f"a checkpoint must be read into a state like the one saved, but {path} has {was} "
                f"at {name}, and this state {now}; resume with the settings it was made with, or "
                "give this run a folder of its own."
            )


def _seal(folder: Path) -> None:
    """Brings a checkpoint to the disk, and then writes its last file, the seal."""
    if jax.process_index() != 0:
        return
    paths = [*folder.rglob("*"), folder, folder.parent]
    with ThreadPoolExecutor(len(paths)) as pool:  # at once: the disk then writes its journal once
        for _ in pool.map(sync, paths):
            pass
    write_whole(folder / _SEAL, json.dumps(_sums(folder)))


def _check_seal(folder: Path) -> None:
    """Refuses a checkpoint that is not, to the byte, what was sealed."""
    try:
        sealed = dict(json.loads((folder / _SEAL).read_bytes()))
    except FileNotFoundError:
        raise _CutShortError("its writing was cut short") from None
    except (ValueError, TypeError, RecursionError):
        raise _DamageError(f"{_SEAL} is not what was written") from None
    for path in (folder, *sorted(folder.rglob("*"))):
        if path.is_symlink():
            raise _DamageError(f"{path.name} is a link, and a checkpoint holds files of its own")
    sums = _sums(folder)
    if missing := sorted(sealed.keys() - sums.keys()):
        raise _DamageError(f"{missing[0]} is missing")
    if changed := sorted(name for name, sealed_sums in sealed.items() if sums[name] != sealed_sums):
        raise _DamageError(f"{changed[0]} is not what was written")


def _sums(folder: Path) -> dict[str, list[int]]:
    """Length and checksum of every file but the seal, by its path."""
    sums = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != _SEAL:
            length = checksum = 0
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    length, checksum = length + len(block), zlib.crc32(block, checksum)
            sums[name] = [length, checksum]
    return sums


def _first(error: BaseException) -> str:
    """The beginning of what an error says, without the specifications that tensorstore adds."""
    text = str(error)
    for detail in (" [tensorstore_spec", " See full TensorStore details"):
        text = text.partition(detail)[0]
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"...{text[-300:]}"

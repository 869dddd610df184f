"""Checkpoints through orbax: written whole or not at all, and nothing is unpickled."""

from pathlib import Path
from typing import Any, NamedTuple

import orbax.checkpoint as ocp


class Restored(NamedTuple):
    """What a checkpoint held."""

    step: int
    """How many steps had been taken."""
    state: Any
    """The state, in the structure, dtypes and shardings of the template."""
    notes: dict[str, Any]
    """The JSON object that was saved beside it."""


class Checkpoints:
    """The checkpoints of one run: the newest few, in a folder of their own."""

    def __init__(self, folder: Path, *, keep: int = 2):
        """Opens `folder`, creating it where it is missing.

        Args:
            folder: the run's own folder.
            keep: how many to keep; two, so that the last good one is there while one is written.
        """
        self._manager = ocp.CheckpointManager(
            folder.resolve(),
            options=ocp.CheckpointManagerOptions(
                # Saving in the background would let a later step's failure hide a failed save.
                max_to_keep=keep,
                enable_async_checkpointing=False,
            ),
            item_names=("state", "notes"),
        )

    def save(self, step: int, state: Any, notes: dict[str, Any]) -> None:
        """Writes a checkpoint; it appears under its name only when it is complete.

        Args:
            step: how many steps have been taken; larger than in any checkpoint saved before.
            state: a pytree of arrays.
            notes: a JSON object.
        """
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(notes)
            ),
        )

    def restore(self, template: Any) -> Restored | None:
        """Reads the newest checkpoint, or None where there is none.

        Args:
            template: a pytree of arrays of the structure, shapes and dtypes that were saved.

        Raises:
            ValueError: if what was saved does not fit the template.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(template), notes=ocp.args.JsonRestore()
            ),
        )
        return Restored(step=step, state=found["state"], notes=found["notes"])

    def close(self) -> None:
        """Releases the folder."""
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

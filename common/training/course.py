"""What a training run has shown so far: its losses, its figures, and whether it diverged."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

Row = dict[str, np.ndarray]
"""The figures of one epoch, each float64, [] or [runs]."""


@dataclasses.dataclass
class Course:
    """The record that a training loop keeps; of many runs at once, arrays have the axis [runs]."""

    steps_per_epoch: int
    diverged_at: np.ndarray
    """The first step, counted from 0, whose loss was not finite, or -1; int64, [] or [runs]."""
    rows: list[Row] = dataclasses.field(default_factory=list)
    """Of the epochs that are complete."""
    losses: list[np.ndarray] = dataclasses.field(default_factory=list)
    """Of the epoch under way, one array [steps, *runs] a chunk."""

    @property
    def steps(self) -> int:
        """How many steps have been taken."""
        return sum(map(len, self.losses)) + len(self.rows) * self.steps_per_epoch

    @property
    def diverged(self) -> np.ndarray:
        """Which runs have diverged; bool, [] or [runs]."""
        return self.diverged_at >= 0

    def add(self, losses: np.ndarray) -> None:
        """Takes in the losses of a chunk of steps.

        Args:
            losses: [steps, *runs].
        """
        # The step of a run's first bad loss stands; argmax finds it within the chunk.
        bad = ~np.isfinite(losses)
        first = self.steps + bad.argmax(axis=0)
        self.diverged_at = np.where(~self.diverged & bad.any(axis=0), first, self.diverged_at)
        self.losses.append(losses)

    def mark_broken(self, broken: np.ndarray) -> None:
        """Takes in which runs have weights that are no numbers, though no loss has told so yet.

        Args:
            broken: bool, [] or [runs].
        """
        last = self.steps - 1
        self.diverged_at = np.where(~self.diverged & broken, last, self.diverged_at)

    def end_epoch(self, figures: Mapping[str, Any]) -> None:
        """Closes the epoch under way.

        Args:
            figures: what its evaluation gave. Those of diverged runs become NaN, since a network
                whose outputs are NaN still has an accuracy.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            mean = np.concatenate(self.losses).mean(axis=0, dtype=np.float64)
        self.rows.append(
            {
                name: np.where(self.diverged, np.nan, np.asarray(value, np.float64))
                for name, value in {"loss": mean, **figures}.items()
            }
        )
        self.losses = []

    def curve(self, epochs: int, columns: Mapping[str, Any]) -> Row:
        """Columns [epochs, *runs]; NaN in epochs that were not reached.

        Args:
            epochs: how many rows there shall be.
            columns: whose names are taken where no epoch was completed.
        """
        nan = np.full(self.diverged_at.shape, np.nan)
        missing = dict.fromkeys(self.rows[0] if self.rows else columns, nan)
        rows = [*self.rows, *[missing] * (epochs - len(self.rows))]
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]} if rows else {}
        return {"epoch": np.arange(1, len(rows) + 1), **stacked}

    def notes(self) -> dict[str, Any]:
        """All of it as a JSON object, for `from_notes`."""
        return {
            "diverged_at": self.diverged_at.tolist(),
            "rows": [{name: value.tolist() for name, value in row.items()} for row in self.rows],
            "losses": [part.tolist() for part in self.losses],
            "dtypes": [part.dtype.name for part in self.losses],
        }

    @classmethod
    def from_notes(cls, notes: Mapping[str, Any], steps_per_epoch: int) -> "Course":
        """The course that `notes` described.

        Args:
            notes: the JSON object.
            steps_per_epoch: of the run.
        """
        # Notes without dtypes are older, of losses in float32.
        dtypes = notes.get("dtypes", ["float32"] * len(notes["losses"]))
        return cls(
            steps_per_epoch,
            np.asarray(notes["diverged_at"], np.int64),
            [{name: np.asarray(v, np.float64) for name, v in row.items()} for row in notes["rows"]],
            [
                np.asarray(part, jnp.dtype(dtype))
                for part, dtype in zip(notes["losses"], dtypes, strict=True)
            ],
        )

    def summary(self) -> str:
        """How things stand, for the end of a progress bar."""
        if self.diverged_at.ndim:
            return f"{self.diverged_at.size} runs, {np.sum(self.diverged)} diverged"
        if self.diverged:
            return f"loss not finite at step {self.diverged_at}"
        latest = self.rows[-1] if self.rows else {}
        return ", ".join(f"{name} {float(value):.4g}" for name, value in latest.items())

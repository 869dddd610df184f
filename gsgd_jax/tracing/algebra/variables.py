"""Variables by number, and what each is known to be equal to."""

import numpy as np

from gsgd_jax.tracing.algebra.codes import MOST_VARIABLES, term


class Variables:
    """Unknown log-scales 1, 2, ..., and those of a basis, -1, -2, ..."""

    def __init__(self):
        # Of every variable the number of what it is equal to, of itself where that is not known;
        # variables of the basis are -1, -2, ... and count from the end.
        self._solution = np.zeros(1, np.int64)
        self._variables = 0
        self._basis = 0
        self._trials: set[int] = set()

    def fresh(self, count: int, *, trial: bool = False) -> np.ndarray:
        """Numbers of `count` new variables, int64 [count].

        Args:
            count: of variables.
            trial: whether they will be set to zero in the end. They are eliminated only from
                equations between them, and not counted then, so that others fare as if these had
                been zero from the start.
        """
        first = self._variables + 1
        if self._variables + count > MOST_VARIABLES:
            raise ValueError(
                f"tracing follows up to {MOST_VARIABLES} scales of channels, but this model needs "
                "more; trace a narrower copy of it."
            )
        self._variables += count
        variables = np.arange(first, first + count)
        if trial:
            self._trials.update(variables.tolist())
        self._make_room()
        numbers = term(variables, 1)
        self._solution[first : first + count] = numbers
        return numbers

    @property
    def num_made(self) -> int:
        """How many variables there are, solved ones too: 1, 2, ..."""
        return self._variables

    def fresh_basis(self, count: int) -> np.ndarray:
        """New variables of the basis, int64 [count].

        Args:
            count: of variables.
        """
        first = self._basis
        spare = len(self._solution) - self._variables - 1 - first
        if count > spare:
            kept = self._solution[len(self._solution) - first :]
            made = self._solution[: self._variables + 1]
            self._solution = np.concatenate([made, np.zeros(count + len(made), np.int64), kept])
        self._basis = first + count
        added = -np.arange(first + 1, self._basis + 1)
        self._solution[added] = term(added, 1)
        return added

    def _make_room(self) -> None:
        needed, size = self._variables + self._basis + 1, len(self._solution)
        if needed > size:
            grown = np.zeros(2 * needed, np.int64)
            # What is beyond the variables is of the basis, and stays at the end.
            grown[: size - self._basis] = self._solution[: size - self._basis]
            if self._basis:
                grown[-self._basis :] = self._solution[-self._basis :]
            self._solution = grown

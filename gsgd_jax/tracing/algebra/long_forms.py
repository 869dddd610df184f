"""Forms that are too long for a code: rows of terms, so that they too are added many at once."""

import numpy as np

from gsgd_jax.tracing.algebra.codes import code, decoded, term
from gsgd_jax.tracing.algebra.linear import Form

WIDTH = 6
"""Forms of so many terms, with coefficients that fit a code's, have a row; others are rare."""


class LongForms:
    """Forms by number: -1, -2, ... in the order in which they were met. Equal forms have one."""

    def __init__(self):
        self._rows = np.zeros((16, WIDTH), np.int32)  # terms as in codes, ascending; 0 for none
        self._numbers: dict[bytes | tuple, int] = {}
        self._rare: dict[int, Form] = {}

    def number(self, form: Form) -> int:
        """The number of one form.

        Args:
            form: too long for a code.
        """
        if len(form) <= WIDTH and all(code({v: c}) is not None for v, c in form.items()):
            row = np.zeros((1, WIDTH), np.int32)
            row[0, : len(form)] = sorted(term(v, c) for v, c in form.items())
            return self.numbers(row).item()
        key = tuple(sorted(form.items()))
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = ~len(self._numbers)
            self._rare[number] = form
            self._make_room()
        return number

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """The numbers of many forms, int64 [n].

        Args:
            rows: their terms, ascending, 0 behind them; int32 [n, WIDTH].
        """
        keys = np.ascontiguousarray(rows).view(f"V{rows.itemsize * WIDTH}").ravel().tolist()
        known, numbers = self._numbers, []
        for place, key in enumerate(keys):
            number = known.get(key)
            if number is None:
                number = known[key] = ~len(known)
                self._make_room()
                self._rows[~number] = rows[place]
            numbers.append(number)
        return np.array(numbers, np.int64)

    def form(self, number: int) -> Form:
        """The form of a number.

        Args:
            number: of a form.
        """
        rare = self._rare.get(number)
        if rare is not None:
            return rare
        form = {}
        for one in self._rows[~number].tolist():
            form |= decoded(one)
        return form

    def terms(self, numbers: np.ndarray) -> np.ndarray:
        """The terms of many forms, int64 [WIDTH, n].

        Args:
            numbers: of forms that are not rare, [n].
        """
        return self._rows[~numbers].T.astype(np.int64)

    def are_rare(self, numbers: np.ndarray) -> np.ndarray:
        """Which forms have no row.

        Args:
            numbers: of forms, of any kind.
        """
        if not self._rare:
            return np.zeros(numbers.shape, bool)
        return np.isin(numbers, list(self._rare))

    def copy(self) -> "LongForms":
        """Another one of the same forms."""
        other = LongForms()
        other._rows, other._numbers = self._rows.copy(), self._numbers.copy()
        other._rare = self._rare.copy()
        return other

    def _make_room(self) -> None:
        if len(self._numbers) > len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])

"""Linear forms by number, in variables some of which are known to equal other forms."""

from collections.abc import Mapping
from fractions import Fraction

import numpy as np

from gsgd_jax.tracing.algebra.codes import (
    MOST_VARIABLES,
    code,
    decode,
    decoded,
    encode,
    term,
    variable_of,
)

Form = Mapping[int, int | Fraction]
"""A linear form: variable -> coefficient, none of them zero."""

Numbers = np.ndarray | np.integer | int
"""Numbers of forms."""

ZERO = 0
"""The number of the form 0."""
FEW = 24
"""So many forms are faster one by one."""
_CHUNK = 2**15
"""Forms that are added at once: few enough to stay in the cache."""


class Forms:
    """Sums and multiples of forms, arrays of them at once.

    The number of a short form is its code. Longer forms are dictionaries, with numbers -1, -2, ...
    """

    def __init__(self):
        self._long: list[Form] = []
        self._long_numbers: dict[tuple, int] = {}
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

    def form(self, number: int | np.integer | np.ndarray) -> Form:
        """The form of a number, in variables that no equation has eliminated.

        Args:
            number: of a form.
        """
        number = int(number)
        if number >= 0:
            return self._resolve(decoded(number))
        form = self._long[~number] = self._resolve(self._long[~number])
        return form

    def forms(self, numbers: np.ndarray) -> list[Form]:
        """The forms of an array of numbers, in row-major order.

        Args:
            numbers: of forms, any shape.
        """
        unique, inverse = np.unique(self.simplified(numbers), return_inverse=True)
        forms = [decoded(n) if n >= 0 else self.form(n) for n in unique.tolist()]
        return [forms[i] for i in inverse.ravel().tolist()]

    def variables(self, numbers: Numbers) -> np.ndarray:
        """The variables of some forms, int64 [n], ascending.

        Args:
            numbers: of forms.
        """
        numbers = np.unique(self.simplified(numbers))
        longer = [v for n in numbers[numbers < 0].tolist() for v in self.form(n)]
        found, _ = decode(numbers[numbers > 0])
        found = np.unique(np.append(found.ravel(), np.array(longer, np.int64)))
        return found[found != 0]

    @property
    def num_made(self) -> int:
        """How many variables there are, solved ones too: 1, 2, ..."""
        return self._variables

    def num_variables(self, numbers: np.ndarray) -> np.ndarray:
        """How many variables each of some simplified forms has, int64 [n].

        Args:
            numbers: of forms, [n].
        """
        _, coefficients = decode(np.maximum(numbers, ZERO))
        counts = np.count_nonzero(coefficients, axis=0)
        for place in np.flatnonzero(numbers < 0).tolist():
            counts[place] = len(self.form(numbers.item(place)))
        return counts

    def simplified(self, numbers: Numbers) -> np.ndarray:
        """The numbers of the same forms after elimination: equal forms get equal numbers.

        Args:
            numbers: of forms, any shape.
        """
        numbers = np.asarray(numbers, np.int64)
        if numbers.size <= FEW:
            if not numbers.any():
                return numbers
            simple = [self._simple(number) for number in numbers.ravel().tolist()]
            return np.array(simple, np.int64).reshape(numbers.shape)
        flat = numbers.ravel()
        place = np.flatnonzero(self._is_stale(flat))
        if not len(place):
            return numbers
        flat = flat.copy()
        for start in range(0, len(place), _CHUNK):
            here = place[start : start + _CHUNK]
            flat[here] = self._substituted(flat[here])
        return flat.reshape(numbers.shape)

    def combine(self, left: Numbers, right: Numbers, sign: int = 1) -> np.ndarray:
        """The forms left + sign right, elementwise.

        Args:
            left: form numbers.
            right: form numbers, of a shape that broadcasts with left's.
            sign: the coefficient of the right.
        """
        left, right = np.asarray(left, np.int64), np.asarray(right, np.int64)
        left, right = np.broadcast_arrays(left, right)
        if not right.any():
            return left
        if sign == 1 and not left.any():
            return right
        if left.size <= FEW:
            pairs = zip(left.ravel().tolist(), right.ravel().tolist(), strict=True)
            sums = [self._sum(one, other, sign) for one, other in pairs]
            return np.array(sums, np.int64).reshape(left.shape)
        left, right = self.simplified(left), self.simplified(right)
        result = np.empty(left.size, np.int64)
        for start in range(0, left.size, _CHUNK):
            here = slice(start, start + _CHUNK)
            result[here] = self._sums(left.flat[here], right.flat[here], sign)
        return result.reshape(left.shape)

    def times(self, numbers: Numbers, factor: int | Fraction) -> np.ndarray:
        """The forms multiplied by a rational number.

        Args:
            numbers: of forms.
            factor: not zero.
        """
        if factor == 1:
            return self.simplified(numbers)
        unique, inverse = np.unique(numbers, return_inverse=True)
        scaled = [
            self._number({v: tidy(c * factor) for v, c in self.form(n).items()})
            for n in unique.tolist()
        ]
        return np.asarray(np.array(scaled, np.int64)[inverse.reshape(np.shape(numbers))])

    def _make_room(self) -> None:
        needed, size = self._variables + self._basis + 1, len(self._solution)
        if needed > size:
            grown = np.zeros(2 * needed, np.int64)
            # What is beyond the variables is of the basis, and stays at the end.
            grown[: size - self._basis] = self._solution[: size - self._basis]
            if self._basis:
                grown[-self._basis :] = self._solution[-self._basis :]
            self._solution = grown

    def _is_stale(self, numbers: np.ndarray) -> np.ndarray:
        """Which forms may have variables that are solved: all long ones."""
        variables, coefficients = decode(np.maximum(numbers, ZERO))
        solved = self._solution[variables] != term(variables, 1)
        return (solved & (coefficients != 0)).any(axis=0) | (numbers < 0)

    def _substituted(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers of forms with what solved variables are equal to, to the end."""
        variables, coefficients = decode(np.maximum(numbers, ZERO))
        used = np.unique(variables)
        before = self._solution[used]
        solved = before != term(used, 1)
        solved &= used != 0
        # What they are equal to is followed, and kept, to the end first.
        self._solution[used[solved]] = self.simplified(before[solved])
        equal = self._solution[variables]
        inner, factors = decode(np.maximum(equal, ZERO).ravel())
        factors = factors.reshape(2, *variables.shape) * coefficients
        codes, fit = encode(inner.reshape(4, -1), factors.reshape(4, -1))
        fit &= (numbers >= 0) & (equal >= 0).all(axis=0)
        for place in np.flatnonzero(~fit).tolist():
            codes[place] = self._simple(numbers.item(place))
        return codes

    def _sums(self, left: np.ndarray, right: np.ndarray, sign: int) -> np.ndarray:
        """Sums of simplified forms."""
        parts = [decode(np.maximum(side, ZERO)) for side in (left, right)]
        (one, first), (other, second) = parts
        codes, fit = encode(np.concatenate([one, other]), np.concatenate([first, sign * second]))
        fit &= (left >= 0) & (right >= 0)
        for place in np.flatnonzero(~fit).tolist():
            codes[place] = self._sum(left.item(place), right.item(place), sign)
        return codes

    def _sum(self, left: int, right: int, sign: int) -> int:
        if not right:
            return self._simple(left)
        total = dict(self.form(left))
        _add(total, self.form(right), sign)
        return self._number(total)

    def _simple(self, number: int) -> int:
        """The number of the same form after elimination."""
        if not number:
            return ZERO
        variable = variable_of(number)
        if variable:
            equal = self._solution.item(variable)
            if equal == number:
                return number
            self._solution[variable] = simple = self._simple(equal)
            return simple
        return self._number(self.form(number))

    def _resolve(self, form: Form) -> Form:
        # Solved variables may be expressed in others solved since: followed, and kept, to the end.
        equal = {v: self._solution.item(v) for v in form}
        solved = {v for v, number in equal.items() if number != term(v, 1)}
        if not solved:
            return form
        total: dict[int, int | Fraction] = {}
        for v, c in form.items():
            if v in solved:
                inner = self.form(equal[v])
                self._solution[v] = self._number(inner)
                _add(total, inner, c)
            else:
                _add(total, {v: 1}, c)
        return total

    def _number(self, form: Form) -> int:
        number = code(form)
        if number is None:
            key = tuple(sorted(form.items()))
            number = self._long_numbers.setdefault(key, ~len(self._long))
            if number == ~len(self._long):
                self._long.append(form)
        return number


def _add(total: dict[int, int | Fraction], form: Form, factor: int | Fraction) -> None:
    for v, c in form.items():
        value = total.get(v, 0) + factor * c
        if type(value) is not int:
            value = tidy(value)
        if value:
            total[v] = value
        else:
            total.pop(v, None)


def tidy(value: int | Fraction) -> int | Fraction:
    """Whole fractions as integers, which are faster and hash alike."""
    if isinstance(value, Fraction) and value.denominator == 1:
        return value.numerator
    return value

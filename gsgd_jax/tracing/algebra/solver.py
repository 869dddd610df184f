"""Linear equations between symbolic log-scales, solved exactly as they arrive."""

from array import array
from collections.abc import Iterable, Mapping
from fractions import Fraction

import numpy as np

Form = Mapping[int, int | Fraction]
"""A linear form: variable -> coefficient, none of them zero."""

Numbers = np.ndarray | np.integer | int
"""Numbers of forms."""

ZERO = 0
"""The number of the form 0."""
_LARGEST_KEPT = 2**16


class System:
    """Linear forms by number, and the homogeneous equations that hold between their variables.

    Arrays of scales hold form numbers, so that an array in which one form recurs costs little. An
    equation eliminates one variable at once: the one last made, of those with coefficient 1 or -1
    where there are any. Most equations have two terms, and then this is a union-find with weights;
    the others are eliminated exactly, in integers or, for want of a unit coefficient, in fractions.

    Example:
        >>> system = System()
        >>> x, y = system.fresh(2)
        >>> system.vanish(system.combine(x, y, -1))  # x - y = 0: one independent equation
        1
        >>> system.vanish(system.combine(x, y, -1))
        0
        >>> system.form(system.combine(x, y))
        {1: 2}
    """

    def __init__(self):
        self._forms: list[Form] = [{}]
        self._numbers: dict[int | tuple, int] = {(): ZERO}
        self._solved: dict[int, Form] = {}
        self._variables = 0
        self._basis = 0
        self._trials: set[int] = set()
        # Of every number the variable that its form is, or 0 for other forms; and of every variable
        # whether it has been eliminated: most forms are one variable, told apart without a look.
        self._single = array("q", [0])
        self._eliminated = bytearray(1)
        # Arrays of simplified numbers, and results, since an equation was last added.
        self._simplified: set[bytes] = set()
        self._results: dict[tuple, np.ndarray] = {}

    def fresh(self, count: int, *, trial: bool = False) -> np.ndarray:
        """Numbers of `count` new variables, int64 [count].

        Args:
            count: of variables.
            trial: whether they will be set to zero in the end. They are eliminated only from
                equations between them, and not counted then, so that others fare as if these had
                been zero from the start.
        """
        first = self._variables + 1
        self._variables += count
        if trial:
            self._trials.update(range(first, first + count))
        numbers = range(len(self._forms), len(self._forms) + count)
        variables = range(first, first + count)
        self._forms += [{variable: 1} for variable in variables]
        self._numbers.update(zip(variables, numbers, strict=True))
        self._single.extend(variables)
        self._eliminated.extend(bytes(count))
        return np.arange(numbers.start, numbers.stop, dtype=np.int64)

    def form(self, number: int | np.integer | np.ndarray) -> Form:
        """The form of a number, in variables that no equation has eliminated.

        Args:
            number: of a form.
        """
        form = self._forms[number]
        if not self._solved.keys().isdisjoint(form):
            form = self._forms[number] = self._resolve(form)
        return form

    def simplified(self, numbers: Numbers) -> np.ndarray:
        """The numbers of the same forms after elimination: equal forms get equal numbers.

        Args:
            numbers: of forms, any shape.
        """
        numbers = np.asarray(numbers, np.int64)
        if numbers.ndim == 0:
            return np.asarray(self._number(self.form(numbers)), np.int64)
        if not numbers.any() or numbers.tobytes() in self._simplified:
            return numbers
        single = np.frombuffer(self._single, np.int64)[numbers]
        stale = np.frombuffer(self._eliminated, np.uint8)[single] | (single == 0) & (numbers != 0)
        if not stale.any():
            return self._noted(numbers)
        place = np.flatnonzero(stale)
        unique, inverse = np.unique(numbers.flat[place], return_inverse=True)
        mapped = np.array([self._number(self.form(n)) for n in unique.tolist()], np.int64)
        numbers = numbers.copy()
        numbers.flat[place] = mapped[inverse]
        return self._noted(numbers)

    def combine(self, left: Numbers, right: Numbers, sign: int = 1) -> np.ndarray:
        """The forms left + sign right, elementwise.

        Args:
            left: form numbers.
            right: form numbers, of a shape that broadcasts with left's.
            sign: the coefficient of the right.
        """
        left, right = np.broadcast_arrays(np.asarray(left, np.int64), np.asarray(right, np.int64))
        if not right.any():
            return left
        if sign == 1 and not left.any():
            return right
        key = (sign, left.shape, left.tobytes(), right.tobytes())
        if key in self._results:
            return self._results[key]
        # Each pair of numbers is added once, however often it occurs: pairs as left * base + right.
        base = len(self._forms)
        unique, inverse = np.unique(left * base + right, return_inverse=True)
        sums = []
        for pair in unique.tolist():
            one, other = divmod(pair, base)
            if one == other and sign == -1:
                sums.append(ZERO)
                continue
            total = dict(self.form(one))
            _add(total, self.form(other), sign)
            sums.append(self._number(total))
        result = self._noted(np.array(sums, np.int64)[inverse.reshape(left.shape)])
        if result.size <= _LARGEST_KEPT:
            self._results[key] = result
        return result

    def times(self, numbers: Numbers, factor: int | Fraction) -> np.ndarray:
        """The forms multiplied by a rational number.

        Args:
            numbers: of forms.
            factor: not zero.
        """
        unique, inverse = np.unique(numbers, return_inverse=True)
        scaled = [
            self._number({v: _tidy(c * factor) for v, c in self.form(n).items()})
            for n in unique.tolist()
        ]
        return self._noted(np.array(scaled, np.int64)[inverse.reshape(np.shape(numbers))])

    def vanish(self, numbers: Numbers) -> int:
        """Adds the equations that these forms are zero.

        Args:
            numbers: of forms.

        Returns:
            How many of them did not follow from those before.
        """
        independent = 0
        for number in np.unique(numbers).tolist():
            form = self.form(number)
            if form:
                independent += self._eliminate(form) not in self._trials
        return independent

    def copy(self) -> "System":
        """Another system of the same equations, which counts all variables."""
        other = System()
        other._forms, other._numbers = self._forms.copy(), self._numbers.copy()
        other._solved = self._solved.copy()
        other._variables, other._basis = self._variables, self._basis
        other._single, other._eliminated = self._single[:], self._eliminated[:]
        return other

    def adopt(self, number: int | np.integer | np.ndarray) -> int | None:
        """Makes a form a basis element, in which other forms are then expressed.

        Basis elements are variables -1, -2, ... and are never eliminated.

        Args:
            number: of a form.

        Returns:
            The new variable, or None if the form depends on the basis so far.
        """
        form = dict(self.form(number))
        if all(variable < 0 for variable in form):
            return None
        # b = form as the equation form - b = 0, which eliminates a variable of the form.
        self._basis += 1
        form[-self._basis] = -1
        self._eliminate(form)
        return -self._basis

    def drop(self, variables: Iterable[int]) -> None:
        """Sets variables to zero.

        Args:
            variables: not eliminated so far.
        """
        for variable in variables:
            self._eliminate({variable: 1})

    def rank(self, arrays: Iterable[np.ndarray]) -> int:
        """How many of the forms are independent of one another.

        Args:
            arrays: numbers of forms.
        """
        scratch, count = System(), 0
        scratch._eliminated = bytearray(self._variables + 1)
        for number in np.unique(np.concatenate(list(arrays))).tolist():
            form = scratch._resolve(self.form(number))
            if form:
                scratch._eliminate(form)
                count += 1
        return count

    def _eliminate(self, form: Form) -> int:
        """Solves form = 0 for the last variable that can be solved for without fractions."""
        self._simplified.clear()
        self._results.clear()
        free = [v for v in form if v > 0] or list(form)
        if self._trials:
            # An equation between trials alone says nothing once they are zero; any other takes a
            # variable from those that stay.
            free = [v for v in free if v not in self._trials] or free
        pivot = max(free, key=lambda v: (abs(form[v]) == 1, v))
        factor = form[pivot]
        # a p + sum_v c_v v = 0 gives p = sum_v (-c_v / a) v, where -c / a = -c a for a = 1 or -1.
        solution = {
            v: -c * factor if abs(factor) == 1 else _tidy(Fraction(-c) / factor)
            for v, c in form.items()
            if v != pivot
        }
        self._solved[pivot] = self._shared(solution)
        if pivot > 0:
            self._eliminated[pivot] = 1
        return pivot

    def _resolve(self, form: Form) -> Form:
        # Solved variables may be expressed in others solved since: followed, and kept, to the end.
        if self._solved.keys().isdisjoint(form):
            return form
        if len(form) == 1:
            ((v, c),) = form.items()
            if c == 1:
                self._solved[v] = self._resolve(self._solved[v])
                return self._solved[v]
        total: dict[int, int | Fraction] = {}
        for v, c in form.items():
            if v in self._solved:
                self._solved[v] = self._resolve(self._solved[v])
                _add(total, self._solved[v], c)
            else:
                _add(total, {v: 1}, c)
        return total

    def _shared(self, form: Form) -> Form:
        """The same form, as the one object that is kept of it where it is a single variable."""
        if len(form) == 1:
            ((variable, coefficient),) = form.items()
            if coefficient == 1 and variable in self._numbers:
                return self._forms[self._numbers[variable]]
        return form

    def _number(self, form: Form) -> int:
        if len(form) == 1:
            ((variable, coefficient),) = form.items()
            key = variable if coefficient == 1 else (variable, coefficient)
        else:
            key = tuple(sorted(form.items()))
        number = self._numbers.setdefault(key, len(self._forms))
        if number == len(self._forms):
            self._forms.append(form)
            self._single.append(max(key, 0) if isinstance(key, int) else 0)
        return number

    def _noted(self, numbers: Numbers) -> np.ndarray:
        """The same numbers, which are known to be simplified."""
        numbers = np.asarray(numbers)
        if numbers.size <= _LARGEST_KEPT:
            self._simplified.add(numbers.tobytes())
        return numbers


def _add(total: dict[int, int | Fraction], form: Form, factor: int | Fraction) -> None:
    for v, c in form.items():
        value = total.get(v, 0) + factor * c
        if type(value) is not int:
            value = _tidy(value)
        if value:
            total[v] = value
        else:
            total.pop(v, None)


def _tidy(value: int | Fraction) -> int | Fraction:
    """Whole fractions as integers, which are faster and hash alike."""
    if isinstance(value, Fraction) and value.denominator == 1:
        return value.numerator
    return value

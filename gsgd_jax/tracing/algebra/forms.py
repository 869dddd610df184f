"""Linear forms by number, in variables some of which are known to equal other forms."""

from fractions import Fraction

import numpy as np

from gsgd_jax.tracing.algebra.codes import (
    code,
    decode,
    decode_terms,
    decoded,
    distinct,
    encode,
    joined,
    summed,
    term,
    variable_of,
)
from gsgd_jax.tracing.algebra.linear import Form, add, tidy
from gsgd_jax.tracing.algebra.long_forms import WIDTH, LongForms
from gsgd_jax.tracing.algebra.variables import Variables

Numbers = np.ndarray | np.integer | int
"""Numbers of forms."""

ZERO = 0
"""The number of the form 0."""
FEW = 24
"""So many forms are faster one by one."""
_LARGEST_FACTOR = 2**31
"""Coefficients times it, of many forms at once, stay within 64 bits."""
_CHUNK = 2**15
"""Forms that are added at once: few enough to stay in the cache."""


class Forms(Variables):
    """Sums and multiples of forms, arrays of them at once.

    The number of a short form is its code; longer ones have numbers -1, -2, ...
    """

    def __init__(self):
        super().__init__()
        self._long = LongForms()

    def form(self, number: int | np.integer | np.ndarray) -> Form:
        """The form of a number, in variables that no equation has eliminated.

        Args:
            number: of a form.
        """
        number = int(number)
        if number >= 0:
            return self._resolve(decoded(number))
        return self._resolve(self._long.form(number))

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
        numbers = distinct(self.simplified(numbers))
        longer = [v for n in numbers[numbers < 0].tolist() for v in self.form(n)]
        found, _ = decode(numbers[numbers > 0])
        found = distinct(np.append(found.ravel(), np.array(longer, np.int64)))
        return found[found != 0]

    def terms(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Variables and coefficients of all terms of some forms, [terms] each, in no order.

        Args:
            numbers: of simplified forms, [n].
        """
        _, variables, coefficients = self._terms(numbers)
        rare = numbers[self._long.are_rare(numbers)].tolist()
        items = [item for n in rare for item in self.form(n).items()]
        if items:
            more = np.array([c for _, c in items])  # of objects, if there are fractions
            variables = np.append(variables, np.array([v for v, _ in items]))
            coefficients = np.concatenate([coefficients.astype(more.dtype), more])
        return variables, coefficients

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
        unique, inverse = np.unique(self.simplified(numbers), return_inverse=True)
        scaled, fit = np.zeros(len(unique), np.int64), np.zeros(len(unique), bool)
        over, under = Fraction(factor).as_integer_ratio()
        if len(unique) > FEW and max(abs(over), under) <= _LARGEST_FACTOR:
            rare = self._long.are_rare(unique)
            places, variables, coefficients = self._terms(unique)
            rare[places[coefficients * over % under != 0]] = True
            coefficients = coefficients * over // under
            scaled, fit = self._summed(places, variables, coefficients, len(unique))
            fit &= ~rare
        for place in np.flatnonzero(~fit).tolist():
            form = self.form(unique.item(place))
            scaled[place] = self.number({v: tidy(c * factor) for v, c in form.items()})
        return np.asarray(scaled[inverse.reshape(np.shape(numbers))])

    def _is_stale(self, numbers: np.ndarray) -> np.ndarray:
        """Which forms may have variables that are solved."""
        variables, coefficients = decode(np.maximum(numbers, ZERO))
        solved = self._solution[variables] != term(variables, 1)
        stale = (solved & (coefficients != 0)).any(axis=0)
        longer = np.flatnonzero(numbers < 0)
        if len(longer):
            places, variables, _ = self._terms(numbers[longer])
            stale[longer] = self._long.are_rare(numbers[longer])
            stale[longer[places[self._solution[variables] != term(variables, 1)]]] = True
        return stale

    def _terms(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places, variables and coefficients of all terms; rare forms have none."""
        variables, coefficients = decode(np.maximum(numbers, ZERO))
        _, places = present = np.nonzero(coefficients)
        variables, coefficients = variables[present], coefficients[present]
        longer = np.flatnonzero(numbers < 0)
        if not len(longer):
            return places, variables, coefficients
        more, powers = decode_terms(self._long.terms(numbers[longer]))
        _, inside = present = np.nonzero(powers)
        return (
            np.append(places, longer[inside]),
            np.append(variables, more[present]),
            np.append(coefficients, powers[present]),
        )

    def _summed(
        self, places: np.ndarray, variables: np.ndarray, coefficients: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of sums of terms by place, and which are not rare, and so have one."""
        rows, lengths, fit = summed(places, variables, coefficients, (count, WIDTH))
        numbers = joined(rows)
        longer = fit & (lengths > 2)
        if longer.any():
            numbers[longer] = self._long.numbers(rows[longer].astype(np.int32))
        return numbers, fit

    def _substituted(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers of forms with what solved variables are equal to, to the end."""
        variables, coefficients = decode(np.maximum(numbers, ZERO))
        self._follow(variables)
        equal = self._solution[variables]
        inner, factors = decode(np.maximum(equal, ZERO).ravel())
        factors = factors.reshape(2, *variables.shape) * coefficients
        codes, fit = encode(inner.reshape(4, -1), factors.reshape(4, -1))
        fit &= (numbers >= 0) & (equal >= 0).all(axis=0)
        hard = np.flatnonzero(~fit)
        if len(hard) > FEW:
            codes[hard], fit = self._substituted_long(numbers[hard])
            hard = hard[~fit]
        for place in hard.tolist():
            codes[place] = self._simple(numbers.item(place))
        return codes

    def _substituted_long(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same for forms of any length, and for which this worked: where none was rare."""
        rare = self._long.are_rare(numbers)
        places, variables, coefficients = self._terms(numbers)
        self._follow(variables)
        equal = self._solution[variables]
        rare[places[self._long.are_rare(equal)]] = True
        inner, variables, factors = self._terms(equal)
        coefficients = coefficients[inner] * factors
        codes, fit = self._summed(places[inner], variables, coefficients, len(numbers))
        return codes, fit & ~rare

    def _follow(self, variables: np.ndarray) -> None:
        """Keeps what solved variables are equal to in terms of others that are not solved."""
        level = self._chained(distinct(variables))
        if not len(level):
            return
        # What these are expressed in is followed before them: by how far down it is found, without
        # recursion, since chains may be as long as there are variables.
        depth, deepest = np.zeros(len(self._solution), np.int64), 0
        while len(level):
            deepest += 1
            depth[level] = deepest
            level = self._chained(self._inner(self._solution[level]))
        found = np.flatnonzero(depth)
        found = found[np.argsort(-depth[found], kind="stable")]
        for here in np.split(found, np.flatnonzero(np.diff(depth[found])) + 1):
            self._solution[here] = self.simplified(self._solution[here])

    def _chained(self, variables: np.ndarray) -> np.ndarray:
        """Those that are equal to forms that may have solved variables themselves."""
        equal = self._solution[variables]
        solved = (equal != term(variables, 1)) & (variables != 0)
        variables, equal = variables[solved], equal[solved]
        return variables[self._is_stale(equal)] if len(variables) else variables

    def _inner(self, numbers: np.ndarray) -> np.ndarray:
        """The variables that forms are written in, each once."""
        _, variables, _ = self._terms(numbers)
        rare = [
            v for n in numbers[self._long.are_rare(numbers)].tolist() for v in self._long.form(n)
        ]
        return distinct(np.append(variables, np.array(rare, np.int64)))

    def _sums(self, left: np.ndarray, right: np.ndarray, sign: int) -> np.ndarray:
        """Sums of simplified forms."""
        parts = [decode(np.maximum(side, ZERO)) for side in (left, right)]
        (one, first), (other, second) = parts
        codes, fit = encode(np.concatenate([one, other]), np.concatenate([first, sign * second]))
        fit &= (left >= 0) & (right >= 0)
        hard = np.flatnonzero(~fit)
        if len(hard) > FEW:
            sides = [self._terms(side[hard]) for side in (left, right)]
            places, variables, coefficients = map(np.append, *sides)
            coefficients[len(sides[0][0]) :] *= sign
            codes[hard], fit = self._summed(places, variables, coefficients, len(hard))
            for side in (left, right):
                fit &= ~self._long.are_rare(side[hard])
            hard = hard[~fit]
        for place in hard.tolist():
            codes[place] = self._sum(left.item(place), right.item(place), sign)
        return codes

    def _sum(self, left: int, right: int, sign: int) -> int:
        if not right:
            return self._simple(left)
        if not left and sign == 1:
            return self._simple(right)
        total = dict(self.form(left))
        add(total, self.form(right), sign)
        return self.number(total)

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
        form = decoded(number) if number >= 0 else self._long.form(number)
        resolved = self._resolve(form)
        return number if resolved is form else self.number(resolved)

    def _resolve(self, form: Form) -> Form:
        # Solved variables may be expressed in others solved since: followed, and kept, to the end.
        known = self._solution.item
        for v in form:
            if known(v) != term(v, 1):
                break
        else:
            return form
        total: dict[int, int | Fraction] = {}
        for v, c in form.items():
            equal = known(v)
            if equal == term(v, 1):
                add(total, {v: 1}, c)
            elif equal:
                inner = self.form(equal)
                self._solution[v] = self.number(inner)
                add(total, inner, c)
        return total

    def number(self, form: Form) -> int:
        """The number of a form.

        Args:
            form: in variables that no equation has eliminated.
        """
        number = code(form)
        return self._long.number(form) if number is None else number

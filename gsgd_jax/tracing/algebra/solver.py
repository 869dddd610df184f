"""Linear equations between symbolic log-scales, solved exactly as they arrive."""

from collections.abc import Iterable
from fractions import Fraction

import numpy as np

from gsgd_jax.tracing.algebra.codes import decode, distinct, encode, term
from gsgd_jax.tracing.algebra.forms import FEW, ZERO, Forms, Numbers
from gsgd_jax.tracing.algebra.linear import Form, tidy


class System(Forms):
    """Linear forms by number, and the homogeneous equations that hold between their variables.

    Arrays of scales hold form numbers, and equal numbers are equal forms. An
    equation eliminates one variable at once: the one last made, of those with coefficient 1 or -1
    where there are any. Most equations have two terms, and then this is a union-find with weights;
    the others are eliminated exactly, in integers or, for want of a unit coefficient, in fractions.

    Equations between short forms are solved many at once, the others one by one.

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

    def vanish(self, numbers: Numbers) -> int:
        """Adds the equations that these forms are zero.

        Args:
            numbers: of forms.

        Returns:
            How many of them did not follow from those before.
        """
        independent = 0
        while True:
            numbers = distinct(self.simplified(numbers))
            numbers = numbers[numbers != ZERO]
            solved = self._solve_at_once(numbers) if len(numbers) > FEW else numbers[:0]
            if not len(solved) and len(numbers) > FEW:
                solved = self._solve_apart(numbers)
            if not len(solved):
                break
            independent += len(solved)
            numbers = np.setdiff1d(numbers, solved, assume_unique=True)
        for number in numbers.tolist():
            form = self.form(number)
            if form:
                independent += self._eliminate(form) not in self._trials
        return independent

    def copy(self) -> "System":
        """Another system of the same equations, which counts all variables."""
        other = System()
        other._long = self._long.copy()
        other._solution = self._solution.copy()
        other._variables, other._basis = self._variables, self._basis
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
        added = int(self.fresh_basis(1)[0])
        form[added] = -1
        self._eliminate(form)
        return added

    def adopt_each(self, numbers: np.ndarray, spanned: np.ndarray) -> None:
        """Makes forms basis elements, one by one, of those in certain variables alone.

        Args:
            numbers: of forms.
            spanned: by variable whether it is one of these; basis elements are in any case.
        """
        numbers, by_hand = numbers.ravel(), 1
        if len(numbers) <= FEW:
            self._adopt_by_hand(numbers, spanned)
            return
        while len(numbers):
            numbers = self.simplified(numbers)
            _, first = np.unique(numbers, return_index=True)
            numbers = numbers[np.sort(first)]
            variables, coefficients = decode(np.maximum(numbers, ZERO))
            positive = variables > 0
            inside = (~positive | spanned[variables]).all(axis=0)
            kept = inside & (positive.any(axis=0) | (numbers < 0))
            numbers = numbers[kept]
            done = self._adopt_first(numbers, variables[:, kept], coefficients[:, kept])
            if not done:
                self._adopt_by_hand(numbers[:by_hand], spanned)
                done, by_hand = by_hand, 2 * by_hand
            numbers = numbers[done:]

    def drop(self, variables: Iterable[int]) -> None:
        """Sets variables to zero.

        Args:
            variables: not eliminated so far.
        """
        self._solution[list(variables)] = ZERO

    def rank(self, arrays: Iterable[np.ndarray]) -> int:
        """How many of the forms are independent of one another.

        Args:
            arrays: numbers of forms.
        """
        return self.copy().vanish(np.concatenate(list(arrays)))

    def _adopt_by_hand(self, numbers: np.ndarray, spanned: np.ndarray) -> None:
        for number in numbers.tolist():
            if number and all(v < 0 or spanned[v] for v in self.form(number)):
                self.adopt(number)

    def _adopt_first(
        self, numbers: np.ndarray, variables: np.ndarray, coefficients: np.ndarray
    ) -> int:
        """Adopts short forms up to the first that needs the others; returns how many these are."""
        # Of a p + c q - new = 0 the variable last made, p > q, is eliminated, p = a new - a c q.
        pivots = variables.max(axis=0)
        side = variables == pivots
        units = (coefficients * side).sum(axis=0)
        repeated = np.ones(len(numbers), bool)
        repeated[np.unique(pivots, return_index=True)[1]] = False
        hard = repeated | (np.abs(units) != 1) | (numbers < 0)
        count = int(np.argmax(hard)) if hard.any() else len(numbers)
        added = self.fresh_basis(count)
        others = (variables * ~side).sum(axis=0)[:count]
        rest = -(units * (coefficients * ~side).sum(axis=0))[:count]
        codes, fit = encode(np.stack([added, others]), np.stack([units[:count], rest]))
        assert fit.all()
        self._solution[pivots[:count]] = codes
        return count

    def _solve_at_once(self, numbers: np.ndarray) -> np.ndarray:
        """Solves equations a p + c q = 0 with a and c 1 or -1, one for every p; returns these."""
        numbers = numbers[numbers > 0]
        variables, coefficients = decode(numbers)
        simple = ((np.abs(coefficients) < 2) & (variables >= 0)).all(axis=0)
        if self._trials:
            simple &= ~np.isin(variables, list(self._trials)).any(axis=0)
        numbers, variables = numbers[simple], variables[:, simple]
        coefficients = coefficients[:, simple]
        # The variable last made is eliminated, p > q; so no chain of solutions is closed, and the
        # order does not matter.
        pivots, first = np.unique(variables.max(axis=0), return_index=True)
        others = variables.min(axis=0)[first]
        sign = -coefficients[:, first].prod(axis=0)
        # Chains p = +-q, q = +-r, ... are followed to the end, twice as far in every round.
        while True:
            chained = np.isin(others, pivots)
            if not chained.any():
                break
            place = np.searchsorted(pivots, others[chained])
            sign[chained] *= sign[place]
            others[chained] = others[place]
        self._solution[pivots] = np.where(others, term(others, sign), ZERO)
        return numbers[first]

    def _solve_apart(self, numbers: np.ndarray) -> np.ndarray:
        """Solves equations for a variable that no other of them has; returns these."""
        numbers = numbers[~self._long.are_rare(numbers)]
        places, variables, coefficients = self._terms(numbers)
        apart = np.ones(len(numbers), bool)
        if self._trials:
            apart[places[np.isin(variables, list(self._trials))]] = False
        # The variable last made of those with coefficient 1 or -1 is eliminated.
        fit = (np.abs(coefficients) == 1) & (variables > 0)
        pivots = np.zeros(len(numbers), np.int64)
        np.maximum.at(pivots, places[fit], variables[fit])
        found, counts = np.unique(np.append(variables, 0), return_counts=True)
        apart &= (counts[np.searchsorted(found, pivots)] == 1) & (pivots > 0)
        # a p + sum_v c_v v = 0 gives p = sum_v -c_v a v.
        here = apart[places]
        places, variables, coefficients = places[here], variables[here], coefficients[here]
        side = variables == pivots[places]
        signs = np.zeros(len(numbers), np.int64)
        signs[places[side]] = -coefficients[side]
        rest = (places[~side], variables[~side], (coefficients * signs[places])[~side])
        equal, short = self._summed(*rest, len(numbers))
        apart &= short
        self._solution[pivots[apart]] = equal[apart]
        return numbers[apart]

    def _eliminate(self, form: Form) -> int:
        """Solves form = 0 for the last variable that can be solved for without fractions."""
        free = [v for v in form if v > 0] or list(form)
        if self._trials:
            # An equation between trials alone says nothing once they are zero; any other takes a
            # variable from those that stay.
            free = [v for v in free if v not in self._trials] or free
        pivot = max(free, key=lambda v: (abs(form[v]) == 1, v))
        factor = form[pivot]
        # a p + sum_v c_v v = 0 gives p = sum_v (-c_v / a) v, where -c / a = -c a for a = 1 or -1.
        self._solution[pivot] = self.number(
            {
                v: -c * factor if abs(factor) == 1 else tidy(Fraction(-c) / factor)
                for v, c in form.items()
                if v != pivot
            }
        )
        return pivot

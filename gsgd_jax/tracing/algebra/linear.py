"""Linear forms as dictionaries: exact, of any length, one at a time."""

from collections.abc import Mapping
from fractions import Fraction

Form = Mapping[int, int | Fraction]
"""A linear form: variable -> coefficient, none of them zero."""


def add(total: dict[int, int | Fraction], form: Form, factor: int | Fraction) -> None:
    """Adds a multiple of a form.

    Args:
        total: a form, to which it is added in place.
        form: another.
        factor: its coefficient.
    """
    for v, c in form.items():
        value = total.get(v, 0) + factor * c
        if type(value) is not int:
            value = tidy(value)
        if value:
            total[v] = value
        else:
            total.pop(v, None)


def tidy(value: int | Fraction) -> int | Fraction:
    """Whole fractions as integers, which are faster and hash alike.

    Args:
        value: a rational number.
    """
    if isinstance(value, Fraction) and value.denominator == 1:
        return value.numerator
    return value

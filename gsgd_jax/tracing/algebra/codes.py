"""Short linear forms as integers, so that arrays of them are added at once.

A form of at most two variables with coefficients from -7 to 7 is written into 62 bits: for every
term 27 bits of the variable and 4 of the coefficient. Zero is 0.
"""

from typing import Any

import numpy as np

from gsgd_jax.tracing.algebra.linear import Form

_TERM_BITS, _COEFFICIENT_BITS = 31, 4
_OFFSET, _MIDDLE = 2**26, 2 ** (_COEFFICIENT_BITS - 1)
_TERM, _COEFFICIENT = 2**_TERM_BITS - 1, 2**_COEFFICIENT_BITS - 1
_LARGEST = _MIDDLE - 1
MOST_VARIABLES = _OFFSET - 1
"""Variables are numbered up to here."""


def term(variables: Any, coefficients: Any) -> Any:
    """The codes of single variables times a coefficient.

    Args:
        variables: one, or an int64 array of them; negative ones too.
        coefficients: from -7 to 7, not zero.
    """
    return (variables + _OFFSET << _COEFFICIENT_BITS) | (coefficients + _MIDDLE)


def code(form: Form) -> int | None:
    """The code of one form; None where it is too long.

    Args:
        form: of variables up to `MOST_VARIABLES`.
    """
    if len(form) > 2:
        return None
    total = 0
    for variable in sorted(form, reverse=True):
        coefficient = form[variable]
        if type(coefficient) is not int or not -_LARGEST <= coefficient <= _LARGEST:
            return None
        one = (variable + _OFFSET << _COEFFICIENT_BITS) | (coefficient + _MIDDLE)
        total = total << _TERM_BITS | one
    return total


def decoded(number: int) -> dict[int, int]:
    """The form of one code.

    Args:
        number: a code.
    """
    form = {}
    while number:
        one = number & _TERM
        form[(one >> _COEFFICIENT_BITS) - _OFFSET] = (one & _COEFFICIENT) - _MIDDLE
        number >>= _TERM_BITS
    return form


def variable_of(number: int) -> int:
    """The variable that a code is, with coefficient 1; 0 for any other form.

    Args:
        number: a code, or the number of a long form.
    """
    single = 0 < number <= _TERM and number & _COEFFICIENT == _MIDDLE + 1
    return (number >> _COEFFICIENT_BITS) - _OFFSET if single else 0


def decode(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variables and coefficients, [2, n] each; both are 0 in place of missing terms.

    Args:
        codes: int64 [n].
    """
    return decode_terms(np.stack([codes & _TERM, codes >> _TERM_BITS]))


def decode_terms(terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variables and coefficients of single terms; both are 0 in place of missing ones.

    Args:
        terms: int64, any shape.
    """
    present = terms != 0
    variables = ((terms >> _COEFFICIENT_BITS) - _OFFSET) * present
    return variables, ((terms & _COEFFICIENT) - _MIDDLE) * present


def distinct(values: np.ndarray) -> np.ndarray:
    """Each of some integers once, ascending, [n]: four times as fast as `np.unique`, which hashes.

    Args:
        values: any shape.
    """
    values = np.sort(values, axis=None)
    first = np.ones(values.size, bool)
    np.not_equal(values[1:], values[:-1], out=first[1:])
    return values[first]


def encode(variables: np.ndarray, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The codes of sums of terms, [n], and which of these sums are short enough to have one.

    Args:
        variables: int64 [k, n], in any order, with repetitions.
        coefficients: int64 [k, n]; 0 for no term.
    """
    sums = coefficients.copy()
    for i in range(1, len(sums)):
        for j in range(i):
            moved = sums[i] * (variables[i] == variables[j])
            sums[j] += moved
            sums[i] -= moved
    terms = term(variables, sums) * (sums != 0)
    count = np.count_nonzero(sums, axis=0)
    # Of two terms the larger is the higher half; a single one is the lower.
    larger = terms.max(axis=0)
    codes = np.where(count == 2, larger << _TERM_BITS | terms.sum(axis=0) - larger, larger)
    return codes, (count <= 2) & (np.abs(sums).max(axis=0) <= _LARGEST)


def summed(
    places: np.ndarray, variables: np.ndarray, coefficients: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of terms by place, of any number of terms.

    Args:
        places: of every term the sum that it is a part of, [terms].
        variables: int64 [terms].
        coefficients: int64 [terms], not zero.
        shape: how many sums there are, and to how many terms they are written out.

    Returns:
        The codes of the sums' terms, ascending, 0 behind them, int64 [n, width]; how many terms
        each sum has, [n]; which are written out in full, [n].
    """
    keys = places << _TERM_BITS - _COEFFICIENT_BITS | variables + _OFFSET
    order = np.argsort(keys, kind="stable")
    first = np.flatnonzero(np.diff(keys[order], prepend=-1))
    sums = np.add.reduceat(coefficients[order], first) if len(first) else coefficients
    places, variables = places[order][first], variables[order][first]
    kept = sums != 0
    places, variables, sums = places[kept], variables[kept], sums[kept]
    lengths = np.bincount(places, minlength=shape[0])
    ranks = np.arange(len(places)) - (np.cumsum(lengths) - lengths)[places]
    large = np.abs(sums) > _LARGEST
    full = lengths <= shape[1]
    full[places[large]] = False
    written = (ranks < shape[1]) & ~large
    rows = np.zeros(shape, np.int64)
    rows[places[written], ranks[written]] = term(variables, sums)[written]
    return rows, lengths, full


def joined(rows: np.ndarray) -> np.ndarray:
    """The codes of forms of at most two terms, int64 [n].

    Args:
        rows: the codes of their terms, ascending, int64 [n, 2 or more].
    """
    return rows[:, 0] | rows[:, 1] << _TERM_BITS

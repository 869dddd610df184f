"""What so many seeds can tell: significance, its correction for many comparisons, and power."""

import functools
import math
from collections.abc import Sequence

import numpy as np

from common.results.comparison import Difference

LEVEL, POWER = 0.05, 0.8
"""The usual level of a two-sided test, and the usual probability to see what is there."""


def p_value(difference: Difference) -> float:
    """The p value of the two-sided paired Student t test of "no difference"; 1 below two pairs.

    Args:
        difference: mean and interval over seeds.
    """
    if difference.n < 2 or math.isnan(difference.mean):
        return 1.0
    if difference.standard_error == 0:
        return float(difference.mean == 0)
    from scipy import stats  # two seconds' import, needed from here on only

    t = abs(difference.mean) / difference.standard_error
    return float(2 * stats.t.sf(t, difference.n - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    r"""P values corrected for their number, so that the chance of any false finding is bounded.

    With p values in rising order, $\tilde p_i = \max_{j \le i} \min(1, (m - j + 1) p_j)$: those
    below a level are found at that level for all m comparisons together.

    Args:
        p_values: of the comparisons of one table, in any order.

    Returns:
        The corrected ones, in the same order.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]

    References:
        Holm, *A simple sequentially rejective multiple test procedure*, Scandinavian Journal of
        Statistics 6, 1979.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def told_apart(differences: Sequence[Difference], *, level: float = LEVEL) -> list[int]:
    """Of each comparison of one table 1 if it is won, -1 if it is lost, 0 if neither is shown.

    Args:
        differences: all comparisons of the table; their number is corrected for (`holm`).
        level: the probability of any false finding in it.
    """
    found = [p < level for p in holm([p_value(d) for d in differences])]
    return [int(np.sign(d.mean)) if f else 0 for d, f in zip(differences, found, strict=True)]


def smallest_visible(
    difference: Difference, *, level: float = LEVEL, power: float = POWER
) -> float:
    r"""The smallest true difference that so many pairs, spread like these, would have shown.

    That is the $\delta$ at which the two-sided paired t test of n pairs with standard deviation s
    is significant with the probability asked for, $P(|T| > t_{n-1, 1 - level/2}) = power$, where T
    has the noncentral t distribution with n - 1 degrees of freedom and noncentrality
    $\delta \sqrt n / s$. It is that of one comparison; with Holm's correction for many it is
    larger.

    Args:
        difference: of which n and s are taken; its mean does not matter.
        level: of the test.
        power: the probability to see it.

    Returns:
        In the unit of the difference; infinite below two pairs.
    """
    if difference.n < 2:
        return math.inf
    return _noncentrality(difference.n, level, power) * difference.standard_error


@functools.cache
def _noncentrality(n: int, level: float, power: float) -> float:
    """At which the test has its power."""
    from scipy import optimize, stats  # two seconds' import, needed from here on only

    # T^2 has the noncentral F distribution, which is stable where the noncentral t is not.
    bar = float(stats.t.ppf(1 - level / 2, n - 1))

    def short(noncentrality: float) -> float:
        return float(stats.ncf.sf(bar**2, 1, n - 1, noncentrality**2)) - power

    return float(optimize.root_scalar(short, bracket=(1e-6, 3 * bar + 5)).root)

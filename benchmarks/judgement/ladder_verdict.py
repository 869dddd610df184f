"""What the records say of the Hessian and its stand-ins: how much staleness error each leaves."""

from collections.abc import Sequence

from benchmarks.harness.reports import by_method, by_setting
from benchmarks.judgement.verdicts import FAILS, HOLDS, PARTLY, Finding, Measured
from common.results.tables import metric

RUNGS = (
    "Hessian",
    "low rank 16",
    "Gauss-Newton",
    "diag(H)",
    "diag(lambda G), adaptive",
    "diag(lambda G), constant",
)
"""From the exact one to the published ones."""

MOST, USEFUL = 0.5, 0.9
"""A rung removes most of the staleness error if it leaves less than the first share of it, and is
of use if it leaves less than the second."""


def ladder(measured: Measured) -> Finding:
    """What each stand-in for the Hessian leaves of the staleness error."""
    parts, exact_left, diagonal_left = [], [], []
    for activation, records in by_setting(measured["dcasgd_hessian_ladder"], "activation").items():
        rungs = by_method(records)
        left = {
            rung: metric(rungs[rung], "error_left_scaled").mean for rung in RUNGS if rung in rungs
        }
        exact_left.append(left[RUNGS[0]])
        diagonal_left.append(left[RUNGS[-2]])
        listed = "; ".join(f"{rung} {100 * value:.0f}%" for rung, value in left.items())
        parts.append(f"{activation}: {listed}.")
    most, diagonal = max(exact_left) < MOST, max(diagonal_left) < USEFUL
    part = max(exact_left) < USEFUL
    verdict = HOLDS if most and diagonal else PARTLY if part else FAILS
    headline = f"the Hessian leaves {_span(exact_left)} of the error, diag(λG) " + _span(
        diagonal_left
    )
    figures = f"Staleness error left, at the best factor of each. {' '.join(parts)}"
    return Finding(verdict, headline, figures)


def _span(shares: Sequence[float]) -> str:
    """From the least to the largest, in percent."""
    low, high = (f"{100 * value:.0f}" for value in (min(shares), max(shares)))
    return f"{low}%" if low == high else f"{low} to {high}%"

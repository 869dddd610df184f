"""What the records say of the Hessian and its stand-ins: how much staleness error each leaves."""

from collections.abc import Sequence

from benchmarks.harness.reports import by_method, by_setting
from benchmarks.judgement.finding import (
    FAILS,
    HOLDS,
    INCOMPLETE,
    PARTLY,
    UNDECIDED,
    Finding,
    Measured,
)
from common.results.comparison import Difference, interval
from common.results.power import smallest_visible, told_apart
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
    """What each stand-in for the Hessian leaves of the staleness error.

    Either clause of the claim is held against its own bar for each activation, by Student's t test
    over seeds, corrected for the number of tests.
    """
    parts, below, exact_left, diagonal_left = [], [], {}, {}
    for activation, records in by_setting(measured["dcasgd_hessian_ladder"], "activation").items():
        rungs = by_method(records)
        if not {RUNGS[0], RUNGS[-2]} <= rungs.keys():
            continue
        left = {
            rung: metric(rungs[rung], "error_left_scaled").mean for rung in RUNGS if rung in rungs
        }
        exact_left[activation], diagonal_left[activation] = left[RUNGS[0]], left[RUNGS[-2]]
        below += [
            interval(bar - r.metrics["error_left_scaled"] for r in rungs[rung])
            for rung, bar in ((RUNGS[0], MOST), (RUNGS[-2], USEFUL))
        ]
        listed = "; ".join(f"{rung} {100 * value:.0f}%" for rung, value in left.items())
        parts.append(f"{activation}: {listed}.")
    if not below:
        return INCOMPLETE
    signs = told_apart(below)
    headline = (
        f"the Hessian leaves {_listed(exact_left)} of the error, to be below {100 * MOST:.0f}%; "
        f"diag(λG) {_listed(diagonal_left)}, to be below {100 * USEFUL:.0f}%; "
        f"{_refuted(list(exact_left), signs)}; {_visible(below)}"
    )
    figures = (
        f"Staleness error left, at the best factor of each. {' '.join(parts)} The bars: most "
        f"removed below {100 * MOST:.0f}%, of use below {100 * USEFUL:.0f}% ({_visible(below)}). "
        f"{_clauses(list(exact_left), signs)}"
    )
    return Finding(_verdict(signs), headline, figures)


def _verdict(signs: Sequence[int]) -> str:
    """From the two clauses of each activation: most by the Hessian, a useful part by diag(λG).

    It holds if both are shown for every activation, and partly if one is: what holds for one
    activation alone is less than either clause says. It does not hold if one is refuted for every
    activation, or both for at least half of them while neither is shown for any.
    """
    clauses = (signs[::2], signs[1::2])
    shown = [all(sign > 0 for sign in clause) for clause in clauses]
    if any(shown):
        return HOLDS if all(shown) else PARTLY
    if any(all(sign < 0 for sign in clause) for clause in clauses):
        return FAILS
    both = sum(most < 0 and useful < 0 for most, useful in zip(*clauses, strict=True))
    none_shown = all(sign <= 0 for sign in signs)
    return FAILS if none_shown and 4 * both >= len(signs) else UNDECIDED


_CLAUSES = ("most of the error", "a useful part")


def _refuted(activations: Sequence[str], signs: Sequence[int]) -> str:
    """Which clause is significantly on the wrong side of its bar, and for which activations."""
    said, shown = [], any(sign > 0 for sign in signs)
    for clause, of in zip(_CLAUSES, (signs[::2], signs[1::2]), strict=True):
        refuted = [name for name, sign in zip(activations, of, strict=True) if sign < 0]
        if refuted:
            said.append(f'"{clause}" is refuted for {" and ".join(refuted)}')
    text = ", ".join(said) or "neither clause is refuted"
    return text if shown else f"{text}, and none is shown"


def _clauses(activations: Sequence[str], signs: Sequence[int]) -> str:
    """What is found of each clause and activation."""
    words = {1: "shown", 0: "not told from its bar", -1: "refuted"}
    said = [
        f'"{clause}" for {name}: {words[sign]}'
        for clause, of in zip(_CLAUSES, (signs[::2], signs[1::2]), strict=True)
        for name, sign in zip(activations, of, strict=True)
    ]
    return f"{'; '.join(said)}."


def _visible(below: Sequence[Difference]) -> str:
    largest = 100 * max(map(smallest_visible, below))
    return f"at worst {largest:.0f} points from a bar are visible"


def _listed(shares: dict[str, float]) -> str:
    """Of every activation, in percent."""
    return " and ".join(f"{100 * value:.0f}% ({name})" for name, value in shares.items())

"""What the records say of more training domains: does LaCIM gain by them, and is v found?"""

from collections.abc import Sequence

from benchmarks.judgement.finding import INCOMPLETE, Finding, Measured, joint
from benchmarks.judgement.weighing import Comparison, in_short, points, verdict, words
from benchmarks.latent.reports.fonts import (
    CORRELATED,
    ERM,
    LACIM,
    NEVER,
    PCA,
    POOLED,
    Counts,
    chosen,
    recovered,
)
from common.results.comparison import paired_difference
from common.results.records import Record
from common.results.tables import metric

HOPED, MARGIN = 5.0, 10.0
"""Points of accuracy over ERM, and hundredths of MCC, that would be worth many domains."""

NEEDED = "needed"
"""The least number of domains that suffices, in the records of principal components."""


def more_domains(measured: Measured) -> Finding:
    """LaCIM against ERM in new fonts at each number of them; its MCC against pooled and fewer.

    The MCC is compared with Pool-LaCIM's where the domains suffice for v to be identified, and
    from the most domains with that from the fewest, which do not.
    """
    records = measured["lacim_fonts"]
    asked, found = chosen(records), recovered(records)
    accuracy = [
        Comparison(
            f"{m} fonts",
            points(paired_difference(of[LACIM], of[ERM], "test_accuracy")),
            HOPED,
            max(100 * metric(runs, "validation_accuracy").mean for runs in of.values()),
        )
        for m, of in asked.items()
        if m > 1 and {LACIM, ERM} <= of.keys()
    ]
    accuracy, style = _told(accuracy), _told(_of_style(found))
    enough = any(PCA in of and m >= metric(of[PCA], NEEDED).mean for m, of in found.items())
    if not accuracy or not style or not enough:
        return INCOMPLETE  # of a run that was stopped before there were many fonts
    counts = [m for m, of in asked.items() if m > 1 and {LACIM, ERM} <= of.keys()]
    first, last = asked[counts[0]], asked[counts[-1]]
    ways = [f"{m} {_percent(first[m])} to {_percent(last[m])}" for m in (LACIM, ERM)]
    allowed = asked[counts[-1]].get(NEVER, ())
    ceiling = f", where ERM that no style misled has {_percent(allowed)}" if allowed else ""
    rise = f"from {counts[0]} to {counts[-1]} fonts {' and '.join(ways)}"
    most = max(m for m, of in found.items() if LACIM in of)
    mcc = f"MCC of v from {most} fonts {metric(found[most][LACIM], 'mcc').mean:.2f}"
    headline = (
        f"in new fonts, what goes with the letter turned about, {rise}: LaCIM against ERM "
        f"{in_short(accuracy)}; {mcc}, in hundredths of MCC against pooled and fewer "
        f"{in_short(style)}"
    )
    beside = ", ".join(
        f"{method} {metric(found[most][method], 'mcc').mean:.2f}"
        for method in (CORRELATED, POOLED, PCA)
        if method in found[most]
    )
    figures = (
        f"In new fonts with the tie of style and letter turned about, {rise}{ceiling}. LaCIM "
        f"against ERM {words(accuracy)}. {mcc}{f' ({beside})' if beside else ''}; in hundredths of "
        "MCC, against Pool-LaCIM where domains suffice and against the fewest fonts "
        f"{words(style)}."
    )
    return Finding(joint(verdict(accuracy), verdict(style)), headline, figures)


def _of_style(found: Counts) -> list[Comparison]:
    """The MCC of v, in hundredths: over Pool-LaCIM's, and from the most domains over the fewest."""
    ours = {m: of for m, of in found.items() if m > 1 and LACIM in of}
    comparisons = []
    for m, of in ours.items():
        if POOLED in of and PCA in of and m >= metric(of[PCA], NEEDED).mean:
            gain = points(paired_difference(of[LACIM], of[POOLED], "mcc"))
            comparisons.append(Comparison(f"{m} fonts over Pool-LaCIM", gain, MARGIN))
    if len(ours) > 1:
        few, most = min(ours), max(ours)
        gain = points(paired_difference(ours[most][LACIM], ours[few][LACIM], "mcc"))
        comparisons.append(Comparison(f"{most} fonts over {few}", gain, MARGIN))
    return comparisons


def _percent(runs: Sequence[Record]) -> str:
    return f"{100 * metric(runs, 'test_accuracy').mean:.0f}%"


def _told(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Those that have a pair of runs."""
    return [each for each in comparisons if each.gain.n]

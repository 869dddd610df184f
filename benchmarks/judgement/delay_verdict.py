"""What the records say of delay compensation: at tuned steps, and at one beyond ASGD's reach."""

from collections.abc import Sequence

from benchmarks.delay.cifar10 import PUBLISHED
from benchmarks.delay.report import (
    ADAPTIVE,
    ASGD,
    CONSTANT,
    INTOLERABLE,
    SGD,
    SYNCHRONOUS,
    intolerable_step,
    worker_counts,
)
from benchmarks.harness.reports import best_by_method, by_method, numeric, values, where
from benchmarks.judgement.finding import (
    FAILS,
    HOLDS,
    INCOMPLETE,
    PARTLY,
    UNDECIDED,
    Finding,
    Measured,
)
from benchmarks.judgement.weighing import Comparison, in_short, points, verdict, words
from common.results.comparison import Difference, paired_difference
from common.results.records import Record
from common.results.tables import metric

DIGITS, IMAGES, TOLERANCE = "digits", "CIFAR-10", "tolerance"

ALLOWED = {DIGITS: 97.98, TOLERANCE: 97.98, IMAGES: 100 - PUBLISHED[SGD, 1]}
"""Test accuracy, %: of a perceptron on all of MNIST, and the published one of one worker."""

HOPED = 0.6
"""Points over ASGD where nothing is published: the smallest gain that is, of -c with 4 workers."""


def delay(measured: Measured) -> Finding:
    """Delay compensation against none as workers grow: at tuned steps, and at one step for all.

    The one step is the first that ASGD does not bear (`delay.report.intolerable_step`).
    """
    against: dict[str, list[Comparison]] = {ASGD: [], SYNCHRONOUS: []}
    same_step: list[Comparison] = []
    gains, beyond = [], []
    for name, records in _tasks(measured).items():
        for m in sorted(worker_counts(records)):
            runs, task = where(records, workers=m), f"{name} {m}"
            chosen = best_by_method(runs)
            if not {ASGD, CONSTANT, ADAPTIVE} <= chosen.keys():
                continue  # of a run that was stopped
            for base, comparisons in against.items():
                comparisons += [
                    _comparison(name, m, rule, chosen[rule], chosen[base])
                    for rule in (CONSTANT, ADAPTIVE)
                    if base in chosen
                ]
            tuned = _comparison(name, m, ADAPTIVE, chosen[ADAPTIVE], chosen[ASGD])
            gains.append(f"{task}: {_points(tuned.gain)}")
            step = intolerable_step(records, m)
            if step is not None:
                at_step = best_by_method(where(runs, learning_rate=step))
                if ADAPTIVE not in at_step:
                    continue
                there = _comparison(name, m, ADAPTIVE, at_step[ADAPTIVE], at_step[ASGD], fall=True)
                same_step.append(there)
                beyond.append(f"{task}: {_points(there.gain)}")
    if not gains:
        return INCOMPLETE
    figures = (
        f"At tuned steps DC-ASGD-c and -a are, against ASGD, {words(against[ASGD])}. Against "
        f"m-synchronous SGD they are {words(against[SYNCHRONOUS])}. DC-ASGD-a over ASGD, points of "
        f"test accuracy, by task and workers: {', '.join(gains)}. At the first step that ASGD does "
        f"not bear, DC-ASGD-a is {words(same_step)}: {', '.join(beyond) or 'none'}."
        f"{_limits(measured.get('dcasgd_delay_tolerance', ()))}"
    )
    headline = (
        f"against ASGD, each at its tuned step, {in_short(against[ASGD])}; at a step beyond what "
        f"ASGD bears {in_short(same_step)}"
    )
    return Finding(_both(verdict(against[ASGD]), verdict(same_step)), headline, figures)


def _both(tuned: str, beyond: str) -> str:
    """What a tuned step gives is the claim; that larger ones are borne is a part of it."""
    if tuned in (HOLDS, PARTLY):
        return tuned
    if beyond in (HOLDS, PARTLY):
        return PARTLY
    return FAILS if tuned == beyond == FAILS else UNDECIDED


def _tasks(measured: Measured) -> dict[str, Sequence[Record]]:
    return {
        DIGITS: measured.get("dcasgd_digits", ()),
        IMAGES: measured.get("dcasgd_cifar10", ()),
        TOLERANCE: where(measured.get("dcasgd_delay_tolerance", ()), problem="network"),
    }


def _comparison(
    name: str, workers: int, rule: str, runs: Sequence[Record], base: Sequence[Record], *,
    fall: bool = False,
) -> Comparison:  # fmt: skip
    """Test accuracy of two rules; at the step at which accuracy falls, by the `fall` hoped for."""
    gain = paired_difference(runs, base, "test_accuracy", diverged=0.0 if fall else None)
    hoped = 100 * INTOLERABLE if fall else HOPED
    if not fall and name == IMAGES and (ASGD, workers) in PUBLISHED:
        hoped = round(PUBLISHED[ASGD, workers] - PUBLISHED[rule, workers], 2)
    reached = max(100 * metric(side, "test_accuracy").mean for side in (runs, base))
    return Comparison(
        f"{name} with {workers} workers, {rule}", points(gain), hoped, reached, ALLOWED[name]
    )


def _points(gain: Difference) -> str:
    return f"{gain.mean:+.1f}".replace("-0.0", "0.0").replace("+0.0", "0.0")


def _limits(records: Sequence[Record]) -> str:
    """How much larger a step compensation bears on the quadratic, at the longest delay."""
    quadratic = where(records, problem="quadratic")
    if not {ASGD, ADAPTIVE} <= by_method(quadratic).keys():
        return ""
    longest = int(max(numeric(r, "delay") for r in quadratic))
    asgd, adaptive = (
        max(values(where(quadratic, method, delay=longest), "largest_stable_step"))
        for method in (ASGD, ADAPTIVE)
    )
    return (
        f" On a quadratic at staleness {longest} it bears a step {adaptive / asgd:.1f} times as "
        "large."
    )

"""What the records say of delay compensation, clause by clause of the claim.

The clauses are judged at tuned steps: that it is better than ASGD, the more so the more workers
there are, and as good as synchronous training. What happens at a step that ASGD does not bear is
told beside them and decides nothing: the step is picked because ASGD fails there.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.delay import cifar10, imagenet
from benchmarks.delay.report import (
    ADAPTIVE,
    ALL_SYNCHRONOUS,
    ASGD,
    CONSTANT,
    SGD,
    SYNCHRONOUS,
    Published,
    intolerable_step,
    worker_counts,
)
from benchmarks.harness.halving import TUNING, grid, reported
from benchmarks.harness.reports import (
    at_edge,
    best_by_method,
    by_method,
    by_setting,
    numeric,
    values,
    where,
)
from benchmarks.judgement.finding import HOLDS, INCOMPLETE, PARTLY, Finding, Measured
from benchmarks.judgement.weighing import (
    Comparison,
    as_good,
    in_short,
    losses_in_short,
    points,
    verdict,
    words,
)
from common.results.comparison import Difference, interval, paired_difference
from common.results.records import Record
from common.results.selection import best_setting
from common.results.tables import markdown, metric

TOLERANCE = "dcasgd_delay_tolerance"

HOPED, GROWTH = 0.6, 0.39
"""Points where nothing is published: the smallest gain over ASGD that is, of -c with 4 workers, and
by how much the same rule's is larger with 8."""

RULES = (CONSTANT, ADAPTIVE)
WAITING = (SYNCHRONOUS, ALL_SYNCHRONOUS)
"""The synchronous baselines: a rule is compared with each of them that was run."""


class _Task(NamedTuple):
    """What an experiment's accuracies mean."""

    name: str
    experiment: str
    allowed: float
    """Test accuracy, %, as published."""
    published: Published
    """Test errors of the rules, %."""
    data: str = ""
    """The images that was published on; records of others show that the code runs. Any if empty."""
    chance: float = 0.1
    """Test accuracy of guessing, a share: what a run that diverged counts as."""


_PERCEPTRON = 97.98
"""Test accuracy, %, of one on all of MNIST."""

_TASKS = (
    _Task("digits", "dcasgd_digits", _PERCEPTRON, {}),
    _Task(
        "CIFAR-10", "dcasgd_cifar10", 100 - cifar10.PUBLISHED[SGD, 1], cifar10.PUBLISHED, "cifar10",
    ),
    _Task("tolerance", TOLERANCE, _PERCEPTRON, {}),
    _Task("lambda sweep", "dcasgd_lambda_sweep", _PERCEPTRON, {}),
    _Task(
        "ImageNet", "dcasgd_imagenet", 100 - imagenet.PUBLISHED[ALL_SYNCHRONOUS, 16],
        imagenet.PUBLISHED, "imagenet2012", 1e-3,
    ),
)  # fmt: skip


class _Side(NamedTuple):
    """One method with one number of workers, at the setting that validation data choose."""

    runs: Sequence[Record]
    at_edge: bool
    """Whether its step is the least or the largest that was tried."""


_Sides = Mapping[int, Mapping[str, _Side]]
"""By number of workers, rising, and method."""


def delay(measured: Measured) -> Finding:
    """The three clauses, each at tuned steps; beside them a step that ASGD does not bear.

    That step is the first of each task and number of workers (`delay.report.intolerable_step`).
    """
    ahead: list[Comparison] = []
    growing: list[Comparison] = []
    waiting: list[Comparison] = []
    gains, beyond, unused = [], {}, []
    for task in _TASKS:
        kept = measured.get(task.experiment, ())
        records = _of_data(kept, task.data)
        if kept and not records:
            unused.append(task.experiment)
        if task.experiment == TOLERANCE:
            records = where(records, problem="network")
        counts = sorted(worker_counts(reported(records)))
        sides = {m: _tuned(where(records, workers=m)) for m in counts}
        for m, of in sides.items():
            rules = [rule for rule in RULES if rule in of]
            found = {rule: _comparison(task, m, rule, of[rule], of[ASGD]) for rule in rules}
            ahead += found.values()
            if ADAPTIVE in found:
                gains.append(f"{task.name} {m}: {_points(found[ADAPTIVE].gain)}")
            waiting += [
                _comparison(task, m, rule, of[rule], of[base])
                for base in WAITING
                for rule in rules
                if base in of
            ]
            step = intolerable_step(records, m)
            if step is not None and rules:
                beyond[f"{task.name}, {m}, {step:g}{_budget(records)}"] = _at_step(records, m, step)
        growing += [_growth(task, rule, sides) for rule in RULES if _spans(sides, rule)]
    if not ahead:
        return INCOMPLETE
    clauses = verdict(ahead), verdict(growing), as_good(waiting)
    figures = (
        "DC-ASGD-c and -a, each rule at its tuned step.\n\n"
        f"- *Better than ASGD*: {clauses[0]}. They are {words(ahead)}. Points of test accuracy by "
        "which -a is above ASGD, by task and workers: "
        f"{', '.join(gains) or 'not run'}.\n"
        f"- *The more so the more workers*: {clauses[1]}. The gain with the most, against that "
        f"with the fewest, is {words(growing)}.\n"
        f"- *As good as synchronous and m-synchronous SGD*: {clauses[2]}. They are "
        f"{losses_in_short(waiting)}.\n\n{_listed(beyond)}{_limits(measured.get(TOLERANCE, ()))}"
    )
    perceptrons = sum(c.allowed == _PERCEPTRON for c in ahead)
    headline = (
        f"DC-ASGD against ASGD, each at its tuned step: {in_short(ahead)}; {perceptrons} of the "
        "comparisons are of one small perceptron on MNIST; the more so the more workers: "
        f"{clauses[1]}; as good as synchronous training: {clauses[2]}"
    )
    return Finding(_whole(*clauses), headline, figures, tuple(unused))


def _of_data(records: Sequence[Record], data: str) -> list[Record]:
    """Those of the named images; of all, if none are named or the records do not say."""
    said = [r.origin.get("configuration", {}).get("data", data) for r in records]
    return [r for r, images in zip(records, said, strict=True) if not data or images == data]


def _whole(ahead: str, growing: str, waiting: str) -> str:
    """The verdict on the claim, from those on its clauses; the first carries it.

    Only what is gained can grow, and where ASGD is as good as synchronous training, so is all that
    does no harm to it. Hence the claim is what the first clause is, and holds but partly unless the
    other two hold as well.
    """
    if ahead == HOLDS and not growing == waiting == HOLDS:
        return PARTLY
    return ahead


def _tuned(records: Sequence[Record]) -> dict[str, _Side]:
    """Each method at its own step, and lambda, if it had the whole budget there."""
    sides, every = {}, by_method(records)
    for method, finished in by_method(reported(records)).items():
        runs = best_setting(finished)
        steps = [numeric(r, "learning_rate") for r in every[method]]
        sides[method] = _Side(runs, at_edge(numeric(runs[0], "learning_rate"), steps))
    return sides


def _comparison(task: _Task, workers: int, rule: str, side: _Side, base: _Side) -> Comparison:
    """Test accuracy of a rule against that of a baseline."""
    return Comparison(
        f"{task.name} with {workers} workers, {rule} against {base.runs[0].method}",
        points(paired_difference(side.runs, base.runs, "test_accuracy", diverged=task.chance)),
        _published_gain(task, rule, workers) or HOPED,
        _reached(side, base),
        task.allowed,
        base.at_edge,
    )


def _spans(sides: _Sides, rule: str) -> list[int]:
    """The fewest and the most workers that a rule was run with; empty if there is one number."""
    counts = [m for m, of in sides.items() if rule in of]
    return [counts[0], counts[-1]] if len(counts) > 1 else []


def _growth(task: _Task, rule: str, sides: _Sides) -> Comparison:
    """A rule's gain over ASGD with the most workers, minus that with the fewest, seed by seed."""
    fewest, most = _spans(sides, rule)
    ends = [(sides[m][rule], sides[m][ASGD]) for m in (fewest, most)]
    few, many = (
        {
            r.seed: _accuracy(r, task) - _accuracy(base, task)
            for r in side.runs
            for base in asgd.runs
            if r.seed == base.seed
        }
        for side, asgd in ends
    )
    published = [_published_gain(task, rule, m) for m in (fewest, most)]
    return Comparison(
        f"{task.name} from {fewest} to {most} workers, {rule}",
        points(interval(many[seed] - few[seed] for seed in many.keys() & few.keys())),
        round(published[1] - published[0], 2) if all(published) else GROWTH,
        min(_reached(side, asgd) for side, asgd in ends),
        task.allowed,
        any(asgd.at_edge for _, asgd in ends),
    )


def _accuracy(record: Record, task: _Task) -> float:
    """On test images; that of guessing, of a run that diverged."""
    accuracy = record.metrics["test_accuracy"]
    return accuracy if math.isfinite(accuracy) else task.chance


def _published_gain(task: _Task, rule: str, workers: int) -> float:
    """Points over ASGD; 0 where nothing is published."""
    errors, asked = task.published, [(ASGD, workers), (rule, workers)]
    return round(errors[asked[0]] - errors[asked[1]], 2) if all(a in errors for a in asked) else 0.0


def _reached(*sides: _Side) -> float:
    return max(100 * metric(side.runs, "test_accuracy").mean for side in sides)


def _budget(records: Sequence[Record]) -> str:
    """How long all steps were tried, where it was not for the whole budget."""
    epochs = numeric(grid(records)[0], TUNING)
    return f" (after {epochs:g} epoch{'s' * (epochs != 1)})" if epochs else ""


def _at_step(records: Sequence[Record], workers: int, step: float) -> dict[str, float]:
    """Test accuracy, %, at one step, a diverged run counting as 0; lambda chosen at that step.

    Where steps were halved, it is that after the smallest budget, with which all were tried.
    """
    chosen = best_by_method(where(grid(records), workers=workers, learning_rate=step))
    return {
        method: 100 * statistics.fmean(
            v if math.isfinite(v) else 0.0 for v in values(chosen[method], "test_accuracy")
        )
        for method in (ASGD, *RULES, SYNCHRONOUS)
        if method in chosen
    }  # fmt: skip


def _listed(beyond: Mapping[str, Mapping[str, float]]) -> str:
    """Every step that ASGD does not bear, with the accuracies there."""
    if not beyond:
        return "No step was tried that ASGD does not bear."
    names = [ASGD, *RULES, SYNCHRONOUS]
    rows = [
        [case, *(f"{of[method]:.0f}" if method in of else "" for method in names)]
        for case, of in beyond.items()
    ]
    return (
        "At the first step that ASGD does not bear, which decides nothing as it is picked for that "
        "(test accuracy, %, a diverged run counting as 0):\n\n"
        + markdown(["task, workers, step", *names], rows)
    )


def _points(gain: Difference) -> str:
    return f"{gain.mean:+.1f}".replace("-0.0", "0.0").replace("+0.0", "0.0")


def _limits(records: Sequence[Record]) -> str:
    """How much larger a step compensation bears on the quadratic, at the longest delay."""
    quadratic = where(records, problem="quadratic")
    if not {ASGD, ADAPTIVE} <= by_method(quadratic).keys():
        return ""
    longest = int(max(numeric(r, "delay") for r in quadratic))
    asgd, adaptive = (where(quadratic, method, delay=longest) for method in (ASGD, ADAPTIVE))
    by_lambda = {
        strength: metric(runs, "largest_stable_step").mean
        for strength, runs in by_setting(adaptive, "lambda").items()
    }
    best = max(by_lambda, key=by_lambda.__getitem__)
    times = by_lambda[best] / metric(asgd, "largest_stable_step").mean
    edge = " (the edge of its grid)" if at_edge(best, by_lambda) else ""
    return (
        f"\n\nOn a quadratic at staleness {longest} DC-ASGD-a stays below its start at steps up to "
        f"{times:.1f} times as large as ASGD, with the best lambda of those tried, {best:g}{edge}."
    )

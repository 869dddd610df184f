"""What the records say of each claim: a verdict and the figures it rests on, computed anew.

Two methods are compared seed by seed; one is better than another where the 95% Student t interval
of the paired differences is above 0. Everything else is "not told apart". Speed, counted in targets
met, is judged in `speed_verdict`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.delay.report import (
    ADAPTIVE,
    ASGD,
    CONSTANT,
    SYNCHRONOUS,
    intolerable_step,
    worker_counts,
)
from benchmarks.harness.reports import (
    best_by_method,
    by_method,
    by_setting,
    magnitude,
    numeric,
    values,
    where,
    won_and_lost,
)
from benchmarks.latent.reports import domains as domain_report
from benchmarks.latent.reports import styles
from benchmarks.latent.reports.identifiability import (
    LACIM,
    MARGIN,
    POOLED,
    TARGET,
    least_sufficient,
)
from benchmarks.path_space import jobs, methods, sequence
from benchmarks.path_space.rates import rate_of
from common.results.comparison import Difference, interval, paired_difference
from common.results.records import Record
from common.results.selection import best_setting
from common.results.tables import group, metric

HOLDS, PARTLY, FAILS = "holds", "holds partly", "does not hold here"

Measured = Mapping[str, Sequence[Record]]
"""The records of each experiment that has been measured."""


class Finding(NamedTuple):
    """What the records say of one claim."""

    verdict: str
    headline: str
    """The one number that tells most."""
    figures: str
    """All that the verdict rests on, in a sentence or two."""


def _counts(differences: Sequence[Difference]) -> tuple[int, int]:
    """How many of some comparisons are won, and how many lost."""
    return sum(d.above for d in differences), sum(d.below for d in differences)


def _share(differences: Sequence[Difference]) -> str:
    """Holds partly from a quarter of the comparisons on: chance alone wins one in forty."""
    better, worse = _counts(differences)
    if differences and better == len(differences):
        return HOLDS
    return PARTLY if 4 * better >= max(1, len(differences)) and better > worse else FAILS


class _Pair(NamedTuple):
    """The same rule from the same weights, in path space and on weights, all learning rates."""

    paths: Sequence[Record]
    weights: Sequence[Record]
    criterion: str
    score: str
    floor: float
    """What a diverged run counts as: the score of a network that has learnt nothing."""


def _pairs(measured: Measured) -> Iterator[_Pair]:
    accuracy = ("validation_accuracy", "test_accuracy", 0.1)
    perceptrons = (("G-SGD, skeleton at 1", "SGD, skeleton at 1"), ("G-SGD, largest tree", "SGD"))
    tasks = [
        (where(measured.get("gsgd_mlp", ()), start="initial"), perceptrons, accuracy),
        (measured.get("gsgd_sequence", ()), jobs.PAIRS,
         (sequence.SENTENCES.criterion, "test_accuracy", 0.0)),
        (measured.get("gsgd_control", ()), jobs.PAIRS, ("validation_return", "test_return", 0.0)),
    ]  # fmt: skip
    images = by_setting(measured.get("gsgd_cifar10", ()), "network")
    tasks += [(records, methods.PAIRS, accuracy) for records in images.values()]
    for records, pairs, names in tasks:
        of_method = by_method(records)
        for one, other in pairs:
            if one in of_method and other in of_method:
                yield _Pair(of_method[one], of_method[other], *names)


def path_space_training(measured: Measured) -> Finding:
    """G-SGD against SGD from the same weights: at the best learning rate, and over the grid."""
    pairs = list(_pairs(measured))
    at_best = [
        paired_difference(
            best_setting(pair.paths, criterion=pair.criterion),
            best_setting(pair.weights, criterion=pair.criterion),
            pair.score,
        )
        for pair in pairs
    ]
    over_grid = list(map(_over_grid, pairs))
    figures = (
        "Each comparison is of one rule on one network from one initialisation, in path space and "
        f"on weights. With each side at its best step, path space is {won_and_lost(at_best)}. On "
        "average over the grid of steps, where a diverged run counts as one that learnt nothing, "
        f"it is {won_and_lost(over_grid)}."
    )
    better, wider = _share(at_best), _share(over_grid)
    verdict = better if better == wider else PARTLY
    return Finding(verdict, f"{won_and_lost(at_best)}, each at its best step", figures)


def _over_grid(pair: _Pair) -> Difference:
    """The difference of the mean scores over all rates that both sides were run at."""
    grids = [group(side, rate_of) for side in (pair.paths, pair.weights)]
    rates = grids[0].keys() & grids[1].keys()
    paths, weights = (
        {
            seed: float(np.mean([_or(r.metrics.get(pair.score), pair.floor) for r in runs]))
            for seed, runs in group(
                [r for rate in rates for r in grid[rate]], lambda r: r.seed
            ).items()
        }
        for grid in grids
    )
    return interval(paths[seed] - weights[seed] for seed in paths)


def _or(value: float | None, floor: float) -> float:
    return floor if value is None or not math.isfinite(value) else value


def invariance(measured: Measured) -> Finding:
    """How far apart two scalings of one function end, in path space and on weights."""
    parts, kept, headlines = [], [], []
    for dtype, records in by_setting(measured["gsgd_invariance"], "dtype").items():
        in_paths = [r for r in records if r.method.startswith("G-")]
        on_weights = [r for r in records if not r.method.startswith("G-")]
        # A run that left the numbers is as far apart as can be.
        apart = max(_or(distance, math.inf) for distance in values(in_paths, "distance"))
        least = min(_or(distance, math.inf) for distance in values(on_weights, "distance"))
        kept.append(apart < 0.01 * least)
        headlines.append(f"{dtype} {magnitude(apart)} (on weights {magnitude(least)} or more)")
        changed = np.median(values(on_weights, "changed_answers"))
        parts.append(
            f"{dtype}: logits differ by at most {magnitude(apart)} of their size in path space, by "
            f"at least {magnitude(least)} on weights, which changes {100 * changed:.1f}% of the "
            "answers (median)"
        )
    verdict = HOLDS if all(kept) else PARTLY if any(kept) else FAILS
    # Every precision stands there: the one that fails is what makes a verdict partial.
    headline = f"the two functions end apart in path space by {', '.join(headlines)}"
    return Finding(verdict, headline, "; ".join(parts) + ".")


def delay(measured: Measured) -> Finding:
    """Delay compensation against none as workers grow: at tuned steps, and at one step for all.

    The one step is the first that ASGD does not bear (`delay.report.intolerable_step`).
    """
    tolerance = where(measured.get("dcasgd_delay_tolerance", ()), problem="network")
    against: dict[str, list[Difference]] = {ASGD: [], SYNCHRONOUS: []}
    same_step: list[Difference] = []
    tuned_gains, beyond = [], []
    for name, records in (
        ("digits", measured.get("dcasgd_digits", ())),
        ("CIFAR-10", measured.get("dcasgd_cifar10", ())),
        ("tolerance", tolerance),
    ):
        for m in sorted(worker_counts(records)):
            runs = where(records, workers=m)
            chosen = best_by_method(runs)
            for base, differences in against.items():
                if base in chosen:
                    differences += [
                        paired_difference(chosen[rule], chosen[base], "test_accuracy")
                        for rule in (CONSTANT, ADAPTIVE)
                    ]
            gain = paired_difference(chosen[ADAPTIVE], chosen[ASGD], "test_accuracy")
            tuned_gains.append(f"{name} {m}: {_points(gain)}")
            step = intolerable_step(records, m)
            if step is not None:
                there = best_by_method(where(runs, learning_rate=step))
                gain = paired_difference(
                    there[ADAPTIVE], there[ASGD], "test_accuracy", diverged=0.0
                )
                same_step.append(gain)
                beyond.append(f"{name} {m}: {_points(gain)}")
    figures = (
        f"At tuned steps DC-ASGD-c and -a are, against ASGD, {won_and_lost(against[ASGD])}, and "
        f"against m-synchronous SGD {won_and_lost(against[SYNCHRONOUS])}. DC-ASGD-a over ASGD, "
        f"points of test accuracy, by task and workers: {', '.join(tuned_gains)}. At the first "
        f"step that ASGD does not bear, DC-ASGD-a is {won_and_lost(same_step)}: "
        f"{', '.join(beyond) or 'none'}.{_limits(measured.get('dcasgd_delay_tolerance', ()))}"
    )
    headline = (
        f"against ASGD at tuned steps {won_and_lost(against[ASGD])}; at a step beyond what ASGD "
        f"bears {won_and_lost(same_step)}"
    )
    tuned = _share(against[ASGD])
    # What a tuned step gives is the claim; that larger ones are borne is a part of it.
    verdict = PARTLY if tuned == FAILS and _share(same_step) != FAILS else tuned
    return Finding(verdict, headline, figures)


def _points(gain: Difference) -> str:
    return f"{100 * gain.mean:+.1f}".replace("-0.0", "0.0").replace("+0.0", "0.0")


def _limits(records: Sequence[Record]) -> str:
    """How much larger a step compensation bears on the quadratic, at the longest delay."""
    quadratic = where(records, problem="quadratic")
    if not quadratic:
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


def domains(measured: Measured) -> Finding:
    """LaCIM against every other method, chosen on training domains and by the oracle."""
    parts, over_best, over_erm = [], [], []
    for task, rule, scores in _domain_scores(measured):
        means = {method: float(np.mean(list(seeds.values()))) for method, seeds in scores.items()}
        rivals = {method: mean for method, mean in means.items() if "LaCIM" not in method}
        best = max(rivals, key=rivals.__getitem__)
        over_best.append(_seedwise(scores[LACIM], scores[best]).above)
        over_erm.append(_seedwise(scores[LACIM], scores["ERM"]))
        pooled = f", Pool-LaCIM {100 * means[POOLED]:.1f}" if POOLED in means else ""
        parts.append(
            f"{task}, chosen by {rule}: LaCIM {100 * means[LACIM]:.1f}{pooled}, "
            f"ERM {100 * means['ERM']:.1f}, best other {best} {100 * means[best]:.1f}"
        )
    better = sum(gain.above for gain in over_erm)
    verdict = HOLDS if all(over_best) else PARTLY if better else FAILS
    by_size = sorted(over_erm, key=lambda gain: gain.mean)
    headline = (
        f"better than ERM in {better or 'none'} of {len(over_erm)} tables "
        f"({_points(by_size[0])} to {_points(by_size[-1])} points), better than the best other "
        f"method in {sum(over_best) or 'none'}"
    )
    return Finding(verdict, headline, "; ".join(parts) + ".")


def _seedwise(one: Mapping[int, float], other: Mapping[int, float]) -> Difference:
    return interval(one[seed] - other[seed] for seed in one.keys() & other.keys())


Scores = Mapping[str, Mapping[int, float]]
"""Test accuracy by method and seed."""


def _domain_scores(measured: Measured) -> Iterator[tuple[str, str, Scores]]:
    """(task, rule of selection, scores) of each experiment on domains."""
    shown = ("training domains", "oracle")
    for task, name in (
        ("coloured digits", "lacim_baselines"),
        ("SpuriousPACS", "lacim_spurious_pacs"),
    ):
        for rule, chosen in domain_report.chosen(measured.get(name, ())).items():
            if rule in shown:
                yield (
                    task,
                    rule,
                    {m: {r.seed: r.metrics["test_accuracy"] for r in v} for m, v in chosen.items()},
                )
    for rule, by_domain in styles.chosen(measured.get("lacim_pacs", ())).items():
        if rule in shown:
            yield "PACS", rule, {method: styles.means(of) for method, of in by_domain.items()}


def identifiability(measured: Measured) -> Finding:
    """MCC of s at the least number of domains that suffices, beside Pool-LaCIM and fewer ones."""
    counts = by_setting(measured["lacim_identifiability"], "num_domains")
    enough = least_sufficient(dict(sorted(counts.items())))
    assert enough is not None, "the experiment has to be run with domains enough"
    ours = where(counts[enough], LACIM)
    mcc = metric(ours, "s_within")
    over = paired_difference(ours, where(counts[enough], POOLED), "s_within")
    met = [mcc.mean >= TARGET, over.mean >= MARGIN]
    figures = (
        f"{enough} domains: MCC of s {mcc.mean:.2f} ± {mcc.sd:.2f} (target {TARGET:g}), "
        f"{over.mean:+.2f} over Pool-LaCIM (target {MARGIN:+g})"
    )
    headline = (
        f"s is found with an MCC of {mcc.mean:.2f}, which is {over.mean:+.2f} over Pool-LaCIM "
        f"(target {MARGIN:+g})"
    )
    if fewer := [m for m in counts if 1 < m < enough]:
        more = paired_difference(ours, where(counts[fewer[-1]], LACIM), "s_within")
        met.append(more.mean >= 0)
        beside = f"{more.mean:+.2f} over {fewer[-1]} domains (target 0)"
        figures += f", {beside}"
        headline += f" and {beside}"
    verdict = HOLDS if all(met) else PARTLY if met[0] else FAILS
    return Finding(verdict, headline, figures + ".")

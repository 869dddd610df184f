"""What the records say of each claim: a verdict and the figures it rests on, computed anew.

Two methods are compared seed by seed; one is above another where the 95% Student t interval of the
paired differences is above 0. Everything else is "not told apart".
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.delay import speed as dcasgd_speed
from benchmarks.delay.report import ADAPTIVE, ASGD, CONSTANT, SYNCHRONOUS, intolerable_step
from benchmarks.latent import speed as lacim_speed
from benchmarks.latent.reports import domains as domain_report
from benchmarks.latent.reports import styles as style_report
from benchmarks.latent.reports.identifiability import MARGIN, TARGET
from benchmarks.path_space import jobs as path_space_jobs
from benchmarks.path_space import methods as path_space_methods
from benchmarks.path_space import sequence as gsgd_sequence
from benchmarks.path_space import speed as gsgd_speed
from benchmarks.path_space.rates import rate_of
from common.comparison import Difference, interval, paired_difference
from common.records import Record
from common.selection import best_setting
from common.tables import group, metric

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


def _told(differences: Sequence[Difference]) -> str:
    above, below = _counts(differences)
    return f"above in {above} of {len(differences)}, below in {below}"


def _share(differences: Sequence[Difference]) -> str:
    """Holds partly from a quarter of the comparisons on: chance alone wins one in forty."""
    above, below = _counts(differences)
    if differences and above == len(differences):
        return HOLDS
    return PARTLY if 4 * above >= max(1, len(differences)) and above > below else FAILS


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
    initial = [r for r in measured.get("gsgd_mlp", ()) if r.setting["start"] == "initial"]
    found = [
        (initial, (("G-SGD, skeleton at 1", "SGD, skeleton at 1"), ("G-SGD, largest tree", "SGD")),
         accuracy),
        (measured.get("gsgd_sequence", ()), path_space_jobs.PAIRS,
         (gsgd_sequence.SENTENCES.criterion, "test_accuracy", 0.0)),
        (measured.get("gsgd_control", ()), path_space_jobs.PAIRS,
         ("validation_return", "test_return", 0.0)),
    ]  # fmt: skip
    images = group(measured.get("gsgd_cifar10", ()), lambda r: str(r.setting["network"]))
    found += [(own, path_space_methods.PAIRS, accuracy) for own in images.values()]
    for records, pairs, names in found:
        by_method = group(records, lambda r: r.method)
        for one, other in pairs:
            if one in by_method and other in by_method:
                yield _Pair(by_method[one], by_method[other], *names)


def path_space_training(measured: Measured) -> Finding:
    """G-SGD against SGD from the same weights: at the best learning rate, and over the grid.

    Args:
        measured: the records there are.
    """
    pairs = list(_pairs(measured))
    at_best = [
        paired_difference(
            best_setting(p.paths, criterion=p.criterion),
            best_setting(p.weights, criterion=p.criterion),
            p.score,
        )
        for p in pairs
    ]
    over_grid = []
    for pair in pairs:
        grids = [group(side, rate_of) for side in (pair.paths, pair.weights)]
        rates = grids[0].keys() & grids[1].keys()
        each = [
            {
                seed: float(np.mean([_or(r.metrics.get(pair.score), pair.floor) for r in own]))
                for seed, own in group(
                    [r for rate in rates for r in grid[rate]], lambda r: r.seed
                ).items()
            }
            for grid in grids
        ]
        over_grid.append(interval(each[0][seed] - each[1][seed] for seed in each[0]))
    figures = (
        f"Of {len(pairs)} pairs (network, rule, initialisation), path space is {_told(at_best)} "
        f"at the best step of each, and on average over the grid of steps, where a diverged run "
        f"counts as one that learnt nothing, {_told(over_grid)}."
    )
    better, wider = _share(at_best), _share(over_grid)
    verdict = better if better == wider else PARTLY
    return Finding(verdict, f"{_told(at_best)}, of pairs at their best steps", figures)


def _or(value: float | None, floor: float) -> float:
    return floor if value is None or not math.isfinite(value) else value


def invariance(measured: Measured) -> Finding:
    """How far apart two scalings of one function end, in path space and on weights.

    Args:
        measured: the records there are.
    """
    parts, kept, headline = [], [], ""
    for dtype, own in group(measured["gsgd_invariance"], lambda r: str(r.setting["dtype"])).items():
        paths, weights = (
            # A run that left the numbers is as far apart as can be.
            [
                _or(r.metrics["distance"], math.inf)
                for r in own
                if r.method.startswith("G-") == in_paths
            ]
            for in_paths in (True, False)
        )
        kept.append(max(paths) < 0.01 * min(weights))
        headline = (
            f"functions apart by {max(paths):.0e} in path space, {min(weights):.1g} on weights "
            f"({dtype})"
        )
        changed = np.median(
            [r.metrics["changed_answers"] for r in own if not r.method.startswith("G-")]
        )
        parts.append(
            f"{dtype}: logits apart by at most {max(paths):.0e} of their size in path space, by at "
            f"least {min(weights):.1g} on weights, which changes {100 * changed:.1f}% of the "
            "answers (median)"
        )
    verdict = HOLDS if all(kept) else PARTLY if any(kept) else FAILS
    return Finding(verdict, headline, "; ".join(parts) + ".")


def delay(measured: Measured) -> Finding:
    """Delay compensation against none as workers grow: at tuned steps, and at one step for all.

    The one step is the first that ASGD does not bear (`delay.report.intolerable_step`).

    Args:
        measured: the records there are.
    """
    against: dict[str, list[Difference]] = {ASGD: [], SYNCHRONOUS: []}
    same_step: list[Difference] = []
    cells, beyond = [], []
    for name, records in (
        ("digits", measured.get("dcasgd_digits", ())),
        ("CIFAR-10", measured.get("dcasgd_cifar10", ())),
        ("tolerance", [r for r in measured.get("dcasgd_delay_tolerance", ())
                       if r.setting["problem"] == "network"]),
    ):  # fmt: skip
        workers = group((r for r in records if r.method == ASGD), _num_workers)
        for m in sorted(workers):
            own = group([r for r in records if _num_workers(r) == m], lambda r: r.method)
            chosen = {method: best_setting(runs) for method, runs in own.items()}
            for base, found in against.items():
                if base in chosen:
                    found += [
                        paired_difference(chosen[rule], chosen[base], "test_accuracy")
                        for rule in (CONSTANT, ADAPTIVE)
                    ]
            gain = paired_difference(chosen[ADAPTIVE], chosen[ASGD], "test_accuracy").mean
            cells.append(f"{name} {m}: {100 * gain:+.1f}")
            step = intolerable_step(records, m)
            if step is not None:
                at = {
                    method: best_setting([r for r in runs if r.setting["learning_rate"] == step])
                    for method, runs in own.items()
                    if method in (ASGD, ADAPTIVE)
                }
                found = paired_difference(at[ADAPTIVE], at[ASGD], "test_accuracy", diverged=0.0)
                same_step.append(found)
                beyond.append(f"{name} {m}: {100 * found.mean:+.1f}")
    limits = _limits(measured.get("dcasgd_delay_tolerance", ()))
    figures = (
        f"At tuned steps DC-ASGD-c and -a are {_told(against[ASGD])} comparisons with ASGD, and "
        f"{_told(against[SYNCHRONOUS])} with m-synchronous SGD. DC-ASGD-a over ASGD, points of "
        f"test accuracy, by task and workers: {', '.join(cells)}. At the first step that ASGD "
        f"does not bear, DC-ASGD-a is {_told(same_step)}: {', '.join(beyond) or 'none'}.{limits}"
    )
    headline = (
        f"against ASGD at tuned steps {_told(against[ASGD])}; at a step beyond what ASGD bears "
        f"{_told(same_step)}"
    )
    tuned = _share(against[ASGD])
    # What a tuned step gives is the claim; that larger ones are borne is a part of it.
    verdict = PARTLY if tuned == FAILS and _share(same_step) != FAILS else tuned
    return Finding(verdict, headline, figures)


def _limits(records: Sequence[Record]) -> str:
    """How much larger a step compensation bears on the quadratic, at the longest delay."""
    own = [r for r in records if r.setting["problem"] == "quadratic"]
    if not own:
        return ""
    longest = max(int(r.setting["delay"] or 0) for r in own)
    at = group([r for r in own if r.setting["delay"] == longest], lambda r: r.method)
    stable = {
        method: max(r.metrics["largest_stable_step"] for r in at[method])
        for method in (ASGD, ADAPTIVE)
    }
    return (
        f" On a quadratic at staleness {longest} it bears a step "
        f"{stable[ADAPTIVE] / stable[ASGD]:.1f} times as large."
    )


def _num_workers(record: Record) -> int:
    return int(record.setting["workers"] or 0)


RUNGS = (
    "Hessian",
    "low rank 16",
    "Gauss-Newton",
    "diag(H)",
    "diag(lambda G), adaptive",
    "diag(lambda G), constant",
)
"""From the exact one to the published ones."""

USEFUL = 0.9
"""A rung is of use if it leaves less than this share of the staleness error."""


def ladder(measured: Measured) -> Finding:
    """What each stand-in for the Hessian leaves of the staleness error.

    Args:
        measured: the records there are.
    """
    parts, exact_left, diagonal_left = [], [], []
    for activation, own in group(
        measured["dcasgd_hessian_ladder"], lambda r: str(r.setting["activation"])
    ).items():
        rungs = group(own, lambda r: r.method)
        left = {
            rung: metric(rungs[rung], "error_left_scaled").mean for rung in RUNGS if rung in rungs
        }
        exact_left.append(left[RUNGS[0]])
        diagonal_left.append(left[RUNGS[-2]])
        listed = ", ".join(f"{rung} {100 * value:.0f}%" for rung, value in left.items())
        parts.append(f"{activation}: {listed}")
    exact, diagonal = (max(left) < USEFUL for left in (exact_left, diagonal_left))
    verdict = HOLDS if exact and diagonal else PARTLY if exact else FAILS
    headline = (
        f"error left: Hessian {100 * max(exact_left):.0f}%, "
        f"diag(λG) {100 * max(diagonal_left):.0f}%"
    )
    return Finding(
        verdict, headline, f"Staleness error left, at the best factor of each. {'; '.join(parts)}."
    )


def domains(measured: Measured) -> Finding:
    """LaCIM against every other method, chosen on training domains and by the oracle.

    Args:
        measured: the records there are.
    """
    parts, won, over_erm = [], [], []
    for where, scores in _domain_scores(measured):
        for rule, methods in scores.items():
            means = {method: float(np.mean(list(own.values()))) for method, own in methods.items()}
            rivals = {m: v for m, v in means.items() if "LaCIM" not in m}
            best = max(rivals, key=rivals.__getitem__)
            ours = methods["LaCIM"]
            won.append(_seedwise(ours, methods[best]).above)
            over_erm.append(_seedwise(ours, methods["ERM"]).above)
            pooled = ""
            if "Pool-LaCIM" in means:
                pooled = f", Pool-LaCIM {100 * means['Pool-LaCIM']:.1f}"
            parts.append(
                f"{where}, chosen by {rule}: LaCIM {100 * means['LaCIM']:.1f}{pooled}, "
                f"ERM {100 * means['ERM']:.1f}, best other {best} {100 * means[best]:.1f}"
            )
    verdict = HOLDS if all(won) else PARTLY if any(over_erm) else FAILS
    headline = (
        f"above ERM in {sum(over_erm)} of {len(over_erm)} tables, above the best other method in "
        f"{sum(won)}"
    )
    return Finding(verdict, headline, "; ".join(parts) + ".")


def _seedwise(one: Mapping[int, float], other: Mapping[int, float]) -> Difference:
    return interval(one[seed] - other[seed] for seed in one.keys() & other.keys())


def _domain_scores(
    measured: Measured,
) -> Iterator[tuple[str, dict[str, dict[str, dict[int, float]]]]]:
    """Test accuracy by rule, method and seed, of each experiment on domains."""
    shown = ("training domains", "oracle")
    if records := measured.get("lacim_baselines"):
        chosen = domain_report.chosen(records)
        yield (
            "coloured digits",
            {
                rule: {
                    method: {r.seed: r.metrics["test_accuracy"] for r in runs}
                    for method, runs in chosen[rule].items()
                }
                for rule in shown
                if rule in chosen
            },
        )
    if records := measured.get("lacim_pacs"):
        by_domain = style_report.chosen(records)
        yield (
            "PACS",
            {
                rule: {
                    method: {
                        seed: float(np.mean([r.metrics["test_accuracy"] for r in own]))
                        for seed, own in group(
                            [r for runs in found.values() for r in runs], lambda r: r.seed
                        ).items()
                    }
                    for method, found in by_domain[rule].items()
                }
                for rule in shown
                if rule in by_domain
            },
        )


def identifiability(measured: Measured) -> Finding:
    """MCC of s at the least number of domains that suffices, beside Pool-LaCIM and fewer domains.

    Args:
        measured: the records there are.
    """
    by_count = group(
        measured["lacim_identifiability"], lambda r: int(r.setting["num_domains"] or 0)
    )
    methods = {m: group(own, lambda r: r.method) for m, own in by_count.items()}
    enough = min(
        m
        for m, own in methods.items()
        if m >= metric(own["inverse mixing"], "needed_s").mean and "LaCIM" in own
    )
    ours = methods[enough]["LaCIM"]
    found = metric(ours, "s_within")
    over = paired_difference(ours, methods[enough]["Pool-LaCIM"], "s_within")
    met = [found.mean >= TARGET, over.mean >= MARGIN]
    figures = (
        f"{enough} domains: MCC of s {found.mean:.2f} ± {found.sd:.2f} (target {TARGET:g}), "
        f"{over.mean:+.2f} over Pool-LaCIM (target {MARGIN:+g})"
    )
    if fewer := [m for m in methods if 1 < m < enough]:
        more = paired_difference(ours, methods[fewer[-1]]["LaCIM"], "s_within")
        met.append(more.mean >= 0)
        figures += f", {more.mean:+.2f} over {fewer[-1]} domains (target +0)"
    verdict = HOLDS if all(met) else PARTLY if met[0] else FAILS
    headline = f"MCC of s {found.mean:.2f}, Pool-LaCIM {found.mean - over.mean:.2f}"
    return Finding(verdict, headline, figures + ".")


def speed(measured: Measured) -> Finding:
    """Ratios of programs timed in turns, against their targets.

    Args:
        measured: the records there are.
    """
    lines: list[tuple[str, bool]] = []
    for network, own in group(
        [r for r in measured.get("gsgd_speed", ()) if "ratio" in r.metrics and r.method != "SGD"],
        lambda r: str(r.setting["network"]),
    ).items():
        worst, target = max(r.metrics["ratio"] for r in own), gsgd_speed.TARGETS[network]
        compiled = max(r.metrics["compile_ratio"] for r in own)
        lines += [
            (f"step in path space, {network}, {worst:.2f} of SGD's (target {target:g})",
             worst <= target),
            (f"its compilation {compiled:.1f} (target {gsgd_speed.COMPILE_TARGET:g})",
             compiled <= gsgd_speed.COMPILE_TARGET),
        ]  # fmt: skip
    for network, own in group(
        [
            r
            for r in measured.get("dcasgd_speed", ())
            if r.method == dcasgd_speed.WAVES
            and int(r.setting["workers"] or 0) >= 8
            and r.setting["rule"] == "ASGD"
            and not r.setting["log"]
        ],
        lambda r: str(r.setting["network"]),
    ).items():
        worst = min(r.metrics["ratio"] for r in own)
        lines.append(
            (f"simulated cluster, {network}, {worst:.2f} of synchronous throughput at worst "
             f"(target {dcasgd_speed.TARGET:g})", worst >= dcasgd_speed.TARGET)
        )  # fmt: skip
    search = [r for r in measured.get("lacim_speed", ()) if r.setting["task"] == lacim_speed.SEARCH]
    for decoder, own in group(search, lambda r: str(r.setting["decoder"])).items():
        ratio, target = min(lacim_speed.ratios(own)), lacim_speed.TARGET
        lines.append(
            (f"latent search, {decoder}, {ratio:.1f} times a loop over batches (target {target:g})",
             ratio >= target)
        )  # fmt: skip
    met = [ok for _, ok in lines]
    verdict = HOLDS if all(met) else PARTLY if any(met) else FAILS
    headline = f"{sum(met)} of {len(met)} targets met"
    listed = "; ".join(f"{text}: {'met' if ok else 'missed'}" for text, ok in lines)
    return Finding(verdict, headline, f"{headline}: {listed}.")

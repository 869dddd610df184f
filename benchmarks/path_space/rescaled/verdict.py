"""What the records of rescaled starts say, in words that are computed."""

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from benchmarks.harness.reports import magnitude, won_and_lost
from benchmarks.path_space.rescaled.board import CONTROL, PROTOCOLS, Board
from benchmarks.path_space.rescaled.rows import BALANCED, NORMALISED, PATHS, WAYS, WEIGHTS, Way
from common.results.comparison import interval

FLAT = 0.1
"""Points of accuracy within which a curve is called flat, or two rows the same."""

LOSS = 2.0
"""Points of accuracy that weights were expected to lose at least."""

AT = 2.0
"""Losses are reported at the spread s nearest to this one."""


def verdict(board: Board) -> str:
    """The questions of this experiment, each with its answer and the figures it rests on.

    Args:
        board: all records.
    """
    answers = [*_flat(board), *_lost(board), *_suffices(board), *_gain(board), *_edges(board)]
    return "\n".join(["**Verdict**", "", *(f"- {answer}" for answer in answers)])


def _panels(board: Board) -> list[tuple[str, str]]:
    return list(product(board.problems, board.rules))


def _mean(board: Board, problem: str, rule: str, way: Way, start: str, protocol: str) -> float:
    """Percent."""
    return 100 * float(board.values(problem, rule, way, start, protocol).mean())


def _flat(board: Board) -> Iterator[str]:
    """How much the mean accuracy changes over s in path space."""
    for protocol in PROTOCOLS:
        changes = {}
        for problem, rule in _panels(board):
            first, *others = (
                _mean(board, problem, rule, PATHS, start, protocol)
                for start in board.rescaled(problem)
            )
            changes[problem, rule] = max((abs(x - first) for x in others), default=0.0)
        within = sum(change <= FLAT for change in changes.values())
        where = max(changes, key=lambda key: changes[key])
        answer = (
            "yes" if within == len(changes) else "no" if 2 * within < len(changes) else "mostly"
        )
        yield (
            f"*Is path space flat in s, step size {protocol}?* {answer.capitalize()}: within "
            f"{FLAT:g} point of s = 0 at every s in {within} of {len(changes)} pairs of network "
            f"and rule; the largest change is {changes[where]:.2f} points ({where[1]}, {where[0]})."
            + (_chosen_again(board) if protocol == "tuned" else "")
        )
    rescaled, control, moved = [], [], {}
    for problem, rule in _panels(board):
        first, *others = board.rescaled(problem)
        one, other = (_mean(board, problem, rule, PATHS, n, "kept") for n in (first, CONTROL))
        moved[problem, rule] = abs(one - other)
        for start in others:
            rescaled += _gaps(board, problem, rule, (PATHS, start), (PATHS, first))
        for way in (WEIGHTS, PATHS):
            control += _gaps(board, problem, rule, (way, CONTROL), (way, first))
    most = max(moved, key=lambda key: moved[key])
    yield (
        "*And run by run, at the same step size?* A start and its rescaled copy, both in path "
        f"space, end {_spread(rescaled)}. What rounding alone does: a start and the same start "
        f"with every weight moved by one rounding end {_spread(control)}, on weights and in path "
        "space together. In path space this moves the mean over seeds by at most "
        f"{moved[most]:.2f} points ({most[1]}, {most[0]})."
    )


def _chosen_again(board: Board) -> str:
    """What is left of the change where tuning chose the step of s = 0 again, and not its tie."""
    changes, total = [], 0
    for problem, rule in _panels(board):
        first, *others = board.rescaled(problem)
        total += len(others)
        for start in others:
            rates = [
                board.records(problem, rule, PATHS, name)[0].metrics["tuned_rate"]
                for name in (first, start)
            ]
            if rates[0] == rates[1]:
                means = [_mean(board, problem, rule, PATHS, n, "tuned") for n in (first, start)]
                changes.append(abs(means[0] - means[1]))
    return (
        f" Validation data chose the step of s = 0 again in {len(changes)} of {total} cells; the "
        f"largest change in these is {max(changes, default=0.0):.2f} points."
    )


def _gaps(
    board: Board, problem: str, rule: str, one: tuple[Way, str], other: tuple[Way, str]
) -> list[float]:
    """Differences in test accuracy, points, of all runs that two cells made at the same step."""
    found = []
    cells = (board.records(problem, rule, *cell) for cell in (one, other))
    for a, b in zip(*cells, strict=True):
        scores = [
            dict(zip(r.curve["learning_rate"], r.curve["test_accuracy"], strict=True))
            for r in (a, b)
        ]
        found += [
            100 * (scores[0][rate] - scores[1][rate]) for rate in scores[0].keys() & scores[1]
        ]
    return [gap for gap in found if np.isfinite(gap)]


def _spread(gaps: list[float]) -> str:
    """How far apart pairs of runs end."""
    sizes = np.abs(gaps)
    return (
        f"{sizes.mean():.3f} points apart on average ({len(sizes)} pairs of runs: "
        f"{(sizes == 0).mean():.0%} exactly the same, 99% within {np.quantile(sizes, 0.99):.2f} "
        "points)"
    )


def _at(board: Board, problem: str) -> str:
    starts = board.rescaled(problem)
    return min(starts, key=lambda start: abs(board.spread(problem, start) - AT))


def _lost(board: Board) -> Iterator[str]:
    """How much accuracy rows lose between s = 0 and s = 2."""
    for way in (WEIGHTS, NORMALISED):
        for protocol in PROTOCOLS:
            losses = {}
            for problem, rule in _panels(board):
                first, there = board.rescaled(problem)[0], _at(board, problem)
                one, other = (
                    _mean(board, problem, rule, way, start, protocol) for start in (first, there)
                )
                losses[problem, rule] = one - other
            values = np.asarray(list(losses.values()))
            least = min(losses, key=lambda key: losses[key])
            most = max(losses, key=lambda key: losses[key])
            much = int((values >= LOSS).sum())
            name = "on weights" if way == WEIGHTS else "with weight norm"
            yield (
                f"*What is lost {name} at {_at(board, board.problems[0])}, step size {protocol}?* "
                f"At least {LOSS:g} points in {much} of {len(values)} pairs; median "
                f"{np.median(values):.1f}, from {losses[least]:.1f} ({least[1]}, {least[0]}) to "
                f"{losses[most]:.1f} ({most[1]}, {most[0]})."
            )
    ratios = [
        _rate(board, problem, rule, _at(board, problem))
        / _rate(board, problem, rule, board.rescaled(problem)[0])
        for problem, rule in _panels(board)
    ]
    yield (
        f"*And the step size on weights?* The one tuned at {_at(board, board.problems[0])} is "
        f"{magnitude(float(np.median(ratios)))} times the one tuned at s = 0 (median; from "
        f"{magnitude(min(ratios), digits=2)} to {magnitude(max(ratios))} times)."
    )


def _rate(board: Board, problem: str, rule: str, start: str) -> float:
    return board.records(problem, rule, WEIGHTS, start)[0].metrics["tuned_rate"]


def _suffices(board: Board) -> Iterator[str]:
    """Whether balancing once gives what path space gives, from every start, at every step size."""
    means, every, apart = {}, [], []
    for problem in board.problems:
        own = []
        for rule, start in product(board.rules, [*board.rescaled(problem), CONTROL]):
            own += _gaps(board, problem, rule, (BALANCED, start), (PATHS, start))
            for protocol in PROTOCOLS:
                one, other = (
                    _mean(board, problem, rule, way, start, protocol) for way in (BALANCED, PATHS)
                )
                apart.append(abs(one - other))
        means[problem] = float(np.mean(own))
        every += own
    answer = "Yes" if max(map(abs, means.values())) <= FLAT else "No"
    by_problem = ", ".join(f"{mean:+.3f} ({problem})" for problem, mean in means.items())
    yield (
        f"*Does balancing once suffice?* {answer}, for the function that is learnt. At the same "
        f"step size, balanced once minus in path space is {by_problem} points on average; run by "
        f"run the two end {_spread(every)}. Means over seeds at the chosen steps agree "
        f"within {FLAT:g} point in {sum(gap <= FLAT for gap in apart)} of {len(apart)} "
        f"comparisons, and differ by at most {max(apart):.2f} points. But balancing does not leave "
        "the weights in the scale in which they were given."
    )
    damaged = {
        start: [
            gap
            for rule in board.rules
            for gap in _gaps(board, problem, rule, (BALANCED, start), (PATHS, start))
        ]
        for problem in board.problems
        for start in board.damages(problem)
    }
    if damaged:
        by_damage = "; ".join(
            f"{start} {np.mean(gaps):+.3f} points on average, "
            f"{np.mean(np.asarray(gaps) == 0):.0%} of {len(gaps)} runs the same"
            for start, gaps in damaged.items()
        )
        yield f"*And from damaged networks?* Balanced once minus in path space: {by_damage}."


def _gain(board: Board) -> Iterator[str]:
    """The other ways against weights at s = 0, and from damaged networks, at tuned steps."""
    places: list[tuple[str, Callable[[str], list[str]]]] = [
        ("at s = 0, where the scale is the initialisation's own", lambda p: board.rescaled(p)[:1]),
        ("from damaged networks", board.damages),
    ]
    for where, starts_of in places:
        gains = []
        for way in WAYS[1:]:
            found = [
                interval(
                    board.values(problem, rule, way, start, "tuned")
                    - board.values(problem, rule, WEIGHTS, start, "tuned")
                )
                for problem, rule in _panels(board)
                for start in starts_of(problem)
            ]
            if found:
                mean = 100 * float(np.mean([d.mean for d in found]))
                gains.append(f"{way.name} {mean:+.2f} points on average, {won_and_lost(found)}")
        if gains:
            text = "; ".join(gains)
            yield f"*What is gained {where}, against weights at tuned steps?* {_capital(text)}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _edges(board: Board) -> Iterator[str]:
    """Where a wider grid might have done better."""
    lost = {way: [0, 0] for way in WAYS}
    for (problem, rule), way in product(_panels(board), WAYS):
        for start in board.rescaled(problem):
            record = board.records(problem, rule, way, start)[0]
            tried, rate = record.curve["learning_rate"], record.metrics["tuned_rate"]
            lost[way][0] += rate in (tried[0], tried[-1])
            lost[way][1] += 1
    by_way = ", ".join(f"{way.name} {n} of {total}" for way, (n, total) in lost.items())
    yield (
        "*Was the grid wide enough?* How often the chosen step was the smallest or the largest one "
        f"tried: {by_way}."
    )

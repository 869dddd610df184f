"""The stages of the experiment: which runs are made, in which order, and their records."""

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from benchmarks.delay.language import rules
from benchmarks.delay.language.runs import Measured, Runner
from benchmarks.delay.language.settings import PROFILE, Case, Settings, lambdas
from common.results.records import Record

Tried = tuple[float, float]
"""A step and a lambda, 0 where the rule has none."""
Stage = Callable[[Runner, Sequence[int], str], Iterator[Record]]
"""(runner, seeds, the text's digest) -> records."""


def stages_of(settings: Settings) -> dict[str, Stage]:
    """All stages by name: for each optimiser what is done without a rule, then rule by rule.

    The first seed tries the whole grid, and goes on while the best is at its edge; the others try
    what was best there. Without a rule, all try what was best without delay too. Seeds and delays
    follow one another, so that those are known.
    """
    found: dict[str, Stage] = {}
    for optimiser in settings.optimisers:
        found[f"{optimiser}, no rule"] = _without_rule(settings, optimiser)
        for delay in dict.fromkeys((*settings.main_delays, PROFILE)):
            wanted = settings.rows if delay in settings.main_delays else settings.extra_rules
            for rule in (rule for rule in wanted if rule != rules.NOTHING):
                case = Case(optimiser, rule, delay)
                found[f"{optimiser}, {rule}, {delay}"] = _with_rule(settings, case)
    return found


def _without_rule(settings: Settings, optimiser: str) -> Stage:
    def make(runner: Runner, seeds: Sequence[int], digest: str) -> Iterator[Record]:
        undelayed: list[Tried] = []
        for delay in (*settings.delays, PROFILE):
            case = Case(optimiser, rules.NOTHING, delay)
            tuner = _Tuner(settings, case, runner, digest)
            yield from tuner.first(seeds[0], undelayed)
            undelayed = undelayed or [tuner.best]  # the first delay is 0
            for seed in seeds[1:]:
                yield from tuner.again(seed, list(dict.fromkeys([tuner.best, *undelayed])))

    return make


def _with_rule(settings: Settings, case: Case) -> Stage:
    def make(runner: Runner, seeds: Sequence[int], digest: str) -> Iterator[Record]:
        tuner = _Tuner(settings, case, runner, digest)
        yield from tuner.first(seeds[0])
        for seed in seeds[1:]:
            yield from tuner.again(seed, [tuner.best])

    return make


class _Tuner:
    """One case: a search with the first seed, and what was best there with others."""

    def __init__(self, settings: Settings, case: Case, runner: Runner, digest: str):
        self._settings, self._case, self._runner, self._digest = settings, case, runner, digest
        self.best: Tried = (0.0, 0.0)

    def first(self, seed: int, also: Sequence[Tried] = ()) -> Iterator[Record]:
        """The whole grid and `also`, then what is next to the best and has not been tried."""
        settings = self._settings
        wanted = [
            (rate, lambda_)
            for lambda_ in lambdas(self._case.rule, settings) or (0.0,)
            for rate in settings.learning_rates
        ]
        wanted = list(dict.fromkeys([*wanted, *also]))
        losses: dict[Tried, float] = {}
        for _ in range(1 + settings.further):
            for pair, record in zip(wanted, self.again(seed, wanted), strict=True):
                loss = record.metrics["validation_loss"]
                losses[pair] = loss if np.isfinite(loss) else np.inf
                yield record
            self.best = min(losses, key=losses.__getitem__)
            wanted = untried_neighbours(self.best, list(losses))
            if not wanted:
                break

    def again(self, seed: int, tried: Sequence[Tried]) -> Iterator[Record]:
        """Some of the grid."""
        begun = time.perf_counter()
        measured = self._runner(self._case, seed, tried)
        seconds = time.perf_counter() - begun
        for pair, one in zip(tried, measured, strict=True):
            yield _record(self._case, self._settings, seed, pair, one, self._digest, seconds)


def untried_neighbours(best: Tried, tried: Sequence[Tried]) -> list[Tried]:
    """What is next to the best and has not been tried, so that no search ends at its edge.

    Beyond the least and the largest step the grid goes on by its outermost factors, and beyond the
    largest lambda tenfold; the smaller lambda is, the less is done.

    Example:
        >>> untried_neighbours((0.1, 2.0), [(0.1, 2.0), (0.2, 2.0)])
        [(0.05, 2.0), (0.1, 20.0)]
        >>> untried_neighbours((0.2, 0.0), [(0.1, 0.0), (0.2, 0.0), (0.4, 0.0)])
        []
    """
    rates, strengths = (sorted(set(column)) for column in zip(*tried, strict=True))
    # To two digits, as steps are written.
    below, above = (float(f"{a * a / b:.2g}") for a, b in (rates[:2], rates[:-3:-1]))
    rates = [below, *rates, above]
    place = rates.index(best[0])
    found = [(rates[place - 1], best[1]), (rates[place + 1], best[1])]
    if best[1]:
        strengths.append(10 * strengths[-1])
        found.append((best[0], strengths[strengths.index(best[1]) + 1]))
    return [pair for pair in found if pair not in tried]


def _record(
    case: Case, settings: Settings, seed: int, tried: tuple[float, float], measured: Measured,
    digest: str, seconds: float,
) -> Record:  # fmt: skip
    every = settings.batch_size * settings.size.length * settings.steps // settings.points
    tokens = every * np.arange(1, settings.points + 1)
    rate, lambda_ = tried
    setting = {"optimiser": case.optimiser, "delay": str(case.delay), "learning_rate": rate}
    if lambdas(case.rule, settings):
        setting["lambda"] = lambda_
    finite = bool(np.isfinite(measured.validation) and np.isfinite(measured.test))
    return Record(
        method=case.rule,
        setting=setting | {"text": digest[:16]},
        seed=seed,
        metrics={
            # The larger the better: what settings are chosen by.
            "validation_log_likelihood": -float(measured.validation) if finite else np.nan,
            "validation_loss": float(measured.validation) if finite else np.nan,
            "test_loss": float(measured.test) if finite else np.nan,
            "largest_staleness": float(max(measured.staleness.values())),
            "least_staleness": float(min(measured.staleness.values())),
        },
        curve={
            "tokens": tokens.tolist(), "validation_loss": np.asarray(measured.curve, float).tolist()
        },
        wall_time=seconds,
    )  # fmt: skip

"""Which runs of the records stand for what: settings, and rules, chosen by validation loss."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.delay.language import rules
from benchmarks.harness.reports import numeric, where
from common.results.comparison import Difference, interval, paired_difference
from common.results.records import Record
from common.results.selection import best_setting

SAME_STEP, SMALLER_STEP = "nothing, at the step of no delay", "nothing, at a step of its own"
"""The two ways in which no rule at all is told."""
CRITERION = "validation_log_likelihood"


class Row(NamedTuple):
    """One line of a table."""

    name: str
    runs: list[Record]
    """One a seed."""


def tuned(records: Sequence[Record], optimiser: str, rule: str, delay: str) -> list[Record]:
    """The runs of the step and lambda that the first seed's validation loss chooses, by seed."""
    runs = where(records, rule, optimiser=optimiser, delay=delay)
    if not runs:
        return []
    first = [run for run in runs if run.seed == runs[0].seed]
    chosen = best_setting(first, criterion=CRITERION)[0].setting
    return [run for run in runs if run.setting == chosen]


def best_rule(
    records: Sequence[Record], optimiser: str, names: Iterable[str], delay: str
) -> str | None:
    """The rule with the least mean validation loss, each at its tuned setting.

    The mean is over the seeds that all rules have, since a stopped run may have fewer of some.
    Of equal rules it is the first, and a run that diverged counts as the worst.

    Returns:
        The rule's name; None if none of `names` was run.
    """
    runs = {name: tuned(records, optimiser, name, delay) for name in names}
    runs = {name: of for name, of in runs.items() if of}
    shared = set.intersection(*({run.seed for run in of} for of in runs.values())) if runs else ()

    def loss(name: str) -> float:
        mean = float(
            np.mean([r.metrics["validation_loss"] for r in runs[name] if r.seed in shared])
        )
        return mean if math.isfinite(mean) else math.inf

    return min(runs, key=loss, default=None)


def undelayed(records: Sequence[Record], optimiser: str) -> list[Record]:
    """What every gap is measured from."""
    return tuned(records, optimiser, rules.NOTHING, "0")


def at_the_same_step(records: Sequence[Record], optimiser: str, delay: str) -> list[Record]:
    """Without a rule, at the step that is best without delay."""
    base = undelayed(records, optimiser)
    if not base:
        return []
    step = numeric(base[0], "learning_rate")
    return where(records, rules.NOTHING, optimiser=optimiser, delay=delay, learning_rate=step)


def rows(records: Sequence[Record], optimiser: str, delay: str) -> list[Row]:
    """Nothing in both its forms, and every rule that was run at a delay."""
    found = [
        Row(SAME_STEP, at_the_same_step(records, optimiser, delay)),
        Row(SMALLER_STEP, tuned(records, optimiser, rules.NOTHING, delay)),
        *(Row(rule, tuned(records, optimiser, rule, delay)) for rule in rules.RULES[1:]),
    ]
    return [row for row in found if row.runs]


def gap(runs: Sequence[Record], base: Sequence[Record]) -> Difference:
    """Test loss above that of `base`, nats a byte, seed by seed."""
    return paired_difference(runs, base, "test_loss")


def share_closed(
    runs: Sequence[Record], nothing: Sequence[Record], base: Sequence[Record]
) -> Difference:
    """How much of the gap that `nothing` leaves is closed: 1 for all of it, below 0 for harm.

    The interval is of the gain over `nothing`, over the mean gap. Where there is no gap, there is
    nothing to close: NaN.
    """
    whole = gap(nothing, base).mean
    gain = paired_difference(nothing, runs, "test_loss")
    if not whole > 0:
        return Difference(math.nan, math.inf, gain.n)
    return Difference(gain.mean / whole, gain.half_width / whole, gain.n)


def text_ratios(runs: Sequence[Record], base: Sequence[Record]) -> dict[int, float]:
    """The text that each seed's run reads, over what `base` reads to the same validation loss.

    2 says that half the text would have done without delay, the token tax of the public runs. The
    loss is that at the end of the run; curves are lines between their points. Of a run that ends
    below `base` it is the text that the run reads to where `base` ends, over all of it. Above the
    first point of `base`, and where one of the two diverged, it is infinite.
    """
    of_seed = {run.seed: run for run in base}
    return {run.seed: _text_ratio(run, of_seed[run.seed]) for run in runs if run.seed in of_seed}


def _text_ratio(run: Record, base: Record) -> float:
    loss, base_loss = (r.curve["validation_loss"][-1] for r in (run, base))
    whole = run.curve["tokens"][-1]
    if not (math.isfinite(loss) and math.isfinite(base_loss)):
        return math.inf
    if loss <= base_loss:
        return _text_to(run, base_loss) / whole
    needed = _text_to(base, loss)
    return whole / needed if needed else math.inf


def _text_to(run: Record, loss: float) -> float:
    """Bytes after which a run is at this loss for the first time; 0 before its first point."""
    tokens, losses = run.curve["tokens"], run.curve["validation_loss"]
    first = next(i for i, reached in enumerate(losses) if reached <= loss)
    if first == 0:
        return tokens[0] if losses[0] == loss else 0.0
    # Linear between the last point above the loss and the first that is not.
    part = (losses[first - 1] - loss) / (losses[first - 1] - losses[first])
    return tokens[first - 1] + part * (tokens[first] - tokens[first - 1])


def ratio_of_gaps(
    runs: Sequence[Record], base: Sequence[Record], others: Sequence[Record],
    other_base: Sequence[Record],
) -> Difference:  # fmt: skip
    """The first gap over the second, seed by seed; NaN where a seed has no positive second one."""
    gaps = [_by_seed(runs, base), _by_seed(others, other_base)]
    seeds = [seed for seed in gaps[0] if seed in gaps[1]]
    if not seeds or any(not gaps[1][seed] > 0 for seed in seeds):
        return Difference(math.nan, math.inf, len(seeds))
    return interval(gaps[0][seed] / gaps[1][seed] for seed in seeds)


def _by_seed(runs: Sequence[Record], base: Sequence[Record]) -> dict[int, float]:
    of_seed = {run.seed: run.metrics["test_loss"] for run in base}
    return {
        run.seed: run.metrics["test_loss"] - of_seed[run.seed]
        for run in runs
        if run.seed in of_seed
    }

"""Tuning that treats every method alike: one grid, one criterion, decided on validation data."""

import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from common.results.records import Record
from common.results.tables import group


def best_setting(
    records: Iterable[Record], *, criterion: str = "validation_accuracy"
) -> list[Record]:
    """The records of the setting whose criterion is best on average over seeds.

    A run that diverged (a criterion that is not finite) counts as the worst there is, so a setting
    is never chosen for the seeds it happened to survive. Of equal settings the first tried is kept.

    Args:
        records: all runs of one method: every setting that was tried, every seed.
        criterion: a metric, larger is better, measured on data that no figure is reported on.

    Returns:
        The chosen setting's records, one per seed; if every setting diverged in some seed, those of
        the setting with the fewest diverged runs.

    Raises:
        ValueError: if there are no records.
        KeyError: if a record lacks the criterion.

    Example:
        >>> tried = [
        ...     Record(method="sgd", setting={"learning_rate": lr}, seed=0, wall_time=0.0,
        ...            metrics={"validation_accuracy": accuracy, "test_accuracy": 0.9})
        ...     for lr, accuracy in [(0.1, 0.90), (0.3, 0.95), (1.0, float("nan"))]
        ... ]
        >>> best_setting(tried)[0].setting
        {'learning_rate': 0.3}
    """
    tried = group(records, lambda record: json.dumps(dict(record.setting), sort_keys=True))
    if not tried:
        raise ValueError("there must be at least one record to choose from, got none.")

    def merit(seeds: Sequence[Record]) -> tuple[int, float]:
        """Fewest diverged runs first, then the mean of the others."""
        values = np.asarray([record.metrics[criterion] for record in seeds], dtype=np.float64)
        finite = values[np.isfinite(values)]
        return finite.size - values.size, float(finite.mean()) if finite.size else -np.inf

    return max(tried.values(), key=merit)


def latin_hypercube(spans: Mapping[str, tuple[float, float]], count: int) -> list[dict[str, float]]:
    """Settings to try: a Latin hypercube, with one value in every stratum of every range.

    Strata are equal on a logarithmic scale. Spans are drawn in their order, so methods whose first
    spans are the same get the same values of them.

    Args:
        spans: the least and the largest value of each setting, above 0.
        count: how many trials.

    Returns:
        The trials, each value rounded to two digits.

    Example:
        >>> latin_hypercube({"learning_rate": (0.01, 1.0)}, 2)
        [{'learning_rate': 0.032}, {'learning_rate': 0.32}]
    """
    # scipy.stats.qmc.LatinHypercube takes the same strata in another order, and committed records
    # depend on the order.
    generator = np.random.default_rng(0)

    def draws(span: tuple[float, float]) -> list[float]:
        # The middle of each of `count` equal parts of the logarithmic range, shuffled.
        strata = (generator.permutation(count) + 0.5) / count
        return [float(f"{x:.2g}") for x in span[0] * (span[1] / span[0]) ** strata]

    columns = {name: draws(span) for name, span in spans.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

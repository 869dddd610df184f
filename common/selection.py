"""Tuning that treats every method alike: one grid, one criterion, decided on validation data."""

import json
from collections.abc import Iterable, Sequence

import numpy as np

from common.records import Record
from common.tables import group


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
        The chosen setting's records, one a seed; if every setting diverged in some seed, those of
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
        values = np.asarray([record.metrics[criterion] for record in seeds], dtype=np.float64)
        finite = values[np.isfinite(values)]
        return finite.size - values.size, float(finite.mean()) if finite.size else -np.inf

    return max(tried.values(), key=merit)

"""Whether one method's metric is above another's over seeds: a paired Student t interval."""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from common.results.records import Record

CONFIDENCE = 0.95
"""Probability with which an interval covers the true mean."""


class Difference(NamedTuple):
    """Mean of the differences of a metric over seeds, and half the width of its interval."""

    mean: float
    half_width: float
    """Infinite where there are fewer than two pairs."""
    n: int

    @property
    def standard_error(self) -> float:
        """Of the mean; infinite where there are fewer than two pairs."""
        return self.half_width / _quantile(self.n) if self.n > 1 else math.inf

    @property
    def above(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.mean - self.half_width > 0

    @property
    def below(self) -> bool:
        """Whether the whole interval is below 0."""
        return self.mean + self.half_width < 0


def paired_difference(
    records: Sequence[Record],
    base: Sequence[Record],
    name: str,
    *,
    diverged: float | None = None,
) -> Difference:
    """The difference of a metric between two methods, over the seeds that both have.

    Args:
        records: of the first method, one per seed.
        base: of the second method, which is subtracted.
        name: the metric.
        diverged: what a value that is not finite counts as; None leaves its pair out.

    Example:
        >>> def of(*values):
        ...     return [Record(method="", setting={}, seed=s, metrics={"x": v}, wall_time=0.0)
        ...             for s, v in enumerate(values)]
        >>> gain = paired_difference(of(0.5, 0.7, 0.6), of(0.4, 0.5, 0.5), "x")
        >>> round(gain.mean, 3), round(gain.half_width, 3), gain.above
        (0.133, 0.143, False)
    """
    of_seed = {record.seed: record.metrics.get(name, math.nan) for record in base}
    pairs = [
        (record.metrics.get(name, math.nan), of_seed[record.seed])
        for record in records
        if record.seed in of_seed
    ]
    if diverged is not None:
        pairs = [tuple(v if math.isfinite(v) else diverged for v in pair) for pair in pairs]
    return interval(a - b for a, b in pairs)


def interval(differences: Iterable[float]) -> Difference:
    """Mean and half-width of the confidence interval; differences that are not finite are left out.

    Args:
        differences: one per seed.
    """
    values = np.asarray([d for d in differences if math.isfinite(d)], float)
    if not len(values):
        return Difference(math.nan, math.inf, 0)
    if len(values) == 1:
        return Difference(float(values[0]), math.inf, 1)
    # mean ± t_(n-1) sd / sqrt(n)
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return Difference(float(values.mean()), _quantile(len(values)) * error, len(values))


@functools.cache
def _quantile(n: int) -> float:
    """Half the width of an interval over n values, in standard errors."""
    from scipy import stats  # two seconds' import, needed from here on only

    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))

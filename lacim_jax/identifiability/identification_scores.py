"""The report on s and v: every correlation, and beside it those that controls reach."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lacim_jax.identifiability.correlation import (
    LatentPairs,
    block_correlation,
    mean_correlation,
)


class Scores(NamedTuple):
    """How well one block of latents is recovered; all on examples that nothing was fitted on."""

    pooled: float
    """MCC over all domains together."""
    within: float
    """MCC within domains."""
    pooled_curved: float
    """`pooled` after a cubic of each estimate by itself."""
    within_curved: float
    """`within` after a cubic of each estimate by itself."""
    within_block: float
    """The mean over dimensions of `block_correlation` within domains, a quadratic of the block."""


class Identification(NamedTuple):
    """Scores of the estimates of s and v, and of two controls that estimate nothing.

    `str` of it is a table.
    """

    s: Scores
    v: Scores
    domain_mean_as_s: Scores
    """Each example's s estimated by the mean of s in its domain, without looking at the example."""
    domain_mean_as_v: Scores
    s_as_v: Scores
    """The true s scored as an estimate of v: what s and v share. Where it is high, a score of v
    says little about v."""

    def __str__(self) -> str:
        """One line per row of the table."""
        names = ("pooled", "within", "pooled cubic", "within cubic", "within block")
        lines = [f"{'MCC on held-out data':<24}" + "".join(f"{name:>14}" for name in names)]
        titles = ("s", "v", "domain mean as s", "domain mean as v", "s scored as v")
        for title, scores in zip(titles, self, strict=True):
            lines.append(f"{title:<24}" + "".join(f"{value:>14.3f}" for value in scores))
        return "\n".join(lines)


def identification(
    fit: Mapping[str, LatentPairs], score: Mapping[str, LatentPairs]
) -> Identification:
    """Scores the estimates of s and v, with two controls computed on the same examples.

    Args:
        fit: the examples to fit matchings and maps on, under "s" and "v"; the same examples and
            domains in both.
        score: other examples of the same domains, under "s" and "v".

    Returns:
        All scores. For the control "s scored as v" with fewer dimensions of s than of v only as
        many dimensions of v are scored as there are of s.

    Raises:
        ValueError: if shapes do not fit, a value is not finite, estimates are fewer than true
            latents, or there are too few examples of a domain.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> domains = np.repeat([0, 1], 100)
        >>> def pairs():
        ...     z = rng.normal(size=(200, 2)) + domains[:, None]
        ...     return {"s": LatentPairs(z[:, :1], z[:, :1] ** 3, domains),
        ...             "v": LatentPairs(z[:, 1:], -z[:, 1:], domains)}
        >>> report = identification(pairs(), pairs())
        >>> report.v.within > 0.999, report.s.within < 0.95, report.domain_mean_as_s.within
        (True, True, 0.0)
    """
    means = {name: _domain_means(fit[name]) for name in ("s", "v")}
    truths = [np.asarray(part["s"].truth) for part in (fit, score)]

    def by_domain_mean(name: str) -> Scores:
        return _scores(
            *(part[name]._replace(estimate=means[name](part[name])) for part in (fit, score))
        )

    return Identification(
        s=_scores(fit["s"], score["s"]),
        v=_scores(fit["v"], score["v"]),
        domain_mean_as_s=by_domain_mean("s"),
        domain_mean_as_v=by_domain_mean("v"),
        s_as_v=_scores(
            *(_as_estimate(part["v"], s) for part, s in zip((fit, score), truths, strict=True))
        ),
    )


def _as_estimate(pairs: LatentPairs, s: np.ndarray) -> LatentPairs:
    """The true s in the place of the estimates of as many dimensions of v."""
    truth = np.asarray(pairs.truth)[:, : s.shape[1]]
    return pairs._replace(truth=truth, estimate=s)


def _domain_means(pairs: LatentPairs):
    """The function that gives each example the mean of the true latents in its domain."""
    truth, domains = np.asarray(pairs.truth, np.float64), np.asarray(pairs.domains)
    means = {d: truth[domains == d].mean(0) for d in np.unique(domains).tolist()}
    return lambda other: np.stack([means[d] for d in np.asarray(other.domains).tolist()])


def _scores(fit: LatentPairs, score: LatentPairs) -> Scores:
    """All five scores of one block."""
    return Scores(
        pooled=mean_correlation(fit, score).mcc,
        within=mean_correlation(fit, score, within=True).mcc,
        pooled_curved=mean_correlation(fit, score, degree=3).mcc,
        within_curved=mean_correlation(fit, score, within=True, degree=3).mcc,
        within_block=float(block_correlation(fit, score, within=True).mean()),
    )

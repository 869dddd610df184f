"""What is scored beside LaCIM: the ceiling, and controls that find nothing or half of it."""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.latent.reports.identifiability import INVERSE, MEAN, S_AS_V, TURNED
from common.data.generated.structural_models import StructuralData, StructuralModel
from common.results.records import Record
from lacim_jax.identifiability import (
    Identification,
    LatentPairs,
    Scores,
    domain_diversity,
    identification,
    mean_correlation,
)


class Setting(NamedTuple):
    """What is varied."""

    confounder: str
    num_domains: int


class Parts(NamedTuple):
    """The data of one seed."""

    train: StructuralData
    fit: StructuralData
    """Starts and matchings are chosen on it."""
    score: StructuralData


def all_controls(
    setting: Setting, seeds: Sequence[int], loaded: Sequence[tuple[StructuralModel, Parts]]
) -> Iterator[Record]:
    """The records of every seed's controls."""
    for seed, (causal, parts) in zip(seeds, loaded, strict=True):
        yield from _controls(setting, seed, causal, parts)


def pairs(data: StructuralData, estimate: np.ndarray) -> dict[str, LatentPairs]:
    """S and v beside an estimate of z = (s, v)."""
    s_dim = data.s.shape[1]
    return {
        "s": LatentPairs(data.s, estimate[:, :s_dim], data.domains),
        "v": LatentPairs(data.v, estimate[:, s_dim:], data.domains),
    }


def _named(prefix: str, scores: Scores) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in scores._asdict().items()}


def scores_of(report: Identification) -> dict[str, float]:
    """Every score of s and of v, by name."""
    return _named("s", report.s) | _named("v", report.v)


def _controls(
    setting: Setting, seed: int, causal: StructuralModel, parts: Parts
) -> Iterator[Record]:
    """The ceiling, and what is scored without finding anything; how diverse the domains are."""
    begun = time.perf_counter()
    both = [pairs(part, causal.unmix(part.x)) for part in (parts.fit, parts.score)]
    report = identification(*both)
    variances = np.einsum("dii->di", causal.covariance)
    diversity = {}
    for name, block in (("s", slice(None, causal.s_dim)), ("v", slice(causal.s_dim, None))):
        of_block = domain_diversity(causal.mean[:, block], variances[:, block])
        diversity |= {
            f"rank_{name}": float(of_block.rank),
            f"needed_{name}": float(of_block.needed),
            f"condition_{name}": of_block.condition,
        }
    turned = _turned(both, np.random.default_rng(seed))
    seconds = time.perf_counter() - begun
    means = _named("s", report.domain_mean_as_s) | _named("v", report.domain_mean_as_v)
    for method, metrics in (
        (INVERSE, scores_of(report) | diversity),
        (TURNED, turned),
        (MEAN, means),
        (S_AS_V, _named("v", report.s_as_v)),
    ):
        yield Record(
            method=method, setting=setting._asdict(), seed=seed, metrics=metrics, wall_time=seconds
        )


TURNS = 20
"""Random rotations that the control is averaged over."""


def _turned(both: Sequence[dict[str, LatentPairs]], rng: np.random.Generator) -> dict[str, float]:
    """MCC of estimates of s, and of v, that are right up to a rotation of the whitened block."""
    metrics = {}
    for block in ("s", "v"):
        first = np.asarray(both[0][block].estimate)
        centre, root = first.mean(0), np.linalg.cholesky(np.cov(first.T))
        scores = {"within": [], "pooled": []}
        for _ in range(TURNS):
            turn = np.linalg.qr(rng.normal(size=root.shape))[0]
            whitened = [np.linalg.solve(root, (p[block].estimate - centre).T).T for p in both]
            fit, score = (
                p[block]._replace(estimate=z @ turn) for p, z in zip(both, whitened, strict=True)
            )
            for scope, values in scores.items():
                values.append(mean_correlation(fit, score, within=scope == "within").mcc)
        metrics |= {f"{block}_{scope}": float(np.mean(v)) for scope, v in scores.items()}
    return metrics

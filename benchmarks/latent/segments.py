"""Sources whose spread alone changes between 40 domains: which encoder finds them, without labels.

The data are those of the identifiable variational autoencoder (`common.data.generated.segments`).
Every method is trained from as many starts, of which the one with the best bound on held-out
examples is kept; linear estimates of the sources stand beside them.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from benchmarks.harness.registry import Context
from benchmarks.latent.reports.segments import HEADS, ICA, LINEAR, METHODS, PCA, POOLED, SEGMENTS
from benchmarks.latent.training import Starting, best_starts, bound_of, encoded, side_by_side
from common.data.generated import SegmentData, segments
from common.progress import Bar
from common.results.records import Record
from common.seeds import streams
from lacim_jax import (
    MLP,
    DomainHeads,
    Examples,
    LaCIM,
    MLPDecoder,
    MLPEncoder,
    SharedEvidence,
    gaussian_likelihood,
    lacim_loss,
)
from lacim_jax.identifiability import LatentPairs, mean_correlation


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentSettings(Starting):
    """What this part of the experiment depends on."""

    num_segments: int = 40
    size: int = 1000
    """Training examples of each segment."""
    held_out: int = 50
    """Further ones of each, that the start and the matching are chosen on; as many are scored."""
    noise: float = 0.1
    """Standard deviation of p(x|z), as in the authors' code; x has none."""
    widths: tuple[int, ...] = (64, 64)
    batch_size: int = 250
    epochs: int = 20
    learning_rate: float = 1e-2
    """With 0.003 a start in six ends in a worse optimum of the bound."""
    starts: int = 3


class Parts(NamedTuple):
    """The data of one seed."""

    train: SegmentData
    fit: SegmentData
    """Starts and matchings are chosen on it."""
    score: SegmentData


def run_segments(settings: SegmentSettings, context: Context) -> Iterator[Record]:
    """Yields a record for each method and seed."""
    loaded = [_parts(settings, seed) for seed in context.seeds]
    for method in METHODS:
        name = f"{method}, {settings.num_segments} segments"
        with context.progress.task(name, total=settings.epochs) as bar:
            yield from context.stages.of(
                name,
                functools.partial(_run_method, method, loaded, context.seeds, settings, bar),
            )


def _run_method(
    method: str, loaded: Sequence[Parts], seeds: Sequence[int], settings: SegmentSettings, bar: Bar
) -> Iterator[Record]:
    begun = time.perf_counter()
    if method in LINEAR:
        found = [_linear(method, parts) for parts in loaded]
    else:
        found = _trained(method, loaded, seeds, settings, bar)
    setting = {"confounder": SEGMENTS, "num_domains": settings.num_segments}
    seconds = (time.perf_counter() - begun) / len(seeds)
    for seed, metrics in zip(seeds, found, strict=True):
        yield Record(method=method, setting=setting, seed=seed, metrics=metrics, wall_time=seconds)


def _parts(settings: SegmentSettings, seed: int) -> Parts:
    m, held_out = settings.num_segments, settings.num_segments * settings.held_out
    every = segments(streams(seed).data, num_segments=m, size=settings.size + 2 * settings.held_out)
    rows = (slice(2 * held_out, None), slice(held_out), slice(held_out, 2 * held_out))
    return Parts(*(SegmentData(*(leaf[part] for leaf in every)) for part in rows))


def _linear(method: str, parts: Parts) -> dict[str, float]:
    """What is found by a linear map of x, or by none."""
    centre, turn = parts.train.x.mean(0), np.eye(parts.train.x.shape[1])
    if method == PCA:
        turn = np.linalg.svd(parts.train.x - centre, full_matrices=False)[2].T
    elif method == ICA:
        from sklearn.decomposition import FastICA  # seconds' import, needed from here on only

        ica = FastICA(whiten="unit-variance", max_iter=1000, random_state=0)
        turn = ica.fit(parts.train.x).components_.T
    return {"mcc": _mcc(parts, lambda part: (part.x - centre) @ turn)}


def _trained(
    method: str, loaded: Sequence[Parts], seeds: Sequence[int], settings: SegmentSettings, bar: Bar
) -> list[dict[str, float]]:
    """What the best start of each seed finds."""
    pooled, sources = method == POOLED, loaded[0].train.z.shape[1]
    model = LaCIM(
        MLPEncoder(settings.widths), MLPDecoder(loaded[0].train.x.shape[1:], settings.widths),
        MLP((1,)), num_domains=1 if pooled else settings.num_segments, s_dim=sources, v_dim=0,
        likelihood=gaussian_likelihood(settings.noise),
        posterior=DomainHeads() if method == HEADS else SharedEvidence(),
    )  # fmt: skip
    train, held_out = (
        side_by_side(_examples(part, pooled) for part in of_seeds)
        for of_seeds in ([parts.train for parts in loaded], [parts.fit for parts in loaded])
    )
    # One class stands in for labels: its term is 0, and the domains alone tell sources apart.
    loss = lacim_loss(model, num_samples=settings.num_samples, label_weight=1.0)
    best = best_starts(model, loss, bound_of(model), train, held_out, seeds, settings, bar)
    found = []
    for parts, (variables, bound, diverged) in zip(loaded, best, strict=True):
        metrics = {"diverged_starts": float(diverged), "mcc": math.nan, "bound": math.nan}
        if np.isfinite(bound):

            def estimate(part: SegmentData, variables: dict = variables) -> np.ndarray:
                return encoded(model, variables, _examples(part, pooled))

            metrics |= {"mcc": _mcc(parts, estimate), "bound": bound}
        found.append(metrics)
    return found


def _examples(data: SegmentData, pooled: bool) -> Examples:
    domains = jnp.zeros_like(data.domains) if pooled else jnp.asarray(data.domains)
    return Examples(jnp.asarray(data.x), jnp.zeros(len(data.x), jnp.int32), domains)


def _mcc(parts: Parts, estimate: Callable[[SegmentData], np.ndarray]) -> float:
    """The mean correlation over all segments together, matched on other examples."""
    both = [LatentPairs(part.z, estimate(part), part.domains) for part in (parts.fit, parts.score)]
    return mean_correlation(*both).mcc

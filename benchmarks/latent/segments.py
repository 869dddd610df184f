"""Sources whose spread alone changes between 40 domains: which encoder finds them, without labels.

The data are those of the identifiable variational autoencoder (`common.data.generated.segments`).
Every method is trained from as many starts, of which the one with the best bound on held-out
examples is kept.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness.registry import Context
from benchmarks.latent.reports.segments import HEADS, LACIM, PCA, POOLED, SEGMENTS
from benchmarks.latent.training import Starting, best_starts
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
    elbo,
    gaussian_likelihood,
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


METHODS = (LACIM, HEADS, POOLED, PCA)


def run_segments(settings: SegmentSettings, context: Context) -> Iterator[Record]:
    """Yields a record for each method and seed."""
    parts = [_parts(settings, seed) for seed in context.seeds]
    for method in METHODS:
        name = f"{method}, {settings.num_segments} segments"
        with context.progress.task(name, total=settings.epochs) as bar:
            yield from context.stages.of(
                name,
                functools.partial(_run_method, method, parts, context.seeds, settings, bar),
            )


def _parts(settings: SegmentSettings, seed: int) -> tuple[SegmentData, SegmentData, SegmentData]:
    """To train on, to fit matchings on, and to score."""
    m, held_out = settings.num_segments, settings.num_segments * settings.held_out
    every = segments(streams(seed).data, num_segments=m, size=settings.size + 2 * settings.held_out)
    train, fit, score = (
        SegmentData(*(leaf[rows] for leaf in every))
        for rows in (
            slice(2 * held_out, None), slice(held_out), slice(held_out, 2 * held_out)
        )
    )  # fmt: skip
    return train, fit, score


def _run_method(
    method: str, parts: Sequence[Any], seeds: Sequence[int], settings: SegmentSettings, bar: Bar
) -> Iterator[Record]:
    begun = time.perf_counter()
    setting = {"confounder": SEGMENTS, "num_domains": settings.num_segments}
    if method == PCA:
        for seed, (train, fit, score) in zip(seeds, parts, strict=True):
            axes = np.linalg.svd(train.x - train.x.mean(0), full_matrices=False)[2]
            metrics = {"mcc": _mcc(fit, score, *(part.x @ axes.T for part in (fit, score)))}
            seconds = time.perf_counter() - begun
            yield Record(
                method=method, setting=setting, seed=seed, metrics=metrics, wall_time=seconds
            )
        return
    pooled = method == POOLED
    model = LaCIM(
        MLPEncoder(settings.widths), MLPDecoder(parts[0][0].x.shape[1:], settings.widths),
        MLP((1,)), num_domains=1 if pooled else settings.num_segments,
        s_dim=parts[0][0].z.shape[1], v_dim=0, likelihood=gaussian_likelihood(settings.noise),
        posterior=DomainHeads() if method == HEADS else SharedEvidence(),
    )  # fmt: skip
    train, fit = (
        jax.tree.map(
            lambda *leaves: jnp.stack(leaves, axis=1),
            *(_examples(each[i], pooled) for each in parts),
        )
        for i in (0, 1)
    )

    def objective(params: Any, step: jax.Array, batch: Examples, key: jax.Array) -> Any:
        # There are no labels: their term has no weight, and the domains alone tell sources apart.
        terms = elbo(
            model,
            {"params": params},
            batch,
            key,
            num_samples=settings.num_samples,
            label_weight=0.0,
        )
        return -terms.bound.mean(), (step + 1, {})

    def merit(params: Any, part: Examples) -> jax.Array:
        key = jax.random.key(0)
        return elbo(model, {"params": params}, part, key, num_samples=8, label_weight=0.0).bound

    best = best_starts(model, objective, merit, train, fit, seeds, settings, bar)
    seconds = (time.perf_counter() - begun) / len(seeds)

    @jax.jit
    def encode(variables: Any, x: jax.Array, d: jax.Array) -> jax.Array:
        posterior: Any = model.apply(variables, x, d, method="encode")
        return posterior.mean

    for seed, each, (variables, bound, diverged) in zip(seeds, parts, best, strict=True):
        metrics = {"diverged_starts": float(diverged), "mcc": math.nan, "bound": math.nan}
        if np.isfinite(bound):
            found = []
            for part in each[1:]:
                images, _, domains = _examples(part, pooled)
                found.append(np.asarray(encode(variables, images, domains), np.float64))
            metrics |= {"mcc": _mcc(each[1], each[2], *found), "bound": bound}
        yield Record(method=method, setting=setting, seed=seed, metrics=metrics, wall_time=seconds)


def _examples(data: SegmentData, pooled: bool) -> Examples:
    domains = jnp.zeros_like(data.domains) if pooled else jnp.asarray(data.domains)
    return Examples(jnp.asarray(data.x), jnp.zeros(len(data.x), jnp.int32), domains)


def _mcc(fit: SegmentData, score: SegmentData, *estimates: np.ndarray) -> float:
    """The mean correlation over all segments together, matched on other examples."""
    both = [
        LatentPairs(part.z, estimate, part.domains)
        for part, estimate in zip((fit, score), estimates, strict=True)
    ]
    return mean_correlation(*both).mcc

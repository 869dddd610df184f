"""Are s and v found, and from how many domains on? MCC against the number of domains.

Gaussian latents with two dimensions of s and two of v, seen through a known nonlinear mixing with
noise; four classes, from s alone (`common.data.generated`). A sufficient condition for s to be
identified is that the domains' natural parameters differ in all four directions, which takes five
domains. The data are made so that nothing but looking at x helps: the domain's mean correlates with
a latent below 0.6, the inverse of the mixing above 0.95 within domains.

- LaCIM: a prior for each domain.
- Pool-LaCIM: one for all. With one domain it is LaCIM, and is recorded as both.
- inverse mixing: the ceiling, the known inverse applied to the noisy x.
- inverse mixing, turned: the same with s, and v, turned at random. This is the MCC of a method that
  separates s from v, as the label lets one, but finds no dimension within them: not little in two
  dimensions, where the cosine of the nearest axis is 0.90 on average.
- domain mean, s scored as v: controls, which find nothing.

All are scored on data that nothing was fitted on: the sign of a correlation and which estimate
belongs to which latent come from other data (`lacim_jax.mean_correlation`). The number of examples
is the same whatever the number of domains. Of several starts the one with the best bound on
held-out data is kept; no latent is looked at for it.

Targets, within domains: MCC of s at 5 domains at least 0.85, at least 0.10 above Pool-LaCIM's, and
above that at 3 domains. Between the turned control and the ceiling there is less than that margin:
only a Pool-LaCIM that mixes s with v, or that turns s by chance more than at random, leaves it.

A second set of data has no labels and many domains: two sources whose spread alone changes between
40 segments, mixed by a network, as for the identifiable variational autoencoder (Khemakhem et al.,
2020). There LaCIM's encoder multiplies shared evidence with the priors
(`lacim_jax.SharedEvidence`); one with a head for each domain stands beside it, and what no network
is needed for: x as it is, its principal components, and linear independent components. The bound is
to be at least Pool-LaCIM's, the MCC above that of each of the three, in every seed.

Settings were chosen on seeds 100 to 102 with a head for each domain; of them the factor on the
label decides most: with 1, s and v stay mixed.

Cost: cpu a minute, day, five seeds, 5 on one core; full is sized for one accelerator and was not
run.
Command: python -m benchmarks lacim_identifiability --preset day --seeds 5
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
import optax

from benchmarks.harness.registry import Context
from benchmarks.latent.controls import Parts, Setting, all_controls, pairs, scores_of
from benchmarks.latent.reports import identifiability as report
from benchmarks.latent.reports.identifiability import LACIM, POOLED
from benchmarks.latent.segments import SegmentSettings, run_segments
from benchmarks.latent.training import (
    Starting,
    best_starts,
    bound_of,
    encoded,
    num_steps,
    side_by_side,
)
from common.data.generated.structural_models import (
    StructuralData,
    StructuralModel,
    structural_model,
)
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
    gaussian_likelihood,
    lacim_loss,
)
from lacim_jax.identifiability import collapse, identification


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Starting):
    """What the experiment depends on."""

    confounders: tuple[str, ...] = ("continuous",)
    """Of which kind C is."""
    num_domains: tuple[int, ...] = (1, 3, 5, 40)
    size: int = 5000
    """Training examples, of all domains together."""
    held_out: int = 2000
    """Further ones, that the start and the matching are chosen on; as many again are scored."""
    noise: float = 0.05
    """Standard deviation of the noise on x, which the model is told."""
    widths: tuple[int, ...] = (64, 64)
    """Of the encoder; the decoder has them too."""
    epochs: int = 80
    learning_rate: float = 5e-3
    label_weight: float = 100.0
    """Factor on the label's term. The label is 1 nat of the bound among many of x: with a factor
    of 1 networks learn x first, with what causes the label anywhere in (s, v), and stay there."""
    first_beta: float = 30.0
    """Factor on the divergence at the start of training; it falls to 1, its place in the bound,
    over the first half. As noise on x of sqrt(30) times its size would, it smooths the way to a
    decoder whose noise is small."""
    bfloat16: bool = False
    """Whether encoders and decoders compute in bfloat16; parameters stay float32."""
    segments: int = 40
    """Domains of the part without labels; 0 to leave it out."""


PRESETS = {
    "smoke": Settings(num_domains=(3, 5), size=2000, held_out=1000, epochs=60, segments=0),
    "cpu": Settings(num_domains=(1, 3, 5), epochs=40, segments=20),
    "day": Settings(),
    "full": Settings(
        confounders=("continuous", "discrete"), size=50_000, held_out=10_000, epochs=100, starts=4,
        widths=(128, 128),
    ),
}  # fmt: skip

tables, plots, CAPTIONS = report.tables, report.plots, report.CAPTIONS


def load_parts(settings: Settings, setting: Setting, seed: int) -> tuple[StructuralModel, Parts]:
    """The causal model of a seed, and its data; the mixing is alike for any number of domains."""
    keys = jax.random.split(streams(seed).data, 4)
    causal = structural_model(
        keys[0],
        num_domains=setting.num_domains,
        confounder="discrete" if setting.confounder == "discrete" else "continuous",
        noise=settings.noise,
    )
    sizes = (settings.size, settings.held_out, settings.held_out)
    every = [
        causal.sample(key, size // setting.num_domains)
        for key, size in zip(keys[1:], sizes, strict=True)
    ]
    return causal, Parts(*every)


def build(settings: Settings, method: str, causal: StructuralModel) -> LaCIM:
    """The method's model, with as many latents as there are."""
    s_dim, classes = causal.label_directions.shape
    dtype = jnp.bfloat16 if settings.bfloat16 else None
    return LaCIM(
        MLPEncoder(settings.widths, dtype=dtype),
        MLPDecoder((causal.rotations[-1].shape[-1],), widths=settings.widths, dtype=dtype),
        MLP((classes,)), num_domains=causal.num_domains if method == LACIM else 1, s_dim=s_dim,
        v_dim=causal.v_dim, likelihood=gaussian_likelihood(settings.noise),
        posterior=DomainHeads(),  # the divergence begins at 30 times its weight
    )  # fmt: skip


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each kind of C, number of domains, method and seed; then of segments."""
    for confounder in settings.confounders:
        for m in settings.num_domains:
            setting = Setting(confounder, m)
            loaded = [load_parts(settings, setting, seed) for seed in context.seeds]
            of_kind = f"{m} domain{'s' * (m > 1)}, {confounder} C"
            yield from context.stages.of(
                f"controls, {of_kind}",
                functools.partial(all_controls, setting, context.seeds, loaded),
            )
            for method in (POOLED, LACIM) if m > 1 else (LACIM,):
                name = f"{method}, {of_kind}"
                with context.progress.task(name, total=settings.epochs) as bar:
                    yield from context.stages.of(
                        name,
                        functools.partial(
                            _run_method, method, setting, loaded, context.seeds, settings, bar
                        ),
                    )
    if settings.segments:
        yield from run_segments(SegmentSettings(num_segments=settings.segments), context)


def _examples(data: StructuralData, method: str) -> Examples:
    domains = data.domains if method == LACIM else np.zeros_like(data.domains)
    return Examples(jnp.asarray(data.x), jnp.asarray(data.labels), jnp.asarray(domains))


def _run_method(
    method: str, setting: Setting, loaded: Sequence[tuple[StructuralModel, Parts]],
    seeds: Sequence[int], settings: Settings, bar: Bar,
) -> Iterator[Record]:  # fmt: skip
    begun = time.perf_counter()
    model = build(settings, method, loaded[0][0])
    train, held_out = (
        side_by_side(_examples(getattr(parts, part), method) for _, parts in loaded)
        for part in ("train", "fit")
    )
    best = best_starts(
        model, _objective(model, train, settings), bound_of(model), train, held_out, seeds,
        settings, bar,
    )  # fmt: skip
    seconds = (time.perf_counter() - begun) / len(seeds)
    for seed, (_, parts), (variables, bound, diverged) in zip(seeds, loaded, best, strict=True):
        metrics = {"diverged_starts": float(diverged)}
        if np.isfinite(bound):
            metrics |= _figures(model, variables, method, parts)
            metrics["bound"] = bound
        else:
            metrics |= {"s_within": math.nan, "v_within": math.nan}
        # From one domain LaCIM is Pool-LaCIM, and its record stands for both.
        for name in (method, POOLED) if setting.num_domains == 1 else (method,):
            yield Record(
                method=name, setting=setting._asdict(), seed=seed, metrics=metrics,
                wall_time=seconds,
            )  # fmt: skip


def _figures(model: LaCIM, variables: Any, method: str, parts: Parts) -> dict[str, float]:
    """What one trained model has found, on data that nothing was fitted on."""
    scored = _examples(parts.score, method)
    both = [
        pairs(part, encoded(model, variables, _examples(part, method)))
        for part in (parts.fit, parts.score)
    ]
    state = collapse(model, variables, scored.images, scored.domains)
    logits: Any = model.apply(
        variables, jnp.asarray(both[1]["s"].estimate, jnp.float32), method="classify"
    )
    accuracy = float(np.mean(np.asarray(logits).argmax(-1) == parts.score.labels))
    return scores_of(identification(*both)) | {
        "active_s": float(state.active_s),
        "active_v": float(state.active_v),
        "kl": float(state.kl.sum()),
        "accuracy": accuracy,
    }


def _objective(model: LaCIM, train: Examples, settings: Settings) -> Any:
    steps = num_steps(train, batch_size=settings.batch_size, epochs=settings.epochs)
    beta = optax.exponential_decay(
        settings.first_beta, max(steps // 2, 1), 1 / settings.first_beta, end_value=1.0
    )
    return lacim_loss(
        model, num_samples=settings.num_samples, beta=beta, label_weight=settings.label_weight
    )

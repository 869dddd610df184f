"""Letters in fonts never seen: what do more training domains, each a font, add to LaCIM?

The 26 capitals, drawn in one font a domain; size, rotation, shift and ink go with the letter in
every training font, in each to another degree (`common.data.generated.glyphs`). Every method
learns from as many images, of few fonts or of many, and is then asked four times:

- as in training: other images of the training fonts;
- tie turned: the training fonts, size, rotation, shift and ink going the other way with the letter.
  What LaCIM assumes holds there to the word;
- new fonts: eight fonts of two other families, the tie as in training;
- new fonts, tie turned: both at once. It is the test that methods are judged by.

Of the four numbers of the style, which are known, it is measured how well v recovers them: MCC
within domains, on held-out images of the training fonts in which style and letter are not tied,
lest a v that holds the letter be taken for one that holds the style. Beside it stands the MCC on
images as in training, where it may, and that of as many principal components of the pixels.

- LaCIM: a prior for each font; the encoder multiplies shared evidence with it
  (`lacim_jax.SharedEvidence`). By default s and v are independent given the domain, which they are
  not here: the letter ties them;
- LaCIM, correlated: the same with a full covariance in each prior, which can say so. It takes ten
  times as long on CPU, and is in `full` alone;
- Pool-LaCIM: one prior for all. With one font it is LaCIM, and is not run again;
- ERM, V-REx: the same encoder trunk and classifier. V-REx needs two domains;
- ERM, never tied: learns from images of the same fonts in which style and letter are not tied, as
  no user can: what the fonts and the network allow.

The prior of the style has 8 natural parameters, with covariances 14, so that 9 or 15 domains are
needed for the sufficient condition of identifiability; how far they are from failing it, the
report on their diversity says (`lacim_jax.domain_diversity`).

Every method has the same trunk, data, order, number of steps and learning rate; terms of LaCIM's
bound are weighed as the package does by default, V-REx's penalty as DomainBed does (10). A latent
search is one more setting, chosen by accuracy on some of the images as in training, as
`lacim_jax.predict` does with held-out examples; "LaCIM, correlated" goes without. Learning rate and
number of epochs were settled on seeds 100 and 101, by accuracy as in training.

Cost: cpu 2 minutes on one core, day, five seeds, 15. Full is sized for one accelerator and was not
run.
Command: python -m benchmarks lacim_fonts --preset day --seeds 5
"""

import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness.registry import Context
from benchmarks.latent.reports import fonts as report
from benchmarks.latent.reports.fonts import CONDITIONS, CORRELATED, ERM, LACIM, NEVER, PCA, POOLED
from benchmarks.latent.styles.font_methods import method_of, seen
from benchmarks.latent.training import (
    adam,
    bound_of,
    encoded,
    of_column,
    side_by_side,
    variables_of,
)
from benchmarks.latent.trials import Budget, train
from common.data.generated.glyph_fonts import HELD_OUT_FONTS
from common.data.generated.glyphs import (
    LETTERS,
    STYLE,
    GlyphData,
    GlyphModel,
    draw_fonts,
    glyph_model,
)
from common.progress import Bar
from common.results.records import Record
from common.seeds import streams
from common.training.classification import evaluator
from lacim_jax import Examples, LaCIM, Search, infer_along, predict_from
from lacim_jax.identifiability import (
    LatentPairs,
    block_correlation,
    collapse,
    domain_diversity,
    mean_correlation,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Budget):
    """What the experiment depends on."""

    methods: tuple[str, ...] = (NEVER, ERM, "V-REx", POOLED, LACIM, CORRELATED)
    num_domains: tuple[int, ...] = (1, 2, 4, 8, 16, 33)
    """Training fonts."""
    size: int = 8000
    """Training images, of all fonts together."""
    test_size: int = 2000
    """Images of each of the tests, and of each half of those that MCC is measured on."""
    search_size: int = 250
    """Of them, those whose latents are searched."""
    learning_rate: float = 4e-3
    penalty: float = 10.0
    """Of V-REx."""


PRESETS = {
    "smoke": Settings(
        methods=("ERM", LACIM), num_domains=(2, 12), size=2000, test_size=600, search_size=100,
        widths=(64, 64), batch_size=100, epochs=10, search_steps=(10,), noise_scale=0.1,
    ),
    "cpu": Settings(
        methods=(NEVER, ERM, POOLED, LACIM), num_domains=(2, 16), size=4000, test_size=1000,
        batch_size=250, epochs=20, search_steps=(50,), noise_scale=0.1,
    ),
    "day": Settings(
        methods=(NEVER, ERM, "V-REx", POOLED, LACIM), batch_size=250, epochs=20, search_steps=(50,),
        noise_scale=0.1,
    ),
    "full": Settings(
        size=100_000, test_size=10_000, search_size=2000, widths=(512, 256), epochs=60,
        search_steps=(10, 50, 100), noise_scale=0.1,
    ),
}  # fmt: skip

tables, plots, CAPTIONS = report.tables, report.plots, report.CAPTIONS


class Parts(NamedTuple):
    """The images of one seed and one number of fonts."""

    train: GlyphData
    never: GlyphData
    """Training images of the same labels in which style and letter are not tied."""
    tests: dict[str, GlyphData]
    """By the names of `CONDITIONS`."""
    pairs: tuple[GlyphData, GlyphData]
    """Training fonts, style and letter not tied: to fit correlations on, and to score."""
    tied: GlyphData
    """Style and letter tied as in training: to fit correlations on that the first test scores."""
    diversity: dict[str, float]


def load_parts(settings: Settings, num_domains: int, seed: int) -> Parts:
    """Draws the fonts of a seed, of which the first are the same whatever their number."""
    keys = jax.random.split(streams(seed).data, 10)
    known = glyph_model(keys[0], draw_fonts(keys[1], num_domains), noise=_noise(settings))
    new = glyph_model(keys[0], HELD_OUT_FONTS, noise=_noise(settings))
    size, few = settings.test_size // num_domains, settings.test_size // len(HELD_OUT_FONTS)
    untied = known.tied(0.0)
    tests = (
        known.sample(keys[3], size),
        known.tied(-1.0).sample(keys[4], size),
        new.sample(keys[5], few),
        new.tied(-1.0).sample(keys[6], few),
    )
    return Parts(
        known.sample(keys[2], settings.size // num_domains),
        untied.sample(keys[2], settings.size // num_domains),
        dict(zip(CONDITIONS, tests, strict=True)),
        (untied.sample(keys[7], size), untied.sample(keys[8], size)),
        known.sample(keys[9], size),
        _diversity(known),
    )


def _diversity(model: GlyphModel) -> dict[str, float]:
    """How far the true priors of v are from failing the condition, with covariances and without."""
    mean, covariance = model.style_moments()
    metrics = {}
    for suffix, spread in (("", np.einsum("dii->di", covariance)), ("_correlated", covariance)):
        found = domain_diversity(mean, spread)
        metrics |= {
            f"rank{suffix}": float(found.rank),
            f"needed{suffix}": float(found.needed),
            f"condition{suffix}": found.condition,
        }
    return metrics


def _noise(settings: Settings) -> float:
    assert settings.noise_scale is not None, "pixels have Gaussian noise"
    return settings.noise_scale


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each number of fonts, method and seed, and for each latent search."""
    for m in settings.num_domains:
        with context.progress.task(f"drawing {m} fonts", total=len(context.seeds)) as bar:
            loaded = []
            for seed in context.seeds:
                loaded.append(load_parts(settings, m, seed))
                bar.advance(1)
        yield from context.stages.of(
            f"{PCA}, {m} fonts", functools.partial(_controls, settings, m, context.seeds, loaded)
        )
        for name in settings.methods:
            if m == 1 and name in ("V-REx", POOLED):
                continue  # of one domain there is nothing to compare, or to pool
            with context.progress.task(f"{name}, {m} fonts", total=settings.epochs + 1) as bar:
                yield from context.stages.of(
                    f"{name}, {m} fonts",
                    functools.partial(_run_method, name, m, loaded, context.seeds, settings, bar),
                )


def _controls(
    settings: Settings, m: int, seeds: Sequence[int], loaded: Sequence[Parts]
) -> Iterator[Record]:
    """Principal components in the place of v; how diverse the domains are."""
    for seed, parts in zip(seeds, loaded, strict=True):
        begun = time.perf_counter()
        pixels = parts.train.images.reshape(len(parts.train.labels), -1)
        centre = pixels.mean(0)
        turn = np.linalg.svd(pixels - centre, full_matrices=False)[2][: settings.v_dim].T

        def components(part: GlyphData, centre: Any = centre, turn: Any = turn) -> np.ndarray:
            return (part.images.reshape(len(part.labels), -1) - centre) @ turn

        pairs = [_pairs(part, components(part)) for part in parts.pairs]
        block = block_correlation(*pairs, within=True, degree=1)
        metrics = {
            "mcc": mean_correlation(*pairs, within=True).mcc,
            "style_in_v": float(block.mean()),
            **parts.diversity,
        }
        yield Record(
            method=PCA, setting={"num_domains": m}, seed=seed, metrics=metrics,
            wall_time=time.perf_counter() - begun,
        )  # fmt: skip


def _pairs(data: GlyphData, estimate: np.ndarray) -> LatentPairs:
    return LatentPairs(data.style.astype(np.float64), estimate, data.domains)


def _run_method(
    name: str, m: int, loaded: Sequence[Parts], seeds: Sequence[int], settings: Settings, bar: Bar
) -> Iterator[Record]:
    begun = time.perf_counter()
    method, hyper = method_of(name, settings.penalty)
    examples = side_by_side(
        _examples(parts.never if name == NEVER else parts.train) for parts in loaded
    )
    sizes = settings.sizes(examples.images.shape[2:], num_domains=m, num_classes=len(LETTERS))
    model: Any = method.build(sizes)
    cases = [({"learning_rate": settings.learning_rate, **hyper}, c) for c in range(len(seeds))]
    trained = train(model, method, sizes, examples, cases, seeds, settings, bar)
    tests = {
        key: side_by_side(_examples(parts.tests[key]) for parts in loaded) for key in CONDITIONS
    }

    def figures(state: Any, batch: Any) -> dict[str, jax.Array]:
        images, labels, _ = of_column(batch, state.model_state.column)
        probabilities = method.probabilities(model, {"params": state.params}, images)
        return {"accuracy": (probabilities.argmax(-1) == labels).astype(jnp.float32)}

    few = jax.tree.map(lambda leaf: leaf[: settings.search_size], tests["validation"])
    right = {
        key: evaluator(figures, part, many_runs=True)(trained.state)["accuracy"]
        for key, part in (*tests.items(), ("choice", few))
    }
    for c, seed in enumerate(seeds):
        metrics = {f"{key}_accuracy": float(each[c]) for key, each in right.items()}
        if trained.diverged_at[c] >= 0:
            metrics = dict.fromkeys(metrics, float("nan"))
        elif isinstance(model, LaCIM):
            metrics |= _found(model, variables_of(trained.state, c), loaded[c])
        setting = {"num_domains": m} | ({"search_steps": 0} if method.searches else {})
        record = Record(
            method=name, setting=setting, seed=seed, metrics=metrics,
            wall_time=(time.perf_counter() - begun) / len(seeds),
        )  # fmt: skip
        yield record
        if method.searches and trained.diverged_at[c] < 0:
            part = {key: of_column(tests[key], c) for key in CONDITIONS}
            yield from _search(model, variables_of(trained.state, c), record, part, settings)
        bar.advance(1 / len(seeds), note="latents")


def _examples(data: GlyphData) -> Examples:
    return Examples(*(jnp.asarray(leaf) for leaf in (data.images, data.labels, data.domains)))


def _found(model: LaCIM, variables: Any, parts: Parts) -> dict[str, float]:
    """How well v recovers the style, how much of it s holds, and how many units are in use."""

    def halves(data: GlyphData) -> tuple[LatentPairs, LatentPairs]:
        latents = encoded(model, variables, seen(model, _examples(data)))
        s, v = latents[:, : model.s_dim], latents[:, model.s_dim :]
        return _pairs(data, s), _pairs(data, v)

    (fit_s, fit), (score_s, score) = (halves(part) for part in parts.pairs)
    tied = [halves(part)[1] for part in (parts.tied, parts.tests["validation"])]
    own = mean_correlation(fit, score, within=True)
    block = {"v": (fit, score), "s": (fit_s, score_s)}
    untied = seen(model, _examples(parts.pairs[1]))
    held_out = seen(model, _examples(parts.tests["validation"]))
    active = collapse(model, variables, untied.images, untied.domains)
    return {
        "mcc": own.mcc,
        **{f"mcc_{name}": float(value) for name, value in zip(STYLE, own.by_dim, strict=True)},
        "mcc_tied": mean_correlation(*tied, within=True).mcc,
        **{
            f"style_in_{name}": float(block_correlation(*pair, within=True, degree=1).mean())
            for name, pair in block.items()
        },
        "active_s": float(active.active_s),
        "active_v": float(active.active_v),
        "kl": float(active.kl.sum()),
        "bound": float(jnp.mean(bound_of(model)(variables["params"], held_out))),
    }


def _search(
    model: LaCIM, variables: Any, record: Record, tests: dict[str, Examples], settings: Settings
) -> Iterator[Record]:
    """The same run with its latents searched further, for every number of steps."""
    search = Search(optimiser=adam(settings.search_rate), draws=1, chunk_size=250)
    begun, key = time.perf_counter(), streams(record.seed).noise
    accuracies: list[dict[str, float]] = [{} for _ in settings.search_steps]
    for name, (images, labels, _) in tests.items():
        few, due = images[: settings.search_size], np.asarray(labels[: settings.search_size])
        every = infer_along(model, variables, few, key, steps=settings.search_steps, search=search)
        for metrics, each in zip(accuracies, every, strict=True):
            answer = predict_from(model, variables, each).probabilities.argmax(-1)
            metrics[f"{name}_accuracy"] = float(np.mean(answer == due))
    for metrics in accuracies:
        metrics["choice_accuracy"] = metrics["validation_accuracy"]
    for steps, metrics in zip(settings.search_steps, accuracies, strict=True):
        setting = {**record.setting, "search_steps": steps}
        wall_time = time.perf_counter() - begun
        yield dataclasses.replace(record, setting=setting, metrics=metrics, wall_time=wall_time)

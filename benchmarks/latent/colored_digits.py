"""Colour predicts the label in training and misleads in test: do latent causes carry over?

Two-class coloured MNIST (digits below 5 or not). Colour and label agree on 90% and 80% of the
images of two training domains, and on 10% of the test domain's. Without label noise the digit is
the better predictor. With 25% of the labels flipped, as in the experiment of invariant risk
minimisation, it is the colour, and whatever is chosen on training domains is drawn to it.

Flipped labels break LaCIM's graph. In it nothing tells of the label beyond s; but the colour is
drawn from the label as flipped, and tells of the flip what the digit cannot. Counted on the images,
the label given the digit keeps H(y | digit) nats, given both H(y | digit, colour), which is less.
Some latent must hold the colour, since the image shows it; so the bound is higher with it in s,
whatever the factors, the priors and the number of draws, and a narrow s takes the colour, the
better predictor, first. More training domains
help as far as their colours cancel out: where the two entropies are equal over all domains
together, ERM needs no colour either. In the flip test (`lacim_flip`) the graph holds, and so does
the claim. Without flipped labels it holds here too: the digit leaves nothing to be told, to ERM
neither. The entropies, and linear probes of s and of v for colour and digit, stand below the
accuracies of each version.

All methods have the same encoder, data order, number of steps and number of trials of their
training settings, a Latin hypercube; trials are chosen by mean validation accuracy over the seeds,
on images of the training domains. LaCIM's search of the latents, the weight of its prior and its
number of steps, is chosen likewise; test accuracy is shown at every number of steps.

- ERM: the bar to beat.
- Pool-LaCIM and LaCIM: one prior for all domains, and one for each.
- ERM without colour: both channels alike in training and test. It is told what to ignore: the
  ceiling.

Published, with 25% of labels flipped and selection on training domains: ERM 10.0, IRM 10.2
(DomainBed, https://arxiv.org/abs/2007.01434).

Cost: smoke 1 minute on two cores, cpu 5 on one. Estimated from parts, not run: full 20 minutes
on one accelerator.
Command: python -m benchmarks lacim_colored_digits --preset smoke --seeds 3
"""

import dataclasses
import functools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness.registry import Context
from benchmarks.latent import training as domain_training
from benchmarks.latent.colored_columns import Column, load_columns
from benchmarks.latent.diagnosis import diagnosis
from benchmarks.latent.image_grids import picture
from benchmarks.latent.reports import colored_digits as latent_report
from benchmarks.latent.reports.colored_digits import (
    COLORLESS,
    DIAGNOSIS,
    ERM_,
    LACIM,
    METHODS,
    POOLED,
)
from benchmarks.latent.training import num_steps, of_column, warm_up
from common.data.generated.colored_digits import (
    ColoredDigits,
    ColoredDomains,
    without_color,
)
from common.progress import Bar
from common.results.records import Record
from common.results.selection import best_setting, latin_hypercube
from common.results.tables import group
from common.seeds import streams
from common.training import Fit
from common.training.classification import MetricsFn, evaluator
from lacim_jax import (
    ERM,
    MLP,
    ConvDecoder,
    ConvEncoder,
    Examples,
    LaCIM,
    MLPDecoder,
    MLPEncoder,
    Search,
    elbo,
    erm_loss,
    infer_along,
    lacim_loss,
    predict_from,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the experiment depends on."""

    methods: tuple[str, ...] = METHODS
    data: str = "mnist5k"
    pool: int = 2
    """Images are reduced by averaging over squares of this side."""
    size: int | None = None
    """Training images, of both domains together; None for all."""
    test_size: int | None = None
    label_noises: tuple[float, ...] = (0.0,)
    correlations: tuple[float, ...] = (0.9, 0.8)
    test_correlation: float = 0.1
    validation: float = 0.1
    """Share of the training images that everything is chosen on."""
    convolutions: bool = False
    """Convolutional encoder and decoder; else fully connected."""
    widths: tuple[int, ...] = (128, 128)
    """Of the encoder: of its dense layers, or of its convolutions and then its features. The
    decoder has them in the opposite order."""
    s_dim: int = 16
    v_dim: int = 16
    batch_size: int = 32
    epochs: int = 12
    trials: int = 3
    """Training settings tried for each method."""
    learning_rates: tuple[float, float] = (5e-4, 5e-3)
    """The range of the trials, the same for all methods; logarithmic, like all ranges."""
    weight_decays: tuple[float, float] = (1e-3, 1.0)
    """Of ERM, the range of its second setting."""
    betas: tuple[float, float] = (0.03, 1.0)
    """Of LaCIM: factor on the divergence, warmed up over the first third of training."""
    label_weights: tuple[float, float] = (3.0, 100.0)
    """Of LaCIM: factor on the label's term."""
    search_rate: float = 0.03
    search_weights: tuple[float, ...] = (0.1, 1.0)
    """Weights of the prior in the search of the latents."""
    search_steps: tuple[int, ...] = (0, 10, 50, 100)
    search_draws: int = 1
    bfloat16: bool = False
    """Whether encoders and decoders compute in bfloat16; parameters stay float32."""
    at_once: int | None = None
    """Runs trained side by side, as many as fit into memory; None for all there are."""


PRESETS = {
    "smoke": Settings(),
    "cpu": Settings(
        data="mnist",
        size=12_000,
        test_size=3000,
        label_noises=(0.25, 0.0),
        batch_size=128,
        widths=(256, 128),
        epochs=6,
    ),
    "full": Settings(
        data="mnist",
        pool=1,
        label_noises=(0.25, 0.0),
        convolutions=True,
        widths=(32, 64, 256),
        batch_size=128,
        epochs=30,
        trials=8,
        search_weights=(0.03, 0.1, 0.3, 1.0, 3.0),
        search_steps=(0, 10, 50, 100, 500),
        search_draws=4,
    ),
}


tables, plots = latent_report.tables, latent_report.plots


class Case(NamedTuple):
    """One run of a method: training settings on a version of the data."""

    trial: dict[str, float]
    column: int


class Setup(NamedTuple):
    """What tells one run from another within a method: carried as the model's own state."""

    column: jax.Array  # of the data; int32, scalar
    step: jax.Array  # steps taken; int32, scalar
    beta: jax.Array  # float32, scalar
    label_weight: jax.Array  # float32, scalar


def trials(settings: Settings, method: str) -> list[dict[str, float]]:
    """The training settings tried for a method, one in every stratum of every range.

    All methods get the same learning rates.
    """
    names = {"learning_rate": settings.learning_rates}
    if method in (POOLED, LACIM):
        names |= {"beta": settings.betas, "label_weight": settings.label_weights}
    else:
        names |= {"weight_decay": settings.weight_decays}
    return latin_hypercube(names, settings.trials)


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each method, noise, trial and seed, and for each search that follows."""
    columns = [Column(noise, seed) for noise in settings.label_noises for seed in context.seeds]
    data = load_columns(
        columns,
        settings.data,
        context.data_dir,
        sizes=(settings.size, settings.test_size),
        correlations=settings.correlations,
        test_correlation=settings.test_correlation,
        validation=settings.validation,
        pool=settings.pool,
    )
    searches = len(columns) * (len(settings.search_weights) + 1)
    for method in settings.methods:
        total = settings.epochs + (searches if method in (POOLED, LACIM) else 0)
        with context.progress.task(method, total=total) as bar:
            yield from context.stages.of(
                method, functools.partial(_run_method, method, data, columns, settings, bar)
            )


def _examples(colored: ColoredDigits, method: str) -> Examples:
    """What the method sees of a part of the data."""
    if method == COLORLESS:
        colored = without_color(colored)
    domains = colored.domains if method == LACIM else jnp.zeros_like(colored.domains)
    return Examples(colored.images, colored.labels, domains)


def build(settings: Settings, method: str, image: tuple[int, ...]) -> ERM | LaCIM:
    """The method's model; the encoder trunk and the classifier are the same for all."""
    classifier = MLP((64, 2))
    dtype = jnp.bfloat16 if settings.bfloat16 else None
    if settings.convolutions:
        *channels, features = settings.widths
        encoder = ConvEncoder(tuple(channels), features, dtype=dtype)
        decoder = ConvDecoder(image, tuple(reversed(channels)), dtype=dtype)
    else:
        encoder = MLPEncoder(settings.widths, dtype=dtype)
        decoder = MLPDecoder(image, tuple(reversed(settings.widths)), dtype=dtype)
    if method in (ERM_, COLORLESS):
        return ERM(encoder, classifier, s_dim=settings.s_dim)
    return LaCIM(
        encoder,
        decoder,
        classifier,
        num_domains=len(settings.correlations) if method == LACIM else 1,
        s_dim=settings.s_dim,
        v_dim=settings.v_dim,
    )


def _run_method(
    method: str, data: ColoredDomains, columns: Sequence[Column], settings: Settings, bar: Bar
) -> Iterator[Record]:
    begun = time.perf_counter()
    train, validation, test = (_examples(part, method) for part in data)
    model = build(settings, method, train.images.shape[2:])
    cases = [Case(t, c) for t in trials(settings, method) for c in range(len(columns))]
    found = _train(model, train, cases, [c.seed for c in columns], settings, bar)
    # LaCIM has no encoder for the test domain: it searches, below.
    measured = {"validation_": validation} | ({"test_": test} if isinstance(model, ERM) else {})
    measure: MetricsFn = functools.partial(_figures, model)
    figures = {}
    for prefix, part in measured.items():
        score = evaluator(measure, part, prefix=prefix, many_runs=True, at_once=settings.at_once)
        figures |= score(found.state)
    wall_time = time.perf_counter() - begun
    records = [
        Record(
            method=method,
            setting={"label_noise": columns[case.column].label_noise, **case.trial},
            seed=columns[case.column].seed,
            metrics={
                name: float(value[run]) if found.diverged_at[run] < 0 else math.nan
                for name, value in figures.items()
            },
            wall_time=wall_time,
        )
        for run, case in enumerate(cases)
    ]
    yield from records
    if isinstance(model, ERM):
        return
    for noise, tried in group(records, lambda record: record.setting["label_noise"]).items():
        best = best_setting(tried)
        models = []
        for record in best:
            run = records.index(record)
            variables = {"params": jax.tree.map(lambda w, run=run: w[run], found.state.params)}
            parts = [of_column(part, cases[run].column) for part in (validation, test)]
            models.append(Trained(model, variables, parts[0], parts[1], record))
            yield _diagnosed(models[-1], data.validation, cases[run].column)
        yield from _search(models, settings, bar)
        if method == LACIM and noise == settings.label_noises[-1]:
            yield _picture(models[0], settings)


def _train(
    model: ERM | LaCIM,
    train: Examples,
    cases: Sequence[Case],
    seeds: Sequence[int],
    settings: Settings,
    bar: Bar,
) -> Fit:
    """Trains all cases of a method at once."""
    steps = num_steps(train, batch_size=settings.batch_size, epochs=settings.epochs)
    ramp = warm_up(steps)

    def loss(params: optax.Params, setup: Setup, batch: Examples, key: jax.Array) -> Any:
        if isinstance(model, ERM):
            objective = erm_loss(model)
        else:
            objective = lacim_loss(
                model,
                beta=lambda step: setup.beta * ramp(step),
                label_weight=lambda _: setup.label_weight,
            )
        value, (_, terms) = objective(params, setup.step, of_column(batch, setup.column), key)
        return value, (setup._replace(step=setup.step + 1), terms)

    def values(name: str) -> jax.Array:
        return jnp.asarray([case.trial.get(name, 0.0) for case in cases])

    first = of_column(train, 0)
    columns = jnp.asarray([case.column for case in cases])
    return domain_training.fit(
        model,
        loss,
        train,
        inputs=(first.images[:1], *(() if isinstance(model, ERM) else (first.domains[:1],))),
        seeds=[seeds[case.column] for case in cases],
        setups=Setup(columns, jnp.zeros_like(columns), values("beta"), values("label_weight")),
        learning_rates=values("learning_rate"),
        weight_decays=values("weight_decay"),
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        at_once=settings.at_once,
        bar=bar,
    )


def _figures(model: ERM | LaCIM, state: Any, batch: Any) -> dict[str, jax.Array]:
    """Figures of one run for every example; LaCIM's encoder is told the domain, a training one."""
    own = of_column(batch, state.model_state.column)
    variables = {"params": state.params}
    if isinstance(model, ERM):
        logits: Any = model.apply(variables, own.images)
        return {"accuracy": (logits.argmax(-1) == own.labels).astype(jnp.float32)}
    densities: Any = model.apply(variables, own.images, own.domains)
    terms = elbo(model, variables, own, jax.random.key(0))
    return {
        "accuracy": (densities.logits.argmax(-1) == own.labels).astype(jnp.float32),
        "bound": terms.bound,
        "reconstruction": terms.reconstruction,
        "kl": terms.kl_per_dim.sum(-1),
        "kl_s": terms.kl_per_dim[:, : model.s_dim].sum(-1),
    }


class Trained(NamedTuple):
    """A trained LaCIM, and what its search is chosen and judged by."""

    model: LaCIM
    variables: dict[str, Any]
    validation: Examples
    test: Examples
    record: Record


def _search(models: Sequence[Trained], settings: Settings, bar: Bar) -> Iterator[Record]:
    """Searches validation images with every weight, then test images with the chosen one."""
    tried = []
    for weight in settings.search_weights:
        search = _search_of(settings, weight)
        for trained in models:
            begun = time.perf_counter()
            curve = {
                "step": list(settings.search_steps),
                **_along(trained, "validation", settings.search_steps, search),
            }
            tried.append(
                Record(
                    method=trained.record.method,
                    setting={**trained.record.setting, "search_weight": weight},
                    seed=trained.record.seed,
                    metrics={"validation_accuracy": max(curve["validation_accuracy"])},
                    curve=curve,
                    wall_time=time.perf_counter() - begun,
                )
            )
            bar.advance(note="latent search")
    chosen = best_setting(tried)
    yield from (record for record in tried if record not in chosen)
    best = _chosen_steps(chosen)
    weight = float(chosen[0].setting["search_weight"] or 0)
    search = _search_of(settings, weight)
    for trained, record in zip(models, chosen, strict=True):
        begun = time.perf_counter()
        curve = {**record.curve, **_along(trained, "test", settings.search_steps, search)}
        yield dataclasses.replace(
            record,
            metrics={name: column[best] for name, column in curve.items()},
            curve=curve,
            wall_time=record.wall_time + time.perf_counter() - begun,
        )
        bar.advance(note="latent search")


@functools.cache
def _adam(learning_rate: float) -> optax.GradientTransformation:
    """One object a rate, so that searches share a compilation."""
    return optax.adam(learning_rate)


def _search_of(settings: Settings, weight: float) -> Search:
    return Search(
        optimiser=_adam(settings.search_rate),
        weight=weight,
        draws=settings.search_draws,
        chunk_size=200,
    )


def _along(
    trained: Trained, part: str, steps: Sequence[int], search: Search
) -> dict[str, list[float]]:
    """Figures after each number of steps of the search, for the validation or test images."""
    examples = trained.validation if part == "validation" else trained.test
    key = streams(trained.record.seed).noise
    found = infer_along(
        trained.model, trained.variables, examples.images, key, steps=steps, search=search
    )
    predictions = [predict_from(trained.model, trained.variables, each) for each in found]
    labels = np.asarray(examples.labels)
    # NaN where training diverged: what such a model answers is no accuracy.
    valid = 0 * trained.record.metrics["validation_accuracy"]
    return {
        f"{part}_accuracy": [
            float(np.mean(p.probabilities.argmax(-1) == labels)) + valid for p in predictions
        ],
        f"{part}_objective": [float(p.objective_after.mean()) for p in predictions],
        f"{part}_disagreement": [float(p.disagreement.mean()) for p in predictions],
    }


def _chosen_steps(searches: Sequence[Record]) -> int:
    """Index of the number of steps with the best validation accuracy, of equal ones the least."""
    return int(np.mean([r.curve["validation_accuracy"] for r in searches], axis=0).argmax())


def _diagnosed(trained: Trained, validation: ColoredDigits, column: int) -> Record:
    """What the latents of one model hold, on the validation images of its column."""
    begun = time.perf_counter()
    own = jax.tree.map(lambda leaf: leaf[:, column], validation)
    metrics = diagnosis(trained.model, trained.variables, own, trained.validation)
    return dataclasses.replace(
        trained.record,
        setting={**trained.record.setting, DIAGNOSIS: "latents"},
        metrics=metrics,
        wall_time=time.perf_counter() - begun,
    )


def _picture(trained: Trained, settings: Settings) -> Record:
    """A record without figures, of what the latents of one model look like."""
    begun = time.perf_counter()
    curve = picture(
        trained.model,
        trained.variables,
        test=trained.test,
        validation=trained.validation,
        key=streams(trained.record.seed).noise,
        steps=settings.search_steps[-1],
        search=_search_of(settings, settings.search_weights[0]),
    )
    return dataclasses.replace(
        trained.record,
        setting={**trained.record.setting, "picture": "latents"},
        metrics={},
        curve=curve,
        wall_time=time.perf_counter() - begun,
    )

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
the claim. Without flipped labels it holds here too, and for ERM as well: given the digit, the
colour says nothing more about the label. The entropies, and linear probes of s and of v for colour
and digit, stand below the accuracies of each version.

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

Cost: smoke 1 minute on two cores, cpu 1 on one, day 5. Estimated from parts, not run: full 20
minutes on one accelerator.
Command: python -m benchmarks lacim_colored_digits --preset day --seeds 3
"""

import dataclasses
import functools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.harness.registry import Context
from benchmarks.latent.colored.columns import Column, load_columns
from benchmarks.latent.colored.search import SearchBudget, Trained, diagnosed, pictured, searched
from benchmarks.latent.methods import METHODS as METHODS_OF_DOMAINS
from benchmarks.latent.methods import Method
from benchmarks.latent.reports import colored_digits as report
from benchmarks.latent.reports.colored_digits import (
    COLORLESS,
    LACIM,
    METHODS,
    POOLED,
)
from benchmarks.latent.training import of_column, variables_of
from benchmarks.latent.trials import train as train_all
from benchmarks.latent.trials import trials
from common.data.generated.colored_digits import ColoredDigits, ColoredDomains, without_color
from common.progress import Bar
from common.results.records import Record
from common.results.selection import best_setting
from common.training.classification import MetricsFn, evaluator
from lacim_jax import (
    ERM,
    Examples,
    LaCIM,
    elbo,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(SearchBudget):
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
    widths: tuple[int, ...] = (128, 128)
    batch_size: int = 32
    epochs: int = 12
    trials: int = 3
    learning_rates: tuple[float, float] = (5e-4, 5e-3)


PRESETS = {
    "smoke": Settings(),
    "cpu": Settings(data="mnist", size=5000, test_size=1000, widths=(128, 64), epochs=6),
    "day": Settings(
        data="mnist", size=12_000, test_size=3000, label_noises=(0.25, 0.0), batch_size=128,
        widths=(256, 128), epochs=6,
    ),
    "full": Settings(
        data="mnist", pool=1, label_noises=(0.25, 0.0), convolutions=True, widths=(32, 64, 256),
        batch_size=128, epochs=30, trials=8, search_weights=(0.03, 0.1, 0.3, 1.0, 3.0),
        search_steps=(0, 10, 50, 100, 500), search_draws=4,
    ),
}  # fmt: skip

tables, plots, CAPTIONS = report.tables, report.plots, report.CAPTIONS


def method_of(name: str) -> Method:
    """How a method is made; the colour-blind one is ERM."""
    return METHODS_OF_DOMAINS["ERM" if name == COLORLESS else name]


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each method, noise, trial and seed, and for each search that follows."""
    columns = [Column(noise, seed) for noise in settings.label_noises for seed in context.seeds]
    data = load_columns(
        columns, settings.data, context.data_dir, sizes=(settings.size, settings.test_size),
        correlations=settings.correlations, test_correlation=settings.test_correlation,
        validation=settings.validation, pool=settings.pool,
    )  # fmt: skip
    searches = len(columns) * (len(settings.search_weights) + 1)
    for method in settings.methods:
        searched_too = method in (POOLED, LACIM)
        total = settings.epochs + (searches if searched_too else 0)
        with context.progress.task(method, total=total) as bar:
            runs = _Runs(method, data, columns, settings, bar)
            yield from context.stages.of(method, lambda runs=runs: runs.trained.records)
            for noise in settings.label_noises if searched_too else ():
                yield from context.stages.of(
                    f"{method}, search, label noise {noise:g}",
                    functools.partial(runs.searches, noise),
                )


def _examples(colored: ColoredDigits, method: str) -> Examples:
    """What the method sees of a part of the data."""
    if method == COLORLESS:
        colored = without_color(colored)
    domains = colored.domains if method == LACIM else jnp.zeros_like(colored.domains)
    return Examples(colored.images, colored.labels, domains)


class _AllTrained(NamedTuple):
    """What the training of a method leaves."""

    model: Any
    state: Any
    """Of all runs, leaves [runs, ...]."""
    records: list[Record]
    """One a run."""
    columns: list[int]
    """Of each run."""


class _Runs:
    """All runs of a method, and the searches that follow them.

    They are trained when they are first asked for: a search whose training is on record from an
    earlier run trains them again, to the same weights.
    """

    def __init__(
        self, name: str, data: ColoredDomains, columns: Sequence[Column], settings: Settings,
        bar: Bar,
    ):  # fmt: skip
        self._name, self._data, self._columns = name, data, columns
        self._settings, self._bar = settings, bar
        self._parts = [_examples(part, name) for part in data]

    @functools.cached_property
    def trained(self) -> _AllTrained:
        """The runs, side by side."""
        begun, method, settings = time.perf_counter(), method_of(self._name), self._settings
        train, validation, test = self._parts
        image, num_domains = train.images.shape[2:], len(settings.correlations)
        sizes = settings.sizes(image, num_domains=num_domains, num_classes=2)
        model: Any = method.build(sizes)
        columns = range(len(self._columns))
        cases = [(trial, c) for trial in trials(settings, method) for c in columns]
        seeds = [column.seed for column in self._columns]
        found = train_all(model, method, sizes, train, cases, seeds, settings, self._bar)
        # LaCIM has no encoder for the test domain: it searches, below.
        tested = {"test_": test} if isinstance(model, ERM) else {}
        measure: MetricsFn = functools.partial(_figures, model)
        figures = {}
        for prefix, part in {"validation_": validation, **tested}.items():
            score = evaluator(
                measure, part, prefix=prefix, many_runs=True, at_once=settings.at_once
            )
            figures |= score(found.state)
        wall_time = time.perf_counter() - begun
        records = [
            Record(
                method=self._name,
                setting={"label_noise": self._columns[column].label_noise, **trial},
                seed=self._columns[column].seed,
                metrics={
                    metric: float(value[run]) if found.diverged_at[run] < 0 else math.nan
                    for metric, value in figures.items()
                },
                wall_time=wall_time,
            )
            for run, (trial, column) in enumerate(cases)
        ]
        return _AllTrained(model, found.state, records, [column for _, column in cases])

    def searches(self, noise: float) -> Iterator[Record]:
        """What the best models of one version of the labels hold, and their searches."""
        model, state, records, columns = self.trained
        _, validation, test = self._parts
        models = []
        for record in best_setting([r for r in records if r.setting["label_noise"] == noise]):
            run = records.index(record)
            parts = [of_column(part, columns[run]) for part in (validation, test)]
            variables = variables_of(state, run)
            models.append(Trained(model, variables, parts[0], parts[1], record))
            yield diagnosed(models[-1], self._data.validation, columns[run])
        yield from searched(models, self._settings, self._bar)
        if self._name == LACIM and noise == self._settings.label_noises[-1]:
            yield pictured(models[0], self._settings)


def _figures(model: ERM | LaCIM, state: Any, batch: Any) -> dict[str, jax.Array]:
    """Figures of one run for every example; LaCIM's encoder is told the domain, a training one."""
    part = of_column(batch, state.model_state.column)
    variables = {"params": state.params}
    if isinstance(model, ERM):
        logits: Any = model.apply(variables, part.images)
        return {"accuracy": (logits.argmax(-1) == part.labels).astype(jnp.float32)}
    densities: Any = model.apply(variables, part.images, part.domains)
    terms = elbo(model, variables, part, jax.random.key(0))
    return {
        "accuracy": (densities.logits.argmax(-1) == part.labels).astype(jnp.float32),
        "bound": terms.bound,
        "reconstruction": terms.reconstruction,
        "kl": terms.kl_per_dim.sum(-1),
        "kl_s": terms.kl_per_dim[:, : model.s_dim].sum(-1),
    }

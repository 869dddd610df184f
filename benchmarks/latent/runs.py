"""Trials of a method that learns from several domains, on several versions of the data at once.

All trials of one method are trained side by side and measured on what each rule of selection looks
at; where the method searches latents, the trials that a rule chose are searched further.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness.registry import Context
from benchmarks.latent.methods import METHODS, Hyper, Method, Sizes
from benchmarks.latent.reports.domains import RULES
from benchmarks.latent.training import adam, fit, num_steps, of_column, variables_of, warm_up
from common.calibration import detection_auroc, expected_calibration_error
from common.classification import evaluator
from common.progress import Bar
from common.records import Record
from common.seeds import host_generator, streams
from common.selection import best_setting, latin_hypercube
from common.training import Fit
from lacim_jax import Examples, Search, infer_along, predict_from


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """What every method gets alike."""

    widths: tuple[int, ...] = (256, 128)
    """Of the encoder: of its dense layers, or of its convolutions and then its features. The
    decoder has them in the opposite order."""
    convolutions: bool = False
    """Convolutional encoder and decoder; else fully connected."""
    s_dim: int = 16
    v_dim: int = 16
    batch_size: int = 256
    epochs: int = 10
    trials: int = 4
    """Settings tried for each method."""
    learning_rates: tuple[float, float] = (3e-4, 3e-3)
    """The range of the trials, the same for all methods; logarithmic."""
    search_rate: float = 0.03
    search_steps: tuple[int, ...] = (10, 50)
    bfloat16: bool = False
    """Whether encoders and decoders compute in bfloat16; parameters stay float32."""
    at_once: int | None = None
    """Runs trained side by side, as many as fit into memory; None for all there are."""

    def sizes(self, image: tuple[int, ...], *, num_domains: int, num_classes: int) -> Sizes:
        """What all models have in common, for images of a shape."""
        return Sizes(
            image, self.widths, self.s_dim, self.v_dim, num_domains, num_classes,
            self.convolutions, self.bfloat16,
        )  # fmt: skip


class Column(NamedTuple):
    """One version of the data: all trials of a method are trained on every one."""

    seed: int
    left_out: int
    """The training domain whose images were replaced; -1 for none."""


class Setup(NamedTuple):
    """What tells one run from another within a method: carried as the model's own state."""

    column: jax.Array  # of the data; int32, scalar
    hyper: Hyper
    step: jax.Array  # steps taken; int32, scalar
    inner: Any  # what the method's loss carries


class Parts(NamedTuple):
    """The data of every column; each an array [n, columns, ...]."""

    train: Examples
    choice: Examples
    """Held-out images: of the training domains, or of the one that was left out."""
    oracle: Examples
    """Of the test domain: what the oracle chooses on."""
    test: Examples
    """Other images of the test domain."""


class Task(NamedTuple):
    """What methods are compared on."""

    parts: Parts
    columns: Sequence[Column]
    num_domains: int
    num_classes: int
    setting: Mapping[str, Any]
    """What records say beside a trial's settings."""


def columns_of(seeds: Sequence[int], num_domains: int, *, left_out: bool) -> list[Column]:
    """The versions of the data that an experiment needs: whole, and without each training domain.

    Those without one are made, if `left_out`, for the rule of selection that needs them.
    """
    domains = range(num_domains) if left_out else ()
    return [Column(seed, domain) for seed in seeds for domain in (-1, *domains)]


def assembled(train: Examples, choice: Examples, test: Examples, column: Column) -> Parts:
    """The parts of one column, arrays [n, ...].

    Without a domain, budget and sizes are kept: images of the one left out are replaced by others
    of those trained on, and those held out are of that domain alone, repeated.

    Args:
        train: of all training domains.
        choice: held-out images, likewise.
        test: of the test domain; one half is the oracle's.
        column: which version.
    """
    if column.left_out >= 0:
        key = jax.random.fold_in(streams(column.seed).data, column.left_out)
        gone = np.asarray(train.domains) == column.left_out
        drawn = host_generator(key).choice(np.flatnonzero(~gone), gone.size)
        rows = np.where(gone, drawn, np.arange(gone.size))
        members = np.flatnonzero(np.asarray(choice.domains) == column.left_out)
        train = jax.tree.map(lambda leaf: leaf[rows], train)
        choice = jax.tree.map(lambda leaf: leaf[np.resize(members, choice.labels.size)], choice)
    half = len(test.labels) // 2
    return Parts(
        train=train,
        choice=choice,
        oracle=jax.tree.map(lambda leaf: leaf[:half], test),
        test=jax.tree.map(lambda leaf: leaf[half : 2 * half], test),
    )


def trials(settings: Budget, method: Method) -> list[dict[str, float]]:
    """The settings tried for a method; all methods get the same learning rates."""
    spans = {"learning_rate": settings.learning_rates, **method.ranges}
    return latin_hypercube(spans, settings.trials)


def run_methods(
    methods: Sequence[str], task: Task, settings: Budget, context: Context, *, prefix: str = ""
) -> Iterator[Record]:
    """Every method on one task, each a stage; the prefix tells tasks of one run apart."""
    for name in methods:
        title = prefix + name
        work = settings.epochs + (1 if METHODS[name].searches else 0)
        with context.progress.task(title, total=work) as bar:
            yield from context.stages.of(
                title, functools.partial(run_method, name, task, settings, bar)
            )


def run_method(name: str, task: Task, settings: Budget, bar: Bar) -> Iterator[Record]:
    """Yields a record for each trial and seed, and for each latent search that follows."""
    begun = time.perf_counter()
    method, (parts, columns) = METHODS[name], task[:2]
    image, num_domains = parts.train.images.shape[2:], task.num_domains
    sizes = settings.sizes(image, num_domains=num_domains, num_classes=task.num_classes)
    model = method.build(sizes)
    tried = trials(settings, method)
    cases = [(trial, c) for trial in tried for c in range(len(columns))]
    seeds = [column.seed for column in columns]
    trained = train(model, method, sizes, parts.train, cases, seeds, settings, bar)
    figures = _measure(model, method, trained.state, parts, settings.at_once)
    right = trained.diverged_at < 0
    figures = {key: np.where(right, value, math.nan) for key, value in figures.items()}
    wall_time = time.perf_counter() - begun
    answer = jax.jit(lambda v, images: method.probabilities(model, v, images))
    records, runs = [], []
    for t, trial in enumerate(tried):
        for seed in sorted({column.seed for column in columns}):
            of_seed = [
                t * len(columns) + c for c, column in enumerate(columns) if column.seed == seed
            ]
            full, *without = of_seed
            metrics = {
                "validation_accuracy": figures["choice"][full],
                "oracle_accuracy": figures["oracle"][full],
                "test_accuracy": figures["test"][full],
            }
            if without:
                metrics["left_out_accuracy"] = float(np.mean(figures["choice"][without]))
            setting = {**task.setting, **trial}
            records.append(
                Record(
                    method=name,
                    setting=setting | ({"search_steps": 0} if method.searches else {}),
                    seed=seed,
                    metrics=_uncertainty(answer, trained.state, full, cases, parts) | metrics,
                    wall_time=wall_time,
                )
            )
            runs.append(of_seed)
    yield from records
    if not method.searches:
        return
    chosen: list[Record] = []
    for criterion in RULES.values():
        if all(criterion in record.metrics for record in records):
            chosen += [r for r in best_setting(records, criterion=criterion) if r not in chosen]
    for record in chosen:
        of_seed = runs[records.index(record)]
        yield from _search(model, trained.state, record, of_seed, cases, parts, settings)
        bar.advance(1 / len(chosen), note="latent search")


def train(
    model: Any,
    method: Method,
    sizes: Sizes,
    examples: Examples,
    cases: Sequence[tuple[dict[str, float], int]],
    seeds: Sequence[int],
    settings: Budget,
    bar: Bar,
) -> Fit:
    """Trains all cases of a method, each a trial and a column, at once; seeds are of columns."""
    steps = num_steps(examples, batch_size=settings.batch_size, epochs=settings.epochs)
    ramp = warm_up(steps)

    def loss(params: optax.Params, setup: Setup, batch: Examples, key: jax.Array) -> Any:
        objective = method.loss(model, setup.hyper, cast("Any", ramp), sizes)
        value, (inner, _) = objective(params, setup.inner, of_column(batch, setup.column), key)
        return value, (setup._replace(step=setup.step + 1, inner=inner), {})

    def setup(hyper: Hyper, column: jax.Array) -> Setup:
        return Setup(column, hyper, jnp.zeros([], jnp.int32), method.state(sizes))

    first, runs = of_column(examples, 0), len(cases)
    hyper = {name: jnp.asarray([trial[name] for trial, _ in cases]) for name in cases[0][0]}
    return fit(
        model,
        loss,
        examples,
        inputs=(first.images[:1], *((first.domains[:1],) if method.takes_domains else ())),
        seeds=[seeds[c] for _, c in cases],
        setups=jax.vmap(setup)(hyper, jnp.asarray([c for _, c in cases])),
        learning_rates=hyper["learning_rate"],
        weight_decays=hyper.get("weight_decay", jnp.zeros(runs)),
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        at_once=settings.at_once,
        bar=bar,
    )


def _measure(
    model: Any, method: Method, state: Any, parts: Parts, at_once: int | None
) -> dict[str, np.ndarray]:
    """Accuracy of every run on every part but the training one."""

    def figures(state: Any, batch: Any) -> dict[str, jax.Array]:
        images, labels, _ = of_column(batch, state.model_state.column)
        probabilities = method.probabilities(model, {"params": state.params}, images)
        return {"accuracy": (probabilities.argmax(-1) == labels).astype(jnp.float32)}

    return {
        name: evaluator(figures, getattr(parts, name), many_runs=True, at_once=at_once)(state)[
            "accuracy"
        ]
        for name in ("choice", "oracle", "test")
    }


def _uncertainty(
    answer: Callable[[Any, jax.Array], jax.Array],
    state: Any,
    index: int,
    cases: Sequence[tuple[dict[str, float], int]],
    parts: Parts,
) -> dict[str, float]:
    """Calibration on test images, and whether low confidence tells them from training ones."""
    answers = {}
    for name in ("choice", "test"):
        part = of_column(getattr(parts, name), cases[index][1])
        probabilities = np.asarray(answer(variables_of(state, index), part.images))
        answers[name] = probabilities, np.asarray(part.labels)
    if not all(np.isfinite(probabilities).all() for probabilities, _ in answers.values()):
        return {"test_calibration_error": math.nan, "confidence_auroc": math.nan}
    doubt = [1 - probabilities.max(-1) for probabilities, _ in answers.values()]
    return {
        "test_calibration_error": expected_calibration_error(*answers["test"]),
        "confidence_auroc": detection_auroc(*doubt),
    }


def _search(
    model: Any,
    state: Any,
    record: Record,
    of_seed: Sequence[int],
    cases: Sequence[tuple[dict[str, float], int]],
    parts: Parts,
    settings: Budget,
) -> Iterator[Record]:
    """The same trial with its latents searched further, for every number of steps."""
    search = Search(optimiser=adam(settings.search_rate), draws=1, chunk_size=250)
    begun = time.perf_counter()

    def predictions(index: int, part: Examples) -> tuple[list[Any], np.ndarray]:
        images, labels, _ = of_column(part, cases[index][1])
        variables, key = variables_of(state, index), streams(record.seed).noise
        steps = settings.search_steps
        every = infer_along(model, variables, images, key, steps=steps, search=search)
        return [predict_from(model, variables, each) for each in every], np.asarray(labels)

    full, *without = of_seed
    of_part = {
        name: predictions(full, getattr(parts, name)) for name in ("choice", "oracle", "test")
    }
    folds = [predictions(index, parts.choice) for index in without]
    for i, steps in enumerate(settings.search_steps):
        accuracy = {name: _accuracy(answers[i], y) for name, (answers, y) in of_part.items()}
        metrics = {
            "validation_accuracy": accuracy["choice"],
            "oracle_accuracy": accuracy["oracle"],
            "test_accuracy": accuracy["test"],
        }
        if folds:
            metrics["left_out_accuracy"] = float(np.mean([_accuracy(f[i], y) for f, y in folds]))
        inside, outside = of_part["choice"][0][i], of_part["test"][0][i]
        metrics |= {
            "test_calibration_error": expected_calibration_error(
                outside.probabilities, of_part["test"][1]
            ),
            "confidence_auroc": detection_auroc(
                1 - inside.probabilities.max(-1), 1 - outside.probabilities.max(-1)
            ),
            "disagreement_auroc": detection_auroc(inside.disagreement, outside.disagreement),
            "bound_auroc": detection_auroc(-inside.objective_after, -outside.objective_after),
        }
        yield dataclasses.replace(
            record,
            setting={**record.setting, "search_steps": steps},
            metrics=metrics,
            wall_time=time.perf_counter() - begun,
        )


def _accuracy(prediction: Any, labels: np.ndarray) -> float:
    return float(np.mean(prediction.probabilities.argmax(-1) == labels))

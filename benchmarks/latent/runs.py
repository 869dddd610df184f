"""Trials of a method that learns from several domains, on several versions of the data at once.

All trials of one method are trained side by side and measured on what each rule of selection looks
at; where the method searches latents, the trials that a rule chose are searched further.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness.registry import Context
from benchmarks.latent.methods import METHODS, Method
from benchmarks.latent.reports.domains import RULES
from benchmarks.latent.training import adam, of_column, variables_of
from benchmarks.latent.trials import Budget, train, trials
from common.progress import Bar
from common.results.calibration import detection_auroc, expected_calibration_error
from common.results.records import Record
from common.results.selection import best_setting
from common.seeds import host_generator, streams
from common.training.classification import evaluator
from lacim_jax import Examples, Search, infer_along, invariance_test, predict_from

LEVEL = 0.05
"""P-value up to which a trial's invariance is rejected."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DomainSettings(Budget):
    """Which methods, on which images."""

    methods: tuple[str, ...] = tuple(METHODS)
    data: str
    size: int | None = None
    """Training images, of all training domains together; None for all there are."""
    test_size: int
    """Test images, half of them for the oracle."""
    pool: int
    """Images are reduced by averaging over squares of this side."""
    validation: float = 0.1
    left_out: bool = True
    """Whether runs without each training domain are made, for the rule that needs them."""


class Column(NamedTuple):
    """One version of the data: all trials of a method are trained on every one."""

    seed: int
    left_out: int
    """The training domain whose images were replaced; -1 for none."""


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
        for seed in sorted(set(seeds)):
            of_seed = [t * len(columns) + c for c, each in enumerate(seeds) if each == seed]
            full, *without = of_seed
            inside, outside = (
                np.asarray(answer(variables_of(trained.state, full), part.images))
                for part in (of_column(part, cases[full][1]) for part in (parts.choice, parts.test))
            )
            labels = np.asarray(parts.test.labels[:, cases[full][1]])
            choice, oracle, test = (figures[name][full] for name in ("choice", "oracle", "test"))
            metrics = _uncertainty(inside, outside, labels)
            metrics |= _accuracies(choice, oracle, test, figures["choice"][without])
            metrics |= _invariance(inside, of_column(parts.choice, cases[full][1]), choice)
            setting = {**task.setting, **trial} | ({"search_steps": 0} if method.searches else {})
            records.append(
                Record(
                    method=name, setting=setting, seed=seed, metrics=metrics, wall_time=wall_time
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


def _accuracies(choice: Any, oracle: Any, test: Any, left_out: Any) -> dict[str, float]:
    """What settings are chosen by, and judged by; left out are runs without a training domain."""
    metrics = {"validation_accuracy": choice, "oracle_accuracy": oracle, "test_accuracy": test}
    return metrics | ({"left_out_accuracy": float(np.mean(left_out))} if len(left_out) else {})


def _invariance(inside: np.ndarray, held_out: Examples, accuracy: float) -> dict[str, float]:
    """Whether the label depends on the domain, given the network's answer; rejected trials last."""
    if not np.isfinite(inside).all():
        return {"invariance_p": math.nan, "invariant_accuracy": math.nan}
    logs = np.log(np.maximum(inside, np.finfo(inside.dtype).tiny))
    test = invariance_test(logs[:, 1:] - logs[:, :1], held_out.labels, held_out.domains)
    rejected = test.p_value <= LEVEL
    return {"invariance_p": test.p_value, "invariant_accuracy": float(accuracy) - rejected}


def _uncertainty(inside: np.ndarray, outside: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Calibration on test images, and whether low confidence tells them from training ones."""
    if not (np.isfinite(inside).all() and np.isfinite(outside).all()):
        return {"test_calibration_error": math.nan, "confidence_auroc": math.nan}
    return {
        "test_calibration_error": expected_calibration_error(outside, labels),
        "confidence_auroc": detection_auroc(1 - inside.max(-1), 1 - outside.max(-1)),
    }


def _search(
    model: Any, state: Any, record: Record, of_seed: Sequence[int],
    cases: Sequence[tuple[dict[str, float], int]], parts: Parts, settings: Budget,
) -> Iterator[Record]:  # fmt: skip
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
        choice, oracle, test = (_accuracy(answers[i], y) for answers, y in of_part.values())
        inside, outside = of_part["choice"][0][i], of_part["test"][0][i]
        held_out = of_column(parts.choice, cases[full][1])
        metrics = {
            **_accuracies(choice, oracle, test, [_accuracy(fold[i], y) for fold, y in folds]),
            **_invariance(inside.probabilities, held_out, choice),
            **_uncertainty(inside.probabilities, outside.probabilities, of_part["test"][1]),
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

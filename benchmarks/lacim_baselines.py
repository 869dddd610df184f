"""Where colour misleads, does any method that sees several domains beat ERM, and who chooses?

Two-class coloured MNIST with a quarter of the labels flipped: colour agrees with the label on 90%
and 80% of the images of the two training domains and on 10% of the test domain's, so that colour is
the better predictor in training and ruins the test. Every method has the same encoder trunk and
classifier, data, order and number of steps, and as many trials of its settings; ERM is the bar.

Settings are chosen by mean over the seeds, by each of the three rules that are in use:

- training domains: accuracy on held-out images of the training domains;
- left-out domain: accuracy on each training domain of a run trained without it, averaged;
- oracle: accuracy on other images of the test domain. No user could choose so: a column of its own.

Images of a left-out domain are replaced by others of the remaining domains, so that budgets are
equal. A method with a latent search may also choose its number of steps by the same rule, among the
trials that a rule chose without it. Test accuracy is on images that nothing was chosen on.

Published, 60,000 images, three test domains, chosen by training domains / oracle, at -90%
(DomainBed, https://arxiv.org/abs/2007.01434): ERM 10.0 / 28.7, IRM 10.2 / 58.5, V-REx 10.2 / 55.2,
MMD - / 50.6, DANN - / 24.9; a colour-blind observer can reach 75.

Command: python -m benchmarks lacim_baselines --preset smoke --seeds 3
"""

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import domain_report, domain_training
from benchmarks.domain_methods import METHODS, Hyper, Method, Sizes
from benchmarks.domain_report import RULES
from benchmarks.domain_training import num_steps, of_column, warm_up
from benchmarks.registry import Context
from common.calibration import detection_auroc, expected_calibration_error
from common.classification import evaluator
from common.colored_digits import ColoredDigits, ColoredDomains, colored_domains
from common.data import load, pooled, take
from common.progress import Bar
from common.records import Record
from common.seeds import host_generator, streams
from common.selection import best_setting, latin_hypercube
from lacim_jax import Examples, Search, infer_along, predict_from


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the experiment depends on."""

    methods: tuple[str, ...] = tuple(METHODS)
    data: str = "mnist"
    size: int | None = None
    """Training images, of all domains together; None for all there are."""
    test_size: int = 2000
    """Test images, half of them for the oracle."""
    pool: int = 2
    """Images are reduced by averaging over squares of this side."""
    label_noise: float = 0.25
    correlations: tuple[float, ...] = (0.9, 0.8)
    test_correlation: float = 0.1
    validation: float = 0.1
    left_out: bool = True
    """Whether runs without each training domain are made, for the rule that needs them."""
    widths: tuple[int, ...] = (256, 128)
    s_dim: int = 16
    v_dim: int = 16
    batch_size: int = 256
    epochs: int = 10
    trials: int = 4
    learning_rates: tuple[float, float] = (3e-4, 3e-3)
    search_rate: float = 0.03
    search_steps: tuple[int, ...] = (10, 50)


PRESETS = {
    "smoke": Settings(
        methods=("ERM", "IRM", "V-REx", "Pool-LaCIM", "LaCIM"),
        data="mnist5k",
        test_size=500,
        pool=4,
        left_out=False,
        widths=(64, 64),
        batch_size=128,
        epochs=8,
        trials=2,
        search_steps=(10,),
    ),
    "cpu": Settings(size=10_000, pool=4, widths=(128, 128), epochs=16, trials=4),
    "full": Settings(pool=1, widths=(512, 256), epochs=60, trials=16, test_size=10_000),
}


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
    test: Examples


def tables(records: Sequence[Record]) -> str:
    """Test accuracy as chosen by each rule, calibration and detection."""
    return domain_report.tables(records)


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Test accuracy as chosen by each rule, side by side."""
    return domain_report.plots(records, out)


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each method, trial and seed, and for each latent search that follows."""
    domains = range(len(settings.correlations)) if settings.left_out else ()
    columns = [Column(seed, d) for seed in context.seeds for d in (-1, *domains)]
    parts = load_parts(settings, columns, context.data_dir)
    for name in settings.methods:
        method = METHODS[name]
        total = settings.epochs + (1 if method.searches else 0)
        with context.progress.task(name, total=total) as bar:
            yield from _run_method(name, method, parts, columns, settings, bar)


def load_parts(settings: Settings, columns: Sequence[Column], data_dir: Path | None) -> Parts:
    """Every column's images, colours and flipped labels.

    Args:
        settings: the experiment's.
        columns: which versions are wanted.
        data_dir: where prepared data sets lie.
    """
    train, test = (load(settings.data, split, data_dir=data_dir) for split in ("train", "test"))

    def version(column: Column) -> Parts:
        keys = streams(column.seed)
        own, other = train, test
        if settings.size is not None:
            own = take(train, min(settings.size, len(train.labels)), key=keys.data)
        other = take(test, min(settings.test_size, len(test.labels)), key=keys.data)
        found = colored_domains(
            keys.data,
            own,
            other,
            correlations=settings.correlations,
            test_correlation=settings.test_correlation,
            label_noise=settings.label_noise,
            validation_fraction=settings.validation,
        )
        return _parts(found, column, settings.pool)

    every = [version(column) for column in columns]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *every)


def _parts(found: ColoredDomains, column: Column, pool: int) -> Parts:
    train, choice = (_examples(part, pool) for part in (found.train, found.validation))
    test = _examples(found.test, pool)
    half = len(test.labels) // 2
    if column.left_out >= 0:
        generator = host_generator(jax.random.fold_in(streams(column.seed).data, column.left_out))
        gone = np.asarray(train.domains) == column.left_out
        kept = np.flatnonzero(~gone)
        rows = np.where(gone, generator.choice(kept, gone.size), np.arange(gone.size))
        train = jax.tree.map(lambda leaf: leaf[rows], train)
        # Equally many images whichever domain is left out, so that columns can be stacked.
        members = np.flatnonzero(np.asarray(choice.domains) == column.left_out)
        rows = np.resize(members, choice.labels.size)
        choice = jax.tree.map(lambda leaf: leaf[rows], choice)
    return Parts(
        train=train,
        choice=choice,
        oracle=jax.tree.map(lambda leaf: leaf[:half], test),
        test=jax.tree.map(lambda leaf: leaf[half : 2 * half], test),
    )


def _examples(colored: ColoredDigits, pool: int) -> Examples:
    return Examples(pooled(colored.images, pool), colored.labels, colored.domains)


def trials(settings: Settings, method: Method) -> list[dict[str, float]]:
    """The settings tried for a method; all methods get the same learning rates.

    Args:
        settings: the experiment's.
        method: whose ranges.
    """
    spans = {"learning_rate": settings.learning_rates, **method.ranges}
    return latin_hypercube(spans, settings.trials)


def _run_method(
    name: str,
    method: Method,
    parts: Parts,
    columns: Sequence[Column],
    settings: Settings,
    bar: Bar,
) -> Iterator[Record]:
    begun = time.perf_counter()
    sizes = Sizes(
        image=parts.train.images.shape[2:],
        widths=settings.widths,
        s_dim=settings.s_dim,
        v_dim=settings.v_dim,
        num_domains=len(settings.correlations),
        num_classes=2,
    )
    model = method.build(sizes)
    tried = trials(settings, method)
    cases = [(trial, c) for trial in tried for c in range(len(columns))]
    found = _train(model, method, sizes, parts.train, cases, columns, settings, bar)
    figures = _measure(model, method, found.state, parts)
    right = found.diverged_at < 0
    figures = {key: np.where(right, value, math.nan) for key, value in figures.items()}
    wall_time = time.perf_counter() - begun
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
            setting = {"label_noise": settings.label_noise, **trial}
            records.append(
                Record(
                    method=name,
                    setting=setting | ({"search_steps": 0} if method.searches else {}),
                    seed=seed,
                    metrics=_uncertainty(model, method, found.state, full, cases, parts) | metrics,
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
        yield from _search(model, found.state, record, of_seed, cases, parts, settings)
        bar.advance(1 / len(chosen), note="latent search")


def _train(
    model: Any,
    method: Method,
    sizes: Sizes,
    train: Examples,
    cases: Sequence[tuple[dict[str, float], int]],
    columns: Sequence[Column],
    settings: Settings,
    bar: Bar,
) -> Any:
    """Trains all cases of a method at once."""
    steps = num_steps(train, batch_size=settings.batch_size, epochs=settings.epochs)
    ramp = warm_up(steps)

    def loss(params: optax.Params, setup: Setup, batch: Examples, key: jax.Array) -> Any:
        objective = method.loss(model, setup.hyper, cast("Any", ramp), sizes)
        value, (inner, _) = objective(params, setup.inner, of_column(batch, setup.column), key)
        return value, (setup._replace(step=setup.step + 1, inner=inner), {})

    def setup(hyper: Hyper, column: jax.Array) -> Setup:
        return Setup(column, hyper, jnp.zeros([], jnp.int32), method.state(sizes))

    first, runs = of_column(train, 0), len(cases)
    hyper = {name: jnp.asarray([trial[name] for trial, _ in cases]) for name in cases[0][0]}
    return domain_training.fit(
        model,
        loss,
        train,
        inputs=(first.images[:1], *((first.domains[:1],) if method.takes_domains else ())),
        seeds=[columns[c].seed for _, c in cases],
        setups=jax.vmap(setup)(hyper, jnp.asarray([c for _, c in cases])),
        learning_rates=hyper["learning_rate"],
        weight_decays=hyper.get("weight_decay", jnp.zeros(runs)),
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        bar=bar,
    )


def _measure(model: Any, method: Method, state: Any, parts: Parts) -> dict[str, np.ndarray]:
    """Accuracy of every run on every part but the training one."""

    def figures(state: Any, batch: Any) -> dict[str, jax.Array]:
        own = of_column(batch, state.model_state.column)
        found = method.probabilities(model, {"params": state.params}, own.images)
        return {"accuracy": (found.argmax(-1) == own.labels).astype(jnp.float32)}

    return {
        name: evaluator(figures, getattr(parts, name), many_runs=True)(state)["accuracy"]
        for name in ("choice", "oracle", "test")
    }


def _uncertainty(
    model: Any,
    method: Method,
    state: Any,
    index: int,
    cases: Sequence[tuple[dict[str, float], int]],
    parts: Parts,
) -> dict[str, float]:
    """Calibration on test images, and whether low confidence tells them from training ones."""
    variables = {"params": jax.tree.map(lambda w: w[index], state.params)}
    answer = jax.jit(lambda v, images: method.probabilities(model, v, images))
    found = {}
    for name in ("choice", "test"):
        own = of_column(getattr(parts, name), cases[index][1])
        found[name] = np.asarray(answer(variables, own.images)), np.asarray(own.labels)
    if not all(np.isfinite(probabilities).all() for probabilities, _ in found.values()):
        return {"test_calibration_error": math.nan, "confidence_auroc": math.nan}
    doubt = [1 - found[name][0].max(-1) for name in ("choice", "test")]
    return {
        "test_calibration_error": expected_calibration_error(*found["test"]),
        "confidence_auroc": detection_auroc(*doubt),
    }


def _search(
    model: Any,
    state: Any,
    record: Record,
    of_seed: Sequence[int],
    cases: Sequence[tuple[dict[str, float], int]],
    parts: Parts,
    settings: Settings,
) -> Iterator[Record]:
    """The same trial with its latents searched further, for every number of steps."""
    search = Search(optimiser=_optimiser(settings.search_rate), draws=1, chunk_size=250)
    begun = time.perf_counter()

    def predictions(index: int, part: Examples) -> tuple[list[Any], np.ndarray]:
        own = of_column(part, cases[index][1])
        variables = {"params": jax.tree.map(lambda w: w[index], state.params)}
        key = streams(record.seed).noise
        steps = settings.search_steps
        every = infer_along(model, variables, own.images, key, steps=steps, search=search)
        return [predict_from(model, variables, each) for each in every], np.asarray(own.labels)

    full, *without = of_seed
    of_part = {
        name: predictions(full, getattr(parts, name)) for name in ("choice", "oracle", "test")
    }
    folds = [predictions(index, parts.choice) for index in without]
    for i, steps in enumerate(settings.search_steps):
        accuracy = {name: _accuracy(found[i], y) for name, (found, y) in of_part.items()}
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


_OPTIMISERS: dict[float, optax.GradientTransformation] = {}


def _optimiser(learning_rate: float) -> optax.GradientTransformation:
    """One object a rate, so that searches share a compilation."""
    return _OPTIMISERS.setdefault(learning_rate, optax.adam(learning_rate))

"""SGD and Adam, on weights and in path space, from two starts: which runs can be made at once.

What is compared where no image is in sight, on a network whose group is a graph: each rule on
weights and in path space, both from the usual initialisation, where path space is the default one,
and from the papers', skeleton weights at 1, where it is that of directed paths. The runs of a
method differ in arrays alone, so all its seeds and learning rates are one vmapped program.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness.registry import Context
from benchmarks.harness.reports import joined
from benchmarks.path_space.methods import Grid, Method, Problem, named, transformation
from benchmarks.path_space.rates import Score, rate_figure, rate_tables, training_figure
from common.progress import Bar
from common.results.records import Record
from common.seeds import streams
from gsgd_jax import Gauge, choose_skeleton, find_gauge, skeleton_init

METHODS = (
    Method("SGD", "sgd"),
    Method("G-SGD", "sgd", on="path space"),
    Method("SGD, skeleton init", "sgd", reset=True),
    Method("G-SGD, skeleton init", "sgd", on="path space", reset=True),
    Method("Adam", "adam"),
    Method("G-Adam", "adam", on="path space"),
    Method("Adam, skeleton init", "adam", reset=True),
    Method("G-Adam, skeleton init", "adam", on="path space", reset=True),
)

PAIRS = tuple(
    (f"G-{rule}{start}", f"{rule}{start}")
    for rule in ("SGD", "Adam")
    for start in ("", ", skeleton init")
)
"""The same rule from the same weights, in path space and on weights."""
_RULES = {method.name: "SGD" if method.rule == "sgd" else "Adam" for method in METHODS}
LINES = {
    method.name: method.line._replace(panel=method.line.panel.partition(", ")[2])
    for method in METHODS
}
"""Where each method is drawn: a row of panels for a rule, a column for a start."""


def family(record: Record) -> str:
    """Which rule a record's method is made from, "SGD" or "Adam"."""
    return _RULES[record.method]


def traced_problem(module: nn.Module, example: jax.Array, params: Any) -> Problem:
    """A network without running averages, its group found by tracing; values are not looked at.

    Raises:
        ValueError: if the group has no exact part that is a graph.
    """
    found = find_gauge(lambda p, x: module.apply({"params": p}, x), params, example)
    gauge = found if isinstance(found, Gauge) else found.gauge
    if gauge is None:
        raise ValueError(
            f"a skeleton needs a group that is a graph, and that of {module} is none; take a "
            "network without gated products and without scales behind norms that attention reads."
        )
    # The diagonal looks at no value.
    published = choose_skeleton(
        gauge, jax.tree.map(lambda w: np.ones(w.shape, w.dtype), params), basis="paths"
    )
    return Problem(module, {}, example, gauge, published, normalised=False)


class Job(NamedTuple):
    """Runs of one method that share a program."""

    method: Method
    make: Callable[[Any], optax.GradientTransformation]
    """From a learning rate, or a schedule of it, to what steps."""
    seeds: tuple[int, ...]
    """One a run."""
    rates: np.ndarray
    """float32, [runs]."""
    params: Any
    """First weights, each leaf [runs, ...], on the host."""


def stage_name(job: Job) -> str:
    """What a job is called among the stages of a run."""
    seeds = sorted(set(job.seeds))
    return f"{job.method.name}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def jobs(
    methods: Sequence[Method],
    rates: Callable[[Method], Sequence[float]],
    given: Problem,
    usual: Mapping[int, Any],
) -> Iterator[Job]:
    """All runs of some methods, seed by seed and rate by rate: one program a method.

    `usual` are every seed's first weights, before any reset.
    """
    reset = jax.jit(lambda params: skeleton_init(params, given.published))
    for method in methods:
        starts = usual
        if method.reset:
            starts = {seed: reset(params) for seed, params in usual.items()}
        runs = [(seed, rate) for seed in usual for rate in rates(method)]
        yield Job(
            method,
            transformation(method, given),
            tuple(seed for seed, _ in runs),
            np.asarray([rate for _, rate in runs], np.float32),
            jax.tree.map(lambda *leaves: np.stack(leaves), *(starts[s] for s, _ in runs)),
        )


Curves = tuple[dict[str, list[float]], Mapping[str, np.ndarray]]
"""The abscissa of all runs by its name, and columns [points, runs] by theirs."""


def run_all(
    settings: Grid, context: Context, module: nn.Module, example: jax.Array,
    train: Callable[[Job, Bar], Curves], *,
    also: Callable[[Mapping[str, list[float]]], dict[str, float]] = lambda curve: {}, work: int = 1,
) -> Iterator[Record]:  # fmt: skip
    """Yields a record for each method, learning rate and seed.

    The network's group is found in float32, on the example. `train` trains the runs of a job and
    advances the bar by `work`; `also` makes metrics of a run's curve, beside the last entry of each
    of its columns.
    """
    methods = named(settings.methods, METHODS)
    init = jax.jit(lambda key: module.init(key, example)["params"])
    usual = {seed: init(streams(seed).init) for seed in context.seeds}
    given = traced_problem(module.clone(dtype=jnp.float32), example, usual[context.seeds[0]])
    todo = list(jobs(methods, settings.rates, given, usual))
    with context.progress.task("SGD, Adam, path space", total=len(todo) * work) as bar:
        for job in todo:
            of_job = functools.partial(_records, job, train, also, bar)
            yield from context.stages.of(stage_name(job), of_job)


def _records(job: Job, train: Any, also: Any, bar: Bar) -> Iterator[Record]:
    """One record a run."""
    begun = time.perf_counter()
    abscissa, columns = train(job, bar)
    seconds = time.perf_counter() - begun
    for i, (seed, rate) in enumerate(zip(job.seeds, job.rates, strict=True)):
        curve = {name: column[:, i].tolist() for name, column in columns.items()}
        yield Record(
            method=job.method.name, setting={"learning_rate": float(f"{rate:.6g}")}, seed=seed,
            metrics={name: column[-1] for name, column in curve.items()} | also(curve),
            curve=abscissa | curve, wall_time=seconds,
        )  # fmt: skip


class Reports(NamedTuple):
    """What the experiments on these methods show."""

    scores: tuple[Score, ...]
    """A table each; the first is drawn against the step size."""
    label: str
    """Of that score in its figure."""
    file: str
    """Of the figure of training."""
    curve: tuple[str, str]
    """Its abscissa and its ordinate."""
    labels: tuple[str, str]

    @property
    def captions(self) -> dict[str, str]:
        """What to see in each figure."""
        return {
            "learning_rates.png": f"{self.label.capitalize()}, against the step size: mean and one "
            "standard deviation over seeds. The step chosen on validation data is ringed; a cross "
            "marks steps at which a run diverged.",
            self.file: f"{self.labels[1].capitalize()}, during training at the chosen steps (on "
            "weights / in path space).",
        }

    def tables(self, records: Sequence[Record]) -> str:
        """Scores at the chosen step sizes, and what path space adds to them."""
        return joined(*(rate_tables(records, PAIRS, score) for score in self.scores))

    def plots(self, records: Sequence[Record], out: Path) -> list[Path]:
        """A score against step size, and training curves at the chosen step sizes."""
        first = self.scores[0]
        rates = rate_figure(
            records, out / "learning_rates.png", LINES, first, row=family, label=self.label
        )
        training = training_figure(
            records, out / self.file, LINES, first, row=family, curve=self.curve,
            labels=self.labels,
        )  # fmt: skip
        return [rates, training]

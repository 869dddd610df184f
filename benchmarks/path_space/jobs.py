"""SGD and Adam, on weights and in path space, from two starts: which runs can be made at once.

What is compared where no image is in sight, on a network whose group is a graph: each rule on
weights and in path space, both from the usual initialisation, where path space is that of the
cycles that close with the tree of the largest balanced weights, and from the papers', skeleton
weights at 1, where it is that of directed paths. Runs that share a skeleton differ in arrays alone,
so all their seeds and learning rates are one vmapped program.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness.registry import Context
from benchmarks.path_space.methods import Method, Problem, transformation
from common.progress import Bar
from common.records import Record
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """What an experiment on all of these methods tries, whatever its task."""

    methods: tuple[str, ...] = tuple(method.name for method in METHODS)
    learning_rates: tuple[float, ...] = ()
    """Of the methods made from SGD."""
    adaptive_rates: tuple[float, ...] = ()
    """Of those made from Adam."""
    bfloat16: bool = False
    """Whether networks compute in bfloat16; parameters stay float32."""

    def rates(self, method: Method) -> tuple[float, ...]:
        """The learning rates of a method."""
        return self.learning_rates if method.rule == "sgd" else self.adaptive_rates


def named(names: Sequence[str]) -> list[Method]:
    """Methods by name, in the order given.

    Raises:
        ValueError: if there is none of that name.
    """
    known = {method.name: method for method in METHODS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"methods are {'; '.join(known)}. Got {'; '.join(unknown)}.")
    return [known[name] for name in names]


def traced_problem(module: nn.Module, example: jax.Array, params: Any) -> Problem:
    """A network without running averages, its group found by tracing.

    Args:
        module: takes the example and returns what training differentiates.
        example: an input, [1, ...].
        params: its parameters; only their shapes are looked at.

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
    published = choose_skeleton(gauge, jax.tree.map(lambda w: np.ones(w.shape, w.dtype), params))
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
    """All runs of some methods, seed by seed and rate by rate, as few programs as there can be.

    Args:
        methods: what is compared.
        rates: the learning rates of a method.
        given: the network.
        usual: every seed's first weights, before any reset.
    """
    reset = jax.jit(lambda params: skeleton_init(params, given.published))
    for method in methods:
        # The largest weights differ from seed to seed, and with them the skeleton.
        together = [[seed] for seed in usual] if method.follows_seed else [list(usual)]
        for seeds in together:
            make = transformation(method, given, usual[seeds[0]])
            starts = {seed: usual[seed] for seed in seeds}
            if method.reset:
                starts = {seed: reset(params) for seed, params in starts.items()}
            runs = [(seed, rate) for seed in seeds for rate in rates(method)]
            yield Job(
                method,
                make,
                tuple(seed for seed, _ in runs),
                np.asarray([rate for _, rate in runs], np.float32),
                jax.tree.map(lambda *leaves: np.stack(leaves), *(starts[s] for s, _ in runs)),
            )


Curves = tuple[dict[str, list[float]], Mapping[str, np.ndarray]]
"""The abscissa of all runs by its name, and columns [points, runs] by theirs."""


def run_all(
    settings: Grid,
    context: Context,
    module: nn.Module,
    example: jax.Array,
    train: Callable[[Job, Bar], Curves],
    *,
    also: Callable[[Mapping[str, list[float]]], dict[str, float]] = lambda curve: {},
    work: int = 1,
) -> Iterator[Record]:
    """Yields a record for each method, learning rate and seed.

    Args:
        settings: which methods and rates.
        context: seeds, progress, stages.
        module: the network; its group is found in float32.
        example: an input, [1, ...].
        train: trains the runs of a job, and advances the bar by `work`.
        also: metrics made of a run's curve, beside the last entry of each of its columns.
        work: of one job.
    """
    methods = named(settings.methods)
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
            method=job.method.name,
            setting={"learning_rate": float(f"{rate:.6g}")},
            seed=seed,
            metrics={name: column[-1] for name, column in curve.items()} | also(curve),
            curve=abscissa | curve,
            wall_time=seconds,
        )

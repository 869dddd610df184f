"""SGD and Adam, on weights and in path space, from two starts: which runs can be made at once.

What is compared where no image is in sight, on a network whose group is a graph: each rule on
weights and in path space, both from the usual initialisation, where path space is that of the
cycles that close with the tree of the largest balanced weights, and from the papers', skeleton
weights at 1, where it is that of directed paths. Runs that share a skeleton differ in arrays alone,
so all their seeds and learning rates are one vmapped program.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

from benchmarks.path_space.methods import Method, Problem, transformation
from common.results.records import Record
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


_ADAPTIVE = {method.name for method in METHODS if method.rule != "sgd"}


def family(record: Record) -> str:
    """Which rule a record's method is made from, "SGD" or "Adam": a panel of its figures.

    Args:
        record: of one of `METHODS`.
    """
    return "Adam" if record.method in _ADAPTIVE else "SGD"


def named(names: Sequence[str]) -> list[Method]:
    """Methods by name, in the order given.

    Args:
        names: of `METHODS`.

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
    """What a job is called among the stages of a run.

    Args:
        job: one of `jobs`.
    """
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

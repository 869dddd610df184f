"""What a training step in path space costs, against the same step on weights.

A whole step (gradient, transformation, update) by `in_path_space(optax.sgd(...), gauge)` divided by
one by `optax.sgd`, on the same network and batch, in one process: scanned for the perceptron,
driven from Python for convolutions on CPU, where XLA runs their gradients many times slower inside
a loop. Ways are timed in turns; a ratio is the median over repetitions. Beside it: how much longer
the step takes to compile, the median of three, and where (in tracing, in lowering, or in XLA), how
much more memory it needs, and how long `find_gauge` and `init`, which balances the start, take
once.

XLA compiles every distinct loop once. A step on weights has one loop for each shape of leaf; in
path space that loop also multiplies by the factors of the leaf's rows and columns.

`find_gauge` from shapes alone, nothing computed, stands beside `jax.make_jaxpr` of the same
function: ResNet-50 on ImageNet's images and a GPT of 124M parameters, CPU seconds of the first and
the second call, and the memory that Python holds at most.

The residual and plain networks have BatchNorm, as published; path space is then that of the exact
part of their group.

Published: 46.6 s an epoch by G-SGD, 36.0 s by SGD, a ratio of 1.29 (logs beside
https://github.com/MSRA-COLT/gsgd; perceptron, one GPU). Targets: 1.05 for every network and batch,
compilation within 1.5 times, at most one extra copy of the parameters, `find_gauge` on ResNet-50
within ten seconds; from shapes alone within 2 CPU seconds and 200 MB.

Cost: smoke one minute, day 5 minutes on two cores; full is sized for one
accelerator and was not run.
Command: python -m benchmarks gsgd_speed --preset day --seeds 1
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness.figures import dots_figure
from benchmarks.harness.registry import Context
from benchmarks.harness.reports import by_method, by_setting, joined, reached, turns, values, where
from benchmarks.harness.timing import descent, memory_in_copies, ratio, take_turns
from benchmarks.path_space.timed import shapes
from benchmarks.path_space.timed.networks import (
    PERCEPTRON,
    PLAIN,
    RESIDUAL,
    TRACED,
    Workload,
    build,
    logits_of,
    network_of,
)
from common.results.records import Record
from common.results.tables import group, markdown
from common.seeds import streams
from gsgd_jax import Gauge, find_gauge, gsgd

SGD, GSGD, FIND, INIT = "SGD", "G-SGD", "find_gauge", "init"
TARGET = 1.05
COMPILE_TARGET, COPIES_TARGET, FIND_TARGET = 1.5, 1.0, 10.0
STAGES = ("trace", "lower", "XLA")
"""Of compilation, in order."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the experiment depends on."""

    networks: tuple[str, ...] = (PERCEPTRON, PLAIN, RESIDUAL)
    batch_sizes: tuple[tuple[int, ...], tuple[int, ...]] = ((32, 128), (32, 128))
    """For the perceptron, for the others."""
    width: float = 1.0
    """Factor on all widths."""
    steps: tuple[int, int] = (100, 1)
    """Steps timed at once: for the perceptron, for the others."""
    repetitions: tuple[int, int] = (7, 7)
    """For the perceptron, for the others."""
    compilations: int = 3
    """Times that every way is compiled."""
    traces: int = 3
    """Times that `find_gauge` is timed alone."""
    from_shapes: tuple[str, ...] = (shapes.RESIDUAL, shapes.LANGUAGE)
    """Networks of which the group is found from shapes."""


PRESETS = {
    "smoke": Settings(networks=(PERCEPTRON,), batch_sizes=((128,), ()), steps=(20, 1)),
    "cpu": Settings(batch_sizes=((128,), (32,)), width=0.5, repetitions=(7, 3), compilations=1),
    "day": Settings(repetitions=(25, 3)),
    "full": Settings(steps=(2000, 100), repetitions=(11, 11)),
}  # fmt: skip


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields, for each network and seed, what is done once, and both ways at each batch size."""
    for seed in context.seeds:
        for network in settings.networks:
            batch_sizes = settings.batch_sizes[network != PERCEPTRON]
            total = len(batch_sizes) * 2 * (1 + settings.repetitions[network != PERCEPTRON])
            with context.progress.task(f"{network}, seed {seed}", total=total) as bar:
                for batch_size in batch_sizes:
                    yield from context.stages.of(
                        f"{network}, batch {batch_size}, seed {seed}",
                        functools.partial(
                            _compare, network, batch_size, settings, seed, bar.advance
                        ),
                    )
        yield from context.stages.of(
            f"traces, seed {seed}", functools.partial(_traced, settings, seed)
        )
        yield from context.stages.of(
            f"shapes, seed {seed}", functools.partial(_from_shapes, settings, seed)
        )


def _exact_gauge(logits: Callable[..., Any], params: Any, images: Any) -> Gauge:
    """The rescalings that leave the network exactly alone."""
    found = find_gauge(logits, params, images)
    gauge = found if isinstance(found, Gauge) else found.gauge
    assert gauge is not None, "the units of these networks can each be rescaled by themselves"
    return gauge


def _compare(
    network: str, batch_size: int, settings: Settings, seed: int, advance: Callable[[], None],
) -> Iterator[Record]:  # fmt: skip
    steps = settings.steps[network != PERCEPTRON]
    workload = build(network, batch_size, width=settings.width, steps=steps, seed=seed)
    begun = time.perf_counter()
    gauge = _exact_gauge(workload.logits, workload.params, workload.images[0, :2])
    traced = time.perf_counter()
    jax.block_until_ready(gsgd(0.01, gauge).init(workload.params))
    balanced = time.perf_counter()
    for method, seconds in ((FIND, traced - begun), (INIT, balanced - traced)):
        yield Record(
            method=method, setting={"network": network, "batch_size": batch_size}, seed=seed,
            metrics={"seconds": seconds}, wall_time=seconds,
        )  # fmt: skip
    rules = (optax.sgd(0.01), gsgd(0.01, gauge))
    # Compiled in turns too, since a pause of the interpreter's may fall into any one of them.
    compiled = [[_compiled(workload, tx) for tx in rules] for _ in range(settings.compilations)]
    ways = [
        _way(workload, tx, own) for tx, own in zip(rules, zip(*compiled, strict=True), strict=True)
    ]
    repetitions = settings.repetitions[network != PERCEPTRON]
    every = take_turns([way.work for way in ways], repetitions, advance)
    for method, way, spent in zip((SGD, GSGD), ways, every, strict=True):
        yield Record(
            method=method,
            setting={"network": network, "batch_size": batch_size},
            seed=seed,
            metrics={
                "ratio": ratio(spent, every[0]),
                "step_seconds": float(np.median(spent)) / steps,
                "compile_seconds": sum(way.compile_seconds),
                "compile_ratio": sum(way.compile_seconds) / sum(ways[0].compile_seconds),
                **{
                    f"{stage}_seconds": seconds
                    for stage, seconds in zip(STAGES, way.compile_seconds, strict=True)
                },
                "extra_copies": way.copies - ways[0].copies,
            },
            curve={"repetition": list(range(len(spent))), "seconds": spent},
            wall_time=float(sum(spent)),
        )


class Way(NamedTuple):
    """One way to take the same steps."""

    work: Callable[[], Any]
    compile_seconds: list[float]
    """Of every stage, the median over compilations."""
    copies: float
    """Peak memory beside the batches, in copies of the parameters."""


class _Compiled(NamedTuple):
    """A step, or a scan of steps, and how long it took to compile."""

    program: Any
    seconds: list[float]  # of every stage


def _rows(workload: Workload) -> list[Any]:
    """The batches as a run from Python is given them, one after the other, or all at once."""
    batches = (workload.images, workload.labels)
    if not workload.driven:
        return [batches]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], batches) for i in range(len(workload.labels))]


def _compiled(workload: Workload, tx: optax.GradientTransformation) -> _Compiled:
    def loss(params: Any, batch: Any) -> jax.Array:
        images, labels = batch
        logits = workload.logits(params, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    step = descent(jax.grad(loss), tx)

    def scanned(carry: Any, batches: Any) -> Any:
        return jax.lax.scan(step, carry, batches)[0]

    def single(carry: Any, batch: Any) -> Any:
        return step(carry, batch)[0]

    held = (workload.params, tx.init(workload.params))
    jitted = jax.jit(single if workload.driven else scanned, donate_argnums=0)
    instants = [time.perf_counter()]
    traced = jitted.trace(held, _rows(workload)[0])
    instants.append(time.perf_counter())
    lowered = traced.lower()
    instants.append(time.perf_counter())
    program = lowered.compile()
    instants.append(time.perf_counter())
    return _Compiled(program, np.diff(instants).tolist())


def _way(
    workload: Workload, tx: optax.GradientTransformation, compiled: Sequence[_Compiled]
) -> Way:
    program, rows = compiled[-1].program, _rows(workload)
    # The state is donated and handed back, as in a run that goes on.
    held = [jax.tree.map(jnp.copy, (workload.params, tx.init(workload.params)))]

    def work() -> Any:
        for batch in rows:
            held[0] = program(held[0], batch)
        return held[0]

    spent = np.median([each.seconds for each in compiled], axis=0).tolist()
    return Way(work, spent, memory_in_copies(program, workload.params, rows[0]))


def _traced(settings: Settings, seed: int) -> Iterator[Record]:
    """`find_gauge` alone, on the deepest network."""
    module, shape, options = network_of(TRACED, settings.width)
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    # Shapes are all that is looked at: nothing has to be initialised.
    like = jax.eval_shape(module.init, streams(seed).init, images)
    variables = {
        name: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), tree)
        for name, tree in like.items()
        if name != "params"
    }
    logits, spent = logits_of(module, variables, options), []
    for _ in range(settings.traces):
        begun = time.perf_counter()
        _exact_gauge(logits, like["params"], images)
        spent.append(time.perf_counter() - begun)
    yield Record(
        method=FIND, setting={"network": TRACED, "batch_size": 2}, seed=seed,
        metrics={"seconds": float(np.median(spent))}, wall_time=sum(spent),
    )  # fmt: skip


def _from_shapes(settings: Settings, seed: int) -> Iterator[Record]:
    networks = shapes.published(settings.from_shapes, settings.width)
    return shapes.from_shapes(networks, seed)


def tables(records: Sequence[Record]) -> str:
    """The ratio of every network and batch size, with its verdict; then what is done once."""
    header = [
        "network", "batch", "ms a step, SGD", "G-SGD", "ratio", "target",
        f"compilation, ratio (target {COMPILE_TARGET:g})",
        f"memory, extra copies (target {COPIES_TARGET:g})",
    ]  # fmt: skip
    rows = []
    for (network, batch), runs in group(where(records, GSGD), _place).items():
        base = where(records, SGD, network=network, batch_size=batch)
        ratio, over = _median(runs, "ratio"), turns(runs[0], base) if len(runs) == 1 else None
        rows.append(
            [
                network,
                f"{batch}",
                *(f"{1000 * _median(side, 'step_seconds'):,.1f}" for side in (base, runs)),
                f"{ratio:.3f}",
                f"{TARGET:.2f}: {reached(ratio, TARGET, over, at_most=True)}",
                _verdict(_median(runs, "compile_ratio"), COMPILE_TARGET),
                _verdict(_median(runs, "extra_copies"), COPIES_TARGET),
            ]
        )
    # Beside finding the group: `init`, and `choose_skeleton` in records of directed paths.
    timed = [record for record in records if not shapes.is_from_shapes(record)]
    begun = [method for method in by_method(timed) if method not in (SGD, GSGD)]
    once = []
    for network, runs in by_setting(timed, "network").items():
        seconds = [_median(where(runs, method), "seconds") for method in begun]
        target = f"{FIND_TARGET:g} s" if network == TRACED else "-"
        once.append([network, *("-" if np.isnan(s) else f"{s:.2f}" for s in seconds), target])
    return joined(
        markdown(header, rows),
        _compilation(records),
        "Once, before training:",
        markdown(["seconds", *begun, f"target of {FIND}"], once),
        shapes.table(records),
    )


def _compilation(records: Sequence[Record]) -> str:
    """Where compilation spends its time, and what path space adds, if the records say it."""
    by_stage = [r for r in records if f"{STAGES[0]}_seconds" in r.metrics]
    rows, added = [], np.zeros(len(STAGES))
    for (network, batch), runs in group(by_stage, _place).items():
        weights, paths = (
            np.array([_median(where(runs, method), f"{stage}_seconds") for stage in STAGES])
            for method in (SGD, GSGD)
        )
        added += paths - weights
        cells = [f"{one:.2f} -> {other:.2f}" for one, other in zip(weights, paths, strict=True)]
        rows.append([network, f"{batch}", *cells])
    if not rows:
        return ""
    shares = [f"{share:.0%} {s}" for s, share in zip(STAGES, added / added.sum(), strict=True)]
    table = markdown(["network", "batch", *(f"{stage}, s" for stage in STAGES)], rows)
    return f"Compilation, {SGD} -> {GSGD}; of the seconds added {', '.join(shares)}:\n\n{table}"


def _place(record: Record) -> tuple[str, int]:
    return str(record.setting["network"]), int(record.setting["batch_size"] or 0)


def _median(records: Sequence[Record], name: str) -> float:
    return float(np.median(values(records, name))) if records else float("nan")


def _verdict(value: float, target: float) -> str:
    return f"{value:.2f}: {reached(value, target, at_most=True)}"


CAPTIONS = {
    "ratio.png": "Time of a training step in path space over that of SGD, a dot for each network "
    "and batch size; at the line both take equally long.",
}


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """The ratios, a dot a seed."""
    rows = {
        f"{network}, batch {batch}": values(runs, "ratio")
        for (network, batch), runs in group(where(records, GSGD), _place).items()
    }
    label = "seconds a step, G-SGD / SGD"
    return [dots_figure(out / "ratio.png", {"": rows}, label=label, reference=1.0)]

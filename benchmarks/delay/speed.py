"""What simulating asynchrony costs, against plain synchronous SGD on the same network.

Gradient evaluations a second of the simulator (both engines, every number of workers), divided by
those of synchronous SGD with the same batch, network and process, as one would write it: scanned
for the perceptron, and for convolutions a compiled step driven from Python, since XLA runs their
gradients many times slower inside a loop on CPU. Ways are timed in turns; a ratio is the median
over repetitions of a way's time by the baseline's of the same repetition. Targets: 0.95 for waves
with 8 workers and more on CPU, above 1 on an accelerator; 3% for DC-ASGD over ASGD; M + 3 copies
of the parameters for the engine by slots.

Distances |w - snapshot| are not logged here; one row shows what logging them costs.

What a simulated step cannot do without, beside what a synchronous one does: the weights that a
worker pulls have to be kept, one write, and are read again only when the M - 1 others have been,
which for M copies larger than the caches is one read from memory. So the time of one copy of the
weights among M, from slot to slot, is measured in the same turns; where a target is missed, the
time lost per step is given in such copies, and the bytes that each kind of step moves are counted
from its compiled program.

Beside the simulator stand event loops as one writes them, in JAX and in PyTorch, and the simulator
in virtual time of APPFL 1.12, on one perceptron; target: 10 times their gradients a second at 16
and 64 workers. PyTorch and APPFL are no dependencies: what is not installed is left out, and named.

With Ray installed, a push to a real parameter server is timed too, against the bare calls of the
actors that it is made of, with the same bytes and without JAX; target: 1.2.

Cost: smoke 1 minute; day 8 minutes on two cores, with a thin ResNet-20; full was not run.
Command: python -m benchmarks dcasgd_speed --preset day --seeds 1
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.delay.speed_report import (
    COPYING,
    COUNTED,
    SLOTS,
    SYNCHRONOUS,
    TARGET,
    WAVES,
    ratio_of,
    tables,
)
from benchmarks.delay.timed import event_loops, programs, pushes
from benchmarks.delay.timed.event_loops import Loops
from benchmarks.delay.timed.workload import Workload, build
from benchmarks.harness.figures import doubling, small_multiples
from benchmarks.harness.registry import Context
from benchmarks.harness.reports import by_setting, where
from benchmarks.harness.timing import descent, memory_in_copies, ratio, take_turns
from common.results.plots import COLOURS
from common.results.records import Record
from dcasgd_jax import Simulator, dcasgd, round_robin, slot_simulator, wavefront_simulator

__all__ = [
    "CAPTIONS", "COPYING", "COUNTED", "PRESETS", "SLOTS", "SYNCHRONOUS", "TARGET", "WAVES",
    "Settings", "plots", "run", "tables",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the experiment depends on."""

    networks: tuple[str, ...] = ("MLP", "ResNet-20")
    width: int = 256
    """Of the perceptron's two hidden layers; inputs are 784 numbers."""
    resnet_width: float = 1.0
    """Factor on the channels of ResNet-20."""
    batch_sizes: tuple[int, ...] = (32, 128)
    workers: tuple[int, ...] = (1, 4, 8, 16, 64)
    steps: tuple[int, int] = (1024, 8)
    """Server steps timed at once: for the perceptron, for ResNet-20. Weights of all M workers are
    held, however few of them come to send a gradient."""
    repetitions: int = 7
    push_sizes: tuple[int, ...] = (26_000, 1_000_000)
    """Parameters of the pushes to a real server; where Ray is not installed there are none."""
    pushes: int = 200
    """Pushes timed, for each size."""
    loops: Loops | None = Loops()  # noqa: RUF009 (immutable)
    """Event loops to compare with; None for none."""


PRESETS = {
    "smoke": Settings(
        networks=("MLP",), width=128, batch_sizes=(32,), workers=(1, 8), steps=(256, 8),
        repetitions=5, push_sizes=(26_000,), pushes=50,
        loops=Loops(widths=(32,), workers=(16,), steps=64, appfl_steps=16),
    ),
    "cpu": Settings(
        resnet_width=0.5, batch_sizes=(32,), workers=(1, 8, 16), steps=(256, 4), repetitions=3,
        push_sizes=(26_000,), pushes=100, loops=Loops(widths=(32,), workers=(16,)),
    ),
    "day": Settings(resnet_width=0.5, steps=(512, 8), repetitions=5),
    "full": Settings(steps=(4096, 512), repetitions=11),
}  # fmt: skip


class Way(NamedTuple):
    """One way to spend the same number of gradients."""

    method: str
    setting: dict[str, Any]
    work: Callable[[], Any]
    copies: float | None
    """Peak memory in copies of the parameters, where a single program tells it."""


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each network, batch size, way and seed."""
    for seed in context.seeds:
        for network in settings.networks:
            for batch_size in settings.batch_sizes:
                yield from context.stages.of(
                    f"{network}, batch {batch_size}, seed {seed}",
                    functools.partial(_compare, network, batch_size, settings, seed, context),
                )
        if settings.loops is not None:
            looped = functools.partial(
                event_loops.measure, settings.loops, settings.repetitions, seed, context.progress
            )
            yield from context.stages.of(f"event loops, seed {seed}", looped)
        if settings.push_sizes and pushes.can_be_measured():
            pushed = functools.partial(pushes.measure, settings.push_sizes, settings.pushes, seed)
            yield from context.stages.of(f"real workers, seed {seed}", pushed)


def _compare(
    network: str, batch_size: int, settings: Settings, seed: int, context: Context
) -> Iterator[Record]:
    """All ways of one network and batch size, in turns."""
    steps = settings.steps[network != "MLP"]
    workload = build(network, (settings.width, settings.resnet_width), batch_size, steps, seed)
    ways = list(_ways(workload, settings, steps))
    title, total = f"{network}, batch {batch_size}, seed {seed}", 1 + settings.repetitions
    with context.progress.task(title, total=total * len(ways)) as bar:
        seconds = take_turns([way.work for way in ways], settings.repetitions, bar.advance)
    for way, spent in zip(ways, seconds, strict=True):
        turns = np.asarray(seconds[0]) / np.asarray(spent)
        metrics = {
            "gradients_per_second": steps / float(np.median(spent)),
            "ratio": ratio(seconds[0], spent),
            "first_quartile": float(np.quantile(turns, 0.25)),
        }
        if way.copies is not None:
            metrics["copies"] = way.copies
        yield Record(
            method=way.method,
            setting={"network": network, "batch_size": batch_size, **way.setting},
            seed=seed,
            metrics=metrics,
            curve={"repetition": list(range(len(spent))), "seconds": spent},
            wall_time=float(sum(spent)),
        )
    if not workload.driven:
        yield from _counted(network, batch_size, workload, settings, seed)


def _ways(workload: Workload, settings: Settings, steps: int) -> Iterator[Way]:
    asgd, compensated = optax.sgd(0.01), dcasgd(0.01, 0.04)
    yield Way(SYNCHRONOUS, {}, _synchronous(workload, asgd), None)
    most = max(m for m in settings.workers if m <= 16)
    for workers in settings.workers:
        if workers > 1:
            setting = {"workers": workers, "rule": "none", "log": False}
            yield Way(COPYING, setting, _copying(workload, workers, steps), None)
        ways = [(SLOTS, slot_simulator, "ASGD", False), (WAVES, wavefront_simulator, "ASGD", False)]
        if workers == most:
            ways += [(WAVES, wavefront_simulator, "DC-ASGD-c", False)]
            ways += [(WAVES, wavefront_simulator, "ASGD", True)]
        for engine, make, rule, log in ways:
            tx = asgd if rule == "ASGD" else compensated
            simulator = make(workload.gradient, tx, workers, log_distance=log)
            setting = {"workers": workers, "rule": rule, "log": log}
            yield _simulated(engine, setting, simulator, workload, workers, steps)


def _counted(
    network: str, batch_size: int, workload: Workload, settings: Settings, seed: int
) -> Iterator[Record]:
    """The bytes that single steps move, and what compiling many takes over compiling plain ones."""
    asgd, compensated = optax.sgd(0.01), dcasgd(0.01, 0.04)
    most = max(m for m in settings.workers if m <= 16)
    steps: list[tuple[str, Any, Any]] = [(SYNCHRONOUS, descent(workload.gradient, asgd), asgd)]
    for title, tx, workers, log in (
        (f"{SLOTS}, M = 1", asgd, 1, False),
        (f"{SLOTS}, M = {most}", asgd, most, False),
        (f"{SLOTS}, M = {most}, DC-ASGD-c", compensated, most, False),
        (f"{SLOTS}, M = {most}, distances logged", asgd, most, True),
    ):
        steps.append((title, slot_simulator(workload.gradient, tx, workers, log_distance=log), tx))
    plain = programs.scan_of(steps[0][1], workload, asgd)
    for title, step, tx in steps:
        one = programs.scan_of(step, workload, tx, num_steps=1)
        metrics = {"moved": programs.copies_moved(one, workload.params)}
        if title == f"{SLOTS}, M = {most}":
            metrics["compile_ratio"] = programs.compile_ratio(
                programs.scan_of(step, workload, tx), plain
            )
        yield Record(
            method=COUNTED,
            setting={"network": network, "batch_size": batch_size, "step": title},
            seed=seed,
            metrics=metrics,
            wall_time=0.0,
        )


def _synchronous(workload: Workload, tx: optax.GradientTransformation) -> Callable[[], Any]:
    step, start = descent(workload.gradient, tx), (workload.params, tx.init(workload.params))
    if not workload.driven:
        scanned = jax.jit(lambda carry, batches: jax.lax.scan(step, carry, batches)[0])
        return lambda: scanned(start, workload.batches)
    compiled = jax.jit(lambda carry, batch: step(carry, batch)[0], donate_argnums=0)

    def drive() -> Any:
        carry = jax.tree.map(jnp.copy, start)
        for i in range(len(workload.batches[0])):
            carry = compiled(carry, jax.tree.map(lambda leaf, i=i: leaf[i], workload.batches))
        return carry

    return drive


def _copying(workload: Workload, workers: int, steps: int) -> Callable[[], Any]:
    """The weights copied from one of M slots to the next, `steps` times."""

    def copy(i: jax.Array, slots: Any) -> Any:
        read, write = i % workers, (i + 1) % workers
        return jax.tree.map(lambda leaf: leaf.at[write].set(leaf[read]), slots)

    compiled = jax.jit(lambda slots: jax.lax.fori_loop(0, steps, copy, slots), donate_argnums=0)
    held = [jax.tree.map(lambda w: jnp.stack([w] * workers), workload.params)]

    def work() -> Any:
        held[0] = compiled(held[0])
        return held[0]

    return work


def _simulated(
    engine: str, setting: dict[str, Any], simulator: Simulator, workload: Workload, workers: int,
    steps: int,
) -> Way:  # fmt: skip
    schedule = round_robin(workers, steps)
    state = simulator.init(workload.params)
    # On CPU waves are driven from Python, unless they are narrow.
    waves_driven = engine == WAVES and workers > 1 and jax.default_backend() == "cpu"
    if workload.driven or waves_driven:
        return Way(engine, setting, lambda: simulator.run(state, schedule, workload.batches), None)
    # The state is donated and handed back, as in a run that goes on.
    compiled = (
        jax.jit(lambda state, batches: simulator.run(state, schedule, batches), donate_argnums=0)
        .lower(state, workload.batches)
        .compile()
    )
    held = [state]

    def work() -> Any:
        held[0], log = compiled(held[0], workload.batches)
        return held[0], log

    return Way(engine, setting, work, memory_in_copies(compiled, workload.params, workload.batches))


CAPTIONS = {
    "throughput.png": "Gradients a second of the simulator over those of synchronous SGD (the "
    "line), against the number of workers, medians of turns. The nearer to the line, or above "
    "it, the less a simulation costs."
}


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Throughput against the number of workers, a panel a network."""
    path, plain = out / "throughput.png", where(records, rule="ASGD", log=False)
    networks = by_setting(plain, "network")
    with small_multiples(
        path, [""], list(networks), labels=("workers", "of synchronous throughput"),
        title=lambda _, network: network, panel=(4.4, 3.0),
    ) as panels:  # fmt: skip
        for (_, network), axes in panels.items():
            workers = sorted(by_setting(networks[network], "workers"))
            for style, batch in enumerate(sorted(by_setting(networks[network], "batch_size"))):
                for engine, line in ((SLOTS, "--"), (WAVES, "-")):
                    ratios = [ratio_of(networks[network], batch, engine, m) for m in workers]
                    axes.plot(
                        workers, ratios, line, marker="o", color=COLOURS[style],
                        label=f"{engine}, batch {batch}",
                    )  # fmt: skip
            axes.axhline(1.0, color="black", linewidth=1)
            doubling(axes, workers)
        top = 1.05 * max(axes.get_ylim()[1] for axes in panels.values())
        for axes in panels.values():
            axes.set_ylim(0, top)  # marks at the top are whole
    return [path]

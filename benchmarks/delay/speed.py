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
time lost per step is given in such copies.

Beside the simulator stand event loops as one writes them, in JAX and in PyTorch, and the simulator
in virtual time of APPFL 1.12, on one perceptron; target: 10 times their gradients a second at 16
and 64 workers. PyTorch and APPFL are no dependencies: what is not installed is left out, and named.

With Ray installed, a push to a real parameter server is timed too, against the bare calls of the
actors that it is made of, with the same bytes and without JAX; target: 1.2.

Cost: smoke 1 minute; cpu 8 minutes on two cores, with a thin ResNet-20; full was not run.
Command: python -m benchmarks dcasgd_speed --preset cpu --seeds 1
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

from benchmarks.delay.timed import event_loops, pushes
from benchmarks.delay.timed.event_loops import Loops
from benchmarks.delay.timed.workload import Workload, build
from benchmarks.harness.figures import doubling, small_multiples
from benchmarks.harness.registry import Context
from benchmarks.harness.reports import by_setting, joined, met, numeric, values, where
from benchmarks.harness.timing import descent, memory_in_copies, ratio, take_turns
from common.results.plots import COLOURS
from common.results.records import Record
from common.results.tables import markdown
from dcasgd_jax import Simulator, dcasgd, round_robin, slot_simulator, wavefront_simulator

SYNCHRONOUS, SLOTS, WAVES, COPYING = "synchronous SGD", "slots", "wavefront", "copying"
TARGET, OVERHEAD, COPIES = 0.95, 0.03, 3
"""Ratio for waves on CPU; DC-ASGD over ASGD; copies of the parameters beside M snapshots."""


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
    "cpu": Settings(resnet_width=0.5, steps=(512, 8), repetitions=5),
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


def tables(records: Sequence[Record]) -> str:
    """Ratios of throughputs for every network, batch size, engine and number of workers."""
    real = [r for r in records if r.method in (pushes.PUSH, pushes.BARE)]
    loops = where(records, network=event_loops.NETWORK)
    sections, apart = [], real + loops
    for network, of_network in by_setting(
        [r for r in records if r not in apart], "network"
    ).items():
        plain = where(of_network, rule="ASGD", log=False)
        workers = sorted(by_setting(plain, "workers"))
        rows = []
        for batch, runs in sorted(by_setting(of_network, "batch_size").items()):
            rate = np.median(values(where(runs, SYNCHRONOUS), "gradients_per_second"))
            rows.append([f"{batch}", SYNCHRONOUS, *[f"{rate:,.0f}/s"] * len(workers)])
            for engine in (SLOTS, WAVES):
                cells = [f"{_ratio(plain, batch, engine, m):.2f}" for m in workers]
                rows.append([f"{batch}", engine, *cells])
        header = ["batch", "gradients/s", *(f"M = {m}" for m in workers)]
        sections.append(f"**{network}**, of synchronous SGD's throughput:")
        sections += [markdown(header, rows), " ".join(_verdicts(of_network, plain))]
    if loops:
        sections.append(event_loops.table(loops))
    return joined(*sections, *([pushes.table(real)] if real else []))


def _ratio(records: Sequence[Record], batch_size: int, engine: str, workers: int) -> float:
    runs = where(records, engine, batch_size=batch_size, workers=workers)
    return float(np.median(values(runs, "ratio")))


def _verdicts(records: Sequence[Record], plain: Sequence[Record]) -> Iterator[str]:
    """The targets, met or missed, and by how much."""
    on_cpu = records[0].origin.get("provenance", {}).get("device", {}).get("platform", "cpu")
    target = TARGET if on_cpu == "cpu" else 1.0
    wide = [r for r in where(plain, WAVES) if numeric(r, "workers") >= 8]
    if wide:
        places = {(r.setting["batch_size"], r.setting["workers"]) for r in wide}
        worst = min(_ratio(plain, int(b or 0), WAVES, int(m or 0)) for b, m in places)
        yield (
            f"Waves, 8 workers and more: {worst:.2f} at worst (target {target:g}: "
            f"{met(worst, target)})."
        )
        if worst < target:
            yield from _lost(records, wide)
    if costs := _slower(where(records, rule="DC-ASGD-c"), plain):
        yield (
            f"DC-ASGD over ASGD: {100 * max(costs):+.1f}% at most (target {100 * OVERHEAD:g}%: "
            f"{'met' if max(costs) < OVERHEAD else 'missed'})."
        )
    if costs := _slower(where(records, log=True), plain):
        yield f"Logging the distances: {100 * max(costs):+.1f}% at most."
    for engine in (SLOTS, WAVES):
        sized = [r for r in where(plain, engine) if "copies" in r.metrics]
        if sized:
            most = max(r.metrics["copies"] - numeric(r, "workers") for r in sized)
            verdict = f" (target {COPIES}: {met(most, COPIES + 0.05, at_most=True)})"
            yield (
                f"Memory, {engine}: M + {most:.2f} copies of the parameters at most"
                f"{verdict if engine == SLOTS else ''}."
            )


def _slower(records: Sequence[Record], plain: Sequence[Record]) -> list[float]:
    """By what share each run is slower than the plain one that differs from it in nothing else."""
    return [
        base.metrics["ratio"] / run.metrics["ratio"] - 1
        for run in records
        for base in where(
            plain, run.method, **{k: run.setting[k] for k in ("batch_size", "workers")}
        )
        if base.seed == run.seed
    ]


def _lost(records: Sequence[Record], wide: Sequence[Record]) -> Iterator[str]:
    """The time that the slowest waves lose a step, in copies of the weights among as many slots."""
    worst = min(wide, key=lambda r: r.metrics["ratio"])
    workers, batch = worst.setting["workers"], worst.setting["batch_size"]
    same = [r for r in where(records, batch_size=batch) if r.seed == worst.seed]
    copies = where(same, COPYING, workers=workers)
    if not copies:
        return  # of records from before copies were timed
    (plain,) = where(same, SYNCHRONOUS)
    step = 1 / plain.metrics["gradients_per_second"]
    lost = step / worst.metrics["ratio"] - step
    copy = step / copies[0].metrics["ratio"]
    yield (
        f"There, at M = {workers} and batch {batch}, a step takes {1e6 * lost:.0f} µs more "
        f"than a synchronous one's {1e6 * step:.0f}: {lost / copy:.1f} copies of the weights among "
        f"{workers} slots, {1e6 * copy:.0f} µs each, of which a simulated step needs one."
    )


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
                    ratios = [_ratio(networks[network], batch, engine, m) for m in workers]
                    axes.plot(
                        workers, ratios, line, marker="o", color=COLOURS[style],
                        label=f"{engine}, batch {batch}",
                    )  # fmt: skip
            axes.axhline(1.0, color="black", linewidth=1)
            doubling(axes, workers)
            axes.set_ylim(0, None)
    return [path]

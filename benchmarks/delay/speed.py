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
time lost a step is told in such copies.

Cost: smoke 1 minute; cpu 7 minutes on two cores, with a thin ResNet-20; full was not run.
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

from benchmarks.harness.registry import Context
from benchmarks.harness.timing import memory_in_copies, ratio, take_turns
from common.networks import MLP, resnet
from common.results.plots import figure
from common.results.records import Record
from common.results.tables import group, markdown
from common.seeds import streams
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


PRESETS = {
    "smoke": Settings(
        networks=("MLP",),
        width=128,
        batch_sizes=(32,),
        workers=(1, 8),
        steps=(256, 8),
        repetitions=5,
    ),
    "cpu": Settings(resnet_width=0.5, steps=(512, 8), repetitions=5),
    "full": Settings(steps=(4096, 512), repetitions=11),
}


class Problem(NamedTuple):
    """A network with its loss, and batches to time it on."""

    gradient: Callable[[Any, Any], Any]
    params: Any
    batches: Any
    driven: bool
    """Whether the baseline is driven from Python."""


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


def _compare(
    network: str, batch_size: int, settings: Settings, seed: int, context: Context
) -> Iterator[Record]:
    """All ways of one network and batch size, in turns."""
    steps = settings.steps[network != "MLP"]
    problem = build(settings, network, batch_size, steps, seed)
    ways = list(_ways(problem, settings, steps))
    title, total = f"{network}, batch {batch_size}, seed {seed}", 1 + settings.repetitions
    with context.progress.task(title, total=total * len(ways)) as bar:
        seconds = take_turns([way.work for way in ways], settings.repetitions, bar.advance)
    for way, own in zip(ways, seconds, strict=True):
        turns = np.asarray(seconds[0]) / np.asarray(own)
        metrics = {
            "gradients_per_second": steps / float(np.median(own)),
            "ratio": ratio(seconds[0], own),
            "first_quartile": float(np.quantile(turns, 0.25)),
        }
        if way.copies is not None:
            metrics["copies"] = way.copies
        yield Record(
            method=way.method,
            setting={"network": network, "batch_size": batch_size, **way.setting},
            seed=seed,
            metrics=metrics,
            curve={"repetition": list(range(len(own))), "seconds": own},
            wall_time=float(sum(own)),
        )


def build(settings: Settings, network: str, batch_size: int, steps: int, seed: int) -> Problem:
    """The network, its first weights, and random batches.

    Args:
        settings: the experiment's.
        network: its name.
        batch_size: images a batch.
        steps: how many batches.
        seed: of weights and images; what is in them does not matter for speed.
    """
    keys = streams(seed)
    convolves = network != "MLP"
    shape = (32, 32, 3) if convolves else (784,)
    module: Any = (
        resnet(20, 10, width=settings.resnet_width, norm="group")
        if convolves
        else MLP((settings.width, settings.width, 10))
    )
    images = jax.random.normal(keys.data, (steps, batch_size, *shape))
    labels = jax.random.randint(keys.order, (steps, batch_size), 0, 10)
    options = {"train": False} if convolves else {}
    params = jax.jit(lambda k, x: module.init(k, x, **options))(keys.init, images[0])["params"]

    def loss(params: Any, batch: Any) -> jax.Array:
        inputs, targets = batch
        logits = module.apply({"params": params}, inputs, **options)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    driven = convolves and jax.default_backend() == "cpu"
    return Problem(jax.grad(loss), params, (images, labels), driven)


def _ways(problem: Problem, settings: Settings, steps: int) -> Iterator[Way]:
    asgd, compensated = optax.sgd(0.01), dcasgd(0.01, 0.04)
    yield Way(SYNCHRONOUS, {}, _synchronous(problem, asgd), None)
    most = max(m for m in settings.workers if m <= 16)
    for workers in settings.workers:
        if workers > 1:
            setting = {"workers": workers, "rule": "none", "log": False}
            yield Way(COPYING, setting, _copying(problem, workers, steps), None)
        for engine, make in ((SLOTS, slot_simulator), (WAVES, wavefront_simulator)):
            setting = {"workers": workers, "rule": "ASGD", "log": False}
            simulator = make(problem.gradient, asgd, workers, log_distance=False)
            yield _simulated(engine, setting, simulator, problem, workers, steps)
        if workers == most:
            setting = {"workers": workers, "rule": "DC-ASGD-c", "log": False}
            simulator = wavefront_simulator(
                problem.gradient, compensated, workers, log_distance=False
            )
            yield _simulated(WAVES, setting, simulator, problem, workers, steps)
            setting = {"workers": workers, "rule": "ASGD", "log": True}
            simulator = wavefront_simulator(problem.gradient, asgd, workers)
            yield _simulated(WAVES, setting, simulator, problem, workers, steps)


def _synchronous(problem: Problem, tx: optax.GradientTransformation) -> Callable[[], Any]:
    def step(carry: Any, batch: Any) -> tuple[Any, None]:
        params, state = carry
        updates, state = tx.update(problem.gradient(params, batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = problem.params, tx.init(problem.params)
    if not problem.driven:
        scanned = jax.jit(lambda carry, batches: jax.lax.scan(step, carry, batches)[0])
        return lambda: scanned(start, problem.batches)
    compiled = jax.jit(lambda carry, batch: step(carry, batch)[0], donate_argnums=0)

    def drive() -> Any:
        carry = jax.tree.map(jnp.copy, start)
        for i in range(len(problem.batches[0])):
            carry = compiled(carry, jax.tree.map(lambda leaf, i=i: leaf[i], problem.batches))
        return carry

    return drive


def _copying(problem: Problem, workers: int, steps: int) -> Callable[[], Any]:
    """The weights copied from one of M slots to the next, `steps` times."""

    def copy(i: jax.Array, slots: Any) -> Any:
        read, write = i % workers, (i + 1) % workers
        return jax.tree.map(lambda leaf: leaf.at[write].set(leaf[read]), slots)

    compiled = jax.jit(lambda slots: jax.lax.fori_loop(0, steps, copy, slots), donate_argnums=0)
    held = [jax.tree.map(lambda w: jnp.stack([w] * workers), problem.params)]

    def work() -> Any:
        held[0] = compiled(held[0])
        return held[0]

    return work


def _simulated(
    engine: str,
    setting: dict[str, Any],
    simulator: Simulator,
    problem: Problem,
    workers: int,
    steps: int,
) -> Way:
    schedule = round_robin(workers, steps)
    state = simulator.init(problem.params)
    # On CPU waves are driven from Python, unless they are narrow.
    waves_driven = engine == WAVES and workers > 1 and jax.default_backend() == "cpu"
    if problem.driven or waves_driven:
        return Way(engine, setting, lambda: simulator.run(state, schedule, problem.batches), None)
    # The state is donated and handed back, as in a run that goes on.
    compiled = (
        jax.jit(lambda state, batches: simulator.run(state, schedule, batches), donate_argnums=0)
        .lower(state, problem.batches)
        .compile()
    )
    held = [state]

    def work() -> Any:
        held[0], log = compiled(held[0], problem.batches)
        return held[0], log

    return Way(engine, setting, work, memory_in_copies(compiled, problem.params, problem.batches))


def tables(records: Sequence[Record]) -> str:
    """Ratios of throughputs for every network, batch size, engine and number of workers."""
    sections = []
    for network, own in group(records, lambda r: str(r.setting["network"])).items():
        plain = [r for r in own if r.setting.get("rule") == "ASGD" and not r.setting["log"]]
        workers = sorted({int(r.setting["workers"] or 0) for r in plain})
        rows = []
        for batch_size in sorted({int(r.setting["batch_size"] or 0) for r in own}):
            at = [r for r in own if r.setting["batch_size"] == batch_size]
            rows.append([f"{batch_size}", SYNCHRONOUS, *[f"{_rate(at):,.0f}/s"] * len(workers)])
            for engine in (SLOTS, WAVES):
                cells = [_ratio(plain, batch_size, engine, m) for m in workers]
                rows.append([f"{batch_size}", engine, *(f"{x:.2f}" for x in cells)])
        header = ["batch", "gradients/s", *(f"M = {m}" for m in workers)]
        sections.append(f"**{network}**, of synchronous SGD's throughput:")
        sections.append(markdown(header, rows))
        sections += _verdicts(own, plain)
    return "\n\n".join(sections)


def _rate(records: Sequence[Record]) -> float:
    plain = [r.metrics["gradients_per_second"] for r in records if r.method == SYNCHRONOUS]
    return float(np.median(plain))


def _ratio(records: Sequence[Record], batch_size: int, engine: str, workers: int) -> float:
    return float(
        np.median(
            [
                r.metrics["ratio"]
                for r in records
                if (r.method, r.setting["batch_size"], r.setting["workers"])
                == (engine, batch_size, workers)
            ]
        )
    )


def _verdicts(records: Sequence[Record], plain: Sequence[Record]) -> list[str]:
    """The targets, met or missed, and by how much."""
    on_cpu = records[0].origin.get("provenance", {}).get("device", {}).get("platform", "cpu")
    target = TARGET if on_cpu == "cpu" else 1.0
    wide = [r for r in plain if r.method == WAVES and int(r.setting["workers"] or 0) >= 8]
    lines = []
    if wide:
        worst = min(
            _ratio(plain, int(r.setting["batch_size"] or 0), WAVES, int(r.setting["workers"] or 0))
            for r in wide
        )
        lines.append(_line("Waves, 8 workers and more", f"{worst:.2f} at worst", target, worst))
        if worst < target:
            lines += _lost(records, wide)
    cost = [
        (r, s)
        for r in records
        for s in plain
        if r.setting.get("rule") == "DC-ASGD-c"
        and s.method == r.method
        and all(r.setting[k] == s.setting[k] for k in ("batch_size", "workers"))
        and r.seed == s.seed
    ]
    if cost:
        most = max(s.metrics["ratio"] / r.metrics["ratio"] - 1 for r, s in cost)
        lines.append(
            f"DC-ASGD over ASGD: {100 * most:+.1f}% at most (target {100 * OVERHEAD:g}%: "
            f"{'met' if most < OVERHEAD else 'missed'})."
        )
    logged = [
        s.metrics["ratio"] / r.metrics["ratio"] - 1
        for r in records
        for s in plain
        if r.setting.get("log")
        and s.method == r.method
        and all(r.setting[k] == s.setting[k] for k in ("batch_size", "workers"))
        and r.seed == s.seed
    ]
    if logged:
        lines.append(f"Logging the distances: {100 * max(logged):+.1f}% at most.")
    sized = [r for r in plain if "copies" in r.metrics]
    for engine in (SLOTS, WAVES):
        beyond = [
            r.metrics["copies"] - int(r.setting["workers"] or 0)
            for r in sized
            if r.method == engine
        ]
        if beyond:
            verdict = f" (target {COPIES}: {'met' if max(beyond) < COPIES + 0.05 else 'missed'})"
            lines.append(
                f"Memory, {engine}: M + {max(beyond):.2f} copies of the parameters at most"
                f"{verdict if engine == SLOTS else ''}."
            )
    return [" ".join(lines)] if lines else []


def _lost(records: Sequence[Record], wide: Sequence[Record]) -> list[str]:
    """The time that the slowest waves lose a step, in copies of the weights among as many slots."""
    worst = min(wide, key=lambda r: r.metrics["ratio"])
    workers, batch_size = worst.setting["workers"], worst.setting["batch_size"]
    same = [r for r in records if r.seed == worst.seed and r.setting["batch_size"] == batch_size]
    copies = [r for r in same if (r.method, r.setting.get("workers")) == (COPYING, workers)]
    if not copies:
        return []  # of records from before copies were timed
    (plain,) = [r for r in same if r.method == SYNCHRONOUS]
    step = 1 / plain.metrics["gradients_per_second"]
    lost = step / worst.metrics["ratio"] - step
    copy = step / copies[0].metrics["ratio"]
    return [
        f"There, at M = {workers} and batch {batch_size}, a step takes {1e6 * lost:.0f} µs more "
        f"than a synchronous one's {1e6 * step:.0f}: {lost / copy:.1f} copies of the weights among "
        f"{workers} slots, {1e6 * copy:.0f} µs each, of which a simulated step needs one."
    ]


def _line(what: str, found: str, target: float, worst: float) -> str:
    return f"{what}: {found} (target {target:g}: {'met' if worst >= target else 'missed'})."


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Throughput against the number of workers, a panel a network."""
    networks = group(records, lambda r: str(r.setting["network"]))
    path = out / "throughput.png"
    with figure(path, columns=len(networks)) as panels:
        for axes, (network, own) in zip(panels[0], networks.items(), strict=True):
            plain = [r for r in own if r.setting.get("rule") == "ASGD" and not r.setting["log"]]
            workers = sorted({int(r.setting["workers"] or 0) for r in plain})
            for batch_size in sorted({int(r.setting["batch_size"] or 0) for r in plain}):
                for engine, line in ((SLOTS, "--"), (WAVES, "-")):
                    at = [r for r in plain if r.setting["batch_size"] == batch_size]
                    ratios = [_ratio(at, batch_size, engine, m) for m in workers]
                    axes.plot(
                        workers, ratios, line, marker="o", label=f"{engine}, batch {batch_size}"
                    )
            axes.axhline(1.0, color="black", linewidth=1)
            axes.set(
                title=network, xlabel="workers", xscale="log", ylim=(0, None),
                ylabel="throughput / synchronous SGD's",
            )  # fmt: skip
            axes.set_xticks(workers, [str(m) for m in workers])
            axes.minorticks_off()
        panels[0, 0].legend(fontsize=8)
    return [path]

"""The simulator against event loops, as one writes them: who is done next, from a heap.

Each worker has a snapshot of the weights. An event is a gradient at the worker's snapshot, the
server's step, and a new snapshot; the worker's next finish time goes on the heap. One loop is in
PyTorch, with its autograd; one in JAX, with a compiled step; and APPFL's simulator in virtual time
is one too. All have the network, batches, arrivals and precision of the simulator, and those of
PyTorch and JAX end with its weights. Beside them stands what PyTorch takes for the same gradients
alone, one after another at fixed weights: no event loop in it can be faster.
"""

import dataclasses
import functools
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from benchmarks.delay.timed import appfl_clients, torch_loop
from benchmarks.delay.timed.heap import Times, arrivals, equal_times
from benchmarks.delay.timed.workload import Workload, build
from benchmarks.harness.libraries import installed
from benchmarks.harness.reports import by_setting, joined, met, numeric, where
from benchmarks.harness.timing import ratio, take_turns
from common.progress import Progress
from common.results.records import Record
from common.results.tables import markdown
from dcasgd_jax import dcasgd, round_robin, slot_simulator

SIMULATOR, JAX_LOOP, TORCH_LOOP = "simulator", "event loop, JAX", "event loop, PyTorch"
TORCH_GRADIENTS, APPFL = "gradients alone, PyTorch", "APPFL's simulator"
TARGET = 10.0
"""The simulator's gradients a second over those of what others use, at least."""
NETWORK = "event loops"
_NAMES = {TORCH_LOOP: "an event loop in PyTorch", APPFL: "APPFL"}
LEARNING_RATE, STRENGTH = 0.01, 0.04


@dataclasses.dataclass(frozen=True)
class Loops:
    """What is compared."""

    widths: tuple[int, ...] = (256, 32)
    """Of the perceptron's two hidden layers; inputs are 784 numbers."""
    workers: tuple[int, ...] = (16, 64)
    batch_size: int = 32
    steps: int = 512
    appfl_steps: int = 32
    """Fewer, as each takes long; filled up to whole rounds of the workers."""


class _Way(NamedTuple):
    method: str
    work: Callable[[], Any]
    steps: int
    library: str | None = None
    """Whose version is recorded."""


def measure(loops: Loops, repetitions: int, seed: int, progress: Progress) -> Iterator[Record]:
    """Times the simulator and the loops in turns, for each width, number of workers and rule.

    What is not installed is left out.

    Args:
        loops: what is compared.
        repetitions: turns that count.
        seed: of weights and batches.
        progress: told of each turn of a way.
    """
    for width in loops.widths:
        workload = build("MLP", (width, 1.0), loops.batch_size, loops.steps, seed)
        for workers in loops.workers:
            for rule in ("ASGD", "DC-ASGD-c") if workers == min(loops.workers) else ("ASGD",):
                ways = list(_ways(workload, loops, workers, rule))
                title = f"event loops, width {width}, M = {workers}, {rule}, seed {seed}"
                with progress.task(title, total=(1 + repetitions) * len(ways)) as bar:
                    seconds = take_turns([way.work for way in ways], repetitions, bar.advance)
                for way, spent in zip(ways, seconds, strict=True):
                    each = [turn / way.steps for turn in spent]
                    ours = [turn / ways[0].steps for turn in seconds[0]]
                    version = importlib.metadata.version(way.library) if way.library else None
                    setting = {
                        "network": NETWORK, "width": width, "workers": workers, "rule": rule,
                        "batch_size": loops.batch_size,
                    }  # fmt: skip
                    yield Record(
                        method=way.method,
                        setting=setting | ({"version": version} if version else {}),
                        seed=seed,
                        metrics={
                            "gradients_per_second": 1 / float(np.median(each)),
                            "simulator_ratio": ratio(each, ours),
                        },
                        curve={"repetition": list(range(len(spent))), "seconds": spent},
                        wall_time=float(sum(spent)),
                    )


def _ways(workload: Workload, loops: Loops, workers: int, rule: str) -> Iterator[_Way]:
    strength = 0.0 if rule == "ASGD" else STRENGTH
    tx = optax.sgd(LEARNING_RATE) if rule == "ASGD" else dcasgd(LEARNING_RATE, STRENGTH)
    times = functools.partial(equal_times, workers)
    yield _Way(SIMULATOR, _simulator(workload, tx, workers, loops.steps), loops.steps)
    yield _Way(JAX_LOOP, jax_loop(workload, tx, times, loops.steps), loops.steps)
    if not installed("torch"):
        return
    network = torch_loop.of_perceptron(workload.params, workload.batches)
    torch_loop.take_faster_threads(network)
    run = torch_loop.event_loop(
        network, times, loops.steps, learning_rate=LEARNING_RATE, strength=strength
    )
    yield _Way(TORCH_LOOP, run, loops.steps, "torch")
    alone = torch_loop.gradients(network, loops.steps)
    yield _Way(TORCH_GRADIENTS, alone, loops.steps, "torch")
    if installed("appfl") and rule == "ASGD":
        steps = -(-loops.appfl_steps // workers) * workers
        run = appfl_clients.simulation(network, workers, steps, LEARNING_RATE)
        yield _Way(APPFL, run, steps, "appfl")


def _simulator(
    workload: Workload, tx: optax.GradientTransformation, workers: int, steps: int
) -> Callable[[], Any]:
    """The simulator by slots, whose state is donated and handed back, as in a run that goes on."""
    simulator = slot_simulator(workload.gradient, tx, workers, log_distance=False)
    schedule = round_robin(workers, steps)
    compiled = jax.jit(
        lambda state, batches: simulator.run(state, schedule, batches), donate_argnums=0
    )
    held = [simulator.init(workload.params)]

    def work() -> Any:
        held[0], _ = compiled(held[0], workload.batches)
        return held[0]

    return work


def jax_loop(
    workload: Workload, tx: optax.GradientTransformation, times: Times, steps: int
) -> Callable[[], Any]:
    """An event loop around one compiled step; arrays do not change, so a snapshot is a name.

    Args:
        workload: the network and its batches.
        tx: the server's rule.
        times: the seconds of each worker's computations.
        steps: how many events there are.

    Returns:
        What runs the loop from the first weights, and returns the last.
    """

    @jax.jit
    def event(params: Any, state: Any, snapshot: Any, batch: Any) -> tuple[Any, Any]:
        gradient = workload.gradient(snapshot, batch)
        updates, state = rule.update(gradient, state, params, stale_params=snapshot)
        return optax.apply_updates(params, updates), state

    rule = optax.with_extra_args_support(tx)
    batches = [jax.tree.map(lambda leaf, i=i: leaf[i], workload.batches) for i in range(steps)]

    def work() -> Any:
        params, state = workload.params, rule.init(workload.params)
        own = times()
        held = [params] * len(own)
        for batch, worker in zip(batches, arrivals(own, steps), strict=True):
            params, state = event(params, state, held[worker], batch)
            held[worker] = params
        return params

    return work


def table(records: Sequence[Record]) -> str:
    """Gradients a second of all ways, and the simulator's over the others'."""
    present = [m for m in (JAX_LOOP, TORCH_LOOP, TORCH_GRADIENTS, APPFL) if where(records, m)]
    rows, verdicts = [], []
    for width, of_width in sorted(by_setting(records, "width").items(), reverse=True):
        for rule, of_rule in by_setting(of_width, "rule").items():
            for workers, runs in sorted(by_setting(of_rule, "workers").items()):
                found = [where(runs, method) for method in (SIMULATOR, *present)]
                rows.append([f"{width}", f"{rule}", f"{workers}", *map(_cell, found)])
    for method in (TORCH_LOOP, APPFL):
        if plain := where(records, method, rule="ASGD"):
            worst = min(plain, key=lambda r: r.metrics["simulator_ratio"])
            best = max(plain, key=lambda r: r.metrics["simulator_ratio"])
            least = worst.metrics["simulator_ratio"]
            verdicts.append(
                f"The simulator has {least:.1f} to {best.metrics['simulator_ratio']:.1f} times the "
                f"gradients a second of {_NAMES[method]} {worst.setting['version']} (target "
                f"{TARGET:g} at every M: {met(least, TARGET)})."
            )
            if method == TORCH_LOOP and least < TARGET:
                verdicts += _why(records, worst)
    verdicts += [
        f"Not installed, so left out: {library}."
        for library, method in (("torch", TORCH_LOOP), ("appfl", APPFL))
        if method not in present
    ]
    header = ["width", "rule", "M", *(f"{method}, gradients/s" for method in (SIMULATOR, *present))]
    return joined(
        "**Event loops**, as one writes them, on a perceptron with two hidden layers; in brackets "
        "how many times theirs the simulator's gradients a second are:",
        markdown(header, rows),
        " ".join(verdicts),
    )


def _cell(runs: Sequence[Record]) -> str:
    """A rate, and the simulator's by it."""
    if not runs:
        return ""
    rate = float(np.median([r.metrics["gradients_per_second"] for r in runs]))
    ours = float(np.median([r.metrics["simulator_ratio"] for r in runs]))
    return f"{rate:,.0f}" + ("" if runs[0].method == SIMULATOR else f" ({ours:.1f})")


def _why(records: Sequence[Record], worst: Record) -> Iterator[str]:
    """What the gradients themselves leave to gain, where a loop in PyTorch is nearest."""
    same = {key: worst.setting[key] for key in ("width", "workers", "rule")}
    alone = where(records, TORCH_GRADIENTS, **same)
    ours = where(records, SIMULATOR, **same)
    if not (alone and ours):
        return
    micro = [1e6 / runs[0].metrics["gradients_per_second"] for runs in ([worst], alone, ours)]
    yield (
        f"There, at width {numeric(worst, 'width'):.0f} and M = {numeric(worst, 'workers'):.0f}, "
        f"an event takes PyTorch {micro[0]:.0f} µs, of which {micro[1]:.0f} go to the gradient "
        f"itself, and the simulator {micro[2]:.0f}, gradient included: a loop of no cost beyond "
        f"its gradients would still leave a factor of {micro[1] / micro[2]:.1f}."
    )

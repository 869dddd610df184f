"""From the exact Hessian down to diag(lambda G): what each rung removes, and what it costs.

A stale gradient g misses H (w - w_stale). The ladder replaces H by ever cheaper matrices: the
Hessian itself, Gauss-Newton, the Fisher matrix of a batch, the outer product G = g g^T, a diagonal
of the Hessian, diag(lambda G) of DC-ASGD; and the low-rank curvature learnt from the gradients that
arrive. A perceptron is trained by ASGD, M workers taking turns; at every arrival each rung
compensates the same stale gradient, and is compared with the fresh gradient of the same batch. The
run is not influenced by what is measured.

- error left: the root of the summed squares of u - fresh over those of g - fresh; 1 without
  compensation. "As is": with the published or natural factor. "Best scaled": with the one factor
  that is best on the first half of the arrivals, judged on the second.
- variance: of the compensated gradient over batches at one point, over that of the stale one.
- cost: the time of an arrival (its gradient, the rule, the step) over that of ASGD's, medians of
  turns in one process; storage beside the snapshots, in copies of the parameters.

Refuted, that a rung is worth its cost: if a cheaper one leaves as little. The line under each
table names, from the records, the rungs that no other beats in both.

Cost: smoke 1 minute on two cores, cpu 4 on one; full is sized for one accelerator and was not run.
Command: python -m benchmarks dcasgd_hessian_ladder --preset cpu --seeds 3
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.delay.digits import Images, load_data
from benchmarks.delay.digits import Settings as DigitSettings
from benchmarks.harness.registry import Context
from common.data import epoch_order
from common.networks import MLP
from common.results.plots import figure, plot_bars
from common.results.records import Record
from common.results.tables import group, markdown, metric, number
from common.seeds import Streams, streams
from dcasgd_jax import (
    SimulatorState,
    StalenessError,
    best_strength,
    curvature_compensation,
    delay_compensation,
    empirical_fisher,
    error_left,
    gauss_newton,
    hessian,
    hessian_diagonal,
    low_rank_compensation,
    outer_product,
    round_robin,
    slot_simulator,
    staleness_error,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the experiment depends on."""

    data: str = "mnist5k"
    pool: int = 2
    widths: tuple[int, ...] = (32, 32, 10)
    activations: tuple[str, ...] = ("tanh", "relu")
    workers: int = 8
    batch_size: int = 32
    learning_rate: float = 0.1
    steps: int = 800
    ranks: tuple[int, ...] = (1, 4, 16)
    probes: int = 16
    """Of the diagonal of the Hessian."""
    variance_batches: int = 64
    repetitions: int = 20
    """Of the timing, each of `arrivals` in a row."""
    arrivals: int = 50


PRESETS = {
    "smoke": Settings(activations=("tanh",), steps=400, ranks=(1, 4), repetitions=8),
    "cpu": Settings(data="mnist", steps=4000),
    "full": Settings(
        data="mnist", pool=1, widths=(256, 256, 10), batch_size=128, steps=20_000, repetitions=50
    ),
}

ASGD = "ASGD"


class Problem(NamedTuple):
    """A network's functions; a batch is (pixels, labels)."""

    init: Callable[..., Any]
    model: Callable[..., Any]
    loss_of: Callable[..., jax.Array]
    gradient: Callable[..., Any]
    losses: Callable[..., jax.Array]


class Batches(NamedTuple):
    """What all rungs of a run see, in this order."""

    pixels: jax.Array  # shape=(steps, batch_size, height, width, channels), float32
    labels: jax.Array  # shape=(steps, batch_size), int32


class Spy(NamedTuple):
    """The state of a server that measures and does not act on it."""

    rungs: dict[str, Any]  # each compensator's own state
    halves: dict[str, StalenessError]  # shape=(2,) each: sums over the halves of the run
    step: jax.Array  # shape=(), int32


def rungs(settings: Settings, network: Problem, key: jax.Array) -> dict[str, Any]:
    """Every compensator, from exact to cheap.

    Args:
        settings: the experiment's.
        network: what the exact ones are made of.
        key: of the diagonal's probes.
    """
    exact = {
        "Hessian": hessian(network.gradient),
        "Gauss-Newton": gauss_newton(network.model, network.loss_of),
        "Fisher of the batch": empirical_fisher(network.losses),
        "G = g g^T": outer_product,
        "diag(H)": hessian_diagonal(network.gradient, key, num_probes=settings.probes),
    }
    found: dict[str, Any] = {
        name: curvature_compensation(curvature) for name, curvature in exact.items()
    }
    found["diag(lambda G), constant"] = delay_compensation(0.04)
    found["diag(lambda G), adaptive"] = delay_compensation(2.0, mean_square_decay=0.95)
    for rank in settings.ranks:
        found[f"low rank {rank}"] = low_rank_compensation(rank)
    return found


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each rung, activation and seed."""
    data = load_data(DigitSettings(data=settings.data, pool=settings.pool), context.data_dir).train
    total = len(settings.activations) * len(context.seeds)
    with context.progress.task("Hessian ladder", total=total) as bar:
        for activation in settings.activations:
            measure = measurement(settings, problem(settings, activation))

            def of_seed(
                seed: int, activation: str = activation, measure: Measurement = measure
            ) -> Iterator[Record]:
                begun = time.perf_counter()
                found = measure(streams(seed), data)
                seconds = time.perf_counter() - begun
                for name, metrics in found.items():
                    yield Record(
                        method=name,
                        setting={"activation": activation, "workers": settings.workers},
                        seed=seed,
                        metrics=metrics,
                        wall_time=seconds,
                    )

            for seed in context.seeds:
                yield from context.stages.of(
                    f"{activation}, seed {seed}", functools.partial(of_seed, seed)
                )
                bar.advance(note=activation)


def problem(settings: Settings, activation: str) -> Problem:
    """The network.

    Args:
        settings: the experiment's.
        activation: "tanh" or "relu".
    """
    network = MLP(settings.widths, activation={"tanh": jnp.tanh, "relu": jax.nn.relu}[activation])

    def model(params: Any, batch: Any) -> Any:
        return network.apply({"params": params}, batch[0])

    def losses_of(logits: Any, batch: Any) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])

    def losses(params: Any, batch: Any) -> jax.Array:
        return losses_of(model(params, batch), batch)

    return Problem(
        init=lambda key, pixels: network.init(key, pixels)["params"],
        model=model,
        loss_of=lambda logits, batch: losses_of(logits, batch).mean(),
        gradient=jax.grad(lambda params, batch: losses(params, batch).mean()),
        losses=losses,
    )


Measurement = Callable[[Streams, Images], dict[str, dict[str, float]]]
"""From a seed's streams and images to the metrics of every rung."""


def measurement(settings: Settings, network: Problem) -> Measurement:
    """A function from a seed and images to the metrics of every rung, compiled once.

    Args:
        settings: the experiment's.
        network: the problem's functions.
    """
    watch = jax.jit(lambda params, data, key: _watched(settings, network, params, data, key))
    spread = jax.jit(lambda state, data, key: _variances(settings, network, state, data, key))
    time_arrivals = _stopwatch(settings, network)

    def measure(keys: Streams, images: Images) -> dict[str, dict[str, float]]:
        data = _batches(settings, keys, images)
        params = jax.jit(network.init)(keys.init, images.pixels[:1])
        state, halves = watch(params, data, keys.noise)
        variance = jax.device_get(spread(state, data, keys.noise))
        costs = time_arrivals(state, data, keys.noise)
        sums, found = jax.device_get(halves), {}
        for name in rungs(settings, network, keys.noise):
            first, second = (jax.tree.map(lambda x, i=i: x[i], sums[name]) for i in range(2))
            factor = float(best_strength(first))
            found[name] = {
                "error_left": float(error_left(second)),
                "error_left_scaled": float(error_left(second, factor)),
                "factor": factor,
                "variance": float(variance[name] / variance[ASGD]),
                "time": costs[name].seconds / costs[ASGD].seconds,
                "copies": costs[name].copies,
            }
        return found

    return measure


def _batches(settings: Settings, keys: Streams, images: Images) -> Batches:
    needed, order = settings.steps * settings.batch_size, []
    while sum(map(len, order)) < needed:
        order.append(epoch_order(keys.order, len(images.labels), epoch=len(order)))
    rows = np.concatenate(order)[:needed].reshape(settings.steps, settings.batch_size)
    return Batches(images.pixels[rows], images.labels[rows])


def _watched(
    settings: Settings, network: Problem, params: Any, data: Batches, key: jax.Array
) -> tuple[SimulatorState, dict[str, StalenessError]]:
    """ASGD's run, with every rung looking on.

    Returns:
        The simulator's last state, and each rung's sums over the two halves of the run.
    """
    ladder = rungs(settings, network, key)
    sgd, half = optax.sgd(settings.learning_rate), settings.steps // 2

    def init(params: Any) -> Any:
        zero = jnp.zeros(2)
        empty = StalenessError(zero, zero, zero)
        spy = Spy(
            {name: tx.init(params) for name, tx in ladder.items()},
            dict.fromkeys(ladder, empty),
            jnp.zeros([], jnp.int32),
        )
        return sgd.init(params), spy

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        stale_params: Any = None,
        batch: Any = None,
        **extra_args: Any,
    ) -> Any:
        del extra_args
        own, spy = state
        fresh = network.gradient(params, batch)
        states, halves = {}, {}
        # The first gradients of all workers are hardly stale.
        late = spy.step >= half
        counts = jnp.stack([~late, late]) & (spy.step >= settings.workers)
        for name, tx in ladder.items():
            given = {"stale_params": stale_params, "batch": batch}
            compensated, states[name] = tx.update(updates, spy.rungs[name], params, **given)
            seen = staleness_error(updates, compensated, fresh)
            halves[name] = jax.tree.map(
                lambda total, x: total + jnp.where(counts, x, 0.0), spy.halves[name], seen
            )
        moved, own = sgd.update(updates, own, params)
        return moved, (own, Spy(states, halves, spy.step + 1))

    simulator = slot_simulator(
        network.gradient,
        optax.GradientTransformationExtraArgs(init, update),
        settings.workers,
        log_distance=False,
    )
    schedule = round_robin(settings.workers, settings.steps)
    state, _ = simulator.run(simulator.init(params), schedule, data)
    opt_state: Any = state.opt_state
    return state, opt_state[1].halves


def _variances(
    settings: Settings, network: Problem, state: SimulatorState, data: Batches, key: jax.Array
) -> dict[str, jax.Array]:
    """Trace of the covariance over batches, of each compensated gradient and the stale one."""
    slot = settings.steps % settings.workers  # the worker that has waited longest
    stale = jax.tree.map(lambda s: s[slot], state.snapshots)
    opt_state: Any = state.opt_state
    own, ladder = opt_state[1].rungs, rungs(settings, network, key)

    def compensated(batch: Batches) -> dict[str, Any]:
        g = network.gradient(stale, batch)
        given = {"stale_params": stale, "batch": batch}
        return {ASGD: g} | {
            name: tx.update(g, own[name], state.params, **given)[0] for name, tx in ladder.items()
        }

    some = jax.tree.map(lambda leaf: leaf[: settings.variance_batches], data)
    every = jax.lax.map(compensated, some)
    return {
        name: sum((jnp.var(leaf, axis=0).sum() for leaf in jax.tree.leaves(u)), jnp.zeros([]))
        for name, u in every.items()
    }


class Cost(NamedTuple):
    """Of a server's rule."""

    seconds: float
    copies: float


def _stopwatch(
    settings: Settings, network: Problem
) -> Callable[[SimulatorState, Batches, jax.Array], dict[str, Cost]]:
    """A function that times an arrival with each rung, in turns, and weighs its state."""

    def rules(key: jax.Array) -> dict[str, Any]:
        return {
            name: optax.with_extra_args_support(optax.chain(tx, optax.sgd(1e-6)))
            for name, tx in {ASGD: optax.identity(), **rungs(settings, network, key)}.items()
        }

    def many(name: str, params: Any, stale: Any, data: Batches, key: jax.Array) -> Any:
        tx = rules(key)[name]

        def one(carry: Any, batch: Batches) -> tuple[Any, None]:
            params, stale, own = carry
            g = network.gradient(stale, batch)
            updates, own = tx.update(g, own, params, stale_params=stale, batch=batch)
            # The next arrival was taken where the server stands: nothing can be hoisted.
            return (optax.apply_updates(params, updates), params, own), None

        return jax.lax.scan(one, (params, stale, tx.init(params)), data)[0]

    compiled = jax.jit(many, static_argnums=0)

    def measure(state: SimulatorState, data: Batches, key: jax.Array) -> dict[str, Cost]:
        stale = jax.tree.map(lambda s: s[0], state.snapshots)
        some = jax.tree.map(lambda leaf: leaf[: settings.arrivals], data)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
        every = rules(key)
        seconds: dict[str, list[float]] = {name: [] for name in every}
        for repetition in range(1 + settings.repetitions):
            # There and back again: what runs after a heavy rung finds its caches cold.
            for name in list(every)[:: (-1) ** repetition]:
                begun = time.perf_counter()
                jax.block_until_ready(compiled(name, state.params, stale, some, key))
                if repetition:
                    seconds[name].append(time.perf_counter() - begun)
        copies = {
            name: sum(leaf.nbytes for leaf in jax.tree.leaves(tx.init(state.params))) / size
            for name, tx in every.items()
        }
        return {name: Cost(float(np.median(own)), copies[name]) for name, own in seconds.items()}

    return measure


def tables(records: Sequence[Record]) -> str:
    """A row a rung, a table an activation."""
    header = [
        "curvature", "error left, as is", "best scaled", "factor", "variance / stale",
        "arrival / ASGD's", "copies stored",
    ]  # fmt: skip
    sections = []
    for activation, own in group(records, lambda r: str(r.setting["activation"])).items():
        by_rung = group(own, lambda r: r.method)
        rows = [
            [
                name,
                number(metric(runs, "error_left"), digits=2),
                number(metric(runs, "error_left_scaled"), digits=2),
                f"{metric(runs, 'factor').mean:.3g}",
                number(metric(runs, "variance"), digits=2),
                f"{metric(runs, 'time').mean:.2f}",
                f"{metric(runs, 'copies').mean:.1f}",
            ]
            for name, runs in by_rung.items()
        ]
        sections += [
            f"**{activation}**, staleness {int(own[0].setting['workers'] or 0) - 1}:",
            markdown(header, rows),
            verdict(by_rung),
        ]
    return "\n\n".join(sections)


def verdict(by_rung: Mapping[str, Sequence[Record]]) -> str:
    """Which rungs no other beats in both cost and error, cheapest first.

    Args:
        by_rung: the records of each rung, of one activation.

    Returns:
        A sentence.
    """
    points = {
        name: (metric(runs, "time").mean, metric(runs, "error_left_scaled").mean)
        for name, runs in by_rung.items()
    }
    best = [
        name
        for name, (cost, left) in points.items()
        if left < 1
        and not any(c <= cost and e <= left and (c, e) != (cost, left) for c, e in points.values())
    ]
    if not best:
        return "No rung leaves less error than ASGD."
    listed = "; ".join(
        f"{name} ({1 - points[name][1]:.0%} of the error for {points[name][0]:.2f} of ASGD's time)"
        for name in sorted(best, key=lambda name: points[name])
    )
    return f"Not beaten in both cost and error, best scaled, cheapest first: {listed}."


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """What the best scaled rung leaves of the error, and what it costs."""
    by_activation = group(records, lambda r: str(r.setting["activation"]))
    path = out / "dcasgd_hessian_ladder.png"
    with figure(path, rows=len(by_activation), columns=2, panel=(5.2, 3.6)) as panels:
        for row, (activation, own) in zip(panels, by_activation.items(), strict=True):
            runs = group(own, lambda r: r.method)
            for axes, name, label in (
                (row[0], "error_left_scaled", "staleness error left, best scaled"),
                (row[1], "time", "time of an arrival, over ASGD's"),
            ):
                plot_bars(
                    axes, list(runs), [[r.metrics[name] for r in one] for one in runs.values()]
                )
                axes.axvline(1.0, color="black", linewidth=1)
                axes.set(title=activation, xlabel=label)
            row[1].set_xscale("log")
            row[1].tick_params(labelleft=False)
    return [path]

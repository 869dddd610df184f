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
- cost: a server step's time over ASGD's, medians of turns in one process; storage beside the
  snapshots, in copies of the parameters.

Known from the notes of the talk's method: on a tanh network with staleness 7 the exact Hessian
leaves 0.27, Gauss-Newton 0.31, an exact diagonal 0.99, the best scaled g*g 0.93.

Cost: smoke 1 minute, cpu 3 minutes on two cores.
Command: python -m benchmarks dcasgd_hessian_ladder --preset cpu --seeds 3
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.dcasgd_digits import Settings as DigitSettings
from benchmarks.dcasgd_digits import load_data
from benchmarks.registry import Context
from common.data import epoch_order
from common.networks import MLP
from common.plots import figure, plot_bars
from common.records import Record
from common.seeds import streams
from common.tables import group, markdown, metric, number
from dcasgd_jax import delay_compensation, round_robin, slot_simulator
from dcasgd_jax.curvature import curvature_compensation, outer_product
from dcasgd_jax.diagnostics import StalenessError, best_strength, error_left, staleness_error
from dcasgd_jax.gauss_newton import empirical_fisher, gauss_newton
from dcasgd_jax.hessian import hessian, hessian_diagonal
from dcasgd_jax.low_rank import low_rank_compensation


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
    """Of a timed server step, each of 20 in a row."""


PRESETS = {
    "smoke": Settings(activations=("tanh",), steps=400, repetitions=8),
    "cpu": Settings(data="mnist", steps=4000),
    "full": Settings(
        data="mnist", pool=1, widths=(256, 256, 10), batch_size=128, steps=20_000, repetitions=50
    ),
}

ASGD = "ASGD"


class Problem(NamedTuple):
    """A network's functions of (params, rows), rows being those of the training images."""

    params: Any
    rows: jax.Array
    model: Callable[..., Any]
    loss_of: Callable[..., jax.Array]
    gradient: Callable[..., Any]
    losses: Callable[..., jax.Array]


class Spy(NamedTuple):
    """The state of a server that measures and does not act on it."""

    rungs: dict[str, Any]  # each compensator's own state
    halves: dict[str, StalenessError]  # shape=(2,) each: sums over the halves of the run
    step: jax.Array  # shape=(), int32


def rungs(settings: Settings, problem: Problem, key: jax.Array) -> dict[str, Any]:
    """Every compensator, from exact to cheap.

    Args:
        settings: the experiment's.
        problem: what the exact ones are made of.
        key: of the diagonal's probes.
    """
    exact = {
        "Hessian": hessian(problem.gradient),
        "Gauss-Newton": gauss_newton(problem.model, problem.loss_of),
        "Fisher of the batch": empirical_fisher(problem.losses),
        "G = g g^T": outer_product,
        "diag(H)": hessian_diagonal(problem.gradient, key, num_probes=settings.probes),
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
    for activation in settings.activations:
        for seed in context.seeds:
            with context.progress.task(f"{activation}, seed {seed}", total=3) as bar:
                begun = time.perf_counter()
                problem = build(settings, activation, seed, context.data_dir)
                ladder = rungs(settings, problem, streams(seed).noise)
                state, sums = watched(settings, problem, ladder)
                bar.advance(note="errors")
                spread = variances(settings, problem, ladder, state)
                bar.advance(note="variances")
                costs = timed(settings, problem, ladder, state)
                bar.advance(note="costs")
                seconds = time.perf_counter() - begun
            for name in ladder:
                halves = [jax.tree.map(lambda x, i=i: x[i], sums[name]) for i in range(2)]
                factor = float(best_strength(halves[0]))
                yield Record(
                    method=name,
                    setting={"activation": activation, "workers": settings.workers},
                    seed=seed,
                    metrics={
                        "error_left": float(error_left(halves[1])),
                        "error_left_scaled": float(error_left(halves[1], factor)),
                        "factor": factor,
                        "variance": spread[name],
                        "time": costs[name].seconds / costs[ASGD].seconds,
                        "copies": costs[name].copies,
                    },
                    wall_time=seconds,
                )


def build(settings: Settings, activation: str, seed: int, data_dir: Path | None) -> Problem:
    """The network on its data.

    Args:
        settings: the experiment's.
        activation: "tanh" or "relu".
        seed: of weights and order.
        data_dir: where prepared data sets lie.
    """
    data = load_data(DigitSettings(data=settings.data, pool=settings.pool), data_dir)
    keys, pixels, labels = streams(seed), data.train.pixels, data.train.labels
    network = MLP(settings.widths, activation={"tanh": jnp.tanh, "relu": jax.nn.relu}[activation])
    params = jax.jit(network.init)(keys.init, pixels[:1])["params"]
    needed, order = settings.steps * settings.batch_size, []
    while sum(map(len, order)) < needed:
        order.append(epoch_order(keys.order, len(labels), epoch=len(order)))
    rows = np.concatenate(order)[:needed].reshape(settings.steps, settings.batch_size)

    def model(params: Any, rows: jax.Array) -> Any:
        return network.apply({"params": params}, pixels[rows])

    def losses_of(logits: Any, rows: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows])

    def losses(params: Any, rows: jax.Array) -> jax.Array:
        return losses_of(model(params, rows), rows)

    return Problem(
        params=params,
        rows=jnp.asarray(rows),
        model=model,
        loss_of=lambda logits, rows: losses_of(logits, rows).mean(),
        gradient=jax.grad(lambda params, rows: losses(params, rows).mean()),
        losses=losses,
    )


def watched(
    settings: Settings, problem: Problem, ladder: dict[str, Any]
) -> tuple[Any, dict[str, StalenessError]]:
    """ASGD's run, with every rung looking on.

    Args:
        settings: the experiment's.
        problem: the network.
        ladder: the rungs.

    Returns:
        The simulator's last state, and each rung's sums over the two halves of the run.
    """
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
        fresh = problem.gradient(params, batch)
        states, halves = {}, {}
        for name, tx in ladder.items():
            given = {"stale_params": stale_params, "batch": batch}
            compensated, states[name] = tx.update(updates, spy.rungs[name], params, **given)
            seen = staleness_error(updates, compensated, fresh)
            # The first gradients of all workers are hardly stale.
            which = jnp.arange(2) == (spy.step >= half)
            counts = which & (spy.step >= settings.workers)
            halves[name] = jax.tree.map(
                lambda total, x, c=counts: total + jnp.where(c, x, 0.0), spy.halves[name], seen
            )
        moved, own = sgd.update(updates, own, params)
        return moved, (own, Spy(states, halves, spy.step + 1))

    simulator = slot_simulator(
        problem.gradient,
        optax.GradientTransformationExtraArgs(init, update),
        settings.workers,
        log_distance=False,
    )
    schedule = round_robin(settings.workers, settings.steps)
    state, _ = jax.jit(simulator.run)(simulator.init(problem.params), schedule, problem.rows)
    return state, jax.device_get(state.opt_state[1].halves)


def variances(
    settings: Settings, problem: Problem, ladder: dict[str, Any], state: Any
) -> dict[str, float]:
    """Trace of the covariance over batches, of each compensated gradient over the stale one's.

    Args:
        settings: the experiment's.
        problem: the network.
        ladder: the rungs.
        state: the simulator's, at the end of the run.
    """
    rows = problem.rows[: settings.variance_batches]
    slot = settings.steps % settings.workers  # the worker that has waited longest
    stale = jax.tree.map(lambda s: s[slot], state.snapshots)
    own = state.opt_state[1].rungs

    @jax.jit
    def compensated(batch: jax.Array) -> dict[str, jax.Array]:
        g = problem.gradient(stale, batch)
        found = {ASGD: g}
        for name, tx in ladder.items():
            given = {"stale_params": stale, "batch": batch}
            found[name] = tx.update(g, own[name], state.params, **given)[0]
        return {
            name: jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(u)])
            for name, u in found.items()
        }

    every = jax.lax.map(compensated, rows)
    total = {name: float(np.var(np.asarray(u), axis=0).sum()) for name, u in every.items()}
    return {name: total[name] / total[ASGD] for name in ladder}


class Cost(NamedTuple):
    """Of a server's rule."""

    seconds: float
    copies: float


def timed(
    settings: Settings, problem: Problem, ladder: dict[str, Any], state: Any
) -> dict[str, Cost]:
    """The time of a server step with each rung, in turns, and its state's size.

    Args:
        settings: the experiment's.
        problem: the network.
        ladder: the rungs.
        state: the simulator's, at the end of the run.
    """
    stale = jax.tree.map(lambda s: s[0], state.snapshots)
    batch = problem.rows[0]
    gradient = jax.jit(problem.gradient)(stale, batch)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    rules = {ASGD: optax.identity(), **ladder}
    works, copies = {}, {}
    for name, tx in rules.items():
        extended = optax.with_extra_args_support(optax.chain(tx, optax.sgd(1e-6)))

        def many(carry: Any, tx: Any = extended) -> Any:
            def one(carry: Any, _: None) -> tuple[Any, None]:
                params, own = carry
                given = {"stale_params": stale, "batch": batch}
                updates, own = tx.update(gradient, own, params, **given)
                return (optax.apply_updates(params, updates), own), None

            return jax.lax.scan(one, carry, length=20)[0]

        start = (state.params, extended.init(state.params))
        compiled = jax.jit(many)
        works[name] = lambda compiled=compiled, start=start: compiled(start)
        copies[name] = sum(leaf.nbytes for leaf in jax.tree.leaves(start[1])) / size
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repetition in range(1 + settings.repetitions):
        for name, work in works.items():
            begun = time.perf_counter()
            jax.block_until_ready(work())
            if repetition:
                seconds[name].append(time.perf_counter() - begun)
    return {name: Cost(float(np.median(own)), copies[name]) for name, own in seconds.items()}


def tables(records: Sequence[Record]) -> str:
    """A row a rung, a table an activation."""
    sections = []
    for activation, own in group(records, lambda r: str(r.setting["activation"])).items():
        rows = [
            [
                name,
                number(metric(runs, "error_left"), digits=2),
                number(metric(runs, "error_left_scaled"), digits=2),
                f"{metric(runs, 'factor').mean:.3g}",
                number(metric(runs, "variance"), digits=2),
                f"{metric(runs, 'time').mean:.1f}",
                f"{metric(runs, 'copies').mean:.1f}",
            ]
            for name, runs in group(own, lambda r: r.method).items()
        ]
        header = [
            "curvature", "error left, as is", "best scaled", "factor", "variance / stale",
            "server step / ASGD's", "copies stored",
        ]  # fmt: skip
        workers = own[0].setting["workers"]
        sections += [f"**{activation}**, {workers} workers:", markdown(header, rows)]
    return "\n\n".join(sections)


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """The share of the error that the best scaled rung leaves."""
    panels_of = group(records, lambda r: str(r.setting["activation"]))
    path = out / "error_left.png"
    with figure(path, columns=len(panels_of), panel=(5.2, 3.4)) as panels:
        for axes, (activation, own) in zip(panels[0], panels_of.items(), strict=True):
            runs = group(own, lambda r: r.method)
            values = [[r.metrics["error_left_scaled"] for r in one] for one in runs.values()]
            plot_bars(axes, list(runs), values)
            axes.axvline(1.0, color="black", linewidth=1)
            axes.set(title=activation, xlabel="staleness error left, best scaled", xlim=(0, 1.1))
    return [path]

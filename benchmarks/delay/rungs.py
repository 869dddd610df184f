"""The rungs of the ladder of curvatures: what each leaves of a stale gradient's error, and costs.

What is measured does not influence the run that it is measured on.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.delay.digits import DigitTask, Images
from benchmarks.delay.report import ASGD
from benchmarks.harness.images import rows_in_order
from common.networks import MLP
from common.seeds import Streams
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
    rotated_compensation,
    round_robin,
    slot_simulator,
    staleness_error,
)


@dataclasses.dataclass(frozen=True)
class Settings(DigitTask):
    """What the experiment depends on."""

    activations: tuple[str, ...] = ("tanh", "relu")
    workers: int = 8
    learning_rate: float = 0.1
    steps: int = 800
    ranks: tuple[int, ...] = (1, 4, 16)
    probes: int = 16
    """Of the diagonal of the Hessian."""
    variance_batches: int = 64
    repetitions: int = 20
    """Of the timing, each of `arrivals` in a row."""
    arrivals: int = 50


class Functions(NamedTuple):
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


def rungs(settings: Settings, network: Functions, key: jax.Array) -> dict[str, Any]:
    """Every compensator, from exact to cheap; the key is of the diagonal's probes."""
    exact = {
        "Hessian": hessian(network.gradient),
        "Gauss-Newton": gauss_newton(network.model, network.loss_of),
        "Fisher of the batch": empirical_fisher(network.losses),
        "G = g g^T": outer_product,
        "diag(H)": hessian_diagonal(network.gradient, key, num_probes=settings.probes),
    }
    ladder: dict[str, Any] = {
        name: curvature_compensation(curvature) for name, curvature in exact.items()
    }
    ladder["diag(lambda G), constant"] = delay_compensation(0.04)
    ladder["diag(lambda G), adaptive"] = delay_compensation(2.0, mean_square_decay=0.95)
    ladder["diagonal, rotated"] = rotated_compensation(strength=1.0)
    for rank in settings.ranks:
        ladder[f"low rank {rank}"] = low_rank_compensation(rank)
    return ladder


def functions(settings: Settings, activation: str) -> Functions:
    """Of a perceptron whose activation is "tanh" or "relu"."""
    network = MLP(settings.widths, activation={"tanh": jnp.tanh, "relu": jax.nn.relu}[activation])

    def model(params: Any, batch: Any) -> Any:
        return network.apply({"params": params}, batch[0])

    def losses_of(logits: Any, batch: Any) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])

    def losses(params: Any, batch: Any) -> jax.Array:
        return losses_of(model(params, batch), batch)

    return Functions(
        init=lambda key, pixels: network.init(key, pixels)["params"],
        model=model,
        loss_of=lambda logits, batch: losses_of(logits, batch).mean(),
        gradient=jax.grad(lambda params, batch: losses(params, batch).mean()),
        losses=losses,
    )


Measurement = Callable[[Streams, Images], dict[str, dict[str, float]]]
"""From a seed's streams and images to the metrics of every rung."""


def measurement(settings: Settings, network: Functions) -> Measurement:
    """A function from a seed and images to the metrics of every rung, compiled once."""
    watch = jax.jit(lambda params, data, key: _watched(settings, network, params, data, key))
    spread = jax.jit(lambda state, data, key: _variances(settings, network, state, data, key))
    time_arrivals = _stopwatch(settings, network)

    def measure(keys: Streams, images: Images) -> dict[str, dict[str, float]]:
        data = _batches(settings, keys, images)
        params = jax.jit(network.init)(keys.init, images.pixels[:1])
        state, halves = watch(params, data, keys.noise)
        variance = jax.device_get(spread(state, data, keys.noise))
        costs = time_arrivals(state, data, keys.noise)
        sums, metrics = jax.device_get(halves), {}
        for name in rungs(settings, network, keys.noise):
            first, second = (jax.tree.map(lambda x, i=i: x[i], sums[name]) for i in range(2))
            factor = float(best_strength(first))
            metrics[name] = {
                "error_left": float(error_left(second)),
                "error_left_scaled": float(error_left(second, factor)),
                "factor": factor,
                "variance": float(variance[name] / variance[ASGD]),
                "time": costs[name].seconds / costs[ASGD].seconds,
                "copies": costs[name].copies,
            }
        return metrics

    return measure


def _batches(settings: Settings, keys: Streams, images: Images) -> Batches:
    count = settings.steps * settings.batch_size
    rows = rows_in_order(keys.order, len(images.labels), count).reshape(settings.steps, -1)
    return Batches(images.pixels[rows], images.labels[rows])


def _watched(
    settings: Settings, network: Functions, params: Any, data: Batches, key: jax.Array
) -> tuple[SimulatorState, dict[str, StalenessError]]:
    """ASGD's run, with every rung looking on: its last state, and sums over its two halves."""
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
        updates: Any, state: Any, params: Any = None, *, stale_params: Any = None,
        batch: Any = None, **extra_args: Any,
    ) -> Any:  # fmt: skip
        del extra_args
        opt_state, spy = state
        fresh = network.gradient(params, batch)
        states, halves = {}, {}
        # The first gradients of all workers are hardly stale.
        late = spy.step >= half
        counts = jnp.stack([~late, late]) & (spy.step >= settings.workers)
        for name, tx in ladder.items():
            compensated, states[name] = tx.update(
                updates, spy.rungs[name], params, stale_params=stale_params, batch=batch
            )
            error = staleness_error(updates, compensated, fresh)
            halves[name] = jax.tree.map(
                lambda total, x: total + jnp.where(counts, x, 0.0), spy.halves[name], error
            )
        moved, opt_state = sgd.update(updates, opt_state, params)
        return moved, (opt_state, Spy(states, halves, spy.step + 1))

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
    settings: Settings, network: Functions, state: SimulatorState, data: Batches, key: jax.Array
) -> dict[str, jax.Array]:
    """Trace of the covariance over batches, of each compensated gradient and the stale one."""
    slot = settings.steps % settings.workers  # the worker that has waited longest
    stale = jax.tree.map(lambda s: s[slot], state.snapshots)
    opt_state: Any = state.opt_state
    states, ladder = opt_state[1].rungs, rungs(settings, network, key)

    def compensated(batch: Batches) -> dict[str, Any]:
        g = network.gradient(stale, batch)
        extra = {"stale_params": stale, "batch": batch}
        return {ASGD: g} | {
            name: tx.update(g, states[name], state.params, **extra)[0]
            for name, tx in ladder.items()
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
    settings: Settings, network: Functions
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
            params, stale, opt_state = carry
            g = network.gradient(stale, batch)
            updates, opt_state = tx.update(g, opt_state, params, stale_params=stale, batch=batch)
            # The next arrival was taken where the server stands: nothing can be hoisted.
            return (optax.apply_updates(params, updates), params, opt_state), None

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
        return {name: Cost(float(np.median(s)), copies[name]) for name, s in seconds.items()}

    return measure

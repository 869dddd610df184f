"""How much faster LaCIM trains and searches than the loop that one writes first.

Throughputs in one process, taken in turns, medians over repetitions:

- training, images a second: an epoch inside one compiled loop, against a
  Python loop over batches with a jitted gradient and the optimiser called from Python;
- latent search, images a second: `infer`, all starts of a chunk at once and all steps in one
  compiled loop, against a Python loop over batches, starts and steps with a jitted gradient and the
  optimiser called from Python; and against the same loop with the starts laid side by side in the
  batch, which is the first thing to do about it.

Both sides compute the same gradients and keep the best latents met; the loops use the objective
that comes with the gradient. Compilation is counted apart. The target is a ratio of 5 for the
search on CPU.

What a loop adds to the arithmetic is the same whatever the network: dispatch, and the optimiser's
operations one after another. So the ratio falls with the size of the decoder, and three are
measured: those of the cpu presets of `lacim_baselines` and `lacim_colored_digits`, and a larger
one. Beside them stands the rate of the machine's own product of two matrices, from the same
turns. Where the loop reaches a share of it, no program with the same arithmetic can be
faster than the loop by more than the inverse of that share: the column "at most".

Where other programs run beside it, a clock on the wall measures them too. So the same ratio is
given in the processor's seconds, of all threads together: what each way costs.

A whole evaluation is one set of compiled programs: how many more are compiled in a later call, with
another number of images and of steps, is counted. The memory of a chunk stands beside what 10,000
images at once would take.

Cost: smoke half a minute, cpu 2 minutes on two cores; full was not run.
Command: python -m benchmarks lacim_speed --preset cpu
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness.registry import Context
from benchmarks.harness.timing import all_turns
from benchmarks.latent.reports import speed as latent_speed_report
from benchmarks.latent.reports.speed import (
    AT_ONCE,
    LOOP,
    OURS,
    PRODUCT,
    SEARCH,
    TARGET,
    TRAINING,
    ratios,
)
from common.data import load, pooled
from common.data.generated.colored_digits import color_digits
from common.results.records import Record
from common.seeds import streams
from common.training import LossFn, init_state, train_step
from lacim_jax import (
    MLP,
    Examples,
    LaCIM,
    MLPDecoder,
    MLPEncoder,
    Search,
    infer,
    lacim_loss,
    mixture_prior,
    search_memory,
)

__all__ = ["PRESETS", "SEARCH", "TARGET", "Settings", "plots", "ratios", "run", "tables"]


class Network(NamedTuple):
    """What is decoded, and by how much."""

    pool: int
    """Images, 28x28, are reduced by averaging over squares of this side."""
    widths: tuple[int, ...]
    """Of the encoder's layers; the decoder has them in the opposite order."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the experiment depends on."""

    networks: tuple[Network, ...] = (
        Network(4, (128, 128)),
        Network(2, (256, 128)),
        Network(1, (512, 256)),
    )
    data: str = "mnist5k"
    train_images: int = 3840
    search_images: int = 256
    s_dim: int = 16
    v_dim: int = 16
    batch_size: int = 128
    search_steps: int = 50
    draws: int = 4
    """Starts of each image are (1 + draws) for each of the two domains."""
    chunk_size: int = 64
    whole: int = 10_000
    """Images of the evaluation whose memory is stated."""
    product: int = 1024
    """Side of the matrices whose product is the machine's own rate."""
    repetitions: int = 3


PRESETS = {
    "smoke": Settings(
        networks=(Network(4, (64,)),), train_images=1280, search_images=128, chunk_size=64
    ),
    "cpu": Settings(),
    "full": Settings(
        data="mnist", train_images=59_904, search_images=10_000, chunk_size=2000, repetitions=7
    ),
}

tables, plots = latent_speed_report.tables, latent_speed_report.plots


class Contest(NamedTuple):
    """Several ways to the same thing."""

    task: str
    images: int
    arithmetic: float
    """Floating-point operations of its gradients, an image, as the compiler counts them."""
    ways: dict[str, Callable[[], Any]]
    others: Callable[[], dict[str, float]]
    """Further figures of the compiled way, once it has been timed."""


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each network, task, way and seed; its curve holds the repetitions."""
    for seed in context.seeds:
        for network in settings.networks:
            for task, contest in ((TRAINING, training), (SEARCH, searching)):
                yield from context.stages.of(
                    f"{task}, {_name(network)}, seed {seed}",
                    functools.partial(_compare, contest, network, settings, seed, context),
                )


def _name(network: Network) -> str:
    side = 28 // network.pool
    return f"{side}x{side}x2 from {'-'.join(map(str, reversed(network.widths)))}"


def _compare(
    build: Callable[[Network, Settings, int, Context], Contest],
    network: Network,
    settings: Settings,
    seed: int,
    context: Context,
) -> Iterator[Record]:
    """All ways of one contest in turns, and the product of two matrices among them."""
    begun, contest = time.perf_counter(), build(network, settings, seed, context)
    operations, product = _product(settings.product)
    busy: dict[str, list[float]] = {}
    works = {
        way: functools.partial(_counted, work, busy.setdefault(way, []))
        for way, work in {**contest.ways, PRODUCT: product}.items()
    }
    total = (1 + settings.repetitions) * len(works)
    with context.progress.task(
        f"{contest.task}, {_name(network)}, seed {seed}", total=total
    ) as bar:
        turns = all_turns(list(works.values()), settings.repetitions, bar.advance)
    for way, (first, *spent) in zip(works, turns, strict=True):
        typical, cpu = float(np.median(spent)), float(np.median(busy[way][1:]))
        done = operations if way == PRODUCT else contest.images * contest.arithmetic
        metrics = {
            "gflops": done / typical / 1e9,
            "gflops_per_cpu_second": done / cpu / 1e9,
            "first_call_seconds": first,
        }
        if way != PRODUCT:
            metrics["images_per_second"] = contest.images / typical
            metrics["images_per_cpu_second"] = contest.images / cpu
        if way == OURS:
            metrics |= contest.others()
        yield Record(
            method=way,
            setting={"task": contest.task, "decoder": _name(network)},
            seed=seed,
            metrics=metrics,
            curve={
                "repetition": list(range(len(spent))),
                "seconds": spent,
                "cpu_seconds": busy[way][1:],
            },
            wall_time=time.perf_counter() - begun,
        )


def _counted(work: Callable[[], Any], seconds: list[float]) -> None:
    """Does the work to its end, and notes the processor's seconds, of all threads."""
    begun = time.process_time()
    jax.block_until_ready(work())
    seconds.append(time.process_time() - begun)


def _product(side: int) -> tuple[float, Callable[[], Any]]:
    """What the machine can do: a few products of two matrices, and their operations."""
    times = 8
    matrix = jnp.full((side, side), 1 / side)
    multiply = jax.jit(lambda a, b: a @ b)
    return times * 2.0 * side**3, lambda: [multiply(matrix, matrix) for _ in range(times)]


def _operations(compiled: Any, *given: Any) -> float:
    return float(compiled.lower(*given).cost_analysis()["flops"])


def _model(network: Network, settings: Settings) -> LaCIM:
    side = 28 // network.pool
    return LaCIM(
        MLPEncoder(network.widths),
        MLPDecoder((side, side, 2), tuple(reversed(network.widths))),
        MLP((64, 2)),
        num_domains=2,
        s_dim=settings.s_dim,
        v_dim=settings.v_dim,
    )


def _examples(
    network: Network, settings: Settings, count: int, seed: int, context: Context
) -> Examples:
    dataset = load(settings.data, "train", data_dir=context.data_dir)
    count = min(count, len(dataset.labels))
    colored = color_digits(
        streams(seed).data,
        dataset.images[:count],
        dataset.labels[:count],
        correlation=0.9,
        domains=np.arange(count) % 2,
    )
    return Examples(pooled(colored.images, network.pool), colored.labels, colored.domains)


def training(network: Network, settings: Settings, seed: int, context: Context) -> Contest:
    """One epoch, both ways.

    Args:
        network: which.
        settings: the experiment's.
        seed: of data and weights.
        context: where data lie.
    """
    data = _examples(network, settings, settings.train_images, seed, context)
    model, tx, keys = _model(network, settings), optax.adam(1e-3), streams(seed)
    params = jax.jit(model.init)(keys.init, data.images[:1], data.domains[:1])["params"]
    loss, size = lacim_loss(model), settings.batch_size
    steps = len(data.labels) // size
    compiled = train_step(cast("LossFn", loss), tx)
    state = init_state(params, tx, jnp.zeros([], jnp.int32))

    @jax.jit
    def epoch(state: Any, data: Examples) -> Any:
        rows = jax.random.permutation(keys.order, len(data.labels))[: steps * size]

        def step(state: Any, xs: Any) -> tuple[Any, None]:
            index, own = xs
            batch = jax.tree.map(lambda leaf: leaf[own], data)
            return compiled(state, batch, jax.random.fold_in(keys.noise, index))[0], None

        return jax.lax.scan(step, state, (jnp.arange(steps), rows.reshape(steps, size)))[0]

    def ours() -> Any:
        return epoch(state, data)

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    on_host = jax.tree.map(np.asarray, data)

    def loop() -> Any:
        weights, opt_state, step = params, tx.init(params), jnp.zeros([], jnp.int32)
        order = np.random.default_rng(seed).permutation(len(on_host.labels))
        for i in range(steps):
            rows = order[i * size : (i + 1) * size]
            batch = jax.tree.map(lambda leaf, rows=rows: jnp.asarray(leaf[rows]), on_host)
            grads, (step, _) = gradient(weights, step, batch, jax.random.fold_in(keys.noise, i))
            updates, opt_state = tx.update(grads, opt_state)
            weights = optax.apply_updates(weights, updates)
        return weights

    first = jax.tree.map(lambda leaf: leaf[:size], data)
    one = _operations(gradient, params, jnp.zeros([], jnp.int32), first, keys.noise) / size
    return Contest(TRAINING, steps * size, one, {OURS: ours, LOOP: loop}, dict)


def searching(network: Network, settings: Settings, seed: int, context: Context) -> Contest:
    """A search of all images, every way.

    Args:
        network: which.
        settings: the experiment's.
        seed: of data and weights.
        context: where data lie.
    """
    data = _examples(network, settings, settings.search_images, seed, context)
    model, optimiser, keys = _model(network, settings), optax.adam(0.05), streams(seed)
    variables = jax.jit(model.init)(keys.init, data.images[:1], data.domains[:1])
    search = Search(
        optimiser=optimiser, draws=settings.draws, chunk_size=settings.chunk_size, loop="scan"
    )
    images, count = np.asarray(data.images), settings.search_steps

    def ours(rows: slice = slice(None), steps: int = count) -> Any:
        found = infer(model, variables, images[rows], keys.noise, steps=steps, search=search)
        return found.latents

    def others() -> dict[str, float]:
        together = dataclasses.replace(search, chunk_size=settings.whole)
        with CompiledPrograms() as later:
            ours(slice(len(images) // 2 + 1), count // 2)
        return {
            "programs_later": float(later.count),
            "megabytes": search_memory(model, variables, images, search=search) / 1e6,
            "megabytes_whole": search_memory(model, variables, images, search=together) / 1e6,
        }

    def minus(latents: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Of a batch, whose members do not interact; as one writes it for a batch."""
        pixels: Any = model.apply(variables, latents, method="decode")
        priors: Any = model.apply(variables, method="priors")
        log_x = jax.vmap(model.likelihood.log_prob)(pixels, images)
        objective = log_x + jax.vmap(lambda z: mixture_prior(z, priors))(latents)
        return -objective.sum(), objective

    gradient = jax.jit(jax.grad(minus, has_aux=True))
    starts = jax.jit(lambda x, noise: model.apply(variables, x, noise, method="starts"))
    size, dim = settings.batch_size, model.s_dim + model.v_dim

    def climb(latents: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The best latents that Adam meets from one start of each image, and their objective."""
        state, best = optimiser.init(latents), latents
        best_value = jnp.full(len(latents), -jnp.inf)
        for _ in range(count + 1):
            grads, value = gradient(latents, images)
            better = value > best_value
            best = jnp.where(better[:, None], latents, best)
            best_value = jnp.where(better, value, best_value)
            updates, state = optimiser.update(grads, state)
            latents = jnp.asarray(optax.apply_updates(latents, updates))
        return best, best_value

    def batches() -> Iterator[tuple[jax.Array, Any]]:
        noise = jax.random.normal(keys.noise, (settings.draws, 2, dim))
        for first in range(0, len(images), size):
            batch = jnp.asarray(images[first : first + size])
            yield batch, starts(batch, noise)

    def loop() -> Any:
        found = []
        for batch, every in batches():
            best, best_value = climb(every[:, 0], batch)
            for start in range(1, every.shape[1]):
                latents, value = climb(every[:, start], batch)
                better = value > best_value
                best = jnp.where(better[:, None], latents, best)
                best_value = jnp.where(better, value, best_value)
            found.append(best)
        return found

    def at_once() -> Any:
        found = []
        for batch, every in batches():
            latents, value = climb(
                every.reshape(-1, dim), jnp.repeat(batch, every.shape[1], axis=0)
            )
            chosen = value.reshape(len(batch), -1).argmax(axis=1)
            found.append(latents.reshape(every.shape)[jnp.arange(len(batch)), chosen])
        return found

    one = _operations(gradient, jnp.zeros((1, dim)), data.images[:1])
    every = 2 * (1 + settings.draws) * (count + 1)
    ways = {OURS: ours, LOOP: loop, AT_ONCE: at_once}
    return Contest(SEARCH, len(images), every * one, ways, others)


class CompiledPrograms:
    """Counts the programs that are compiled, or read from a cache, inside a `with`."""

    count = 0

    def __enter__(self) -> "CompiledPrograms":
        """Begins to count."""
        self._open = True
        jax.monitoring.register_event_duration_secs_listener(self._heard)
        return self

    def __exit__(self, *error: object) -> None:
        """Ends it; JAX keeps the listener, which no longer counts."""
        self._open = False

    def _heard(self, event: str, duration_secs: float, **details: Any) -> None:
        del duration_secs, details
        self.count += self._open and event.endswith("backend_compile_duration")

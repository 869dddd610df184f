"""How much faster LaCIM trains and searches than the loop that one writes first.

Two ratios, of throughputs in one process, taken in turns, medians over repetitions:

- training, images a second: an epoch inside one compiled loop, against a
  Python loop over batches with a jitted gradient and the optimiser called from Python;
- latent search, images a second: `infer`, all starts of a chunk at once and all steps in one
  compiled loop, against a Python loop over batches, starts and steps with a jitted gradient, which
  is how the published code goes about it.

Both sides compute the same numbers of gradients at the same batch sizes. Compilation is counted
apart. The target is a ratio of 5 for the search on CPU.

Cost: smoke half a minute, cpu 4 minutes on two cores.
Command: python -m benchmarks lacim_speed --preset cpu
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.registry import Context
from benchmarks.timing import all_turns
from common.colored_digits import color_digits
from common.data import load
from common.plots import figure, plot_bars
from common.records import Record
from common.seeds import streams
from common.tables import group, markdown, summarise
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
)

TARGET = 5.0
"""The ratio that the search is meant to reach on CPU."""

OURS, LOOP = "compiled", "per-batch loop"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the experiment depends on."""

    data: str = "mnist5k"
    train_images: int = 3840
    search_images: int = 500
    widths: tuple[int, ...] = (512, 256)
    s_dim: int = 16
    v_dim: int = 16
    batch_size: int = 128
    search_steps: int = 50
    draws: int = 4
    """Starts of each image are (1 + draws) for each of the two domains."""
    chunk_size: int = 250
    repetitions: int = 3


PRESETS = {
    "smoke": Settings(train_images=1280, search_images=128, widths=(64,), chunk_size=128),
    "cpu": Settings(),
    "full": Settings(
        data="mnist", train_images=59_904, search_images=10_000, chunk_size=2000, repetitions=7
    ),
}


TRAINING, SEARCH = "training", "latent search"


class Contest(NamedTuple):
    """Two ways to the same thing."""

    task: str
    images: int
    ways: dict[str, Callable[[], Any]]


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each task, way and seed; its curve holds the repetitions."""
    for seed in context.seeds:
        for task, contest in ((TRAINING, training), (SEARCH, searching)):
            yield from context.stages.of(
                f"{task}, seed {seed}",
                functools.partial(_compare, contest, settings, seed, context),
            )


def _compare(
    build: Callable[[Settings, int, Context], Contest],
    settings: Settings,
    seed: int,
    context: Context,
) -> Iterator[Record]:
    """Both ways of one contest, in turns."""
    begun, contest = time.perf_counter(), build(settings, seed, context)
    total = (1 + settings.repetitions) * len(contest.ways)
    with context.progress.task(f"{contest.task}, seed {seed}", total=total) as bar:
        turns = all_turns(list(contest.ways.values()), settings.repetitions, bar.advance)
    for way, (first, *spent) in zip(contest.ways, turns, strict=True):
        yield Record(
            method=way,
            setting={"task": contest.task},
            seed=seed,
            metrics={
                "images_per_second": contest.images / float(np.median(spent)),
                "first_call_seconds": first,
            },
            curve={"repetition": list(range(len(spent))), "seconds": spent},
            wall_time=time.perf_counter() - begun,
        )


def _model(settings: Settings) -> LaCIM:
    return LaCIM(
        MLPEncoder(settings.widths),
        MLPDecoder((28, 28, 2), tuple(reversed(settings.widths))),
        MLP((64, 2)),
        num_domains=2,
        s_dim=settings.s_dim,
        v_dim=settings.v_dim,
    )


def _examples(settings: Settings, count: int, seed: int, context: Context) -> Examples:
    dataset = load(settings.data, "train", data_dir=context.data_dir)
    count = min(count, len(dataset.labels))
    colored = color_digits(
        streams(seed).data,
        dataset.images[:count],
        dataset.labels[:count],
        correlation=0.9,
        domains=np.arange(count) % 2,
    )
    return Examples(colored.images, colored.labels, colored.domains)


def training(settings: Settings, seed: int, context: Context) -> Contest:
    """One epoch, both ways.

    Args:
        settings: the experiment's.
        seed: of data and weights.
        context: where data lie.
    """
    data, keys = _examples(settings, settings.train_images, seed, context), streams(seed)
    model, tx = _model(settings), optax.adam(1e-3)
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

    return Contest(TRAINING, steps * size, {OURS: ours, LOOP: loop})


def searching(settings: Settings, seed: int, context: Context) -> Contest:
    """A search of all images, both ways.

    Args:
        settings: the experiment's.
        seed: of data and weights.
        context: where data lie.
    """
    data, keys = _examples(settings, settings.search_images, seed, context), streams(seed)
    model, optimiser = _model(settings), optax.adam(0.05)
    variables = jax.jit(model.init)(keys.init, data.images[:1], data.domains[:1])
    search = Search(
        optimiser=optimiser, draws=settings.draws, chunk_size=settings.chunk_size, loop="scan"
    )

    def ours() -> Any:
        steps = settings.search_steps
        return infer(model, variables, data.images, keys.noise, steps=steps, search=search).latents

    def objective(latents: jax.Array, images: jax.Array) -> jax.Array:
        """Summed over a batch, whose members do not interact; as one writes it for a batch."""
        pixels: Any = model.apply(variables, latents, method="decode")
        priors: Any = model.apply(variables, method="priors")
        log_x = jax.vmap(model.likelihood.log_prob)(pixels, images)
        return (log_x + jax.vmap(lambda z: mixture_prior(z, priors))(latents)).sum()

    gradient = jax.jit(jax.value_and_grad(lambda z, x: -objective(z, x)))
    starts = jax.jit(lambda x, noise: model.apply(variables, x, noise, method="starts"))
    each = jax.jit(jax.vmap(lambda z, x: objective(z[None], x[None])))
    size = settings.batch_size

    def loop() -> Any:
        found = []
        noise = jax.random.normal(keys.noise, (settings.draws, 2, model.s_dim + model.v_dim))
        for first in range(0, len(data.labels), size):
            images = data.images[first : first + size]
            every: Any = starts(images, noise)
            best, best_value = every[:, 0], each(every[:, 0], images)
            for start in range(every.shape[1]):
                latents, state = every[:, start], optimiser.init(every[:, start])
                for _ in range(settings.search_steps):
                    _, grads = gradient(latents, images)
                    updates, state = optimiser.update(grads, state)
                    latents = jnp.asarray(optax.apply_updates(latents, updates))
                    value = each(latents, images)
                    better = value > best_value
                    best = jnp.where(better[:, None], latents, best)
                    best_value = jnp.where(better, value, best_value)
            found.append(best)
        return found

    return Contest(SEARCH, len(data.labels), {OURS: ours, LOOP: loop})


def tables(records: Sequence[Record]) -> str:
    """Throughputs and their ratio, task by task."""
    rows = []
    for task, own in group(records, lambda r: str(r.setting["task"])).items():
        found = ratios(own)
        ways = group(own, lambda r: r.method)
        speeds = [
            f"{summarise(r.metrics['images_per_second'] for r in ways[way]).mean:,.0f}"
            for way in (OURS, LOOP)
        ]
        firsts = [
            f"{summarise(r.metrics['first_call_seconds'] for r in ways[way]).mean:.1f}"
            for way in (OURS, LOOP)
        ]
        verdict = "-"
        if task == SEARCH:
            verdict = "met" if min(found) >= TARGET else "missed"
        rows.append(
            [
                task,
                *speeds,
                f"{np.median(found):.2f} ({min(found):.2f} to {max(found):.2f})",
                f"{TARGET:g}: {verdict}" if verdict != "-" else "-",
                *firsts,
            ]
        )
    header = [
        "task", "images/s, compiled", "per-batch loop", "ratio, median (range over seeds)",
        "target", "first call s, compiled", "per-batch loop",
    ]  # fmt: skip
    return markdown(header, rows)


def ratios(records: Sequence[Record]) -> list[float]:
    """Ours over the loop's, a seed each.

    Args:
        records: of one task.
    """
    seeds = group(records, lambda r: r.seed)
    found = []
    for runs in seeds.values():
        speed = {r.method: r.metrics["images_per_second"] for r in runs}
        found.append(speed[OURS] / speed[LOOP])
    return found


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """The two ratios, a dot a seed."""
    tasks = group(records, lambda r: str(r.setting["task"]))
    path = out / "ratio.png"
    with figure(path, panel=(5.2, 1.8)) as panels:
        axes = panels[0, 0]
        plot_bars(axes, list(tasks), [ratios(own) for own in tasks.values()])
        axes.axvline(1.0, color="black", linewidth=1)
        axes.set(xlabel="images a second, compiled / per-batch loop")
    return [path]

"""How much faster LaCIM trains and searches than the loop that one writes first.

Throughputs in one process, taken in turns, medians over repetitions:

- training, images a second: an epoch inside one compiled loop, against a
  Python loop over batches with a jitted gradient and the optimiser called from Python;
- latent search by a trained model, images a second: `infer` as it is by default, which drops all
  but two of ten starts after 4 of 50 steps; `infer` that takes every start to its end; a Python
  loop over batches, starts and steps with a jitted gradient and the optimiser called from Python;
  and the same loop with the starts laid side by side in the batch, which is the first thing to do
  about it.

- the same search of 32x32 images by a convolutional decoder, beside the authors' own in PyTorch
  (Sun et al., 2021): 20 starts an image, of which theirs takes the best one 50 steps of Adam on.
  Theirs moves little, so that ours stands there twice: as it is by default, and with as many steps
  from the best start as it takes to the objective that theirs reaches. Both have the same starts,
  decoder and weights; encoding is counted in ours alone. Without PyTorch it is left out. The
  target is 10 times its images a second.

All but the authors' keep the best latents met; the loops use the objective that comes with the
gradient. Compilation is counted apart. The target is a ratio of 5 for the search on CPU, at the
same result: an objective within 0.01 nats of that of every start taken to its end, in the mean over
images, and the same label for 99.5% of them.

What a loop adds to the arithmetic is the same whatever the network: dispatch, and the optimiser's
operations one after another. So the ratio falls with the size of the decoder, and three are
measured: those of the day presets of `lacim_baselines` and `lacim_colored_digits`, and a larger
one. Beside them stands the rate of the machine's own product of two matrices, from the same
turns. Where the loop reaches a share of it, no program with the same arithmetic can be
faster than the loop by more than the inverse of that share: the column "at most".

Where other programs run beside it, a clock on the wall measures them too. So the same ratio is
given in the processor's seconds, of all threads together: what each way costs.

A whole evaluation is one set of compiled programs: how many more are compiled in a later call, with
another number of images and of steps, is counted. The memory of a chunk stands beside what 10,000
images at once would take.

Cost: smoke a minute, cpu 5 minutes on one busy core, day 6 on two; full was not run.
Command: python -m benchmarks lacim_speed --preset day
"""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness.registry import Context
from benchmarks.harness.timing import all_turns
from benchmarks.latent.colored import authors_search
from benchmarks.latent.colored.authors_search import Convolutions
from benchmarks.latent.contests import Contest, Network, Settings, searching, training
from benchmarks.latent.reports import speed as report
from benchmarks.latent.reports.authors_search import BESIDE_AUTHORS
from benchmarks.latent.reports.speed import OURS, PRODUCT, SEARCH, TRAINING
from common.results.records import Record

PRESETS = {
    "smoke": Settings(
        networks=(Network(4, (64,)),), train_images=1280, search_images=128, chunk_size=64,
        channels=(8, 16),
    ),
    "cpu": Settings(
        networks=(Network(4, (128, 128)), Network(2, (256, 128))), train_images=2560,
        search_images=128, fitted_steps=100, search_steps=20, channels=(8, 16, 32, 64),
    ),
    "day": Settings(),
    "full": Settings(
        data="mnist", train_images=59_904, search_images=10_000, chunk_size=2000, repetitions=7
    ),
}  # fmt: skip

tables, plots, CAPTIONS = report.tables, report.plots, report.CAPTIONS


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each network, task, way and seed; its curve holds the repetitions."""
    for seed in context.seeds:
        for network in settings.networks:
            for task, contest in ((TRAINING, training), (SEARCH, searching)):
                yield from context.stages.of(
                    f"{task}, {network.name}, seed {seed}",
                    functools.partial(_compare, contest, network, settings, seed, context),
                )
        network = Convolutions(settings.channels)
        yield from context.stages.of(
            f"{BESIDE_AUTHORS}, {network.name}, seed {seed}",
            functools.partial(_compare, authors_search.searching, network, settings, seed, context),
        )


def _compare(
    build: Callable[[Any, Settings, int, Context], Contest], network: Network | Convolutions,
    settings: Settings, seed: int, context: Context,
) -> Iterator[Record]:  # fmt: skip
    """All ways of one contest in turns, and the product of two matrices among them."""
    begun, contest = time.perf_counter(), build(network, settings, seed, context)
    operations, product = _product(settings.product)
    busy: dict[str, list[float]] = {}
    works = {
        way: functools.partial(_counted, work, busy.setdefault(way, []))
        for way, work in {**contest.ways, PRODUCT: product}.items()
    }
    total = (1 + settings.repetitions) * len(works)
    with context.progress.task(f"{contest.task}, {network.name}, seed {seed}", total=total) as bar:
        turns = all_turns(list(works.values()), settings.repetitions, bar.advance)
    for way, (first, *spent) in zip(works, turns, strict=True):
        typical, cpu = float(np.median(spent)), float(np.median(busy[way][1:]))
        done = operations if way == PRODUCT else contest.images * contest.arithmetic[way]
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
            setting={"task": contest.task, "decoder": network.name},
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

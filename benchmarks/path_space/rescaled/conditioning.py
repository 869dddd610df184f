"""Which copy of a network should one train: as drawn, balanced, or best conditioned (PathCond)?

ReLU networks on CIFAR-10: perceptrons with 3, 5 and 8 hidden layers and a small convolutional
network, with biases, without norms, from the default initialisation of PyTorch (uniform within
1 / sqrt(inputs)), trained by SGD. All starts of a seed are one function; what differs is the copy:

- as drawn;
- balanced once: every unit's incoming and outgoing weights have equal norms, which is what
  equi-normalisation (ENorm) tends to;
- conditioned once: the diagonal of the path kernel is as even as can be (`gsgd_jax.family`).

Each has the same grid of steps and is reported at two of them: at 0.001, the one that the paper
gives to all rows of its perceptrons, and at the one that is best on validation data.

Published: a convolutional network of 2,616,576 parameters with BatchNorm, CIFAR-10, batches of 128
at step 0.01, one seed: after 1, 2 and 3 epochs 34.7, 49.7 and 57.5% conditioned, 17.8, 48.4 and
40.1% as drawn, while the training losses of the third epoch are 1.17 and 1.25: the gap is one
reading of running averages (notebook beside https://github.com/Artim436/pathcond; Lebeurrier et
al., 2026, https://arxiv.org/abs/2602.19799). There rescaling took 7.47 seconds on a GPU.

Cost: smoke and cpu a minute, day ten on one core. Estimated, not run: full an hour on one
accelerator.
Command: python -m benchmarks gsgd_conditioning --preset day --seeds 3
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness.registry import Context
from benchmarks.harness.reports import by_setting, joined, where, won_and_lost
from benchmarks.path_space.rates import Line, choose, rate_figure, rate_tables
from benchmarks.path_space.rescaled.tasks import ImageTask, Problem, problem
from benchmarks.path_space.training import Objective, Runs, train_at_rates
from common.progress import Bar
from common.results.comparison import Difference, paired_difference
from common.results.records import Record
from common.seeds import streams
from gsgd_jax import balance
from gsgd_jax.family import condition, path_kernel

PUBLISHED_RATE = 1e-3
"""The step that the published comparison of perceptrons gives to all of its rows."""
DRAWN, BALANCED, CONDITIONED = "as drawn", "balanced once", "conditioned once"
STARTS: dict[str, Callable[[Any, Problem], Any]] = {
    DRAWN: lambda params, given: params,
    BALANCED: lambda params, given: balance(params, given.gauge),
    CONDITIONED: lambda params, given: condition(params, given.gauge, _kernel(given, params)),
}
LINES = {name: Line("SGD", name, style) for style, name in enumerate(STARTS)}
"""Where each start is drawn."""
PAIRS = ((CONDITIONED, DRAWN), (BALANCED, DRAWN), (CONDITIONED, BALANCED))


def _mlp(depth: int, width: int, **options: Any) -> ImageTask:
    return ImageTask("MLP", "cifar10", sizes=(width,) * depth, **options)


def _cnn(channels: tuple[int, ...], **options: Any) -> ImageTask:
    return ImageTask("CNN", "cifar10", sizes=channels, **options)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the experiment depends on."""

    tasks: tuple[ImageTask, ...] = (
        ImageTask("MLP", "digits8x8", pool=1, sizes=(16, 16, 16), epochs=10),
        ImageTask("CNN", "digits8x8", pool=1, sizes=(8, 8), epochs=10),
    )
    rates: tuple[float, ...] = (PUBLISHED_RATE, 0.1)


_FEW = {
    "train_size": 5000, "validation_size": 1000, "test_size": 2000, "batch_size": 64, "epochs": 2,
}  # fmt: skip
_SOME = {
    "train_size": 20_000, "validation_size": 2_000, "test_size": 5_000, "batch_size": 64,
    "epochs": 4,
}  # fmt: skip
PRESETS = {
    "smoke": Settings(),
    "cpu": Settings(
        tasks=(_mlp(5, 64, pool=4, **_FEW), _cnn((8, 16), pool=4, **_FEW)),
        rates=(PUBLISHED_RATE, 0.03, 0.3),
    ),
    "day": Settings(
        tasks=(
            *(_mlp(depth, 128, pool=2, **_SOME) for depth in (3, 5, 8)),
            _cnn((16, 32, 32), pool=2, **_SOME),
        ),
        rates=(PUBLISHED_RATE, 0.01, 0.03, 0.1, 0.3, 1.0),
    ),
    "full": Settings(
        tasks=(
            *(_mlp(depth, 500, pool=1, batch_size=128, epochs=100) for depth in (3, 5, 8)),
            _cnn((64, 128, 256, 256), pool=1, batch_size=128, epochs=128),
        ),
        rates=(PUBLISHED_RATE, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
    ),
}


def name_of(task: ImageTask) -> str:
    """A network in words: "MLP 3 x 128", "CNN 16-32-32"."""
    if task.network == "MLP":
        return f"MLP {len(task.sizes)} x {task.sizes[0]}"
    return f"{task.network} {'-'.join(map(str, task.sizes))}"


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each network, start, learning rate and seed.

    Args:
        settings: the experiment's.
        context: seeds, data, progress, devices.
    """
    epochs = sum(task.epochs for task in settings.tasks)
    with context.progress.task("rescaled copies", total=epochs) as bar:
        for task in settings.tasks:
            stage = functools.partial(_train, task, settings.rates, context, bar)
            yield from context.stages.of(name_of(task), stage)


def _train(task: ImageTask, rates: Sequence[float], context: Context, bar: Bar) -> Iterator[Record]:
    """All starts, rates and seeds of one network, side by side."""
    given = problem(task, context.data_dir)
    begun = time.perf_counter()
    cases, params, seconds = [], [], {}
    for seed in context.seeds:
        drawn = torch_default(given.init(streams(seed).init), streams(seed).init)
        for name, make in STARTS.items():
            before = time.perf_counter()
            start = jax.block_until_ready(make(drawn, given))
            seconds[name, seed] = time.perf_counter() - before
            for rate in rates:
                cases.append((name, seed, rate))
                params.append(start)
    _, seeds, steps = zip(*cases, strict=True)
    trained = train_at_rates(
        optax.sgd, lambda count: jnp.ones([]), Runs(
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *params), np.asarray(steps), seeds
        ),
        Objective(given.loss, given.metrics), (given.train, given.validation, given.test),
        batch_size=task.batch_size, epochs=task.epochs, bar=bar, mesh=context.mesh,
    )  # fmt: skip
    wall_time = time.perf_counter() - begun
    for i, (name, seed, rate) in enumerate(cases):
        curve = {metric: column[:, i].tolist() for metric, column in trained.curve.items()
                 if metric != "epoch"}  # fmt: skip
        yield Record(
            method=name,
            setting={"network": name_of(task), "learning_rate": rate},
            seed=seed,
            metrics={metric: column[-1] for metric, column in curve.items()}
            | {"seconds_to_rescale": seconds[name, seed]},
            curve={"epoch": trained.curve["epoch"].tolist(), **curve},
            wall_time=wall_time,
        )


def torch_default(params: Any, key: jax.Array) -> Any:
    """First weights as PyTorch draws them: of a layer all uniform within 1 / sqrt(inputs).

    Args:
        params: layers of a kernel, whose last axis are outputs, and a bias.
        key: a PRNG key.
    """
    layers = {}
    for i, (name, layer) in enumerate(params.items()):
        bound = float(np.prod(layer["kernel"].shape[:-1])) ** -0.5
        keys = jax.random.split(jax.random.fold_in(key, i))
        layers[name] = {
            leaf: jax.random.uniform(k, layer[leaf].shape, minval=-bound, maxval=bound)
            for leaf, k in zip(("kernel", "bias"), keys, strict=True)
        }
    return layers


def _kernel(given: Problem, params: Any) -> Any:
    """The diagonal of the path kernel, by the network itself: every position of an image counts."""
    return path_kernel(given.apply, params, given.train[0][:1])


CAPTIONS = {
    "learning_rates.png": "Test accuracy against the step size, from three copies of one function: "
    "mean and one standard deviation over seeds. The step chosen on validation data is ringed; a "
    "cross marks steps at which a run diverged. The published comparison is made at the leftmost.",
}


def tables(records: Sequence[Record]) -> str:
    """Accuracy at the published step and at the best one, and the differences, seed by seed.

    Args:
        records: of this experiment.
    """
    parts = [_verdict(records)]
    for network, runs in by_setting(records, "network").items():
        parts += [f"### {network}", rate_tables(runs, PAIRS, fixed_rate=PUBLISHED_RATE)]
    return joined(*parts)


def _verdict(records: Sequence[Record]) -> str:
    """Whether the conditioned copy trains better, as published and with every side tuned."""
    of_network = by_setting(records, "network").values()
    lines = []
    for one, other in PAIRS:
        same, tuned = [], []
        for runs in of_network:
            sides = [where(runs, method) for method in (one, other)]
            same.append(_gap([where(side, learning_rate=PUBLISHED_RATE) for side in sides]))
            tuned.append(_gap([choose(side).records for side in sides]))
        points = ", ".join(f"{100 * gap.mean:+.1f}" for gap in tuned)
        lines.append(
            f"- {one} against {other}: {won_and_lost(same)} at the published step; "
            f"{won_and_lost(tuned)} with each at its own best step, by points of test accuracy: "
            f"{points}."
        )
    return "\n".join(lines)


def _gap(sides: Sequence[Sequence[Record]]) -> Difference:
    return paired_difference(sides[0], sides[1], "test_accuracy")


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Accuracy against the step size, a row a network.

    Args:
        records: of this experiment.
        out: folder of the figures.
    """
    path = out / "learning_rates.png"
    return [rate_figure(records, path, LINES, row=lambda r: str(r.setting["network"]))]

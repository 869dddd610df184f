"""Does the scale of the start cost accuracy, and what spares one the cost: path space, or less?

Every hidden channel of a start is rescaled at random, by exp(s N(0,1)): the same function, ever
worse scaled. Rows: SGD, momentum, Adam, RMSProp and Muon, each on weights; on weights after
balancing the start once; on the lengths and directions of weight normalisation; and inside path
space. Networks: a perceptron, a small CNN, a small ResNet without norms, a ReLU transformer. The
rescalings of a seed are the same for all rows, and those of its spreads multiples of one another.

Two protocols. Tuned: the step size is chosen on validation data anew at every s. Kept: it is chosen
at s = 0 and used at every s. All rows share one search: a coarse grid, then one step smaller and
one larger beside its best. Steps fall linearly to zero. Accuracy is that on test data: of images,
and of the tokens of the transformer's sentences. In verdicts and figures a run that diverged counts
as one that learnt nothing; tables give the mean of the others and say how many diverged.

What theory says beforehand: in balanced coordinates, a rule in path space is that rule on the
balanced copy of the start. So "balanced once" and "in path space" must agree up to rounding, which
training magnifies, and neither may depend on s. If they do, balancing once suffices for the
function that is learnt; what path space has over it is that the weights stay in the user's scale
and that no second copy of the network is needed. Whether both are any better than weights is what
is measured. Where pruning has left units without incoming or without outgoing weights the two may
differ by more: such units have no balance, `balance` leaves them the scale they have, path space
gives them norm 1, and the balance of their neighbours depends on it.

Weight normalisation begins at g = |w| and v = w. It has a rescaling of its own, that of v, which is
no part of the function but sets how far a step turns it; so it is not invariant either.

As a control of what rounding alone does, one start is that of s = 0 with every weight moved to the
next number of float32.

Then perceptrons whose scale is bad because of what was done to them after training, fine-tuned on:
pruned by magnitude (pruned entries stay zero), two of them averaged after matching their units,
equalised across layers as for quantisation, and brought to the range 1 in each unit.

`day` trains for 100 steps of 16 or 32 examples: a row's loss is what it cannot make up in so few.
No published figure is known for this comparison.

Cost: smoke half a minute, cpu 3 minutes of one core, day 15. Full is sized for one accelerator and
was not run.
Command: python -m benchmarks gsgd_rescaled_start --preset day --seeds 3
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

from benchmarks.harness.registry import Context
from benchmarks.path_space.rescaled import damage, report
from benchmarks.path_space.rescaled.board import CONTROL
from benchmarks.path_space.rescaled.rows import RULES, WAYS, WEIGHTS, Rule, Way, row_name
from benchmarks.path_space.rescaled.runs import Grid, Runner, Scores, Start, search, stacked
from benchmarks.path_space.rescaled.tasks import (
    ImageTask,
    SentenceTask,
    Task,
    problem,
)
from common.data.generated.translation import Lexicon
from common.results.records import Record
from common.seeds import streams

_GRID = Grid((1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0), 10**0.5)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the experiment depends on."""

    tasks: tuple[Task, ...]
    rules: tuple[str, ...] = tuple(rule.name for rule in RULES)
    spreads: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 3.0)
    """Standard deviations of the log-scales; the first is 0."""
    damages: tuple[str, ...] = damage.DAMAGES
    """What else the perceptron is started from."""
    kept_share: float = 0.2
    """Of each kernel's entries, after pruning."""
    pretraining_rate: float = 3e-3
    """Adam's, of the networks that are then pruned, merged or equalised."""
    grid: Grid = _GRID
    at_once: int | None = None
    """At most so many runs are trained side by side; None for all starts and seeds of a row."""

    def __post_init__(self):
        """Refuses what cannot be tuned, and names that are not known."""
        if not self.spreads or self.spreads[0] != 0:
            raise ValueError(f"the first spread must be 0, got {self.spreads}.")
        for given, known in (
            (self.rules, tuple(rule.name for rule in RULES)),
            (self.damages, damage.DAMAGES),
        ):
            if unknown := set(given) - set(known):
                raise ValueError(f"{', '.join(known)} are known, got {', '.join(sorted(unknown))}.")


_FEW: dict[str, Any] = {"train_size": 1600, "validation_size": 500, "test_size": 2000}
_FEWER: dict[str, Any] = {"train_size": 1600, "validation_size": 500, "test_size": 1000}

PRESETS = {
    "smoke": Settings(
        tasks=(ImageTask("MLP", data="digits8x8", pool=1, sizes=(16, 16), train_size=320,
                         validation_size=100, test_size=100, epochs=4),),
        rules=("SGD", "Adam"), spreads=(0.0, 2.0), grid=Grid((1e-3, 1e-2, 1e-1), 10**0.5),
        pretraining_rate=1e-2,
    ),
    "cpu": Settings(
        tasks=(
            ImageTask("MLP", **_FEW),
            ImageTask("ResNet", pool=4, sizes=(8,), width=0.25, batch_size=16, epochs=1, **_FEWER),
        ),
        rules=("SGD", "Adam"), spreads=(0.0, 2.0),
    ),
    "day": Settings(
        tasks=(
            ImageTask("MLP", **_FEW),
            ImageTask("CNN", sizes=(8, 16), **_FEWER),
            ImageTask("ResNet", pool=4, sizes=(8,), width=0.25, batch_size=16, epochs=1, **_FEWER),
            SentenceTask(),
        ),
    ),
    "full": Settings(
        tasks=(
            ImageTask("MLP", pool=1, sizes=(512, 512, 512), batch_size=128, epochs=20),
            ImageTask("CNN", pool=1, sizes=(32, 64, 128), batch_size=128, epochs=20),
            ImageTask("ResNet", data="cifar10", pool=1, sizes=(20,), batch_size=128, epochs=60),
            SentenceTask(
                lexicon=Lexicon(nouns=40, adjectives=15, verbs=20), train_size=100_000,
                validation_size=2000, test_size=5000, width=128, hidden=512, heads=4, layers=3,
                batch_size=64, epochs=40,
            ),
        ),
        at_once=15,
    ),
}  # fmt: skip


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each network, row, start and seed.

    Args:
        settings: the experiment's.
        context: seeds, data, progress.
    """
    rules = [rule for rule in RULES if rule.name in settings.rules]
    for task in settings.tasks:
        given = problem(task, context.data_dir)
        runner = Runner(given, settings.at_once)

        @functools.cache
        def starts(runner: Runner = runner) -> tuple[list[Start], np.ndarray]:
            found = _starts(runner, settings, context.seeds)
            return found, runner.scores(stacked([start.params for start in found])).test

        with context.progress.task(given.name, total=len(rules) * len(WAYS)) as bar:
            for rule in rules:
                for way in WAYS:
                    name = row_name(rule.name, way.name)
                    make = functools.partial(_of_row, runner, rule, way, settings.grid, starts)
                    yield from context.stages.of(f"{given.name}, {name}", make)
                    bar.advance(note=name)


def _starts(runner: Runner, settings: Settings, seeds: Sequence[int]) -> list[Start]:
    """All starts of a problem, the seeds of each one together."""
    given = runner.problem
    usual = {seed: given.init(streams(seed).init) for seed in seeds}
    found = [
        Start(
            f"s = {spread:g}",
            spread,
            seed,
            # One key for all spreads: the log-scales are multiples of one another.
            given.gauge.rescale(usual[seed], _fresh(seed, 1), spread=spread) if spread else params,
        )
        for spread in settings.spreads
        for seed, params in usual.items()
    ]
    found += [
        Start(CONTROL, None, seed, jax.tree.map(_next_number, params))
        for seed, params in usual.items()
    ]
    if given.name == "MLP" and settings.damages:
        found += _damaged(runner, settings, usual)
        ones = jax.tree.map(np.ones_like, found[0].params)
        found = [start if start.mask else start._replace(mask=ones) for start in found]
    return found


def _next_number(leaf: jax.Array) -> jax.Array:
    return jnp.nextafter(leaf, jnp.full_like(leaf, jnp.inf))


def _fresh(seed: int, number: int) -> jax.Array:
    return jax.random.fold_in(streams(seed).init, number)


def _damaged(runner: Runner, settings: Settings, usual: dict[int, Any]) -> Iterator[Start]:
    """Networks trained by Adam from two initialisations each, and what is made of them."""
    given = runner.problem
    first = [Start("", None, seed, params) for seed, params in usual.items()]
    first += [Start("", None, seed, given.init(_fresh(seed, 2))) for seed in usual]
    adam = next(rule for rule in RULES if rule.name == "Adam")
    rates = np.full(len(first), settings.pretraining_rate)
    params = runner.train(adam, WEIGHTS, first)(rates).params
    trained = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(len(first))]
    for name in settings.damages:
        for i, seed in enumerate(usual):
            own, other, mask = trained[i], trained[i + len(usual)], ()
            if name == damage.PRUNED:
                mask = damage.kept_largest(own, settings.kept_share)
                own = jax.tree.map(lambda w, kept: w * kept, own, mask)
            elif name == damage.MERGED:
                own = damage.merged(own, other, given.train[0])
            elif name == damage.EQUALISED:
                own = damage.equalised(own)
            else:
                own = damage.ranges_at_one(own)
            yield Start(name, None, seed, own, mask)


def _of_row(
    runner: Runner,
    rule: Rule,
    way: Way,
    grid: Grid,
    made: Callable[[], tuple[list[Start], np.ndarray]],
) -> Iterator[Record]:
    """Searches the step sizes of one row from all starts."""
    begun = time.perf_counter()
    starts, before = made()
    names = list(dict.fromkeys(start.name for start in starts))
    seeds = len(starts) // len(names)
    train = runner.train(rule, way, starts)

    def runs(rates: np.ndarray) -> Scores:
        scores = train(np.repeat(rates, seeds)).scores
        return Scores(*(part.reshape(len(names), seeds) for part in scores))

    found = search(runs, len(names), grid)
    seconds = (time.perf_counter() - begun) / len(starts)
    for i, start in enumerate(starts):
        place, seed = divmod(i, seeds)
        tuned = found.tuned[place]
        rising = np.argsort(found.rates[:, place], kind="stable")
        tried = [part[rising, place, seed].tolist() for part in found.tried]
        yield Record(
            method=row_name(rule.name, way.name),
            setting={"problem": runner.problem.name, "start": start.name, "spread": start.spread},
            seed=start.seed,
            metrics={
                "start_accuracy": float(before[i]),
                "chance_accuracy": runner.problem.chance,
                "tuned_rate": float(found.rates[tuned, place]),
                "tuned_accuracy": float(found.tried.test[tuned, place, seed]),
                "kept_rate": found.kept_rate,
                "kept_accuracy": float(found.kept.test[place, seed]),
            },
            curve={
                "learning_rate": found.rates[rising, place].tolist(),
                "validation_accuracy": tried[0],
                "test_accuracy": tried[1],
            },
            wall_time=seconds,
        )


def tables(records: Sequence[Record]) -> str:
    """The verdict in words, then test accuracy by s for every row, by both protocols.

    Args:
        records: of this experiment.
    """
    return report.tables(records)


CAPTIONS = {
    "tuned.png": "Test accuracy against the spread s of the rescaled channels, the step size tuned "
    "at each s: mean and standard deviation over seeds. In path space, and balanced once, it is "
    "flat; on weights, and with weight normalisation, it falls.",
    "kept.png": "The same with the step size tuned at s = 0 and kept: what is lost on weights is "
    "more, since a rescaled start needs another step.",
    "damaged.png": "Test accuracy of damaged perceptrons after fine-tuning, a point for each way "
    "of training: ways differ where the damage is to the scale.",
}


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Test accuracy against s, a figure a protocol; and the damaged networks.

    Args:
        records: of this experiment.
        out: folder of the figures.
    """
    return report.plots(records, out)

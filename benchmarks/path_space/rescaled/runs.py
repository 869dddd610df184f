"""Training many starts side by side, and the search for a step size that all rows share."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.path_space.rescaled.rows import (
    Make,
    Rule,
    Space,
    Way,
    effective,
    first_parameters,
    transformation,
)
from benchmarks.path_space.rescaled.tasks import Problem
from common.seeds import streams
from common.training import Execution, Keys, LossFn, TrainState, fit, groups, init_state, train_step
from common.training.classification import evaluator


class Start(NamedTuple):
    """Weights to train from."""

    name: str
    """Shared by the seeds."""
    spread: float | None
    """Of the log-scales of its channels; None where it was not rescaled at random."""
    seed: int
    params: Any
    mask: Any = ()
    """0 at pruned entries and 1 elsewhere; () for none."""


class Scores(NamedTuple):
    """What some runs reached, each [...] like the runs; NaN where a run diverged."""

    validation: np.ndarray
    test: np.ndarray


class Trained(NamedTuple):
    """Runs after training."""

    scores: Scores
    params: Any
    """The weights that the networks compute with, each leaf [runs, ...]."""


def stacked(trees: Sequence[Any]) -> Any:
    """Trees of the same shapes as one, each leaf [trees, ...].

    Args:
        trees: at least one.
    """
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _masked_loss(problem: Problem, space: Space) -> LossFn:
    """The problem's loss of what is trained; the mask is the model's own state."""

    def loss_fn(trained: Any, mask: Any, batch: Any, key: jax.Array):
        loss, (_, metrics) = problem.loss(effective(space, trained, mask), (), batch, key)
        return loss, (mask, metrics)

    return loss_fn


class Runner:
    """Programs for one problem, each compiled once: runs differ in arrays alone."""

    def __init__(self, problem: Problem, at_once: int | None):
        """Programs are built when first asked for.

        Args:
            problem: the network and its data.
            at_once: at most so many runs are trained side by side; None for all.
        """
        self.problem, self._at_once = problem, at_once
        self._steps: dict[tuple[Make, Space], Any] = {}
        self._scores: list[Callable[[Any], dict[str, np.ndarray]]] = []

    def train(self, rule: Rule, way: Way, starts: Sequence[Start]) -> Callable[..., Trained]:
        """A function from the learning rate of each start to what training reached.

        Args:
            rule: what steps are made by.
            way: how it is used.
            starts: where from; all with a mask, or none.
        """
        problem = self.problem
        step, tx = self._step(rule.make, way.space)
        # Outside jit: the frames of path space are found in float64 there.
        states = [
            init_state(
                first_parameters(way, start.params, problem.gauge),
                tx(learning_rate=jnp.zeros([]), momentum=jnp.asarray(rule.momentum)),
                start.mask,
            )
            for start in starts
        ]
        first = stacked(states)
        order, noise = (
            jnp.stack([getattr(streams(start.seed), name) for start in starts])
            for name in ("order", "noise")
        )

        def trained(rates: np.ndarray) -> Trained:
            hyper = {**first.opt_state.hyperparams, "learning_rate": jnp.asarray(rates, "float32")}
            state = first._replace(opt_state=first.opt_state._replace(hyperparams=hyper))
            found = fit(
                step,
                state,
                problem.train,
                keys=Keys(order, noise),
                batch_size=problem.batch_size,
                epochs=problem.epochs,
                execution=Execution(at_once=self._at_once),
            )
            params = jax.vmap(lambda p, mask: effective(way.space, p, mask))(
                found.state.params, found.state.model_state
            )
            scores = self.scores(params)
            lost = found.diverged_at >= 0
            return Trained(Scores(*(np.where(lost, np.nan, s) for s in scores)), params)

        return trained

    def scores(self, params: Any) -> Scores:
        """The score of some networks on validation and on test data.

        Args:
            params: weights, each leaf [runs, ...].
        """
        problem = self.problem
        if not self._scores:
            self._scores = [
                evaluator(problem.metrics, part, batch_size=250, many_runs=True)
                for part in (problem.validation, problem.test)
            ]
        runs = len(jax.tree.leaves(params)[0])
        found = []
        for own in groups(runs, self._at_once):
            part = jax.tree.map(lambda leaf, own=own: leaf[own], params)
            state = TrainState(part, (), (), jnp.zeros(own.stop - own.start, jnp.int32))
            finite = np.isfinite([np.asarray(leaf).reshape(len(leaf), -1).sum(1)
                                  for leaf in jax.tree.leaves(part)]).all(0)  # fmt: skip
            found.append([np.where(finite, f(state)[problem.score], np.nan) for f in self._scores])
        return Scores(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def _step(self, make: Make, space: Space) -> tuple[Any, Callable[..., Any]]:
        if (make, space) not in self._steps:
            problem = self.problem
            steps = problem.size // problem.batch_size * problem.epochs
            tx = transformation(make, space, problem.gauge, steps)
            # The numbers here are no part of the program: those of the state count.
            step = train_step(_masked_loss(problem, space), tx(learning_rate=0.0, momentum=0.0))
            self._steps[make, space] = step, tx
        return self._steps[make, space]


@dataclasses.dataclass(frozen=True)
class Grid:
    """The step sizes that every row tries, from every start.

    First the coarse ones; then, beside the best of them, one smaller and one larger by the factor.
    """

    coarse: tuple[float, ...]
    factor: float


class Search(NamedTuple):
    """What the search found; the axes are starts, and seeds."""

    rates: np.ndarray
    """Tried, [tries, starts]."""
    tried: Scores
    """[tries, starts, seeds]."""
    tuned: np.ndarray
    """Which try is best for each start, [starts]."""
    kept_rate: float
    """The best rate of the first start."""
    kept: Scores
    """All starts at that rate, [starts, seeds]."""


def search(runs: Callable[[np.ndarray], Scores], starts: int, grid: Grid) -> Search:
    """Tunes the step size of each start; then takes the first start's best for all of them.

    A rate is chosen by the mean score on validation data over the seeds; one at which a run
    diverges is worse than any at which none does.

    Args:
        runs: from a rate for each start to scores [starts, seeds].
        starts: how many.
        grid: what is tried.
    """
    rates = [np.full(starts, rate) for rate in grid.coarse]
    tried = [runs(rate) for rate in rates]
    best = np.stack(rates)[_best(tried), np.arange(starts)]
    for factor in (1 / grid.factor, grid.factor):
        rates.append(np.asarray([float(f"{rate * factor:.3g}") for rate in best]))
        tried.append(runs(rates[-1]))
    tuned = _best(tried)
    kept = float(rates[tuned[0]][0])
    return Search(
        np.stack(rates),
        Scores(*(np.stack(parts) for parts in zip(*tried, strict=True))),
        tuned,
        kept,
        runs(np.full(starts, kept)),
    )


def _best(tried: Sequence[Scores]) -> np.ndarray:
    """The index of the best try of each start."""
    values = np.stack([scores.validation for scores in tried])  # [tries, starts, seeds]
    finite = np.isfinite(values)
    means = np.where(finite, values, 0).sum(-1) / np.maximum(finite.sum(-1), 1)
    # Scores are at most 1: a diverged run costs more than all of them can be worth.
    return (means - 2.0 * (~finite).sum(-1)).argmax(0)

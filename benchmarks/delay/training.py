"""Networks with batch normalisation trained by simulated workers: what two experiments share.

On an accelerator the runs of a method, all seeds and learning rates, are one program: whole
stretches between evaluations are scanned, over images that lie on the device, by the engine that
takes one event at a time. What waves would gain, larger batches, runs side by side give already. On
CPU one run follows another, each gradient driven from Python. Streamed images are read while a run
goes on; its waves are computed together, but on CPU.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.delay.images import (
    Case,
    Data,
    Settings,
    Streamed,
    cases,
    load_data,
    server_rule,
    shortened,
    waited_for,
    whole_rounds,
)
from benchmarks.delay.report import ADAPTIVE, CONSTANT, SGD
from benchmarks.harness.halving import Rung, halved, runs
from benchmarks.harness.registry import Context
from common.data import epoch_order, standardise
from common.data.augmentation import pad_crop_flip
from common.networks import resnet
from common.progress import Bar
from common.results.records import Record
from common.seeds import streams
from common.training import groups
from common.training.classification import evaluator
from dcasgd_jax import (
    Schedule,
    Simulator,
    Together,
    gamma_times,
    slot_simulator,
    wavefront_simulator,
)


class Run(NamedTuple):
    """What is trained of a case."""

    rate: float
    seed: int


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each method, number of workers, learning rate and seed."""
    data = load_data(settings, context.data_dir)
    todo, rates, seeds = cases(settings), settings.learning_rates, context.seeds
    epochs, halving = settings.epochs, settings.halving
    counted = runs(len(rates), epochs, len(seeds), halving)
    trainers = {budget: Trainer(shortened(settings, budget), data) for budget, _ in counted}
    total = len(todo) * sum(budget * count for budget, count in counted)
    with context.progress.task("asynchronous training", total=total) as bar:
        for case in todo:
            of_rung = functools.partial(_stages, case, trainers, settings.at_once, bar)
            yield from halved(
                rates, seeds, epochs, halving, context.stages, of_rung, method=case.method,
                setting={"workers": case.workers},
            )  # fmt: skip


def _stages(
    case: Case, trainers: Mapping[int, "Trainer"], at_once: int, bar: Bar, rung: Rung
) -> Iterator[tuple[str, Callable[[], list[Record]]]]:
    """What is trained of a case with one budget: names, and what makes the records."""
    trainer, of_case = trainers[rung.epochs], f"{case.method}, M = {case.workers}"
    every = [Run(rate, seed) for seed in rung.seeds for rate in rung.values]
    for part in groups(len(every), at_once if trainer.side_by_side else 1):
        together = every[part]
        ends = [f"step {r.rate}, seed {r.seed}" for r in (together[0], together[-1])]
        name = f"{of_case}, {' to '.join(dict.fromkeys(ends))}{rung.label}"
        yield name, functools.partial(trainer.train, case, together, also=rung.setting)
        bar.advance(len(together) * rung.epochs, note=of_case)


class _Answering(NamedTuple):
    """What answers for an image: alike for all cases, so that evaluations are compiled once."""

    params: Any
    averages: Any


class _Means(NamedTuple):
    """Means over a stretch; [] or [runs]."""

    distance: Any
    staleness: Any


class Trainer:
    """Trains runs of any case; what can be is compiled once for all of them."""

    def __init__(self, settings: Settings, data: Data, *, side_by_side: bool | None = None):
        """Compiles nothing yet.

        Side by side runs are trained together and scanned; None for where that is faster, which is
        on every backend but CPU, and not with streamed images.

        Raises:
            ValueError: if training is too short for a round of every method.
        """
        streamed = isinstance(data.train, Streamed)
        if side_by_side is None:
            side_by_side = jax.default_backend() != "cpu" and not streamed
        self.settings, self.data, self.side_by_side = settings, data, side_by_side
        large = settings.image_size is not None and settings.image_size > 64
        self._network = resnet(
            settings.depth,
            data.num_classes,
            width=settings.width,
            dtype=jnp.bfloat16 if settings.bfloat16 else jnp.float32,
            stem=settings.stem or ("7x7" if large else "3x3"),
        )
        self._images = len(data.train.rows if isinstance(data.train, Streamed) else data.train[1])
        self._per_epoch = self._images // settings.batch_size
        self.gradients = whole_rounds(self._per_epoch * settings.epochs, settings)
        # Those of the largest case: one with fewer workers leaves slots empty, and shares programs.
        self._slots = max([1, *settings.workers])
        self._init = jax.jit(self._network.init)
        self._first: dict[int, _Answering] = {}
        self._simulators: dict[Any, tuple[Simulator, Any]] = {}
        # Streamed training images are not gone through again: the loss is then of validation's.
        sample = data.validation if isinstance(data.train, Streamed) else data.train
        self._of_training, self._of_validation, self._of_test = (
            evaluator(self._figures, part, batch_size=500, many_runs=side_by_side)
            for part in (jax.tree.map(lambda leaf: leaf[:1000], sample), data.validation, data.test)
        )

    def train(
        self, case: Case, runs: Sequence[Run], *, also: Mapping[str, Any] | None = None
    ) -> list[Record]:
        """Trains runs of a case side by side, or the one there is.

        What `also` holds stands in the settings of their records.
        """
        begun = time.perf_counter()
        simulator, program = self._simulator(case)
        drawn = {run.seed: self._drawn(case, run.seed) for run in runs}
        states = [self._start(simulator, run) for run in runs]
        if program is None:
            (only,) = runs
            state, advance = states[0], self._alone(simulator, *drawn[only.seed], only.seed)
        else:
            state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
            advance = self._together(program, [(*drawn[run.seed], run.seed) for run in runs])
        cut, rows = self.gradients // self.settings.evaluations, []
        for done in range(cut, self.gradients + 1, cut):
            state, means = advance(state, slice(done - cut, done))
            rows.append(
                {
                    "gradients": [done] * len(runs),
                    "simulated_seconds": [drawn[run.seed][0].clock[done - 1] for run in runs],
                    "test_accuracy": self._of_test(_answering(state))["accuracy"],
                    **means._asdict(),
                }
            )
        final = {
            "train_loss": self._of_training(_answering(state))["loss"],
            "validation_accuracy": self._of_validation(_answering(state))["accuracy"],
        }
        seconds = (time.perf_counter() - begun) / len(runs)
        return [
            self._record(
                case,
                run,
                also or {},
                {name: _of_run(value, i) for name, value in final.items()},
                {name: [_of_run(row[name], i) for row in rows] for name in rows[0]},
                seconds,
            )
            for i, run in enumerate(runs)
        ]

    def _record(
        self, case: Case, run: Run, also: Mapping[str, Any], final: dict[str, float],
        curve: dict[str, list[float]], seconds: float,
    ) -> Record:  # fmt: skip
        lambdas = {
            CONSTANT: {"lambda": self.settings.constant_lambda},
            ADAPTIVE: {"lambda": self.settings.adaptive_lambda},
        }.get(case.method, {})
        last = {name: curve[name][-1] for name in ("test_accuracy", "simulated_seconds")}
        return Record(
            method=case.method,
            setting={"workers": case.workers, "learning_rate": run.rate, **lambdas, **also},
            seed=run.seed, metrics=final | last, curve=curve, wall_time=seconds,
        )  # fmt: skip

    def _figures(self, state: _Answering, part: Any) -> dict[str, jax.Array]:
        variables = {"params": state.params, "batch_stats": state.averages}
        logits: Any = self._network.apply(variables, part[0])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, part[1])
        right = (logits.argmax(-1) == part[1]).astype(jnp.float32)
        # An answer of weights that are not numbers is none.
        return {"accuracy": jnp.where(jnp.isfinite(losses), right, jnp.nan), "loss": losses}

    def _loss(self, params: Any, averages: Any, batch: Any) -> tuple[jax.Array, Any]:
        inputs, targets = batch
        if inputs.dtype == jnp.uint8:  # a quarter of the bytes to bring to the device
            inputs = standardise(inputs, self.data.statistics)
        variables = {"params": params, "batch_stats": averages}
        logits, pushed = self._network.apply(variables, inputs, train=True, mutable=["batch_stats"])
        each = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return each.mean(), pushed["batch_stats"]

    def _simulator(self, case: Case) -> tuple[Simulator, Any]:
        """The simulator of a case, and what takes many runs through a stretch, or None."""
        joined = waited_for(case) or 1
        method = case.method if case.method in (CONSTANT, ADAPTIVE) else SGD
        if (method, joined) not in self._simulators:
            # The learning rate is part of the optimiser's state, so that one program serves all.
            rule = optax.inject_hyperparams(
                server_rule(method, joined, self.settings, self.gradients)
            )
            gradient, tx = jax.grad(self._loss, has_aux=True), rule(learning_rate=0.1)
            if isinstance(self.data.train, Streamed) and jax.default_backend() != "cpu":
                bound = Together(longest=self.settings.longest)
                made = wavefront_simulator(
                    gradient, tx, self._slots, together=bound, log_distance=True
                )
            else:
                # On CPU convolutions gain nothing by waves, and one event is the smaller program.
                made = slot_simulator(gradient, tx, self._slots, log_distance=True)
            program = _many_runs(made, self.settings.augment) if self.side_by_side else None
            self._simulators[method, joined] = made, program
        return self._simulators[method, joined]

    def _drawn(self, case: Case, seed: int) -> tuple[Schedule, np.ndarray]:
        """Who arrives when, and the images of each gradient, [gradients, batch]."""
        schedule = gamma_times(
            case.workers, self.gradients, seed=seed, variation=self.settings.variation,
            wait_for=waited_for(case),
        )  # fmt: skip
        size, order = self.settings.batch_size, streams(seed).order
        rows = np.concatenate(
            [
                epoch_order(order, self._images, epoch=epoch)[: self._per_epoch * size]
                for epoch in range(self.settings.epochs)
            ]
        )
        rows = rows.reshape(-1, size)[: self.gradients]
        return dataclasses.replace(schedule, num_workers=self._slots), rows

    def _start(self, simulator: Simulator, run: Run) -> Any:
        if run.seed not in self._first:
            variables = self._init(streams(run.seed).init, self.data.test[0][:1])
            self._first[run.seed] = _Answering(variables["params"], variables["batch_stats"])
        state: Any = simulator.init(*self._first[run.seed])
        hyper = state.opt_state.hyperparams
        rate = jnp.full_like(hyper["learning_rate"], run.rate)
        opt_state = state.opt_state._replace(hyperparams={**hyper, "learning_rate": rate})
        return state._replace(opt_state=opt_state)

    def _alone(
        self, simulator: Simulator, schedule: Schedule, rows: np.ndarray, seed: int
    ) -> "_Advance":
        train, key = self.data.train, streams(seed).noise
        if isinstance(train, Streamed):
            batches: Any = train.batches(rows, seed)
        else:
            batches = (
                _batch(train, chosen, key, np.int32(step), augment=self.settings.augment)
                for step, chosen in enumerate(rows)
            )

        def advance(state: Any, part: slice) -> tuple[Any, _Means]:
            stretch = jax.tree.map(lambda column: column[part], schedule)
            state, log = simulator.run(state, stretch, batches)
            return state, _Means(np.mean(np.asarray(log.distance)), log.staleness.mean())

        return advance

    def _together(
        self, program: Any, runs: Sequence[tuple[Schedule, np.ndarray, int]]
    ) -> "_Advance":
        # The clock is of no use to a simulator, nor in float64 to a device.
        columns = [
            (dataclasses.replace(schedule, clock=schedule.staleness), rows)
            for schedule, rows, _ in runs
        ]
        keys = jnp.stack([streams(seed).noise for _, _, seed in runs])

        def advance(state: Any, part: slice) -> tuple[Any, _Means]:
            stretch = jax.tree.map(lambda *every: np.stack([c[part] for c in every]), *columns)
            return program(state, *stretch, keys, np.int32(part.start), self.data.train)

        return advance


_Advance = Callable[[Any, slice], tuple[Any, _Means]]
"""(state, which steps) -> the state after them, and what is told of them."""


def _many_runs(simulator: Simulator, augment: bool) -> Any:
    """Takes many runs through a stretch: all with a leading axis [runs], but for the images."""

    def one(
        state: Any, schedule: Schedule, rows: jax.Array, key: jax.Array, first: Any, images: Any
    ) -> tuple[Any, _Means]:
        log: Any

        def draw(step: jax.Array) -> tuple[jax.Array, jax.Array]:
            return _batch(images, rows[step - first], key, step, augment=augment)

        state, log = simulator.run(state, schedule, draw)
        return state, _Means(log.distance.mean(), log.staleness.mean())

    return jax.jit(jax.vmap(one, in_axes=(0, 0, 0, 0, None, None)), donate_argnums=0)


@functools.partial(jax.jit, static_argnames="augment")
def _batch(
    images: tuple[jax.Array, jax.Array], rows: Any, key: jax.Array, step: Any, *, augment: bool
) -> tuple[jax.Array, jax.Array]:
    batch, labels = jax.tree.map(lambda leaf: leaf[rows], images)
    return pad_crop_flip(jax.random.fold_in(key, step), batch) if augment else batch, labels


def _answering(state: Any) -> _Answering:
    return _Answering(state.params, state.model_state)


def _of_run(value: Any, index: int) -> float:
    """One run's figure, of many runs' [runs] or the only run's []."""
    return float(np.ravel(value)[index])

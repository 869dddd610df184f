"""Training runs of a byte-level decoder whose gradients come late, and what they measure."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.delay.language import rules
from benchmarks.delay.language.network import BYTES, next_byte_loss, stage_of_parts
from benchmarks.delay.language.settings import PROFILE, Case, Delay, Settings
from benchmarks.delay.language.text import Text, windows
from common.seeds import streams
from dcasgd_jax import Schedule, pipeline_delays, round_robin, simulate


class Data(NamedTuple):
    """What runs read, on the device."""

    train: jax.Array  # uint8 [bytes]
    watched: jax.Array  # int32 [windows, length + 1], of the validation text; all below too
    validation: jax.Array
    test: jax.Array


def load(text: Text, settings: Settings) -> Data:
    """The text's parts as arrays, with the windows that losses are taken on."""
    length = settings.size.length
    return Data(
        train=jnp.asarray(text.train),
        watched=jnp.asarray(windows(text.validation, settings.watched, length)),
        validation=jnp.asarray(windows(text.validation, settings.held_out, length)),
        test=jnp.asarray(windows(text.test, settings.held_out, length)),
    )


class Measured(NamedTuple):
    """What one run measures, in nats a byte."""

    curve: jax.Array  # [points], float32: validation loss on the watched windows
    validation: jax.Array  # []: at the end
    test: jax.Array  # []
    staleness: Any  # a tree of parts, int32 []: of the last gradient


class Runner:
    """Runs cases; what is compiled for one serves others that differ in numbers alone."""

    def __init__(self, settings: Settings, data: Data):
        """Compiles nothing yet."""
        self._settings, self._data = settings, data
        self._network = settings.size.network()
        tokens = jnp.zeros((1, settings.size.length), jnp.int32)
        frequency = jnp.bincount(data.train.astype(jnp.int32), length=BYTES) + 1.0

        def init(key: jax.Array) -> Any:
            params = self._network.init(key, tokens)["params"]
            # From the frequencies of bytes, so that no run spends its steps on learning them.
            params["head"]["logits"]["bias"] = jnp.log(frequency / frequency.sum())
            return params

        self._init = jax.jit(init)
        self.parts = stage_of_parts(jax.eval_shape(self._init, jax.random.key(0)), settings.stages)
        self._programs: dict[Any, Callable[..., list[Measured]]] = {}

    def delays(self, delay: Delay) -> Any:
        """The staleness of each part."""
        if delay == PROFILE:
            return {part: int(d) for part, d in pipeline_delays(self.parts, self.parts).items()}
        return dict.fromkeys(self.parts, int(delay))

    def __call__(
        self, case: Case, seed: int, tried: Sequence[tuple[float, float]]
    ) -> list[Measured]:
        """Trains from one seed with every (step, lambda) that is to be tried."""
        delays = self.delays(case.delay)
        static = tuple(delays.values()) if case.rule == rules.FEEDBACK else None
        key = case.optimiser, case.rule, static
        if key not in self._programs:
            self._programs[key] = self._compiled(case, delays if static else None)
        shared = self.shared(case, seed)
        return jax.device_get(self._programs[key](np.asarray(tried, np.float32), *shared))

    def shared(self, case: Case, seed: int) -> tuple[Any, ...]:
        """What all runs of a case and seed are given: weights, order, delays, and the text."""
        keys, delays = streams(seed), self.delays(case.delay)
        schedules = {part: self._schedule(d) for part, d in delays.items()}
        horizons = {part: jnp.float32(d) for part, d in delays.items()}
        return self._init(keys.init), keys.order, schedules, horizons, self._data

    def _schedule(self, delay: int) -> Schedule:
        """As many equal workers as make the delay, with slots for the most of them."""
        given, slots = self._settings, max(*self._settings.delays, self._settings.stages - 1) + 1
        turns = round_robin(delay + 1, given.steps)
        return Schedule(turns.worker, turns.staleness, turns.clock, num_workers=slots)

    def _compiled(self, case: Case, fixed: Any) -> Callable[..., list[Measured]]:
        """A function of (step, lambda) [runs, 2]: the runs side by side on an accelerator."""
        if jax.default_backend() == "cpu":
            # One after another is as fast there, and one program serves any number of runs.
            single = jax.jit(functools.partial(self._train, case, fixed))
            return lambda tried, *given: [single(pair, *given) for pair in tried]
        many, width = self.many(case, fixed), self.width

        def together(tried: np.ndarray, *given: Any) -> list[Measured]:
            measured = []
            for first in range(0, len(tried), width):
                some = tried[first : first + width]
                # Filled up by the last of them, so that one program serves any number there too.
                filled = some[np.minimum(np.arange(width), len(some) - 1)]
                found = jax.device_get(many(filled, *given))
                measured += [
                    jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(len(some))
                ]
            return measured

        return together

    @property
    def width(self) -> int:
        """Runs that are trained side by side on an accelerator: as many as the grid has steps."""
        return len(self._settings.learning_rates)

    def many(self, case: Case, fixed: Any) -> Any:
        """The program of runs side by side: (step, lambda) [width, 2], and what they share.

        Args:
            case: what is trained.
            fixed: the staleness of each part where it is part of the program, or None.
        """
        one = functools.partial(self._train, case, fixed)
        return jax.jit(jax.vmap(one, in_axes=(0, *[None] * 5)))

    def _train(
        self, case: Case, fixed: Any, tried: jax.Array, params: Any, order: jax.Array,
        schedules: Any, horizons: Any, data: Data,
    ) -> Measured:  # fmt: skip
        """One run, traced."""
        rate, strength = tried
        settings, length = self._settings, self._settings.size.length

        def loss(params: Any, rows: jax.Array) -> jax.Array:
            return next_byte_loss(self._network, params, rows)

        def batch(step: jax.Array) -> jax.Array:
            last = data.train.size - length - 1
            key = jax.random.fold_in(order, step)
            starts = jax.random.randint(key, (settings.batch_size, 1), 0, last + 1)
            return data.train[starts + jnp.arange(length + 1)[None]].astype(jnp.int32)

        watch = watching(
            lambda params: loss(params, data.watched), settings.steps // settings.points,
            settings.points,
        )  # fmt: skip
        rule = rules.server_rule(
            case.rule, case.optimiser, self._steps(rate), strength=strength, watched=watch,
            delays=horizons if fixed is None else fixed,
            short_momentum=dict(zip(rules.OPTIMISERS, settings.short_momentum, strict=True)),
        )  # fmt: skip
        params, info = simulate(jax.grad(loss), params, rule, schedules, batch)
        watched = [
            state
            for state in jax.tree.leaves(
                info.state.opt_state, is_leaf=lambda x: isinstance(x, WatchState)
            )
            if isinstance(state, WatchState)
        ]
        return Measured(
            curve=jnp.append(watched[0].losses[1:], loss(params, data.watched)),
            validation=loss(params, data.validation),
            test=loss(params, data.test),
            staleness=jax.tree.map(lambda column: column[-1], info.staleness),
        )

    def _steps(self, rate: jax.Array) -> optax.Schedule:
        """Warm-up, then a linear fall to zero."""
        steps = self._settings.steps
        warm = max(1.0, self._settings.warm_up * steps)

        def at(count: Any) -> jax.Array:
            t = jnp.asarray(count, jnp.float32)
            return rate * jnp.minimum((t + 1) / warm, (steps - t) / (steps - warm))

        return at


class WatchState(NamedTuple):
    """What `watching` has seen."""

    step: jax.Array  # shape=(), dtype=int32
    losses: jax.Array  # [points], float32: entry k is of the weights after k times `every` steps


def watching(
    loss: Callable[[Any], jax.Array], every: int, points: int
) -> optax.GradientTransformationExtraArgs:
    """A link of a chain that changes nothing, and keeps the loss at the server's weights."""

    def init_fn(params: Any) -> WatchState:
        del params
        return WatchState(jnp.zeros([], jnp.int32), jnp.zeros(points, jnp.float32))

    def update_fn(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, WatchState]:
        del extra_args
        losses = jax.lax.cond(
            state.step % every == 0,
            lambda: state.losses.at[state.step // every].set(loss(params)),
            lambda: state.losses,
        )
        return updates, WatchState(state.step + 1, losses)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)

"""Ways to train LaCIM and to search its latents that do the same: compiled, and loops in Python."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness.registry import Context
from benchmarks.latent.reports.speed import ALL_STARTS, AT_ONCE, LOOP, OURS, SEARCH, TRAINING
from common.data import load, pooled
from common.data.generated.colored_digits import color_digits
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
    predict,
    search_memory,
)


class Network(NamedTuple):
    """What is decoded, and by how much."""

    pool: int
    """Images, 28x28, are reduced by averaging over squares of this side."""
    widths: tuple[int, ...]
    """Of the encoder's layers; the decoder has them in the opposite order."""

    @property
    def name(self) -> str:
        """What is decoded, from which layers."""
        side = 28 // self.pool
        return f"{side}x{side}x2 from {'-'.join(map(str, reversed(self.widths)))}"


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
    fitted_steps: int = 300
    """Steps of training before the search: an untrained model has nothing to search for."""
    search_steps: int = 50
    draws: int = 4
    """Starts of each image are (1 + draws) for each of the two domains."""
    chunk_size: int = 64
    whole: int = 10_000
    """Images of the evaluation whose memory is stated."""
    product: int = 1024
    """Side of the matrices whose product is the machine's own rate."""
    repetitions: int = 3
    channels: tuple[int, ...] = (32, 64, 128, 256)
    """Of the convolutional encoder with whose decoder the authors' search is compared."""
    authors_draws: int = 10
    """Starts that the authors draw for each of the two domains."""


class Contest(NamedTuple):
    """Several ways to the same thing."""

    task: str
    images: int
    arithmetic: dict[str, float]
    """Of every way the floating-point operations of its gradients, an image, as the compiler counts
    them."""
    ways: dict[str, Callable[[], Any]]
    others: Callable[[], dict[str, float]]
    """Further figures of the compiled way, once it has been timed."""


def operations(jitted: Any, *inputs: Any) -> float:
    """Floating-point operations of a call, as XLA counts them; NaN where it does not.

    They are counted before compilation where the backend can. The plugins of GPUs and TPUs cannot,
    and count what they have compiled.

    Args:
        jitted: a jitted function.
        *inputs: what it is called with.
    """
    lowered = jitted.lower(*inputs)
    counted = _analysis(lowered) or _analysis(lowered.compile())
    return float(counted.get("flops", math.nan))


def _analysis(stage: Any) -> dict[str, float]:
    """What is counted of a program at a stage of compilation; empty where nothing is."""
    try:
        return stage.cost_analysis() or {}
    except NotImplementedError:
        return {}


def _model(network: Network, settings: Settings) -> LaCIM:
    side = 28 // network.pool
    return LaCIM(
        MLPEncoder(network.widths), MLPDecoder((side, side, 2), tuple(reversed(network.widths))),
        MLP((64, 2)), num_domains=2, s_dim=settings.s_dim, v_dim=settings.v_dim,
    )  # fmt: skip


def _examples(
    network: Network, settings: Settings, count: int, seed: int, context: Context
) -> Examples:
    dataset = load(settings.data, "train", data_dir=context.data_dir)
    count = min(count, len(dataset.labels))
    colored = color_digits(
        streams(seed).data, dataset.images[:count], dataset.labels[:count], correlation=0.9,
        domains=np.arange(count) % 2,
    )  # fmt: skip
    return Examples(pooled(colored.images, network.pool), colored.labels, colored.domains)


def training(network: Network, settings: Settings, seed: int, context: Context) -> Contest:
    """One epoch, both ways; the seed is of data and weights."""
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
            index, chosen = xs
            batch = jax.tree.map(lambda leaf: leaf[chosen], data)
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
    one = operations(gradient, params, jnp.zeros([], jnp.int32), first, keys.noise) / size
    return Contest(TRAINING, steps * size, {OURS: one, LOOP: one}, {OURS: ours, LOOP: loop}, dict)


def searching(network: Network, settings: Settings, seed: int, context: Context) -> Contest:
    """A search of all images by a trained model, every way; the seed is of data and weights."""
    whole = _examples(
        network, settings, settings.train_images + settings.search_images, seed, context
    )
    train, data = (
        jax.tree.map(lambda leaf, rows=rows: leaf[rows], whole)
        for rows in (slice(settings.search_images, None), slice(settings.search_images))
    )
    model, keys = _model(network, settings), streams(seed)
    variables = _fitted(model, train, settings, keys)
    search = Search(draws=settings.draws, chunk_size=settings.chunk_size)
    every_start = dataclasses.replace(search, keep=None)
    images, count = np.asarray(data.images), settings.search_steps

    def ours(rows: slice = slice(None), steps: int = count) -> Any:
        return infer(model, variables, images[rows], keys.noise, steps=steps, search=search).latents

    def all_starts() -> Any:
        return infer(model, variables, images, keys.noise, steps=count, search=every_start).latents

    def others() -> dict[str, float]:
        found, reference = (
            predict(model, variables, images, keys.noise, steps=count, search=way)
            for way in (search, every_start)
        )
        same = found.probabilities.argmax(-1) == reference.probabilities.argmax(-1)
        short = reference.objective_after.mean() - found.objective_after.mean()
        together = dataclasses.replace(search, chunk_size=settings.whole)
        with CompiledPrograms() as later:
            ours(slice(len(images) // 2 + 1), count // 2)
        return {
            "objective_short": float(short),
            "same_labels": float(same.mean()),
            "programs_later": float(later.count),
            "megabytes": search_memory(model, variables, images, search=search) / 1e6,
            "megabytes_whole": search_memory(model, variables, images, search=together) / 1e6,
        }

    loops = Loops(model, variables, images, settings, keys.noise)
    one = operations(loops.gradient, jnp.zeros((1, loops.dim)), data.images[:1])
    starts = 2 * (1 + settings.draws)
    screened, kept = min(search.screening, count), min(search.keep or starts, starts)
    full = float(starts * (count + 1))
    gradients: dict[str, float] = dict.fromkeys((ALL_STARTS, LOOP, AT_ONCE), full)
    gradients[OURS] = float(starts * (screened + 1) + kept * (count - screened))
    ways = {
        OURS: ours, ALL_STARTS: all_starts, LOOP: loops.one_start_after_another,
        AT_ONCE: loops.starts_at_once,
    }  # fmt: skip
    return Contest(
        SEARCH, len(images), {way: n * one for way, n in gradients.items()}, ways, others
    )


def _fitted(model: LaCIM, data: Examples, settings: Settings, keys: Any) -> Any:
    """The variables of a model after a few steps of training."""
    params = jax.jit(model.init)(keys.init, data.images[:1], data.domains[:1])["params"]
    tx, loss = optax.adam(1e-3), lacim_loss(model)

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, opt_state, count = carry
        rows = jax.random.randint(key, (settings.batch_size,), 0, len(data.labels))
        batch = jax.tree.map(lambda leaf: leaf[rows], data)
        grads, (count, _) = jax.grad(loss, has_aux=True)(params, count, batch, key)
        updates, opt_state = tx.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, count), None

    @jax.jit
    def fitted(params: Any) -> Any:
        first = (params, tx.init(params), jnp.zeros([], jnp.int32))
        return jax.lax.scan(step, first, jax.random.split(keys.order, settings.fitted_steps))[0][0]

    return {"params": fitted(params)}


class Loops:
    """The search as one writes it first: a Python loop over batches and steps."""

    def __init__(
        self, model: LaCIM, variables: Any, images: np.ndarray, settings: Settings, key: jax.Array
    ):
        """Jits the gradient and the starts; the key is of the starts."""

        def minus(latents: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
            # Of a batch, whose members do not interact; as one writes it for a batch.
            pixels: Any = model.apply(variables, latents, method="decode")
            priors: Any = model.apply(variables, method="priors")
            log_x = jax.vmap(model.likelihood.log_prob)(pixels, images)
            objective = log_x + jax.vmap(lambda z: mixture_prior(z, priors))(latents)
            return -objective.sum(), objective

        self.gradient = jax.jit(jax.grad(minus, has_aux=True))
        self._starts = jax.jit(lambda x, noise: model.apply(variables, x, noise, method="starts"))
        self.dim = model.s_dim + model.v_dim
        self._images, self._settings = images, settings
        self._noise = jax.random.normal(key, (settings.draws, 2, self.dim))

    def _climb(self, latents: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The best latents that Adam meets from one start of each image, and their objective."""
        optimiser = Search().optimiser
        state, best = optimiser.init(latents), latents
        best_value = jnp.full(len(latents), -jnp.inf)
        for _ in range(self._settings.search_steps + 1):
            grads, value = self.gradient(latents, images)
            best, best_value = _better(latents, value, best, best_value)
            updates, state = optimiser.update(grads, state)
            latents = jnp.asarray(optax.apply_updates(latents, updates))
        return best, best_value

    def _batches(self) -> Iterator[tuple[jax.Array, Any]]:
        size = self._settings.batch_size
        for first in range(0, len(self._images), size):
            batch = jnp.asarray(self._images[first : first + size])
            yield batch, self._starts(batch, self._noise)

    def one_start_after_another(self) -> list[jax.Array]:
        """The best latents of every batch."""
        latents = []
        for batch, starts in self._batches():
            best, best_value = self._climb(starts[:, 0], batch)
            for start in range(1, starts.shape[1]):
                climbed = self._climb(starts[:, start], batch)
                best, best_value = _better(*climbed, best, best_value)
            latents.append(best)
        return latents

    def starts_at_once(self) -> list[jax.Array]:
        """The same with the starts laid side by side in the batch."""
        latents = []
        for batch, starts in self._batches():
            flat = starts.reshape(-1, self.dim)
            every, value = self._climb(flat, jnp.repeat(batch, starts.shape[1], axis=0))
            chosen = value.reshape(len(batch), -1).argmax(axis=1)
            latents.append(every.reshape(starts.shape)[jnp.arange(len(batch)), chosen])
        return latents


def _better(
    latents: jax.Array, value: jax.Array, best: jax.Array, best_value: jax.Array
) -> tuple[jax.Array, jax.Array]:
    better = value > best_value
    return jnp.where(better[:, None], latents, best), jnp.where(better, value, best_value)


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

"""What do s and v look like: moved one at a time, exchanged between images, seen in their pixels?

One LaCIM and one ERM are trained on each data set, with the same encoder trunk and classifier, and
looked at on a domain that neither has seen: coloured digits, the colour turned about in the test
domain, and PACS with one style left out. Each gives three pictures:

- traversals: the two most active latents of s, then of v, each moved over 2.5 standard deviations
  either side, the rest kept;
- exchanges: every s with every v of some images; along a row the label should stay, along a column
  everything else;
- saliency: which pixels s, v and ERM's logits depend on (the length of the Jacobian's columns).

Pictures persuade, so what the exchange shows is counted too, over many pairs of images whose labels
differ: how often the decoded image's label is that of the image which lent s, and how often of the
one which lent v. The judge is an ERM that sees no colour, trained on the same images.

Nothing is tuned here: these are pictures of the model as it comes, not claims about accuracy.

PACS is looked for as `lacim_pacs` does; the smoke preset has coloured digits alone.

Cost: cpu 2 minutes on one core, day, three seeds, 5.
Command: python -m benchmarks lacim_pictures --preset day --seeds 3
"""

import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness.registry import Context
from benchmarks.latent.methods import METHODS, Sizes
from benchmarks.latent.reports import pictures as report
from benchmarks.latent.reports.pictures import EXCHANGES, SALIENCY, TRAVERSALS, picture_record
from benchmarks.latent.styles import pacs
from benchmarks.latent.training import adam, inputs_of, num_steps, warm_up
from common.data import as_float, leave_one_out, load, pooled
from common.data.generated.colored_digits import ColoredDigits, colored_domains
from common.progress import Bar
from common.results.records import Record
from common.seeds import Streams, streams
from common.training import Keys, fit, init_state, train_step
from lacim_jax import (
    ERM,
    Examples,
    LaCIM,
    Search,
    active_dims,
    elbo,
    erm_loss,
    exchange,
    infer,
    lacim_loss,
    predict_from,
    saliency,
    saliency_of,
    traverse,
)

DIGITS = "coloured digits"

tables, plots, CAPTIONS = report.tables, report.plots, report.CAPTIONS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures:
    """How one data set is shown."""

    data: str
    """`DIGITS`, or what `lacim_pacs` reads."""
    source: str = "mnist"
    """Of the digits."""
    test_domain: str = "cartoon"
    """Of PACS."""
    pool: int = 1
    """Images are reduced by averaging over squares of this side."""
    widths: tuple[int, ...] = (32, 64, 256)
    convolutions: bool = True
    epochs: int = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the experiment depends on."""

    sets: tuple[Pictures, ...]
    s_dim: int = 16
    v_dim: int = 16
    batch_size: int = 128
    learning_rate: float = 1e-3
    beta: float = 0.3
    """Factor on the divergence, warmed up over the first third of training."""
    label_weight: float = 30.0
    search_steps: int = 50
    search_rate: float = 0.03
    bfloat16: bool = False
    """Whether encoders and decoders compute in bfloat16; parameters stay float32."""
    tiles: int = 6
    """Images in a row."""
    judged: int = 40
    """Images whose s and v are exchanged, all with all, to count what follows which."""


PRESETS = {
    "smoke": Settings(
        sets=(
            Pictures(
                data=DIGITS, source="mnist5k", pool=2, widths=(128, 64), convolutions=False,
                epochs=12,
            ),
        ),
    ),
    "cpu": Settings(
        sets=(
            Pictures(data=DIGITS, pool=2, widths=(128, 64), convolutions=False, epochs=2),
            Pictures(data="PACS", pool=4, widths=(256, 128), convolutions=False, epochs=8),
        ),
    ),
    "day": Settings(
        sets=(
            Pictures(data=DIGITS, pool=2, widths=(256, 128), convolutions=False, epochs=4),
            Pictures(data="PACS", pool=2, widths=(512, 256), convolutions=False, epochs=16),
        ),
    ),
    "full": Settings(
        sets=(
            Pictures(data=DIGITS, epochs=30),
            Pictures(data="PACS", widths=(64, 128, 256, 512), epochs=150),
        ),
    ),
}  # fmt: skip


class Images(NamedTuple):
    """A data set as this experiment sees it."""

    train: Examples
    validation: Examples
    test: Examples
    num_domains: int
    num_classes: int


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields, for each data set and seed, the figures of each network and three pictures."""
    for seed in context.seeds:
        for shown in settings.sets:
            images = load_images(shown, context, seed)
            total = 3 * shown.epochs + 1
            with context.progress.task(f"{shown.data}, seed {seed}", total=total) as bar:
                yield from context.stages.of(
                    f"{shown.data}, seed {seed}",
                    functools.partial(_show, shown, images, settings, seed, bar),
                )
                bar.advance()


def load_images(shown: Pictures, context: Context, seed: int) -> Images:
    """The images of one data set; the seed is of colours, domains and splits."""
    key = streams(seed).data
    if shown.data == DIGITS:
        train, test = (load(shown.source, s, data_dir=context.data_dir) for s in ("train", "test"))
        train, validation, test = (
            _colored(part, shown.pool) for part in colored_domains(key, train, test)
        )
        return Images(train, validation, test, num_domains=2, num_classes=2)
    whole = pacs.read_images(shown.data, context)
    train, validation, test = (
        Examples(
            pooled(as_float(part.images), shown.pool),
            jnp.asarray(part.labels),
            jnp.asarray(part.domains),
        )
        for part in leave_one_out(whole, shown.test_domain, key)
    )
    return Images(train, validation, test, len(whole.domain_names) - 1, len(whole.class_names))


def _colored(part: ColoredDigits, pool: int) -> Examples:
    return Examples(pooled(part.images, pool), part.labels, part.domains)


def _grey(images: jax.Array) -> jax.Array:
    """What a colour-blind observer sees, in as many channels."""
    return jnp.broadcast_to(images.mean(-1, keepdims=True), images.shape)


class Networks(NamedTuple):
    """What is looked at, trained on one data set from one seed."""

    model: LaCIM
    variables: Any
    erm: ERM
    plain: Any
    """ERM's variables."""
    judge: Any
    """The variables of an ERM that sees no colour."""


def _show(
    shown: Pictures, images: Images, settings: Settings, seed: int, bar: Bar
) -> Iterator[Record]:
    """The figures of three networks, then the pictures of the one that has latents."""
    begun, test, keys = time.perf_counter(), images.test, streams(seed)
    networks = _trained(shown, images, settings, keys, bar)
    model, variables, erm, plain, judge = networks
    answer = jax.jit(lambda v, x: jnp.asarray(erm.apply(v, x)).argmax(-1))

    def record(method: str, metrics: dict[str, float]) -> Record:
        seconds = time.perf_counter() - begun
        return Record(
            method=method, setting={"data": shown.data}, seed=seed, metrics=metrics,
            wall_time=seconds,
        )  # fmt: skip

    for name, fitted, seen in (("ERM", plain, test.images), ("judge", judge, _grey(test.images))):
        accuracy = float(jnp.mean(answer(fitted, seen) == test.labels))
        yield record(name, {"test_accuracy": accuracy})
    rows = _mixed(test.labels, settings.judged)
    search = Search(optimiser=adam(settings.search_rate), draws=1, chunk_size=settings.judged)
    searched = infer(
        model, variables, test.images[rows], keys.noise, steps=settings.search_steps, search=search
    )
    latents = jnp.concatenate(searched.latents, axis=-1)
    some = jax.tree.map(lambda leaf: leaf[:500], images.validation)
    kl = elbo(model, variables, some, keys.noise).kl_per_dim
    answers = predict_from(model, variables, searched).probabilities.argmax(-1)
    metrics = _follows(model, variables, latents, test.labels[rows], judge, answer) | {
        "test_accuracy": float(np.mean(answers == np.asarray(test.labels[rows]))),
        "kl_s": float(kl[:, : model.s_dim].sum(-1).mean()),
        "kl_v": float(kl[:, model.s_dim :].sum(-1).mean()),
    }
    yield record("LaCIM", metrics)
    first = test.images[rows[: settings.tiles]]
    for name, pixels in _pictures(networks, latents, kl, first).items():
        yield picture_record("LaCIM", {"data": shown.data}, name, np.asarray(pixels), seed)


def _pictures(
    networks: Networks, latents: jax.Array, kl: jax.Array, images: jax.Array
) -> dict[str, jax.Array]:
    """The three pictures, of the latents of some images and of how active each latent is."""
    (model, variables, erm, plain, _), tiles = networks, len(images)
    moved = jnp.concatenate(active_dims(kl, s_dim=model.s_dim, count=2))
    spread = latents.std(axis=0)[moved]
    values = latents[0, moved][:, None] + spread[:, None] * jnp.linspace(-2.5, 2.5, tiles)[None]
    return {
        TRAVERSALS: traverse(model, variables, latents[0], moved, values),
        EXCHANGES: _with_originals(images, exchange(model, variables, latents[:tiles])),
        SALIENCY: _maps(model, variables, erm, plain, images),
    }


def _trained(
    shown: Pictures, images: Images, settings: Settings, keys: Streams, bar: Bar
) -> Networks:
    sizes = Sizes(
        images.train.images.shape[1:], shown.widths, settings.s_dim, settings.v_dim,
        images.num_domains, images.num_classes, shown.convolutions, settings.bfloat16,
    )  # fmt: skip
    erm, model = (cast("Any", METHODS[name].build(sizes)) for name in ("ERM", "LaCIM"))
    steps = num_steps(images.train, batch_size=settings.batch_size, epochs=shown.epochs)
    ramp = warm_up(steps)
    bound = lacim_loss(
        model, beta=lambda step: settings.beta * ramp(step), label_weight=settings.label_weight
    )
    grey = images.train._replace(images=_grey(images.train.images))

    def train(network: ERM | LaCIM, loss: Any, examples: Examples) -> dict[str, Any]:
        tx = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, steps))
        params = jax.jit(network.init)(keys.init, *inputs_of(network, examples))["params"]
        state = init_state(params, tx, jnp.zeros([], jnp.int32))
        trained = fit(
            train_step(loss, tx), state, examples, keys=Keys(keys.order, keys.noise),
            batch_size=settings.batch_size, epochs=shown.epochs, bar=bar,
        )  # fmt: skip
        return {"params": trained.state.params}

    plain, judge = (train(erm, erm_loss(erm), part) for part in (images.train, grey))
    return Networks(model, train(model, bound, images.train), erm, plain, judge)


def _mixed(labels: jax.Array, count: int) -> np.ndarray:
    """The first images of each class, taken in turns."""
    every = np.asarray(labels)
    of_class = [np.flatnonzero(every == label) for label in np.unique(every)]
    turns = [rows[i] for i in range(count) for rows in of_class if i < len(rows)]
    return np.asarray(turns[:count])


def _follows(
    model: LaCIM, variables: Any, latents: jax.Array, labels: jax.Array, judge: Any, answer: Any
) -> dict[str, float]:
    """How often the judge sees the label of the image that lent s, or of the one that lent v."""
    n = len(latents)
    decoded = exchange(model, variables, latents)
    seen = answer(judge, _grey(decoded.reshape(n * n, *decoded.shape[2:]))).reshape(n, n)
    of_s, of_v = labels[:, None], labels[None, :]
    differ = np.asarray(of_s != of_v)
    return {
        "label_follows_s": float(np.asarray(seen == of_s)[differ].mean()),
        "label_follows_v": float(np.asarray(seen == of_v)[differ].mean()),
        "label_kept": float(np.mean(np.asarray(jnp.diagonal(seen) == labels))),
    }


def _with_originals(images: jax.Array, mixed: jax.Array) -> jax.Array:
    """The grid of exchanges, the image that lent v above each column, s at each row's left."""
    corner = jnp.ones((1, 1, *images.shape[1:]))
    left = jnp.concatenate([corner, images[:, None]])
    return jnp.concatenate([left, jnp.concatenate([images[None], mixed])], axis=1)


def _maps(model: LaCIM, variables: Any, erm: ERM, plain: Any, images: jax.Array) -> jax.Array:
    """Rows: the images, then the maps of s, of v and of ERM's logits; each map's peak is white."""
    of_latents = saliency(model, variables, images)
    of_erm = saliency_of(lambda x: jnp.asarray(erm.apply(plain, x)), images)
    maps = jnp.stack([*of_latents, of_erm])
    peak = jnp.maximum(maps.max(axis=(-2, -1), keepdims=True), 1e-12)
    white = jnp.broadcast_to((maps / peak)[..., None], (*maps.shape, images.shape[-1]))
    return jnp.concatenate([images[None], white])

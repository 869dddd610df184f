"""Does how a start is scaled change what is learnt? With SGD it does, with G-SGD only by rounding.

A perceptron with biases on digits, trained twice by every method on the same batches: from its
initialisation, and from copies in which every hidden unit is rescaled at random, which are the same
function. Measured during training: how far the two functions have come apart on test images, as the
largest difference of a logit over the logits' root mean square, and the share of answers that
differ. In float32 and in float64: what path space leaves is rounding, which training magnifies, and
float64 has 2^29 times less of it. In float32 it grows until the functions in path space, too, are
apart by about as much as logits are large, though far fewer of their answers differ.

Learning rates are fixed: those that train each method well on these data (the accuracies are in the
table); the question is not which is better. The group is found by tracing; the coordinates
are `in_path_space`'s default, the weights of the balanced copy of the start.

Published as a theorem, without a measured figure: values and activations of paths are invariant
(Meng et al., ICLR 2019, https://arxiv.org/abs/1802.03713).

Cost: cpu 1 minute on one core, day 2; full is sized for one accelerator and was not run.
Command: python -m benchmarks gsgd_invariance --preset day --seeds 3
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness.figures import small_multiples
from benchmarks.harness.images import rows_in_order
from benchmarks.harness.registry import Context
from benchmarks.harness.reports import by_method, by_setting, magnitude, numeric, where
from common.data import load, pixel_statistics, pooled, standardise, take
from common.networks import MLP
from common.results.plots import plot_curve
from common.results.records import Record
from common.results.tables import markdown, metric, percent
from common.seeds import streams
from common.training.classification import cross_entropy_loss
from gsgd_jax import Gauge, find_gauge, in_path_space


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the experiment depends on."""

    data: str = "mnist5k"
    pool: int = 2
    """Images are reduced by averaging over squares of this side."""
    widths: tuple[int, ...] = (32, 32, 10)
    batch_size: int = 64
    steps: int = 200
    spreads: tuple[float, ...] = (0.1, 0.5, 1.0)
    """Standard deviations of the log-scales of the rescaled copies."""
    dtypes: tuple[str, ...] = ("float32", "float64")
    methods: tuple[str, ...] = ("SGD", "G-SGD", "momentum", "G-momentum", "Adam", "G-Adam")
    test_size: int = 500
    points: int = 20
    """Of the curves."""

    def __post_init__(self):
        """Refuses lengths that do not divide."""
        if self.steps % self.points:
            raise ValueError(
                f"steps must be a multiple of points, got {self.steps} and {self.points}."
            )


PRESETS = {
    "smoke": Settings(methods=("SGD", "G-SGD"), spreads=(1.0,)),
    "cpu": Settings(data="mnist", steps=200, test_size=1000),
    "day": Settings(data="mnist", widths=(64, 64, 64, 10), steps=800, test_size=2000),
    "full": Settings(
        data="mnist", pool=1, widths=(512, 512, 512, 10), steps=8000, test_size=10_000
    ),
}  # fmt: skip


class Method(NamedTuple):
    """One row."""

    name: str
    inner: Callable[[], optax.GradientTransformation]
    in_path_space: bool


def _rows() -> Iterator[Method]:
    rules = {
        "SGD": lambda: optax.sgd(0.1),
        "momentum": lambda: optax.sgd(0.02, momentum=0.9),
        "Adam": lambda: optax.adam(2e-3),
    }
    for name, inner in rules.items():
        yield Method(name, inner, in_path_space=False)
        yield Method(f"G-{name}", inner, in_path_space=True)


METHODS = {method.name: method for method in _rows()}


class Data(NamedTuple):
    """Standardised images, and those to compare functions on."""

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each dtype, method, spread and seed.

    Raises:
        ValueError: if a method is unknown.
    """
    if unknown := set(settings.methods) - METHODS.keys():
        raise ValueError(f"methods are {', '.join(METHODS)}, got {', '.join(sorted(unknown))}.")
    data = load_data(settings, context.data_dir)
    total = len(settings.dtypes) * len(context.seeds) * len(settings.methods)
    with context.progress.task("the same function twice", total=total) as bar:
        for dtype in settings.dtypes:
            for seed in context.seeds:
                for name in settings.methods:
                    yield from context.stages.of(
                        f"{name}, {dtype}, seed {seed}",
                        functools.partial(_compare, METHODS[name], dtype, settings, seed, data),
                    )
                    bar.advance(note=f"{name}, {dtype}")


def load_data(settings: Settings, data_dir: Path | None) -> Data:
    """The images, float32."""
    train = load(settings.data, "train", data_dir=data_dir)
    test = load(settings.data, "test", data_dir=data_dir)
    test = take(test, min(settings.test_size, len(test.labels)), key=streams(0).data)
    statistics = pixel_statistics(train.images)
    images, test_images = (
        np.asarray(pooled(standardise(part.images, statistics), settings.pool))
        for part in (train, test)
    )
    return Data(images, train.labels, test_images, test.labels)


def _batches(data: Data, settings: Settings, seed: int) -> np.ndarray:
    """Rows of the images in the order of training, [points, steps / points, batch]."""
    count = settings.steps * settings.batch_size
    rows = rows_in_order(streams(seed).order, len(data.labels), count)
    return rows.reshape(settings.points, -1, settings.batch_size)


def _compare(
    method: Method, dtype: str, settings: Settings, seed: int, data: Data
) -> Iterator[Record]:
    """All copies of one start, side by side; the first is the start itself."""
    begun = time.perf_counter()
    with jax.enable_x64(dtype == "float64"):  # pyright: ignore[reportCallIssue] (a jax State)
        data = data._replace(
            images=data.images.astype(dtype), test_images=data.test_images.astype(dtype)
        )
        network = MLP(settings.widths, dtype=dtype, param_dtype=dtype)

        def apply_fn(params: Any, images: jax.Array) -> jax.Array:
            return jnp.asarray(network.apply({"params": params}, images))

        keys = streams(seed)
        params = jax.jit(network.init)(keys.init, data.test_images[:1])["params"]
        gauge = find_gauge(apply_fn, params, data.test_images[:1])
        assert isinstance(gauge, Gauge)  # the units of a perceptron are a graph
        copies = [
            gauge.rescale(params, jax.random.fold_in(keys.init, i), spread=spread)
            for i, spread in enumerate(settings.spreads, start=1)
        ]
        starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), params, *copies)
        rows = _batches(data, settings, seed)
        batches = (data.images[rows], data.labels[rows])
        train = _trained(method, gauge, apply_fn)
        logits = np.asarray(train(starts, batches, data.test_images))
    apart = np.abs(logits - logits[:, :1]).max((-2, -1))
    apart /= np.sqrt(np.square(logits[:, :1]).mean((-2, -1)))
    answers = logits.argmax(-1)  # [points, copies, images]
    changed = (answers != answers[:, :1]).mean(-1)
    accuracy = (answers == data.test_labels).mean(-1)
    steps = np.linspace(0, settings.steps, settings.points + 1).astype(int)
    for i, spread in enumerate(settings.spreads, start=1):
        curve = {"step": steps, "distance": apart[:, i], "changed_answers": changed[:, i]}
        yield Record(
            method=method.name,
            setting={"dtype": dtype, "spread": spread},
            seed=seed,
            metrics={
                "distance": float(apart[-1, i]),
                "changed_answers": float(changed[-1, i]),
                "test_accuracy": float(accuracy[-1, 0]),
                "rescaled_test_accuracy": float(accuracy[-1, i]),
            },
            curve={name: values.tolist() for name, values in curve.items()},
            wall_time=time.perf_counter() - begun,
        )


def _trained(
    method: Method, gauge: Gauge, apply_fn: Callable[[Any, jax.Array], jax.Array]
) -> Callable[[Any, Any, np.ndarray], jax.Array]:
    """(starts, batches, test images) -> logits before training and at every point.

    Starts are side by side, batches [points, steps, batch, ...], logits [points + 1, copies, n, k].
    """
    loss = cross_entropy_loss(apply_fn)
    inner = method.inner()
    tx = in_path_space(inner, gauge) if method.in_path_space else inner

    def one_copy(params: Any, batches: Any, test_images: jax.Array) -> jax.Array:
        def step(carry: Any, batch: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
            params, state = carry
            grads = jax.grad(lambda p: loss(p, (), batch, jax.random.key(0))[0])(params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        def chunk(carry: Any, batches: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
            carry, _ = jax.lax.scan(step, carry, batches)
            return carry, apply_fn(carry[0], test_images)

        before = apply_fn(params, test_images)
        _, after = jax.lax.scan(chunk, (params, tx.init(params)), batches)
        return jnp.concatenate([before[None], after])

    return jax.jit(jax.vmap(one_copy, in_axes=(0, None, None), out_axes=1))


def tables(records: Sequence[Record]) -> str:
    """How far apart the functions end, for each dtype and spread."""
    sections = []
    for dtype, of_dtype in by_setting(records, "dtype").items():
        spreads = list(by_setting(of_dtype, "spread"))
        rows = []
        for method, runs in by_method(of_dtype).items():
            by_spread = by_setting(runs, "spread")
            figures = [_distance(by_spread[spread]) for spread in spreads]
            widest = metric(by_spread[spreads[-1]], "changed_answers")
            accuracy = metric(by_spread[spreads[0]], "test_accuracy")
            rows.append([method, percent(accuracy), *figures, percent(widest)])
        header = [
            "method",
            "test accuracy %",
            *(f"largest distance, spread {s:g}" for s in spreads),
        ]
        header.append(f"answers changed %, spread {spreads[-1]:g}")
        sections += [f"**{dtype}**, at the end of training:", markdown(header, rows)]
    return "\n\n".join(sections)


def _distance(records: Sequence[Record]) -> str:
    """The largest over the seeds, in a form that shows its order of magnitude."""
    distances = [record.metrics["distance"] for record in records]
    lost = sum(not math.isfinite(distance) for distance in distances)
    worst = max((distance for distance in distances if math.isfinite(distance)), default=math.nan)
    return magnitude(worst, digits=2) + f" ({lost} of {len(distances)} diverged)" * (lost > 0)


CAPTIONS = {
    "distance.png": "Largest difference of a logit between a network and its rescaled copy, over "
    "the root mean square of the logits. In path space it stays at rounding in float64, and "
    "grows from rounding in float32; on weights the functions part at once.",
}


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """The distance during training at the widest spread: rules side by side, dtypes below."""
    path, widest = out / "distance.png", max(numeric(r, "spread") for r in records)
    rules = list(dict.fromkeys(r.method.removeprefix("G-") for r in records))
    dtypes, labels = list(by_setting(records, "dtype")), ("step", "distance of the functions")
    with small_multiples(path, dtypes, rules, labels=labels, share="all") as panels:
        for (dtype, rule), axes in panels.items():
            shown = where(map(_above_zero, records), dtype=dtype, spread=widest)
            for style, (prefix, label) in enumerate((("G-", "in path space"), ("", "on weights"))):
                if runs := where(shown, prefix + rule):
                    look = {"label": label, "style": style, "geometric": True}
                    plot_curve(axes, runs, x="step", y="distance", **look)
            axes.set_yscale("log")
            axes.set_ylim(top=1e4)  # a seed of SGD that takes off for a moment is cut
    return [path]


def _above_zero(record: Record) -> Record:
    """A distance of 0, that a logarithmic axis cannot show, as the least one of float64."""
    distance = np.maximum(np.asarray(record.curve["distance"], float), 1e-17)
    return dataclasses.replace(record, curve={**record.curve, "distance": distance.tolist()})

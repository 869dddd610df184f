"""A ReLU transformer that translates: does path space help, and make the step size matter less?

A decoder-only transformer reads a sentence of one small language and goes on in another, in which
the order is another and articles, adjectives and verbs agree (`common.translation`). Its group has
a node for every query-key dimension, every value-output dimension and every unit of the ReLU
feed-forward layers; its norms have no weights, which makes it a graph.

Rows: SGD and Adam, on weights and in path space, each pair from the same weights, once the usual
ones and once the papers' initialisation, skeleton weights at 1. All at every step size of a grid,
SGD's and Adam's being different ones, from the same seeds: same batches, same budget, steps that
fall linearly to zero, no momentum and no weight decay.

Told are the share of unseen sentences translated without a mistake, at the step size that
validation sentences choose by their tokens, and that share against the step size. Greedy decoding
makes no mistake in a sentence exactly if each of its tokens is the likeliest after the right ones
before it, so one pass over the right translation tells.

The papers' talk has a row for machine translation; its figures are not known here.

Cost: smoke 1 minute on two busy cores, cpu 7 on one; full is sized for one
accelerator and was not run.
Command: python -m benchmarks gsgd_sequence --preset cpu --seeds 3
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.typing import ArrayLike

from benchmarks.harness.registry import Context
from benchmarks.harness.reports import joined
from benchmarks.path_space.jobs import LINES, PAIRS, Curves, Grid, Job, family, run_all
from benchmarks.path_space.rates import Score, rate_figure, rate_tables, training_figure
from common.classification import MetricsFn, evaluator
from common.networks import Transformer
from common.progress import Bar
from common.records import Record
from common.seeds import streams
from common.training import LossFn, TrainState, fit, init_state, train_step
from common.translation import PAD, Lexicon, translations

SENTENCES = Score("test_accuracy", "validation_token_accuracy", name="sentences right", unit=", %")
"""Rates are chosen by tokens: unlike the share of whole sentences, it is never zero for many."""
TOKENS = SENTENCES._replace(metric="test_token_accuracy", name="tokens right")

Part = tuple[jax.Array, jax.Array]
"""Tokens [n, S + T] and labels [n, T], on the device."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Grid):
    """What the experiment depends on."""

    lexicon: Lexicon = dataclasses.field(default_factory=Lexicon)
    train_size: int = 6000
    validation_size: int = 500
    test_size: int = 1000
    width: int = 32
    hidden: int = 64
    heads: int = 2
    layers: int = 2
    batch_size: int = 32
    epochs: int = 4
    learning_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    adaptive_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


PRESETS = {
    "smoke": Settings(
        methods=("SGD", "G-SGD", "Adam", "G-Adam"),
        lexicon=Lexicon(nouns=4, adjectives=2, verbs=2), train_size=2000, test_size=500, layers=1,
        learning_rates=(0.1, 1.0), adaptive_rates=(0.003, 0.03),
    ),
    "cpu": Settings(),
    "full": Settings(
        lexicon=Lexicon(nouns=40, adjectives=15, verbs=20), train_size=100_000,
        validation_size=2000, test_size=5000, width=128, hidden=512, heads=4, layers=3,
        batch_size=64, epochs=10,
    ),
}  # fmt: skip


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each method, learning rate and seed.

    Raises:
        ValueError: if a method is unknown, or a size does not fit.
    """
    sizes = (settings.train_size, settings.validation_size, settings.test_size)
    # The same languages and sentences for all seeds.
    data = translations(streams(0).data, sizes, lexicon=settings.lexicon)
    parts = [(jnp.asarray(part.tokens), jnp.asarray(part.labels)) for part in data.parts]
    network = Transformer(
        len(data.words), settings.width, settings.hidden, settings.heads, settings.layers,
        length=parts[0][0].shape[1], dtype=jnp.bfloat16 if settings.bfloat16 else jnp.float32,
    )  # fmt: skip

    def train(job: Job, bar: Bar) -> Curves:
        return _train(job, network, parts, settings, bar, context.mesh)

    yield from run_all(settings, context, network, parts[0][0][:1], train, work=settings.epochs)


def translation_loss(network: nn.Module) -> LossFn:
    """Mean cross-entropy of the tokens of translations, filling left out.

    Args:
        network: takes tokens [batch, S + T] and returns logits [batch, S + T, vocabulary].

    Returns:
        A loss for `common.training.train_step`; the batch is (tokens, labels) as in
        `common.translation.Sentences`.
    """

    def loss_fn(params: optax.Params, model_state: Any, batch: Any, key: jax.Array):
        del key
        tokens, labels = batch
        losses, asked = _losses(_answers(network, params, tokens, labels), labels)
        return losses.sum() / asked.sum(), (model_state, {})

    return loss_fn


def translation_metrics(network: nn.Module) -> MetricsFn:
    """Of every sentence whether all tokens are right, what share of them is, and cross-entropy.

    Args:
        network: as for `translation_loss`.
    """

    def metrics(state: TrainState, batch: Any) -> dict[str, jax.Array]:
        tokens, labels = batch
        logits = _answers(network, state.params, tokens, labels)
        losses, asked = _losses(logits, labels)
        right = asked * (logits.argmax(-1) == labels).astype(asked.dtype)
        return {
            "accuracy": (right == asked).all(-1).astype(asked.dtype),
            "token_accuracy": right.sum(-1) / asked.sum(-1),
            "cross_entropy": losses.sum(-1) / asked.sum(-1),
        }

    return metrics


def _answers(network: nn.Module, params: Any, tokens: jax.Array, labels: jax.Array) -> Any:
    """The logits of the tokens of translations, [batch, T, vocabulary]."""
    logits: Any = network.apply({"params": params}, tokens)
    return logits[:, -labels.shape[1] :]  # from BEGIN on


def _losses(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The cross-entropy of every token that is asked for, and 1 where one is; [batch, T] each."""
    asked = (labels != PAD).astype(logits.dtype)
    return asked * optax.softmax_cross_entropy_with_integer_labels(logits, labels), asked


def _train(
    job: Job,
    network: nn.Module,
    parts: Sequence[Part],
    settings: Settings,
    bar: Bar,
    mesh: Mesh | None,
) -> Curves:
    """Trains all runs of a job at once."""
    train, validation, test = parts
    steps = len(train[0]) // settings.batch_size * settings.epochs

    def rule(learning_rate: float) -> optax.GradientTransformation:
        def schedule(count: ArrayLike) -> jax.Array:
            return learning_rate * (1 - jnp.asarray(count).astype(jnp.float32) / steps)

        return job.make(schedule)

    tunable = optax.inject_hyperparams(rule)

    def first(params: Any, rate: jax.Array) -> TrainState:
        return init_state(params, tunable(learning_rate=rate))

    state = jax.jit(jax.vmap(first))(job.params, job.rates)
    metrics = translation_metrics(network)
    validate, score = (
        evaluator(metrics, part, batch_size=250, prefix=prefix, many_runs=True)
        for part, prefix in ((validation, "validation_"), (test, "test_"))
    )
    curve = fit(
        train_step(translation_loss(network), tunable(learning_rate=0.0)),
        state,
        train,
        order=jnp.stack([streams(seed).order for seed in job.seeds]),
        noise=jnp.stack([streams(seed).noise for seed in job.seeds]),
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        evaluate=lambda state: {**validate(state), **score(state)},
        bar=bar,
        mesh=mesh,
    ).curve
    columns = {name: values for name, values in curve.items() if name != "epoch"}
    return {"epoch": curve["epoch"].tolist()}, columns


def tables(records: Sequence[Record]) -> str:
    """Sentences and tokens translated at the chosen step sizes, and what path space adds."""
    return joined(*(rate_tables(records, PAIRS, score) for score in (SENTENCES, TOKENS)))


CAPTIONS = {
    "learning_rates.png": "Unseen sentences translated without a mistake against the step size, "
    "mean and one standard deviation over seeds; the chosen step is ringed, a cross marks "
    "divergence.",
    "curves.png": "Tokens right during training at the chosen steps (on weights / in path space).",
}


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Sentences translated against step size, and training curves at the chosen step sizes."""
    rates = rate_figure(
        records, out / "learning_rates.png", LINES, SENTENCES, row=family,
        label="unseen sentences right, %",
    )  # fmt: skip
    curves = training_figure(
        records, out / "curves.png", LINES, TOKENS, row=family,
        curve=("epoch", "test_token_accuracy"), labels=("epoch", "tokens of unseen sentences, %"),
    )  # fmt: skip
    return [rates, curves]

"""A ReLU transformer that translates: does path space help, and make the step size matter less?

A decoder-only transformer reads a sentence of one small language and goes on in another, in which
the order is another and articles, adjectives and verbs agree (`common.data.generated`). Its group
has a node for every query-key dimension, every value-output dimension and every unit of the ReLU
feed-forward layers; its norms have no weights, which makes it a graph.

Rows: SGD and Adam, on weights and in path space, each pair from the same weights, once the usual
ones and once the papers' initialisation, skeleton weights at 1. All at every step size of a grid,
SGD's and Adam's being different ones, from the same seeds: same batches, same budget, steps that
fall linearly to zero, no momentum and no weight decay.

Reported: the share of unseen sentences translated without a mistake, at the step size that
validation sentences choose by their tokens, and that share against the step size. Greedy decoding
makes no mistake in a sentence exactly if each of its tokens is the likeliest after the right ones
before it, so one pass over the right translation tells.

The papers' talk has a row for machine translation; its figures are not known here.

Cost: smoke 1 minute on two busy cores; cpu 2 on one; day 50 on one, for twelve seeds, which
differ by up to 20 points in whole sentences. Full is sized for one accelerator and was not run.
Command: python -m benchmarks gsgd_sequence --preset day --seeds 12
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from benchmarks.harness.registry import Context
from benchmarks.path_space.jobs import (
    METHODS,
    Curves,
    Job,
    Reports,
    run_all,
)
from benchmarks.path_space.methods import Grid
from benchmarks.path_space.rates import Score
from benchmarks.path_space.training import Objective, Runs, train_at_rates
from common.data.generated.translation import PAD, Lexicon, translations
from common.networks import Transformer
from common.progress import Bar
from common.results.records import Record
from common.seeds import streams
from common.training import LossFn, TrainState
from common.training.classification import MetricsFn

SENTENCES = Score("test_accuracy", "validation_token_accuracy", name="sentences right", unit=", %")
"""Rates are chosen by tokens: unlike the share of whole sentences, it is never zero for many."""
TOKENS = SENTENCES._replace(metric="test_token_accuracy", name="tokens right")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Grid):
    """What the experiment depends on."""

    methods: tuple[str, ...] = tuple(method.name for method in METHODS)
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
    "cpu": Settings(
        train_size=3000, epochs=2, learning_rates=(0.1, 0.3, 1.0), adaptive_rates=(3e-3, 1e-2)
    ),
    "day": Settings(),
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

    steps = len(parts[0][0]) // settings.batch_size * settings.epochs

    def train(job: Job, bar: Bar) -> Curves:
        curve = train_at_rates(
            job.make, lambda count: 1 - count.astype(jnp.float32) / steps,
            Runs(job.params, job.rates, job.seeds),
            Objective(translation_loss(network), translation_metrics(network)), parts,
            batch_size=settings.batch_size, epochs=settings.epochs, bar=bar, mesh=context.mesh,
            evaluated=250,
        ).curve  # fmt: skip
        columns = {name: column for name, column in curve.items() if name != "epoch"}
        return {"epoch": curve["epoch"].tolist()}, columns

    yield from run_all(settings, context, network, parts[0][0][:1], train, work=settings.epochs)


def translation_loss(network: nn.Module) -> LossFn:
    """Mean cross-entropy of the tokens of translations, filling left out.

    The network takes tokens [batch, S + T] and returns logits [batch, S + T, vocabulary]; a batch
    is (tokens, labels) as in `common.translation.Sentences`.
    """

    def loss_fn(params: optax.Params, model_state: Any, batch: Any, key: jax.Array):
        del key
        tokens, labels = batch
        losses, asked = _losses(_answers(network, params, tokens, labels), labels)
        return losses.sum() / asked.sum(), (model_state, {})

    return loss_fn


def translation_metrics(network: nn.Module) -> MetricsFn:
    """Of every sentence whether all tokens are right, what share of them is, and cross-entropy."""

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


_REPORTS = Reports(
    scores=(SENTENCES, TOKENS), label="unseen sentences right, %", file="curves.png",
    curve=("epoch", "test_token_accuracy"), labels=("epoch", "tokens of unseen sentences, %"),
)  # fmt: skip
tables, plots, CAPTIONS = _REPORTS.tables, _REPORTS.plots, _REPORTS.captions

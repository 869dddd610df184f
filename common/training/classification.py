"""Classification: the loss to train with, and exact figures over a whole data set."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from common.training.execution import groups
from common.training.step import LossFn, TrainState

ApplyFn = Callable[..., jax.Array]
"""`(params, images) -> logits`, float, [batch, classes]."""

MetricsFn = Callable[[Any, chex.ArrayTree], Mapping[str, jax.Array]]
"""`(state, batch) -> figures`, one a name and example, each [batch]. The state is a `TrainState` or
another pytree that holds a model, such as that of a simulated server."""


def cross_entropy_loss(apply_fn: ApplyFn) -> LossFn:
    """Mean softmax cross-entropy of `(images, labels)` batches, for models without state.

    Args:
        apply_fn: `(params, images) -> logits`, [batch, classes].

    Returns:
        A loss for `train_step`; the batch is (images, labels int [batch]).
    """

    def loss_fn(params: optax.Params, model_state: Any, batch: Any, key: jax.Array):
        del key
        images, labels = batch
        logits = apply_fn(params, images)
        return _cross_entropy(logits, labels).mean(), (model_state, {})

    return loss_fn


def network_loss(network: nn.Module) -> LossFn:
    """Mean softmax cross-entropy of a linen network, its running averages carried along.

    Args:
        network: takes (images, train=...) and returns logits [batch, classes]; `model_state` holds
            its collections other than "params", {"batch_stats": ...} or {}.

    Returns:
        A loss for `train_step`; the batch is (images, labels int [batch]).
    """

    def loss_fn(params: optax.Params, model_state: Any, batch: Any, key: jax.Array):
        del key
        images, labels = batch
        variables = {"params": params, **model_state}
        logits, model_state = network.apply(
            variables, images, train=True, mutable=list(model_state)
        )
        return _cross_entropy(logits, labels).mean(), (model_state, {})

    return loss_fn


def classification_metrics(apply_fn: ApplyFn) -> MetricsFn:
    """Accuracy and cross-entropy of every example of an `(images, labels)` batch.

    Args:
        apply_fn: `(params, images) -> logits`, [batch, classes].
    """

    def metrics(state: TrainState, batch: Any) -> dict[str, jax.Array]:
        images, labels = batch
        return _figures(apply_fn(state.params, images), labels)

    return metrics


def network_metrics(network: nn.Module) -> MetricsFn:
    """Accuracy and cross-entropy of every example, by a linen network's running averages.

    Args:
        network: takes (images, train=...) and returns logits [batch, classes].
    """

    def metrics(state: TrainState, batch: Any) -> dict[str, jax.Array]:
        images, labels = batch
        model_state: Any = state.model_state
        variables: Any = {"params": state.params, **model_state}
        logits = network.apply(variables, images, train=False)
        return _figures(cast("jax.Array", logits), labels)

    return metrics


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Of each example, [batch], nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _figures(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Of each example, [batch] each."""
    right = (logits.argmax(-1) == labels).astype(jnp.float32)
    # Of logits that are no numbers argmax makes class 0, which is no answer.
    answered = jnp.isfinite(logits).all(-1)
    return {
        "accuracy": jnp.where(answered, right, jnp.nan),
        "cross_entropy": _cross_entropy(logits, labels),
    }


def evaluator(
    metrics_fn: MetricsFn,
    data: chex.ArrayTree,
    *,
    batch_size: int = 1000,
    prefix: str = "",
    many_runs: bool = False,
    at_once: int | None = None,
) -> Callable[[Any], dict[str, np.ndarray]]:
    """A function from a state to the means of `metrics_fn` over all of `data`.

    The last batch is filled up and its filling left out, so every example counts once and there
    is one compilation. Sums are kept in float64.

    Args:
        metrics_fn: figures of every example of a batch.
        data: arrays that share their leading axis, [n, ...].
        batch_size: examples evaluated at once.
        prefix: put before each figure's name, as in "test_".
        many_runs: whether states have a leading axis [runs]; then figures are [runs].
        at_once: how many of many runs are evaluated side by side at most; None for all.

    Returns:
        `state -> figures`, each float64, [] or [runs]; for the `evaluate` argument of `fit`.

    Raises:
        ValueError: if there is no example.
    """
    size = jax.tree.leaves(data)[0].shape[0]
    if size == 0:
        raise ValueError("there must be at least one example to evaluate on, got none.")
    batch_size = min(batch_size, size)

    # Rows past the end repeat the last example, and count 0.
    def batch_sums(state: Any, data: chex.ArrayTree, start: jax.Array) -> Any:
        rows = start + jnp.arange(batch_size)
        batch = jax.tree.map(lambda leaf: leaf[jnp.minimum(rows, size - 1)], data)
        figures = metrics_fn(state, batch)
        return {name: jnp.where(rows < size, value, 0).sum() for name, value in figures.items()}

    if many_runs:
        batch_sums = jax.vmap(batch_sums, in_axes=(0, None, None))
    compiled = jax.jit(batch_sums)

    def sums(state: Any) -> dict[str, np.ndarray]:
        parts = [compiled(state, data, jnp.asarray(i)) for i in range(0, size, batch_size)]
        parts = jax.device_get(parts)
        return {
            prefix + name: np.sum([np.asarray(p[name], np.float64) for p in parts], axis=0) / size
            for name in parts[0]
        }

    def evaluate(state: Any) -> dict[str, np.ndarray]:
        if not many_runs or at_once is None:
            return sums(state)
        runs = jax.tree.leaves(state)[0].shape[0]
        parts = [
            sums(jax.tree.map(lambda leaf, part=part: leaf[part], state))
            for part in groups(runs, at_once)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return evaluate

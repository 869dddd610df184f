"""Figures over a whole data set, and a network with running averages in training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common.networks import resnet
from common.training import (
    TrainState,
    fit,
    init_state,
    train_step,
)
from common.training.classification import (
    classification_metrics,
    evaluator,
    network_loss,
    network_metrics,
)
from tests.common.training.small_problem import KEYS, RUN_KEYS, linear, problem


@pytest.mark.parametrize("batch_size", [1000, 10, 7])
def test_evaluation_counts_every_example_once(batch_size):
    params, data = problem()
    state = TrainState(params, (), (), jnp.zeros([], jnp.int32))
    score = evaluator(classification_metrics(linear), data, batch_size=batch_size, prefix="test_")
    inputs, labels = (np.asarray(a, np.float64) for a in data)
    logits = inputs @ np.asarray(params["w"], np.float64)
    entropy = np.log(np.exp(logits).sum(-1)) - logits[np.arange(53), labels.astype(int)]
    found = score(state)
    np.testing.assert_allclose(found["test_accuracy"], np.mean(logits.argmax(-1) == labels))
    np.testing.assert_allclose(found["test_cross_entropy"], entropy.mean(), rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_no_answer(value):
    """Argmax would make class 0 of them, which every tenth digit is."""
    params, (inputs, labels) = problem()
    broken = {**params, "w": params["w"].at[0, 0].set(value)}
    state = TrainState(broken, (), (), jnp.zeros([], jnp.int32))
    score = evaluator(classification_metrics(linear), (inputs, labels * 0))
    assert np.isnan(score(state)["accuracy"])


def test_evaluation_needs_an_example():
    with pytest.raises(ValueError, match="at least one example"):
        evaluator(classification_metrics(linear), (jnp.zeros((0, 4)), jnp.zeros(0, jnp.int32)))


def test_a_network_with_running_averages_trains():
    network = resnet(8, num_classes=2, width=0.25)
    images = jax.random.normal(KEYS.data, (16, 8, 8, 3))
    data = (images, (images.mean((1, 2, 3)) > 0).astype(jnp.int32))
    variables = dict(jax.jit(network.init)(KEYS.init, images[:1]))
    params = variables.pop("params")
    tx = optax.sgd(0.1)
    found = fit(
        train_step(network_loss(network), tx), init_state(params, tx, variables), data,
        keys=RUN_KEYS, batch_size=8, epochs=3,
        evaluate=evaluator(network_metrics(network), data),
    )  # fmt: skip
    assert found.curve["loss"][-1] < found.curve["loss"][0]
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()), found.state.model_state["batch_stats"],
        variables["batch_stats"],
    )  # fmt: skip
    assert all(jax.tree.leaves(moved))
    logits = network.apply({"params": found.state.params, **found.state.model_state}, images)
    accuracy = np.mean(np.asarray(logits).argmax(-1) == np.asarray(data[1]))
    np.testing.assert_allclose(found.curve["accuracy"][-1], accuracy)

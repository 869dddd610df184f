"""One training step, as a pure function of state, batch and key."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

ModelState = chex.ArrayTree
Batch = chex.ArrayTree
LossFn = Callable[
    [optax.Params, ModelState, Batch, jax.Array], tuple[jax.Array, tuple[ModelState, Any]]
]
"""`(params, model_state, batch, key) -> (loss, (model_state, metrics))`, metrics a flat mapping."""


class TrainState(NamedTuple):
    """All that training carries from step to step."""

    params: optax.Params
    model_state: ModelState
    """What the model updates by itself, such as running averages; () where there is nothing."""
    opt_state: optax.OptState
    step: jax.Array
    """Steps taken; int32, scalar."""


class StepInfo(NamedTuple):
    """What one step says about itself."""

    loss: jax.Array
    """The loss before the update; float32, scalar."""
    metrics: Mapping[str, jax.Array]
    """What the loss function returned beside it; scalars."""


Step = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, StepInfo]]


def init_state(
    params: optax.Params, tx: optax.GradientTransformation, model_state: ModelState = ()
) -> TrainState:
    """The state before the first step.

    Args:
        params: initial parameters.
        tx: the transformation that `train_step` is given.
        model_state: the model's own initial state.
    """
    return TrainState(params, model_state, tx.init(params), jnp.zeros([], jnp.int32))


def train_step(loss_fn: LossFn, tx: optax.GradientTransformation) -> Step:
    """A pure training step: gradient, transformation, update.

    Args:
        loss_fn: see `LossFn`.
        tx: any optax transformation; one that takes extra arguments is given `value`, the loss.

    Returns:
        `(state, batch, key) -> (state, info)`; compose it with `jax.jit`, `jax.vmap`, `lax.scan`.
    """
    extended = optax.with_extra_args_support(tx)

    def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, StepInfo]:
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (model_state, metrics)), grads = grad_fn(state.params, state.model_state, batch, key)
        updates, opt_state = extended.update(grads, state.opt_state, state.params, value=loss)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, model_state, opt_state, state.step + 1), StepInfo(loss, metrics)

    return step

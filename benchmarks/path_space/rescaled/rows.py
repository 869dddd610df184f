"""The rows: five rules, each on weights and in the three ways that could spare one the scale."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from optax.contrib import muon

from benchmarks.path_space.rescaled import weight_norm
from benchmarks.path_space.rescaled.kernels import muon_dimensions
from gsgd_jax import Gauge, balance, in_path_space

Make = Callable[[Any, Any], optax.GradientTransformation]
"""From a learning rate, or a schedule of it, and a momentum to what steps."""


class Rule(NamedTuple):
    """What steps are made by."""

    name: str
    make: Make
    momentum: float = 0.0


def _sgd(rate: Any, momentum: Any) -> optax.GradientTransformation:
    return optax.sgd(rate, momentum=momentum)


def _adam(rate: Any, momentum: Any) -> optax.GradientTransformation:
    del momentum
    return optax.adam(rate)


def _rmsprop(rate: Any, momentum: Any) -> optax.GradientTransformation:
    del momentum
    return optax.rmsprop(rate)


def _muon(rate: Any, momentum: Any) -> optax.GradientTransformation:
    del momentum
    return muon(rate, muon_weight_dimension_numbers=muon_dimensions)


RULES = (
    Rule("SGD", _sgd),  # momentum 0, so that both are one program
    Rule("momentum", _sgd, momentum=0.9),
    Rule("Adam", _adam),
    Rule("RMSProp", _rmsprop),
    Rule("Muon", _muon),
)

Space = Literal["weights", "lengths and directions", "path space"]


class Way(NamedTuple):
    """How a rule is used: what it starts from, and on what it steps."""

    name: str
    space: Space
    balanced: bool = False
    """Whether the start is balanced before the first step."""


WEIGHTS = Way("on weights", "weights")
BALANCED = Way("balanced once", "weights", balanced=True)
NORMALISED = Way("weight norm", "lengths and directions")
PATHS = Way("in path space", "path space")
WAYS = (WEIGHTS, BALANCED, NORMALISED, PATHS)


def row_name(rule: str, way: str) -> str:
    """What a row is called in records and tables.

    Args:
        rule: its rule's name.
        way: its way's.
    """
    return f"{rule}, {way}"


def first_parameters(way: Way, params: Any, gauge: Gauge) -> Any:
    """What training starts from.

    Args:
        way: of the row.
        params: weights, maybe rescaled ones.
        gauge: their rescaling group.
    """
    if way.balanced:
        return balance(params, gauge)
    return weight_norm.normalised(params) if way.space == "lengths and directions" else params


def effective(space: Space, trained: Any, mask: Any) -> Any:
    """The weights that the network computes with.

    Args:
        space: what is trained.
        trained: parameters in it.
        mask: 0 at pruned entries and 1 elsewhere, a tree like the weights; () for none.
    """

    def masked(params: Any) -> Any:
        return jax.tree.map(jnp.multiply, params, mask) if mask else params

    if space != "lengths and directions":
        return masked(trained)
    return weight_norm.weights({**trained, "directions": masked(trained["directions"])})


def transformation(make: Make, space: Space, gauge: Gauge, steps: int) -> Callable[..., Any]:
    """From a learning rate and a momentum, numbers of the state, to what a row steps by.

    Learning rates fall linearly to zero.

    Args:
        make: the rule.
        space: what is trained.
        gauge: of the network.
        steps: of the whole training.
    """

    def rule(learning_rate: Any, momentum: Any) -> optax.GradientTransformation:
        def schedule(count: ArrayLike) -> jax.Array:
            return learning_rate * (1 - jnp.asarray(count).astype(jnp.float32) / steps)

        inner = make(schedule, momentum)
        return in_path_space(inner, gauge) if space == "path space" else inner

    return optax.inject_hyperparams(rule)

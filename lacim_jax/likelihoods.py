"""What an image or a label may be, given the output of a network: p(x|s,v) and p(y|s)."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num


class Likelihood(NamedTuple):
    """A family of conditional densities; its parameters are what a network puts out.

    Families are compared by identity when a model is compiled, so use the constants below, or
    build one once and keep it.
    """

    log_prob: Callable[[jax.Array, jax.Array], jax.Array]
    """`(parameters, value) -> log-density` of one example, summed over its axes: scalar, nats."""
    mean: Callable[[jax.Array], jax.Array]
    """`parameters -> E[value]`, for pictures and predictions; any leading axes."""
    check: Callable[[tuple[int, ...], np.ndarray], None]
    """`(shape of one example's parameters, values [batch, ...])`: raises ValueError if the family
    gives any of the values no density."""


def _bernoulli_log_prob(
    logits: Float[Array, "*pixels"], value: Float[Array, "*pixels"]
) -> Float[Array, ""]:
    # Equal to x log sigmoid(l) + (1 - x) log sigmoid(-l), which has 0 * inf in it. One long axis:
    # on CPU it is summed more than twice as fast as several short ones.
    logits, value = logits.ravel(), value.ravel()
    return (value * logits - jax.nn.softplus(logits)).sum()


def _check_unit_interval(shape: tuple[int, ...], values: np.ndarray) -> None:
    _check_shape(shape, values)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # also where either is NaN
        raise ValueError(
            f"under the Bernoulli likelihood pixels must lie between 0 and 1, got {low:g} to "
            f"{high:g}; divide stored pixels by 255, and do not standardise them."
        )


BERNOULLI = Likelihood(_bernoulli_log_prob, jax.nn.sigmoid, _check_unit_interval)
r"""Pixels between 0 and 1 from logits $l$: $\sum_i x_i l_i - \log(1 + e^{l_i})$.

For grey pixels it is a cross-entropy, the log-density up to a constant that depends on neither
network nor latents."""


def _categorical_log_prob(
    logits: Float[Array, " classes"], value: Num[Array, ""]
) -> Float[Array, ""]:
    # A label out of range gives NaN, which shows, and not the nearest class, which would not.
    log_probs = jax.nn.log_softmax(logits)
    return log_probs.at[value].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _check_classes(shape: tuple[int, ...], values: np.ndarray) -> None:
    if len(shape) != 1 or values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(
            f"labels must be integers of shape [batch], for logits of shape [classes], got "
            f"{values.dtype}{list(values.shape)} for logits of shape {list(shape)}."
        )
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= shape[0]:
        raise ValueError(
            f"labels must lie between 0 and {shape[0] - 1}, one for each logit of the classifier, "
            f"got {low} to {high}; renumber the classes or widen the classifier's last layer."
        )


CATEGORICAL = Likelihood(_categorical_log_prob, jax.nn.softmax, _check_classes)
r"""Labels $0, \dots, c - 1$ from logits $l$: $l_y - \log \sum_j e^{l_j}$."""


@functools.cache  # so that two equal ones are one, and nothing is compiled twice
def gaussian_likelihood(scale: float) -> Likelihood:
    r"""Real values around the network's output, $N(x; \mu, \sigma^2 I)$, the additive-noise model.

    Args:
        scale: $\sigma > 0$, fixed.

    Returns:
        The family; its parameters are the means $\mu$, of the shape of one example.

    Raises:
        ValueError: if the scale is not positive and finite.
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be positive and finite, got {scale}.")
    log_normaliser = math.log(scale) + 0.5 * math.log(2 * math.pi)

    def log_prob(mean: Float[Array, "*x"], value: Float[Array, "*x"]) -> Float[Array, ""]:
        return -(0.5 * ((value.ravel() - mean.ravel()) / scale) ** 2 + log_normaliser).sum()

    return Likelihood(log_prob, lambda mean: mean, _check_finite)


def _check_finite(shape: tuple[int, ...], values: np.ndarray) -> None:
    _check_shape(shape, values)
    if not np.isfinite(values).all():
        raise ValueError(
            "under a Gaussian likelihood values must be finite, got NaN or infinity; "
            "leave such examples out."
        )


def _check_shape(shape: tuple[int, ...], values: np.ndarray) -> None:
    if values.shape[1:] != shape or not np.issubdtype(values.dtype, np.floating):
        raise ValueError(
            f"values must be floating-point of shape [batch, ...] = [batch, "
            f"{', '.join(map(str, shape))}], as the network puts them out, got "
            f"{values.dtype}{list(values.shape)}."
        )

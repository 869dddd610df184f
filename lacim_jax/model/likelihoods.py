"""Families of distributions of images and labels, given the output of a network."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

from lacim_jax.model.distributions import bounded_log_var


class Likelihood(NamedTuple):
    """A family of conditional densities, p(x|s,v) or p(y|s), with a network's output as parameters.

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
    unexplained: Callable[[jax.Array], jax.Array] | None = None
    """`values [batch, ...] -> nats`: by how much, an example, the best parameters that are the same
    for all fall short of each example's own. What there is to be explained; see `lacim_loss`."""


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


def _bernoulli_unexplained(values: Float[Array, " batch *pixels"]) -> Float[Array, ""]:
    # Σ_i H(E x_i) - E H(x_i), with H(p) = -p log p - (1 - p) log(1 - p).
    def entropy(p: jax.Array) -> jax.Array:
        return -(jax.scipy.special.xlogy(p, p) + jax.scipy.special.xlog1py(1 - p, -p))

    return (entropy(values.mean(0)) - entropy(values).mean(0)).sum()


BERNOULLI = Likelihood(
    _bernoulli_log_prob, jax.nn.sigmoid, _check_unit_interval, _bernoulli_unexplained
)
r"""Pixels between 0 and 1 from logits $l$: $\sum_i x_i l_i - \log(1 + e^{l_i})$.

For grey pixels it is a cross-entropy, the log-density up to a constant that depends on neither
network nor latents."""


def _categorical_log_prob(
    logits: Float[Array, " classes"], value: Num[Array, ""]
) -> Float[Array, ""]:
    # A label out of range gives NaN, which is seen; the nearest class would not be.
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


def _categorical_unexplained(values: Num[Array, " batch"]) -> Float[Array, ""]:
    # The labels' entropy, -E log p(y), p the share of those that are equal: neighbours in order.
    ordered = jnp.sort(values)
    first, last = (jnp.searchsorted(ordered, ordered, side=side) for side in ("left", "right"))
    return -jnp.log((last - first).astype(jnp.float32) / values.size).mean()


CATEGORICAL = Likelihood(
    _categorical_log_prob, jax.nn.softmax, _check_classes, _categorical_unexplained
)
r"""Labels $0, \dots, c - 1$ from logits $l$: $l_y - \log \sum_j e^{l_j}$."""


def gaussian_likelihood(scale: ArrayLike | Sequence[Any]) -> Likelihood:
    r"""Real values around the network's output, $N(x_i; \mu_i, \sigma_i^2)$: additive noise.

    Equal scales of one shape give one object, so that nothing is compiled twice.

    Args:
        scale: $\sigma > 0$, fixed: one number for all values, or an array that broadcasts to the
            shape of one example, where measured numbers have noise of different sizes.

    Returns:
        The family; its parameters are the means $\mu$, of the shape of one example.

    Raises:
        ValueError: if a scale is not positive and finite.

    Example:
        >>> likelihood = gaussian_likelihood([1.0, 0.1])
        >>> mean, value = jnp.zeros(2), jnp.asarray([1.0, 0.1])  # each off by one of its scales
        >>> round(float(likelihood.log_prob(mean, value)), 3)  # -1 - log(2 pi) - log(0.1)
        -0.535
    """
    scales = np.asarray(scale, np.float64)
    if not (scales.size and ((scales > 0) & (scales < math.inf)).all()):
        wrong = scales[~((scales > 0) & (scales < math.inf))].ravel()[:3].tolist()
        raise ValueError(f"scale must be positive and finite, got {wrong or 'none'}.")
    return _gaussian(tuple(scales.ravel().tolist()), scales.shape)


@functools.cache
def _gaussian(scales: tuple[float, ...], shape: tuple[int, ...]) -> Likelihood:
    """The family of scales in row-major order."""
    scale = np.reshape(scales, shape)

    def of_each(own: jax.Array, numbers: np.ndarray) -> float | jax.Array:
        """What belongs to the scales, for the values of one example: flat, or a Python float."""
        if not shape:
            return numbers.item()
        return jnp.asarray(np.broadcast_to(numbers, own.shape).ravel(), own.dtype)

    def log_prob(mean: Float[Array, "*x"], value: Float[Array, "*x"]) -> Float[Array, ""]:
        sigma = of_each(mean, scale)
        log_normaliser = of_each(mean, np.asarray(np.log(scale))) + 0.5 * math.log(2 * math.pi)
        return -(0.5 * ((value.ravel() - mean.ravel()) / sigma) ** 2 + log_normaliser).sum()

    def unexplained(values: Float[Array, " batch *x"]) -> Float[Array, ""]:
        variances = values.var(0)
        return (variances.ravel() / (2 * of_each(variances, scale) ** 2)).sum()

    def check(own: tuple[int, ...], values: np.ndarray) -> None:
        _check_finite(own, values)
        if not _broadcasts(shape, own):
            raise ValueError(
                f"scales of shape {list(shape)} do not broadcast to examples of shape {list(own)}; "
                "give one number, or one for each value of an example."
            )

    return Likelihood(log_prob, lambda mean: mean, check, unexplained)


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, to) == to
    except ValueError:
        return False


@functools.cache  # equal arguments give one object, so nothing is compiled twice
def discretised_logistic(levels: int = 256, *, log_scale_bound: float = 7.0) -> Likelihood:
    r"""Stored pixels as finitely many grey levels, each with a probability.

    For a pixel x on the grid 0, 1/(n-1), ..., 1, half a step h, and $\sigma$ the logistic function,

        $p(x) = \sigma\big(\tfrac{x + h - \mu}{e^\tau}\big) -
        \sigma\big(\tfrac{x - h - \mu}{e^\tau}\big)$,

    with all that lies below in the level 0 and all that lies above in the level 1, so that the
    levels' probabilities sum to one. Unlike the Bernoulli cross-entropy of grey pixels it is a
    probability, and unlike a Gaussian it cannot grow without bound.

    A network gives $\mu - \frac{1}{2}$ and $\tau$ side by side: its last axis is twice as long
    as that of the images, means first. Outputs of zero mean grey, with a scale as wide as the grid.

    Args:
        levels: n, at least 2.
        log_scale_bound: b > 0; $\tau = b \tanh(r / b)$ of the network's output r stays within ±b.

    Returns:
        The family.

    Raises:
        ValueError: if `levels` is below 2 or the bound not positive.

    Example:
        >>> family = discretised_logistic(levels=2)
        >>> network = jnp.zeros((1, 2))  # one pixel of one channel: grey, of scale 1
        >>> family.log_prob(network, jnp.ones(1))  # log(1 / 2)
        Array(-0.6931472, dtype=float32)

    References:
        Salimans et al., *PixelCNN++*, 2017, equation 2; Kingma et al., *Improved variational
        inference with inverse autoregressive flow*, 2016, appendix B.
    """
    if levels < 2 or not log_scale_bound > 0:
        raise ValueError(
            "levels must be at least 2 and log_scale_bound positive, got "
            f"{levels} and {log_scale_bound}."
        )
    half = 0.5 / (levels - 1)

    def log_prob(parameters: Float[Array, "*x"], value: Float[Array, "*y"]) -> Float[Array, ""]:
        centre, raw = jnp.split(parameters, 2, axis=-1)
        inverse_scale = jnp.exp(-bounded_log_var(raw, bound=log_scale_bound)).ravel()
        pixel = value.ravel()
        shift = pixel - centre.ravel() - 0.5
        above, below = (shift + half) * inverse_scale, (shift - half) * inverse_scale
        # σ(a) - σ(b) = σ(a) σ(-b) (1 - e^(b-a)): three factors whose logarithms are each exact.
        up_to, from_there_on = jax.nn.log_sigmoid(above), jax.nn.log_sigmoid(-below)
        inside = up_to + from_there_on + jnp.log(-jnp.expm1(-2 * half * inverse_scale))
        # The outermost levels take in the tails.
        lowest, highest = pixel < half, pixel > 1 - half
        return jnp.where(lowest, up_to, jnp.where(highest, from_there_on, inside)).sum()

    def mean(parameters: jax.Array) -> jax.Array:
        # That of the logistic density, moved to the ends of the grid where it lies beyond them.
        return jnp.clip(jnp.split(parameters, 2, axis=-1)[0] + 0.5, 0.0, 1.0)

    def check(shape: tuple[int, ...], values: np.ndarray) -> None:
        due = (*shape[:-1], shape[-1] // 2) if shape else ()
        if not shape or shape[-1] % 2 or values.shape[1:] != due:
            raise ValueError(
                "a discretised logistic has two parameters a pixel, side by side in the last axis, "
                f"got parameters of shape {list(shape)} for values of shape "
                f"{list(values.shape[1:])}; make the decoder's last axis twice that of the images."
            )
        steps = values * (levels - 1)
        if not np.issubdtype(values.dtype, np.floating) or not (
            np.all(np.abs(steps - np.round(steps)) < 0.01)
            and values.min() >= 0
            and values.max() <= 1
        ):
            raise ValueError(
                f"pixels must be floating-point and on the grid of {levels} levels from 0 to 1, "
                f"got {values.dtype} from {values.min():g} to {values.max():g}; divide stored "
                f"pixels by {levels - 1}, and do not standardise or augment them off the grid."
            )

    def unexplained(values: Float[Array, " batch *x"]) -> Float[Array, ""]:
        # Of a logistic, whose scale grows with the spread: log of the spread in steps of the grid.
        return jnp.log(jnp.maximum(values.std(0) * (levels - 1), 1)).sum()

    return Likelihood(log_prob, mean, check, unexplained)


def _check_finite(shape: tuple[int, ...], values: np.ndarray) -> None:
    _check_shape(shape, values)
    if not np.isfinite(values).all():
        raise ValueError(
            "under a Gaussian likelihood values must be finite, got NaN or infinity; "
            "leave such examples out."
        )


def _check_shape(shape: tuple[int, ...], values: np.ndarray) -> None:
    floats = np.issubdtype(values.dtype, np.floating)
    if values.shape[1:] != shape or not floats:
        remedy = "give the network's last layer the shape of an example"
        if not floats:
            remedy = "make them float32, stored pixels divided by 255"
        raise ValueError(
            f"values must be floating-point of shape [batch, ...] = [batch, "
            f"{', '.join(map(str, shape))}], the shape of the network's output, got "
            f"{values.dtype}{list(values.shape)}; {remedy}."
        )

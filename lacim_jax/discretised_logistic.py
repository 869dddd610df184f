"""Pixels of finitely many grey levels, each the mass of a logistic density around it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lacim_jax.distributions import bounded_log_var
from lacim_jax.likelihoods import Likelihood


@functools.cache  # so that two equal ones are one, and nothing is compiled twice
def discretised_logistic(levels: int = 256, *, log_scale_bound: float = 7.0) -> Likelihood:
    r"""Stored pixels as what they are: one of a number of levels, with a probability each.

    For a pixel x on the grid 0, 1/(n-1), ..., 1, half a step h, and $\sigma$ the logistic function,

        $p(x) = \sigma\big(\tfrac{x + h - \mu}{e^\tau}\big) -
        \sigma\big(\tfrac{x - h - \mu}{e^\tau}\big)$,

    with all that lies below in the level 0 and all that lies above in the level 1, so that the
    levels' probabilities sum to one. Unlike the Bernoulli cross-entropy of grey pixels it is a
    probability, and unlike a Gaussian it cannot grow without bound.

    A network puts out $\mu - \frac{1}{2}$ and $\tau$ side by side: its last axis is twice as long
    as that of the images, means first. Zeros are grey, and as uncertain as the grid is wide.

    Args:
        levels: n, at least 2.
        log_scale_bound: $\tau$ stays between minus this and this, smoothly.

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
        lowest, highest = pixel < half, pixel > 1 - half
        return jnp.where(lowest, up_to, jnp.where(highest, from_there_on, inside)).sum()

    def mean(parameters: jax.Array) -> jax.Array:
        # Of the logistic density, at the grid's ends where it lies outside.
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

    return Likelihood(log_prob, mean, check)

"""Diagonal Gaussians over the latents, safe for any input that is finite."""

import math
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Gaussian(NamedTuple):
    r"""A Gaussian with diagonal covariance, $N(\mu, \mathrm{diag}(e^{\rho}))$.

    Example:
        >>> standard = Gaussian(mean=jnp.zeros(2), log_var=jnp.zeros(2))
        >>> standard.log_prob(jnp.zeros(2))  # -log(2 pi)
        Array(-1.837877, dtype=float32)
    """

    mean: jax.Array  # shape=[..., dim], floating: mu
    log_var: jax.Array  # shape=[..., dim], floating: rho, the logarithm of the variances

    def sample(self, noise: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        r"""The draw $\mu + e^{\rho / 2} \odot \epsilon$, differentiable in the parameters.

        Args:
            noise: $\epsilon$, standard normal, of the shape of `mean`.

        References:
            Kingma and Welling, *Auto-encoding variational Bayes*, 2014, section 2.4.
        """
        return self.mean + jnp.exp(self.log_var / 2) * noise

    def log_prob(self, value: Float[Array, "*batch dim"]) -> Float[Array, "*batch"]:
        """The log-density, summed over the dimensions.

        Args:
            value: of the shape of `mean`.

        Returns:
            One log-density for each distribution, in nats; [...].
        """
        # The quotient is squared, not the difference: large over large stays finite.
        quotient = (value - self.mean) * jnp.exp(-self.log_var / 2)
        return -0.5 * (quotient**2 + self.log_var + math.log(2 * math.pi)).sum(-1)

    def kl(self, other: "Gaussian") -> Float[Array, "*batch dim"]:
        """The Kullback-Leibler divergence KL(self || other) of each dimension, not summed.

        Args:
            other: a Gaussian of the same shape.

        Returns:
            At least 0, in nats; [..., dim]. Their sum over the last axis is the divergence.
        """
        # KL = (e^d - 1 - d + (mu_1 - mu_2)^2 / var_2) / 2, with d the difference of log-variances.
        difference = self.log_var - other.log_var
        shift = (self.mean - other.mean) * jnp.exp(-other.log_var / 2)
        # expm1 keeps the digits where the two variances are nearly equal.
        return 0.5 * (jnp.expm1(difference) - difference + shift**2)

    def kl_from(self, other: Any) -> Float[Array, "*batch dim"]:
        """KL(other || self) of each dimension, not summed; called on a prior, with the posterior.

        Args:
            other: a Gaussian of the same shape, or a `CorrelatedGaussian`.
        """
        return other.kl(self)


def bounded_log_var(raw: Float[Array, "*shape"], *, bound: float = 8.0) -> Float[Array, "*shape"]:
    r"""A log-variance that cannot run away, $b \tanh(r / b)$.

    It is the identity near 0 and stays between $-b$ and $b$, so that neither a variance nor its
    inverse overflows, and a posterior cannot shrink to a point whose density is infinite. At the
    bounds the gradient fades and does not break off.

    Args:
        raw: r, the output of a network; any finite numbers.
        bound: b > 0. The default allows standard deviations from 1/55 to 55.

    Returns:
        Of the shape and dtype of `raw`.

    Example:
        >>> bounded_log_var(jnp.asarray([-1e30, 0.0, 1e30]))
        Array([-8.,  0.,  8.], dtype=float32)
    """
    return bound * jnp.tanh(raw / bound)


def check_log_var_bound(bound: float) -> None:
    """Refuses a bound on log-variances that leaves them no range.

    Args:
        bound: b.

    Raises:
        ValueError: if it is not positive and finite: within 0 there is no number, tanh(r / 0).
    """
    if not 0 < bound < math.inf:
        raise ValueError(
            f"log_var_bound must be positive and finite, got {bound}; leave it out for 8."
        )


@runtime_checkable
class Density(Protocol):
    """What `log_mixture` needs of its components: a NamedTuple of arrays with a log-density."""

    def log_prob(self, value: jax.Array) -> jax.Array:
        """The log-density at a value."""
        ...


def log_mixture(components: Density, value: Float[Array, " dim"]) -> Float[Array, ""]:
    r"""The log-density of the equal mixture, $\log \frac{1}{m} \sum_{j=1}^m p_j(z)$.

    Args:
        components: m Gaussians, correlated or not; [m, dim].
        value: z, [dim].
    """
    every = jax.vmap(lambda component: component.log_prob(value))(components)
    return jax.nn.logsumexp(every) - math.log(every.shape[0])

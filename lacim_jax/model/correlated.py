"""A Gaussian whose dimensions depend on each other, with no matrix to invert."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lacim_jax.model.distributions import Gaussian


class CorrelatedGaussian(NamedTuple):
    r"""A Gaussian with any covariance, as a chain of regressions.

    Each dimension is a linear function of those before it, plus independent noise:

        $z_i = \mu_i + \sum_{j<i} B_{ij} (z_j - \mu_j) + e^{\rho_i / 2} \epsilon_i$,

    so that the covariance is $(I - B)^{-1} \mathrm{diag}(e^\rho) (I - B)^{-\top}$, the modified
    Cholesky decomposition. It is positive definite for any parameters, its density needs no
    inverse and no determinant beyond $\sum_i \rho_i$, and with B = 0 it is `Gaussian`.

    Example:
        >>> standard = Gaussian(mean=jnp.zeros(2), log_var=jnp.zeros(2))
        >>> both = CorrelatedGaussian(*standard, mixing=jnp.array([[0.0, 0.0], [2.0, 0.0]]))
        >>> both.covariance()
        Array([[1., 2.],
               [2., 5.]], dtype=float32)

    References:
        Pourahmadi, *Joint mean-covariance models with applications to longitudinal data*, 1999.
    """

    mean: jax.Array  # shape=[..., dim], floating: mu
    log_var: jax.Array  # shape=[..., dim], floating: rho, of the noise that each dimension adds
    mixing: jax.Array  # shape=[..., dim, dim], floating: B; only what is below the diagonal counts

    def sample(self, noise: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        r"""The draw $\mu + (I - B)^{-1} (e^{\rho / 2} \odot \epsilon)$.

        Args:
            noise: $\epsilon$, standard normal, of the shape of `mean`.
        """
        scaled = jnp.exp(self.log_var / 2) * noise
        return self.mean + _solve(self.mixing, scaled[..., None])[..., 0]

    def log_prob(self, value: Float[Array, "*batch dim"]) -> Float[Array, "*batch"]:
        """The log-density, in nats; [...].

        Args:
            value: of the shape of `mean`.
        """
        shift = value - self.mean
        # The map from z to its noise has determinant 1: the noise's density is that of z.
        return Gaussian(jnp.zeros_like(shift), self.log_var).log_prob(shift - self._expected(shift))

    def kl_from(self, other: "Gaussian | CorrelatedGaussian") -> Float[Array, "*batch dim"]:
        r"""KL(other || self), one term for each dimension given those before it.

        The chain rule,

            $\sum_i E_{z \sim q} KL(q(z_i | z_{<i}) \| p(z_i | z_{<i}))$,

        of which each term is at least 0. Their sum does not depend on the order of the dimensions;
        each by itself does.

        Args:
            other: q, a Gaussian of the same shape.

        Returns:
            In nats; [..., dim]. Their sum over the last axis is the divergence.
        """
        shift = other.mean - self.mean
        residual = shift - self._expected(shift)
        noise = Gaussian(jnp.zeros_like(shift), self.log_var)
        # The residual of dimension i under p, e_i = z_i - mu_i - sum_j B_ij (z_j - mu_j), also
        # varies with the noise of q in the dimensions before i; `between` is how strongly.
        between = -jnp.tril(self.mixing, -1)
        if isinstance(other, CorrelatedGaussian):
            # In terms of q's own noise: (I - B_p) (I - B_q)^-1, less its unit diagonal.
            identity = jnp.eye(self.mean.shape[-1], dtype=self.mean.dtype)
            unmixed = jnp.broadcast_to(identity, other.mixing.shape)
            between = (unmixed + between) @ _solve(other.mixing, unmixed)
            between = jnp.tril(between, -1)
        variance = jnp.einsum("...ij,...j->...i", between**2, jnp.exp(other.log_var))
        # That variance enters the divergence of two Gaussians as half its ratio to the noise's.
        excess = 0.5 * variance * jnp.exp(-self.log_var)
        return Gaussian(residual, other.log_var).kl(noise) + excess

    def kl(self, other: "Gaussian | CorrelatedGaussian") -> Float[Array, "*batch dim"]:
        """KL(self || other), one term for each dimension given those before it; see `kl_from`.

        Args:
            other: a Gaussian of the same shape, correlated or not.
        """
        if isinstance(other, Gaussian):
            other = CorrelatedGaussian(*other, mixing=jnp.zeros_like(self.mixing))
        return other.kl_from(self)

    def covariance(self) -> Float[Array, "*batch dim dim"]:
        """The covariance matrix, [..., dim, dim]."""
        identity = jnp.broadcast_to(
            jnp.eye(self.mean.shape[-1], dtype=self.mean.dtype), self.mixing.shape
        )
        # L = (I - B)^-1 diag(e^(rho/2)) is its Cholesky factor.
        root = _solve(self.mixing, identity) * jnp.exp(self.log_var / 2)[..., None, :]
        return root @ jnp.swapaxes(root, -1, -2)

    def _expected(self, shift: jax.Array) -> jax.Array:
        """The mean of each dimension's deviation from mu, given those before it: B (z - mu)."""
        return jnp.einsum("...ij,...j->...i", jnp.tril(self.mixing, -1), shift)


def _solve(mixing: jax.Array, right: jax.Array) -> jax.Array:
    """(I - B)⁻¹ right, for [..., dim, dim] and [..., dim, columns]."""
    lower = -jnp.tril(mixing, -1)
    return jax.scipy.linalg.solve_triangular(lower, right, lower=True, unit_diagonal=True)

"""How features of an image become q(s,v|x,d): evidence shared by the domains, or a head for each.

LaCIM's `posterior` is one of these modules, or any other that is called likewise.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lacim_jax.model.correlated import CorrelatedGaussian
from lacim_jax.model.distributions import Gaussian, bounded_log_var
from lacim_jax.model.rows import rows

AnyGaussian = Gaussian | CorrelatedGaussian


class _Posterior(nn.Module):
    """A Gaussian made of features by linear maps, and what each domain's prior makes of it."""

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "batch features"],
        priors: AnyGaussian,
        domains: Int[Array, " batch"] | None,
        *,
        correlated: bool,
        log_var_bound: float,
    ) -> AnyGaussian:
        """The posterior in each example's own domain, or in every domain.

        Args:
            features: of the encoder's trunk.
            priors: of all training domains, [num_domains, dim].
            domains: d, from 0 to num_domains - 1, any other giving NaN; None for every domain.
            correlated: whether the posterior has a full covariance.
            log_var_bound: log-variances that are read off features stay between minus this and
                this; of what the prior makes of them see `LaCIM.log_var_bound`.

        Returns:
            [batch, dim], or [batch, num_domains, dim].
        """
        num_domains, dim = priors.mean.shape
        width = 2 * dim + (dim * dim if correlated else 0)
        raw = self._raw(features, domains, num_domains=num_domains, width=width)
        own = jax.tree.map(lambda every: _of(every, domains), priors)
        return self._with(_gaussian(raw, dim, log_var_bound), own)

    def _raw(
        self, features: jax.Array, domains: jax.Array | None, *, num_domains: int, width: int
    ) -> jax.Array:
        """What the Gaussians are read off, [batch, width] or [batch, num_domains or 1, width]."""
        raise NotImplementedError

    def _with(self, found: AnyGaussian, own: AnyGaussian) -> AnyGaussian:
        """The posterior, given the prior of its domain."""
        del own
        return found


class SharedEvidence(_Posterior):
    r"""What the image says, the same in every domain, times what its domain leads one to expect.

    By Bayes' rule the posterior differs between domains by their priors alone,
    $p(s,v|x,d) \propto p(x|s,v) \, p(s,v|d)$. So one linear head gives a Gaussian in z = (s, v) in
    place of the likelihood, $N(z; m(x), \mathrm{diag}(e^{\rho(x)}))$ up to a factor, and the
    posterior is its product with the domain's own prior $N(z; \mu_d, \mathrm{diag}(e^{\rho_d}))$:

        $q(s,v|x,d) = N(z; w \odot m(x) + (1 - w) \odot \mu_d, \,
        (e^{-\rho(x)} + e^{-\rho_d})^{-1})$, $w = \sigma(\rho_d - \rho(x))$.

    It is exact for linear decoders with Gaussian noise whose columns are orthogonal (for any, with
    `correlated_posterior`). All domains train one head, however few examples each has, and without
    `rank` a new domain asks for a prior alone. As in the M step of EM the prior is held constant
    inside q: it is learnt by the divergence, and not by way of the reconstruction, whose gradients
    are far larger while the decoder is poor. Of features of real images, in three domains, it made
    a better classifier than `DomainHeads`; where domains are few and beta is far above 1 at first,
    it was seen to end in worse optima.

    - Evidence and prior of full covariance multiply likewise: precisions add. Where only the prior
      is correlated, q is the Gaussian of independent dimensions that is nearest to the product in
      KL(q || product): of its mean, and of the diagonal of its precision.
    - `rank` lets the evidence itself depend on the domain where the product is not the posterior:
      each domain has an embedding of so many numbers, of which a linear map, zero at first, makes a
      factor and a shift for every feature.

    Example:
        >>> from lacim_jax import LaCIM, MLP, MLPDecoder, MLPEncoder
        >>> model = LaCIM(
        ...     MLPEncoder((8,)), MLPDecoder((4, 4, 1)), MLP((2,)), num_domains=64,
        ...     posterior=SharedEvidence(rank=4),
        ... )
        >>> images, domains = jnp.zeros((3, 4, 4, 1)), jnp.asarray([0, 1, 63])
        >>> variables = jax.jit(model.init)(jax.random.key(0), images, domains)
        >>> model.apply(variables, images, domains, method="encode").mean.shape
        (3, 32)

    References:
        Johnson et al., *Composing graphical models with neural networks for structured
        representations and fast inference*, 2016, for a network's evidence times a prior.
        Perez et al., *FiLM: visual reasoning with a general conditioning layer*, 2018.
    """

    rank: int = 0
    """Numbers in a domain's embedding; 0 for evidence that does not depend on the domain."""

    def __post_init__(self):
        """Refuses an embedding of fewer numbers than none."""
        if not isinstance(self.rank, int) or self.rank < 0:
            raise ValueError(
                f"rank must be a whole number, at least 0, got {self.rank!r}; 0 for evidence that "
                "does not depend on the domain."
            )
        super().__post_init__()

    def _raw(
        self, features: jax.Array, domains: jax.Array | None, *, num_domains: int, width: int
    ) -> jax.Array:
        if self.rank:
            normal, zeros = nn.initializers.normal(1.0), nn.initializers.zeros
            embeddings = self.param("embeddings", normal, (num_domains, self.rank))
            film = self.param("film", zeros, (self.rank, 2 * features.shape[-1]))
            scale, shift = jnp.split(_of(embeddings @ film, domains), 2, axis=-1)
            features = features[:, None] if domains is None else features
            features = features + features * scale + shift
        raw = nn.Dense(width, name="evidence")(features)
        return raw[:, None] if domains is None and not self.rank else raw

    def _with(self, found: AnyGaussian, own: AnyGaussian) -> AnyGaussian:
        return product(found, jax.lax.stop_gradient(own))


class DomainHeads(_Posterior):
    """A linear head for each domain on the same features, which learns from that domain alone.

    It asks for no form of posterior, but starves where a domain has few examples for the features
    there are, and lets a penalty on how domains differ be dodged by heads that do. Of the priors it
    asks for their number alone.
    """

    def _raw(
        self, features: jax.Array, domains: jax.Array | None, *, num_domains: int, width: int
    ) -> jax.Array:
        every = nn.DenseGeneral((num_domains, width), name="heads")(features)
        if domains is None:
            return every
        own = every.at[jnp.arange(domains.size), domains]
        return own.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def product(evidence: AnyGaussian, prior: AnyGaussian) -> AnyGaussian:
    """The normalised product of two Gaussian densities; their leading axes broadcast.

    Args:
        evidence: [..., dim].
        prior: [..., dim]. If it alone is correlated, the nearest Gaussian of independent
            dimensions is given instead, as `SharedEvidence` explains.

    Returns:
        Correlated if the evidence is.
    """
    if isinstance(evidence, Gaussian) and isinstance(prior, Gaussian):
        # Means are weighed by precisions, which add; as logarithms neither overflows.
        weight = jax.nn.sigmoid(prior.log_var - evidence.log_var)
        mean = prior.mean + weight * (evidence.mean - prior.mean)
        return Gaussian(mean, -jnp.logaddexp(-evidence.log_var, -prior.log_var))
    both = _precision(evidence), _precision(prior)
    precision = both[0] + both[1]
    # mu + (P_x + P_d)^-1 P_x (m - mu) is the mean weighed by precisions.
    pull = jnp.einsum("...ij,...j->...i", both[0], evidence.mean - prior.mean)
    root = jnp.linalg.cholesky(precision)
    move = jax.scipy.linalg.cho_solve(
        (root, True), jnp.broadcast_to(pull, root.shape[:-1])[..., None]
    )
    mean = prior.mean + move[..., 0]
    if isinstance(evidence, Gaussian):
        return Gaussian(mean, -jnp.log(jnp.diagonal(precision, axis1=-2, axis2=-1)))
    # Precision = (I - B)' diag(e^-rho) (I - B), of unit lower factors: a Cholesky decomposition
    # from the last dimension to the first.
    flipped = jnp.linalg.cholesky(precision[..., ::-1, ::-1])[..., ::-1, ::-1]
    scale = jnp.diagonal(flipped, axis1=-2, axis2=-1)
    unit = jnp.swapaxes(flipped / scale[..., None, :], -1, -2)
    return CorrelatedGaussian(mean, -2 * jnp.log(scale), jnp.tril(-unit, -1))


def _precision(gaussian: AnyGaussian) -> jax.Array:
    """The inverse of the covariance, [..., dim, dim]."""
    dim, dtype = gaussian.mean.shape[-1], gaussian.mean.dtype
    identity = jnp.broadcast_to(jnp.eye(dim, dtype=dtype), (*gaussian.mean.shape, dim))
    inverse = jnp.exp(-gaussian.log_var)
    if isinstance(gaussian, Gaussian):
        return inverse[..., None] * identity
    unmixed = identity - jnp.tril(gaussian.mixing, -1)
    return jnp.swapaxes(unmixed, -1, -2) @ (inverse[..., None] * unmixed)


def _gaussian(raw: jax.Array, dim: int, bound: float) -> AnyGaussian:
    """A head's outputs as mean, log-variance and, where there are more, B."""
    mean, log_var, mixing = jnp.split(raw, (dim, 2 * dim), axis=-1)
    log_var = bounded_log_var(log_var, bound=bound)
    if mixing.shape[-1]:
        return CorrelatedGaussian(mean, log_var, mixing.reshape(*mean.shape, dim))
    return Gaussian(mean, log_var)


def _of(every: jax.Array, domains: Int[Array, " batch"] | None) -> jax.Array:
    """Each example's row, NaN for a domain that was not trained; or all rows, for all examples."""
    return every[None] if domains is None else rows(every, domains)

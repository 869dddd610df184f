"""LaCIM with one noise for all domains, which each domain maps to latents of its own."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lacim_jax.model.distributions import Gaussian, bounded_log_var
from lacim_jax.model.lacim import LaCIM, Prior
from lacim_jax.model.networks import MLP


class ReparameterisedLaCIM(LaCIM):
    r"""Latent causal invariant model whose domains differ by a map of the same noise.

    Instead of a prior for each domain there is one noise, $\epsilon \sim N(0, I)$, and a map for
    each domain, $(s, v) = \rho_d(\epsilon)$; so $p(s,v|d)$ need not be Gaussian, and s and v may
    be correlated in it. The encoder infers the noise, $q(\epsilon|x)$, and is one for all domains:

        $\log p(x, y | d) \ge E_{q(\epsilon|x)} [\log p(x | \rho_d(\epsilon)) +
        \log p(y | \rho_d(\epsilon)_s)] - KL(q(\epsilon|x) \| N(0, I))$,

    with the importance weights of `elbo`. Everything else (decoder, classifier, latent search over
    (s, v)) is that of `LaCIM`, and every function that takes one takes the other.

    The map is $\rho_d(\epsilon) = a_d + A_d \epsilon + m_d(\epsilon)$, with m_d a small fully
    connected network whose last layer begins at zero and A_d beginning at the identity: all domains
    start as the standard normal. The latents' density has no closed form; where a search asks for
    it (`mixture_prior`), Gaussians of the same moments stand in, see `priors`.

    Example:
        >>> import jax
        >>> from lacim_jax import MLP, MLPDecoder, MLPEncoder
        >>> model = ReparameterisedLaCIM(
        ...     MLPEncoder((8,)), MLPDecoder((4, 4, 1)), MLP((2,)), num_domains=2
        ... )
        >>> images, domains = jnp.zeros((3, 4, 4, 1)), jnp.asarray([0, 1, 1])
        >>> variables = jax.jit(model.init)(jax.random.key(0), images, domains)
        >>> noise = jnp.ones((3, 32))
        >>> model.apply(variables, noise, domains, method="latents").shape
        (3, 32)

    References:
        Sun et al., *Recovering latent causal factor for generalization to distributional shifts*,
        NeurIPS 2021, whose code learns a map of the noise for each domain.
    """

    posterior: nn.Module | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """None: the encoder's features become the posterior of the noise by a head of its own."""
    map_widths: Sequence[int] = (64,)
    """Of the hidden layers of the network in each domain's map; () for an affine map."""

    def __post_init__(self):
        """Makes a tuple of the widths, so that the model can be hashed."""
        object.__setattr__(self, "map_widths", tuple(self.map_widths))
        super().__post_init__()

    def setup(self):
        """Declares the encoder's head and the maps; there is no learnt prior.

        Raises:
            ValueError: as `check_sizes`, or if a field is given that the maps stand for.
        """
        self.check_sizes()
        if self.posterior is not None:
            raise ValueError(
                "ReparameterisedLaCIM encodes the noise by one head of its own, got posterior="
                f"{type(self.posterior).__name__}(...); leave it out, or use LaCIM, which takes it."
            )
        if self.correlated_prior or self.correlated_posterior:
            raise ValueError(
                "the maps make the latents correlated, from independent noise: leave "
                "correlated_prior and correlated_posterior out."
            )
        dim = self.s_dim + self.v_dim
        self.head = nn.Dense(2 * dim)
        # One set of parameters a domain, applied to the same noise.
        maps = nn.vmap(
            _Map,
            in_axes=None,  # pyright: ignore[reportArgumentType]  # (flax's hint leaves None out)
            out_axes=1,
            axis_size=self.num_domains,
            variable_axes={"params": 0},
            split_rngs={"params": True},
        )
        self.maps = maps(widths=tuple(self.map_widths))

    def encode(
        self, images: Float[Array, " batch *image"], domains: Int[Array, " batch"]
    ) -> Gaussian:
        """The posterior of the noise, whatever the domain; [batch, s_dim + v_dim].

        Args:
            images: x.
            domains: d; not used, since the encoder is one for all domains.
        """
        del domains
        mean, raw = jnp.split(self.head(self.encoder(images)), 2, axis=-1)
        return Gaussian(mean, bounded_log_var(raw, bound=self.log_var_bound))

    def prior(self, domains: Int[Array, " batch"]) -> Prior:
        """The prior of the noise: standard normal in every domain, [batch, s_dim + v_dim].

        Args:
            domains: d.
        """
        zeros = jnp.zeros((domains.size, self.s_dim + self.v_dim))
        return Gaussian(zeros, zeros)

    def latents(
        self, draws: Float[Array, "batch dim"], domains: Int[Array, " batch"]
    ) -> Float[Array, "batch dim"]:
        """(s, v), the noise as each example's own domain maps it.

        Args:
            draws: the noise.
            domains: d, from 0 to num_domains - 1; any other gives NaN.
        """
        every = self.maps(draws)  # [batch, num_domains, dim]
        rows = every.at[jnp.arange(domains.size), domains]
        return rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

    def starts(
        self, images: Float[Array, " batch *image"], noise: Float[Array, "draws num_domains dim"]
    ) -> Float[Array, "batch starts dim"]:
        """Latents from which to explain images: the encoder's noise, as every domain maps it.

        Args:
            images: x.
            noise: standard normal; every image uses the same.

        Returns:
            The posterior's mean through every map in turn, then draws; num_domains * (1 + draws).
        """
        posterior = self.encode(images, jnp.zeros(len(images), jnp.int32))
        mean, scale = posterior.mean, jnp.exp(posterior.log_var / 2)
        drawn = mean[:, None, None] + scale[:, None, None] * noise[None]
        # Draw j of domain d goes through the map of d.
        mapped = self.maps(drawn.reshape(-1, drawn.shape[-1]))
        mapped = mapped.reshape(*drawn.shape[:3], self.num_domains, drawn.shape[-1])
        matching = jnp.diagonal(mapped, axis1=2, axis2=3)  # [batch, draws, dim, num_domains]
        matching = jnp.swapaxes(matching, -1, -2).reshape(len(images), -1, drawn.shape[-1])
        return jnp.concatenate([self.maps(mean), matching], axis=1)

    def encode_in_every_domain(self, images: Float[Array, " batch *image"]) -> Gaussian:
        """The posterior of the noise, alike in every domain, [batch, num_domains, dim]."""
        one = self.encode(images, jnp.zeros(len(images), jnp.int32))
        shape = (len(images), self.num_domains, self.s_dim + self.v_dim)
        return Gaussian(*(jnp.broadcast_to(p[:, None], shape) for p in one))

    def priors(self) -> Prior:
        r"""Gaussians with the moments of $p(s,v|d)$, for want of its density; [num_domains, dim].

        The maps have no inverse in closed form. Means and variances are those of their values at
        the 2 dim points $\pm \sqrt{dim} \, e_i$, exact where a map is affine.

        References:
            Julier and Uhlmann, *A new extension of the Kalman filter to nonlinear systems*, 1997.
        """
        dim = self.s_dim + self.v_dim
        half = math.sqrt(dim) * jnp.eye(dim)
        # The unscented transform: the points' mean and covariance are those of the noise.
        every = self.maps(jnp.concatenate([half, -half]))  # [2 dim, num_domains, dim]
        variance = every.var(axis=0)
        # A variance of zero has no logarithm; the bound is that of every other variance here.
        smallest = jnp.exp(jnp.asarray(-self.log_var_bound, variance.dtype))
        return Gaussian(every.mean(axis=0), jnp.log(jnp.maximum(variance, smallest)))


class _Map(nn.Module):
    """One domain's map of the noise."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, noise: Float[Array, "batch dim"]) -> Float[Array, "batch dim"]:
        dim = noise.shape[-1]
        matrix = self.param("matrix", lambda _key: jnp.eye(dim))
        shift = self.param("shift", nn.initializers.zeros, (dim,))
        mapped = noise @ matrix.T + shift[None]
        if self.widths:
            hidden = nn.relu(MLP(self.widths)(noise))
            mapped += nn.Dense(dim, kernel_init=nn.initializers.zeros)(hidden)
        return mapped

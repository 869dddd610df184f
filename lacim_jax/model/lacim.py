"""The latent causal invariant model: which densities there are, and on what each depends."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lacim_jax.model.correlated import CorrelatedGaussian
from lacim_jax.model.distributions import Gaussian, bounded_log_var, check_log_var_bound
from lacim_jax.model.likelihoods import BERNOULLI, CATEGORICAL, Likelihood
from lacim_jax.model.posteriors import SharedEvidence
from lacim_jax.model.rows import rows

Variables = Mapping[str, Any]
"""What `model.init` returns: {"params": ...}."""


Prior = Gaussian | CorrelatedGaussian
"""p(s,v|d), of diagonal or of full covariance."""

Posterior = Gaussian | CorrelatedGaussian
"""q(s,v|x,d), of diagonal or of full covariance."""


class Latents(NamedTuple):
    """The two parts of a latent vector."""

    s: jax.Array  # shape=[..., s_dim], floating: what causes the label
    v: jax.Array  # shape=[..., v_dim], floating: what else shapes the image


class Examples(NamedTuple):
    """A batch, or a whole data set, of labelled images from several domains."""

    images: jax.Array  # shape=[batch, ...], floating: x
    labels: jax.Array  # shape=[batch], int32: y, counted from 0
    domains: jax.Array  # shape=[batch], int32: d, counted from 0


class Densities(NamedTuple):
    """All densities of the model around one batch, the latents being the posterior's means."""

    posterior: Posterior  # q(s,v|x,d), [batch, s_dim + v_dim]
    prior: Prior  # p(s,v|d), [batch, s_dim + v_dim]
    reconstruction: jax.Array  # parameters of p(x|s,v), [batch, ...]
    logits: jax.Array  # parameters of p(y|s), [batch, classes]


class LaCIM(nn.Module):
    r"""Latent causal invariant model.

    A domain d shapes the joint distribution of two groups of latents, the causes s of the label y
    and the rest v; both together make the image x. What does not change between domains is
    $p(x|s,v)$ and $p(y|s)$:

        $p(x, y, s, v | d) = p(s,v|d) \, p(x|s,v) \, p(y|s)$.

    - The prior $p(s,v|d)$ is a Gaussian with a mean and a covariance for each domain: diagonal, or
      full, in which s and v may be correlated. `num_domains=1` with every d equal to 0 is
      Pool-LaCIM, one prior for all.
    - The encoder $q(s,v|x,d)$ is a Gaussian too: one trunk, and evidence that is multiplied with
      the domain's prior (`SharedEvidence`), or one linear head a domain (`DomainHeads`).
      It never sees y: the posterior given y follows from it as
      $q(s,v|x,y,d) = q(s,v|x,d) \, p(y|s) / q(y|x,d)$, which is what `elbo` is built on.

    Latents are handled as one vector z = (s, v) of `s_dim + v_dim` numbers; `split` parts it.
    Every method is a pure function through `apply`.

    Example:
        >>> from lacim_jax import MLP, MLPDecoder, MLPEncoder
        >>> model = LaCIM(
        ...     encoder=MLPEncoder((64,)),
        ...     decoder=MLPDecoder((28, 28, 2), widths=(64,)),
        ...     classifier=MLP((32, 2)),
        ...     num_domains=2,
        ... )
        >>> images, domains = jnp.zeros((3, 28, 28, 2)), jnp.asarray([0, 1, 1])
        >>> variables = jax.jit(model.init)(jax.random.key(0), images, domains)
        >>> posterior = model.apply(variables, images, domains, method="encode")
        >>> posterior.mean.shape
        (3, 32)

    References:
        Sun et al., *Recovering latent causal factor for generalization to distributional shifts*,
        NeurIPS 2021.
    """

    encoder: nn.Module
    """The trunk: images [batch, ...] to features [batch, features]."""
    decoder: nn.Module
    """Latents [batch, s_dim + v_dim] to the parameters of `likelihood`, [batch, ...]."""
    classifier: nn.Module
    """s [batch, s_dim] to the parameters of `label_likelihood`, logits [batch, classes]."""
    num_domains: int
    """Training domains; 1 for Pool-LaCIM."""
    s_dim: int = 16
    v_dim: int = 16
    likelihood: Likelihood = BERNOULLI
    """The family of p(x|s,v)."""
    label_likelihood: Likelihood = CATEGORICAL
    """The family of p(y|s)."""
    correlated_prior: bool = False
    """Whether the latents of one domain may be correlated, s with v above all: a prior of full
    covariance; without it they are independent given the domain."""
    correlated_posterior: bool = False
    """Whether the encoder's latents may be correlated given the image. Where they are, a diagonal
    encoder biases what is learnt: it turns s and v until they are independent given x."""
    posterior: nn.Module = SharedEvidence()
    """How features become q(s,v|x,d): `SharedEvidence`, or one head a domain, `DomainHeads`."""
    log_var_bound: float = 8.0
    """b > 0: log-variances of the prior, and those that are read off features, stay between -b and
    b. With `DomainHeads` those are the posterior's own. With `SharedEvidence` the precisions of two
    such Gaussians add, and the posterior's lie between -b - log 2 and b - log 2; with correlations
    lower still."""

    def setup(self):
        """Declares the parameters that are not in the three modules passed in."""
        self.check_sizes()
        dim = self.s_dim + self.v_dim
        zeros = nn.initializers.zeros
        self.prior_mean = self.param("prior_mean", zeros, (self.num_domains, dim))
        self.prior_raw_log_var = self.param("prior_raw_log_var", zeros, (self.num_domains, dim))
        if self.correlated_prior:
            self.prior_mixing = self.param("prior_mixing", zeros, (self.num_domains, dim, dim))

    def check_sizes(self) -> None:
        """Refuses fields out of their range.

        Raises:
            ValueError: if there is no domain, s has no dimension, v has fewer than none, the bound
                on log-variances is not positive, or a module is given as its class.
        """
        if self.num_domains < 1 or self.s_dim < 1 or self.v_dim < 0:
            raise ValueError(
                "num_domains and s_dim must be at least 1 and v_dim at least 0, got "
                f"{self.num_domains}, {self.s_dim} and {self.v_dim}."
            )
        check_log_var_bound(self.log_var_bound)
        for name in ("encoder", "decoder", "classifier", "posterior"):
            module = getattr(self, name)
            if isinstance(module, type):
                raise ValueError(
                    f"{name} must be a module, got the class {module.__name__}; make one of it: "
                    f"{module.__name__}(...)."
                )

    def __call__(
        self, images: Float[Array, " batch *image"], domains: Int[Array, " batch"]
    ) -> Densities:
        """Every density at the posterior's mean; it uses every parameter, as `init` needs."""
        posterior = self.encode(images, domains)
        latents = self.latents(posterior.mean, domains)
        return Densities(
            posterior=posterior,
            prior=self.prior(domains),
            reconstruction=self.decode(latents),
            logits=self.classify(self.split(latents).s),
        )

    def encode(
        self, images: Float[Array, " batch *image"], domains: Int[Array, " batch"]
    ) -> Posterior:
        """The posterior q(s,v|x,d) of each image in its own domain, [batch, s_dim + v_dim].

        Args:
            images: x.
            domains: d, from 0 to num_domains - 1; any other gives NaN.
        """
        return self._posterior_of(images, domains)

    def encode_in_every_domain(self, images: Float[Array, " batch *image"]) -> Posterior:
        """The posterior of each image as if it came from each training domain in turn.

        Returns:
            Mean and log-variance [batch, num_domains, s_dim + v_dim].
        """
        return self._posterior_of(images, None)

    def _posterior_of(self, images: jax.Array, domains: jax.Array | None) -> Posterior:
        """The posterior in the domains given, or in every one."""
        return self.posterior(
            self.encoder(images), self.priors(), domains,
            correlated=self.correlated_posterior, log_var_bound=self.log_var_bound,
        )  # fmt: skip

    def prior(self, domains: Int[Array, " batch"]) -> Prior:
        """The prior p(s,v|d) of each domain given, [batch, s_dim + v_dim].

        Args:
            domains: d, from 0 to num_domains - 1; any other gives NaN.
        """
        return jax.tree.map(lambda every: rows(every, domains), self.priors())

    def priors(self) -> Prior:
        """The priors of all training domains, [num_domains, s_dim + v_dim]."""
        log_var = bounded_log_var(self.prior_raw_log_var, bound=self.log_var_bound)
        if self.correlated_prior:
            return CorrelatedGaussian(self.prior_mean, log_var, self.prior_mixing)
        return Gaussian(self.prior_mean, log_var)

    def latents(
        self, draws: Float[Array, "batch dim"], domains: Int[Array, " batch"]
    ) -> Float[Array, "batch dim"]:
        """The latents z = (s, v) of draws from `encode` or `prior`: here the draws themselves."""
        del domains
        return draws

    def starts(
        self, images: Float[Array, " batch *image"], noise: Float[Array, "draws num_domains dim"]
    ) -> Float[Array, "batch starts dim"]:
        """Latents from which to explain images of unknown domain: the encoder's, in every domain.

        Args:
            images: x.
            noise: standard normal; every image uses the same.

        Returns:
            The means, in the order of the domains, then the draws; num_domains * (1 + draws).
        """
        every = self.encode_in_every_domain(images)

        def starts_of(posteriors: Posterior) -> Float[Array, "starts dim"]:
            drawn = jax.vmap(posteriors.sample)(noise)  # [draws, num_domains, dim]
            return jnp.concatenate([posteriors.mean, drawn.reshape(-1, drawn.shape[-1])])

        return jax.vmap(starts_of)(every)

    def decode(self, latents: Float[Array, "batch dim"]) -> Float[Array, " batch *image"]:
        """The parameters of p(x|s,v), for z = (s, v)."""
        return self.decoder(latents)

    def classify(self, s: Float[Array, "batch s_dim"]) -> Float[Array, "batch classes"]:
        """The parameters of p(y|s): logits."""
        return self.classifier(s)

    @nn.nowrap
    def split(self, latents: Any) -> Latents:
        """Parts z into s, its first `s_dim` numbers, and v."""
        return Latents(s=latents[..., : self.s_dim], v=latents[..., self.s_dim :])


def apply(model: LaCIM, variables: Variables, method: str, *args: Any, **options: Any) -> Any:
    """`model.apply(variables, *args, method=method)`, typed as what the method itself returns.

    Options are those of Flax: `rngs`, and `mutable`, with which collections are returned too.
    """
    if not isinstance(variables, Mapping):
        raise TypeError(
            'variables must be a mapping, {"params": ...}, got '
            f"{type(variables).__name__}; of what fit returns, pass its `variables`."
        )
    if "params" not in variables:
        raise ValueError(
            'variables must hold the collection "params", got '
            f"{', '.join(map(repr, variables)) or 'nothing'}; pass all that init returned, or the "
            "`variables` of what fit returns."
        )
    return model.apply(dict(variables), *args, method=method, **options)

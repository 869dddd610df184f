"""Domain-invariant variational autoencoder: latents for the domain, for the label, for the rest."""

from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lacim_jax.baselines.domain_risks import at_step
from lacim_jax.erm import LossFn
from lacim_jax.label_weight import LabelWeight, check_label_weight, weight_of_classes
from lacim_jax.model.checks import check_weight
from lacim_jax.model.distributions import Gaussian, bounded_log_var, check_log_var_bound
from lacim_jax.model.lacim import Examples
from lacim_jax.model.likelihoods import BERNOULLI, CATEGORICAL, Likelihood
from lacim_jax.model.rows import rows


class Parts(NamedTuple):
    """One Gaussian for each of the three groups of latents, [batch, dim] each."""

    domain: Gaussian  # z_d
    rest: Gaussian  # z_x
    label: Gaussian  # z_y


class DIVADensities(NamedTuple):
    """All densities of the model around one batch."""

    posterior: Parts  # q(z_d|x), q(z_x|x), q(z_y|x)
    prior: Parts  # p(z_d|d), N(0, I), p(z_y|y)
    draws: jax.Array  # shape=[batch, 3 dim]: (z_d, z_x, z_y), from the posteriors
    reconstruction: jax.Array  # parameters of p(x|z_d,z_x,z_y), [batch, ...]
    logits: jax.Array  # parameters of q(y|z_y), [batch, classes]
    domain_logits: jax.Array  # parameters of q(d|z_d), [batch, num_domains]


class DIVA(nn.Module):
    r"""A supervised autoencoder that gives the domain, the label and the rest latents of their own.

        $p(x|z_d, z_x, z_y) \, p(z_d|d) \, p(z_x) \, p(z_y|y)$,

    with a diagonal Gaussian for each domain and for each class, and a classifier on each of the
    first and the last. One trunk serves all three encoders. A label is predicted by $q(y|z_y)$ at
    the posterior's mean; the test domain does not matter for it.

    Example:
        >>> from lacim_jax import MLP, MLPDecoder, MLPEncoder
        >>> model = DIVA(MLPEncoder((8,)), MLPDecoder((4, 4, 1)), MLP((2,)), num_domains=3)
        >>> images = jnp.zeros((5, 4, 4, 1))
        >>> variables = jax.jit(model.init)(jax.random.key(0), images)
        >>> model.apply(variables, images).shape  # logits
        (5, 2)

    References:
        Ilse et al., *DIVA: domain invariant variational autoencoders*, MIDL 2020
        (https://arxiv.org/abs/1905.10427), section 2.
    """

    encoder: nn.Module
    """The trunk: images [batch, ...] to features [batch, features]."""
    decoder: nn.Module
    """Latents [batch, 3 dim] to the parameters of `likelihood`, [batch, ...]."""
    classifier: nn.Module
    """z_y [batch, dim] to logits [batch, classes]."""
    num_domains: int
    num_classes: int = 2
    """As many as the classifier has logits."""
    dim: int = 16
    """Of each group of latents."""
    likelihood: Likelihood = BERNOULLI
    log_var_bound: float = 8.0
    """Log-variances stay between minus this and this."""

    def setup(self):
        """Declares the heads and the learnt priors.

        Raises:
            ValueError: if the bound on log-variances is not positive.
        """
        check_log_var_bound(self.log_var_bound)
        self.head = nn.Dense(6 * self.dim)
        self.domain_classifier = nn.Dense(self.num_domains)
        # Means that start equal would get equal gradients, and stay equal.
        start = nn.initializers.normal(1.0)
        self.domain_mean = self.param("domain_mean", start, (self.num_domains, self.dim))
        self.label_mean = self.param("label_mean", start, (self.num_classes, self.dim))
        zeros = nn.initializers.zeros
        self.domain_raw = self.param("domain_raw", zeros, (self.num_domains, self.dim))
        self.label_raw = self.param("label_raw", zeros, (self.num_classes, self.dim))

    def __call__(self, images: Float[Array, " batch *image"]) -> Float[Array, "batch classes"]:
        """The logits of q(y|z_y) at the posterior's mean."""
        if self.is_initializing():
            zeros = jnp.zeros(len(images), jnp.int32)
            noise = jnp.zeros((len(images), 3 * self.dim), images.dtype)
            self.densities(Examples(images, zeros, zeros), noise)
        return self.classifier(self.encode(images).label.mean)

    def encode(self, images: Float[Array, " batch *image"]) -> Parts:
        """The three posteriors of each image.

        Args:
            images: x.
        """
        means, raw = jnp.split(self.head(self.encoder(images)), 2, axis=-1)
        log_vars = bounded_log_var(raw, bound=self.log_var_bound)
        parts = zip(jnp.split(means, 3, axis=-1), jnp.split(log_vars, 3, axis=-1), strict=True)
        return Parts(*(Gaussian(mean, log_var) for mean, log_var in parts))

    def densities(self, examples: Examples, noise: Float[Array, "batch dims"]) -> DIVADensities:
        """Every density at one draw.

        Args:
            examples: a batch.
            noise: standard normal, [batch, 3 dim].

        Raises:
            ValueError: if the classifier has not one logit for each of `num_classes`.
        """
        posterior = self.encode(examples.images)
        noises = jnp.split(noise, 3, axis=-1)
        draws = [part.sample(e) for part, e in zip(posterior, noises, strict=True)]
        together = jnp.concatenate(draws, axis=-1)
        zeros = jnp.zeros_like(posterior.rest.mean)
        logits = self.classifier(draws[2])
        if logits.shape[-1] != self.num_classes:
            raise ValueError(
                f"the classifier has {logits.shape[-1]} logits, but DIVA a prior for each of "
                f"{self.num_classes} classes; pass num_classes={logits.shape[-1]}."
            )
        return DIVADensities(
            posterior=posterior,
            prior=Parts(
                self._learnt(self.domain_mean, self.domain_raw, examples.domains),
                Gaussian(zeros, zeros),
                self._learnt(self.label_mean, self.label_raw, examples.labels),
            ),
            draws=together,
            reconstruction=self.decoder(together),
            logits=logits,
            domain_logits=self.domain_classifier(nn.relu(draws[0])),
        )

    def _learnt(self, means: jax.Array, raw: jax.Array, index: Int[Array, " batch"]) -> Gaussian:
        """The learnt prior of each example's class or domain; NaN for an unknown one."""
        log_vars = bounded_log_var(raw, bound=self.log_var_bound)
        return Gaussian(rows(means, index), rows(log_vars, index))


def diva_loss(
    model: DIVA,
    *,
    beta: optax.ScalarOrSchedule = 1.0,
    label_weight: LabelWeight = "balanced",
    domain_weight: LabelWeight = "balanced",
) -> LossFn:
    r"""Minus the bound, less the two classifiers' log-likelihoods, averaged over the batch.

        $-E \log p(x|z_d,z_x,z_y) + \beta \sum_i KL(q_i \| p_i) - \alpha_y E \log q(y|z_y)
        - \alpha_d E \log q(d|z_d)$, from one draw.

    Args:
        model: the densities.
        beta: β, or a schedule of it by step; warmed up from 0 as a rule.
        label_weight: $\alpha_y$, a schedule of it by step, or "balanced": by what there is to be
            explained, as in `lacim_loss`, with the logarithm of the number of classes as the
            labels' nats. At 1 a classifier learns next to nothing beside pixels.
        domain_weight: $\alpha_d$, likewise, with the number of domains.

    Returns:
        `(params, step, examples, key) -> (loss, (step + 1, terms))`, with `step` an int32 scalar
        counted from 0, and `terms` the batch means of the four terms, without their weights.

    Raises:
        ValueError: if a weight is negative, or is to be balanced and the likelihood does not say
            what there is to be explained; by the loss, if the classifier has not one logit for each
            of the model's classes.

    References:
        Ilse et al., 2020 (https://arxiv.org/abs/1905.10427), equations 2 and 3.
    """
    check_weight("beta", beta)
    check_label_weight(label_weight, model.likelihood, CATEGORICAL)
    check_label_weight(domain_weight, model.likelihood, CATEGORICAL, name="domain_weight")

    def loss_fn(
        params: Any, step: jax.Array, examples: Examples, key: PRNGKeyArray
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        noise = jax.random.normal(key, (len(examples.images), 3 * model.dim))
        densities = cast(
            "DIVADensities",
            model.apply({"params": params}, examples, noise, method="densities"),
        )
        # KL(q_i || p_i) of the three groups of latents, each summed over its dimensions.
        kl = [
            q.kl(p).sum(-1).mean()
            for q, p in zip(densities.posterior, densities.prior, strict=True)
        ]
        log_x = jax.vmap(model.likelihood.log_prob)(densities.reconstruction, examples.images)
        log_y = jax.vmap(CATEGORICAL.log_prob)(densities.logits, examples.labels)
        log_d = jax.vmap(CATEGORICAL.log_prob)(densities.domain_logits, examples.domains)
        terms = {
            "reconstruction": log_x.mean(),
            "divergence": kl[0] + kl[1] + kl[2],
            "label": log_y.mean(),
            "domain": log_d.mean(),
        }
        loss = -terms["reconstruction"]

        def own(weight: LabelWeight, classes: int) -> ArrayLike:
            if isinstance(weight, str):
                return weight_of_classes(model.likelihood, examples.images, classes)
            return at_step(weight, step)

        for weight, signed in (
            (at_step(beta, step), terms["divergence"]),
            (own(label_weight, model.num_classes), -terms["label"]),
            (own(domain_weight, model.num_domains), -terms["domain"]),
        ):
            loss += jnp.asarray(weight, loss.dtype) * signed
        return loss, (step + 1, terms)

    return loss_fn

"""Causal semantic generation: one correlated prior, and its independent version for new domains."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from lacim_jax.baselines.domain_risks import at_step
from lacim_jax.erm import LossFn
from lacim_jax.label_weight import LabelWeight, check_label_weight, weight_of_batch
from lacim_jax.model.checks import check_weight
from lacim_jax.model.correlated import CorrelatedGaussian
from lacim_jax.model.distributions import Gaussian
from lacim_jax.model.lacim import Examples, LaCIM, Variables, apply
from lacim_jax.model.posteriors import SharedEvidence


class Priors(NamedTuple):
    """The log-densities of latents under the training prior and under its independent version."""

    trained: jax.Array  # shape=[...]: log p(s, v)
    independent: jax.Array  # shape=[...]: log p(s) + log p(v)


def csg_loss(
    model: LaCIM,
    *,
    num_samples: int = 8,
    beta: optax.ScalarOrSchedule = 1.0,
    label_weight: LabelWeight = "balanced",
) -> LossFn:
    r"""Minus the bound of CSG-ind, whose encoder is the one that a new domain asks for.

    In training s and v are correlated, $p(s,v)$; in a new domain they are taken to be independent,
    $p^\perp(s,v) = p(s) \, p(v)$. The encoder $q^\perp(s,v|x)$ is that of the new domain; the
    training one follows from it by the ratio of the priors, $r = p(s,v) / p^\perp(s,v)$. With
    $\pi(y|x) = E_{q^\perp} [r \, p(y|s)]$ the bound is

        $\log \pi(y|x) + E_{q^\perp} \big[ \tfrac{r \, p(y|s)}{\pi(y|x)} \, \log
        \tfrac{p^\perp(s,v) \, p(x|s,v)}{q^\perp(s,v|x)} \big]$,

    estimated from the same draws in both terms, as `elbo` is; with independent s and v, it is that.

    Args:
        model: LaCIM of one domain with a correlated prior and an encoder that is read off the image
            alone: `num_domains=1, correlated_prior=True, posterior=DomainHeads()`.
        num_samples: draws for each example, at least 1; the ratio needs several.
        beta: factor on $\log q^\perp - \log p^\perp$, or a schedule of it by step.
        label_weight: factor on the label's part of $\log \pi(y|x)$, which is
            $\log (E_{q^\perp} [r \, p(y|s)] / E_{q^\perp} r)$, a schedule of it by step, or
            "balanced", by what there is to be explained, as in `lacim_loss`.

    Returns:
        `(params, step, examples, key) -> (loss, (step + 1, terms))`, with `step` an int32 scalar
        counted from 0; the domains are not used.

    Raises:
        ValueError: if the model has several domains, an uncorrelated prior or a posterior that has
            the prior in it, there is no draw, a factor is negative, or the label's is to be
            balanced and a likelihood does not say how.

    References:
        Liu et al., *Learning causal semantic representation for out-of-distribution prediction*,
        NeurIPS 2021 (https://arxiv.org/abs/2011.01681), section 4.1, the objective of CSG-ind.
    """
    _check(model, num_samples)
    check_weight("beta", beta)
    check_label_weight(label_weight, model.likelihood, model.label_likelihood)

    def loss_fn(
        params: Any, step: jax.Array, examples: Examples, key: PRNGKeyArray
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        variables = {"params": params}
        posterior = _encode(model, variables, examples.images)
        noise = jax.random.normal(key, (num_samples, *posterior.mean.shape), posterior.mean.dtype)
        draws = jax.vmap(posterior.sample)(noise)  # [K, batch, dim]
        flat = draws.reshape(-1, draws.shape[-1])
        pixels = apply(model, variables, "decode", flat)
        logits = apply(model, variables, "classify", model.split(flat).s)
        pixels, logits = (p.reshape(*draws.shape[:2], *p.shape[1:]) for p in (pixels, logits))
        log_x = _over_draws(model.likelihood.log_prob, pixels, examples.images)
        log_y = _over_draws(model.label_likelihood.log_prob, logits, examples.labels)
        prior = independent_version(apply(model, variables, "priors"), draws, s_dim=model.s_dim)
        log_r = prior.trained - prior.independent
        log_w = log_y + log_r
        weights = jax.nn.softmax(log_w, axis=0)  # r p(y|s) / pi(y|x), estimated
        # log pi in two parts: the label under the training posterior, and how much of that there
        # is. A factor on the second would reward nothing but a large ratio.
        label = jax.nn.logsumexp(log_w, axis=0) - jax.nn.logsumexp(log_r, axis=0)
        ratio = jax.nn.logsumexp(log_r, axis=0) - math.log(num_samples)
        divergence = jax.vmap(posterior.log_prob)(draws) - prior.independent
        terms = {
            "label": label.mean(),
            "ratio": ratio.mean(),
            "reconstruction": (weights * log_x).sum(0).mean(),
            "divergence": (weights * divergence).sum(0).mean(),
        }
        own = (
            weight_of_batch(model, variables, examples)
            if isinstance(label_weight, str)
            else label_weight
        )
        on_label, on_divergence = (
            jnp.asarray(at_step(factor, step), label.dtype) for factor in (own, beta)
        )
        bound = on_label * terms["label"] + terms["ratio"] + terms["reconstruction"]
        return on_divergence * terms["divergence"] - bound, (step + 1, terms)

    return loss_fn


def csg_probabilities(
    model: LaCIM,
    variables: Variables,
    images: Float[Array, " batch *image"],
    key: PRNGKeyArray,
    *,
    num_samples: int = 32,
) -> Float[Array, "batch classes"]:
    r"""The expected label probabilities of images from a new domain, $E_{q^\perp(s|x)} \, p(y|s)$.

    Args:
        model: LaCIM as `csg_loss` takes it, trained by that.
        variables: its variables.
        images: x.
        key: for the draws.
        num_samples: draws for each image, at least 1.

    Returns:
        Probabilities of the classes.

    Raises:
        ValueError: if the model has several domains, an uncorrelated prior or a posterior that has
            the prior in it, or there is no draw.
    """
    _check(model, num_samples)
    posterior = _encode(model, variables, images)
    noise = jax.random.normal(key, (num_samples, *posterior.mean.shape), posterior.mean.dtype)
    draws = jax.vmap(posterior.sample)(noise)
    logits = apply(model, variables, "classify", model.split(draws.reshape(-1, draws.shape[-1])).s)
    probabilities = model.label_likelihood.mean(logits)
    return probabilities.reshape(num_samples, len(images), -1).mean(0)


def independent_version(
    prior: CorrelatedGaussian, latents: Float[Array, "*batch dim"], *, s_dim: int
) -> Priors:
    """Latents under the prior and under the product of its margins of s and of v.

    Args:
        prior: of one domain, [1, dim].
        latents: (s, v).
        s_dim: how many numbers s has.

    Returns:
        The two log-densities, [...].
    """
    one = CorrelatedGaussian(*(leaf[0] for leaf in prior))
    flat = latents.reshape(-1, latents.shape[-1])
    trained = jax.vmap(one.log_prob)(flat)
    # In a chain of regressions the first dimensions are a chain by themselves: the margin of s.
    s = CorrelatedGaussian(one.mean[:s_dim], one.log_var[:s_dim], one.mixing[:s_dim, :s_dim])
    independent = jax.vmap(s.log_prob)(flat[:, :s_dim])
    if flat.shape[-1] > s_dim:
        # The margin of v takes the covariance matrix, of which it is the lower right block.
        covariance = one.covariance()[s_dim:, s_dim:]
        log_v = jax.scipy.stats.multivariate_normal.logpdf
        mean = one.mean[s_dim:]
        independent += jax.vmap(lambda v: log_v(v, mean, covariance))(flat[:, s_dim:])
    shape = latents.shape[:-1]
    return Priors(trained.reshape(shape), independent.reshape(shape))


def _check(model: LaCIM, num_samples: int) -> None:
    """Refuses a model that is not CSG-ind's, or no draws."""
    if model.num_domains != 1 or not model.correlated_prior:
        raise ValueError(
            "CSG has one prior for all domains, in which s and v are correlated; make the model "
            f"with num_domains=1 and correlated_prior=True, got {model.num_domains} and "
            f"{model.correlated_prior}."
        )
    # A product with p(s,v) has its correlation: what v says of s in training would count in a new
    # domain, where they are independent.
    if isinstance(model.posterior, SharedEvidence):
        raise ValueError(
            "CSG's encoder is that of a new domain, where s and v are independent, but "
            "SharedEvidence multiplies the training prior into it; make the model with "
            "posterior=DomainHeads()."
        )
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}.")


def _over_draws(
    log_prob: Callable[..., jax.Array], parameters: jax.Array, values: jax.Array
) -> jax.Array:
    """The log-density of each example under each draw's parameters, [K, batch]."""
    return jax.vmap(jax.vmap(log_prob), in_axes=(0, None))(parameters, values)


def _encode(model: LaCIM, variables: Variables, images: jax.Array) -> Gaussian:
    """The posterior under the one prior that all domains share."""
    return apply(model, variables, "encode", images, jnp.zeros(len(images), jnp.int32))

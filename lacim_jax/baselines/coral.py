"""Correlation alignment: the same mean and covariance of the representation in every domain."""

import jax
import jax.numpy as jnp
import optax

from lacim_jax.baselines.domain_risks import Batch, mean_over_pairs, penalised_loss
from lacim_jax.erm import ERM, LossFn
from lacim_jax.model.lacim import Examples
from lacim_jax.model.likelihoods import CATEGORICAL, Likelihood


def coral_loss(
    model: ERM,
    *,
    num_domains: int,
    weight: optax.ScalarOrSchedule,
    label_likelihood: Likelihood = CATEGORICAL,
) -> LossFn:
    r"""The risk plus the squared distance of each two domains' first two moments.

    With mean $\mu_d$ and covariance $C_d$ of the representation over domain d, of k dimensions,

        $\frac{1}{k} \|\mu_d - \mu_e\|^2 + \frac{1}{k^2} \|C_d - C_e\|_F^2$,

    each averaged over pairs of domains. In a batch, of a domain with a single example nothing is
    known of its covariance: its pairs are left out of the second term.

    Args:
        model: the network; what is aligned is what its classifier sees.
        num_domains: how many training domains there are, at least 1.
        weight: at least 0, or a schedule of it by step.
        label_likelihood: the family of p(y|x).

    Returns:
        `(params, step, examples, key) -> (loss, (step + 1, {"risk", "penalty"}))`.

    Raises:
        ValueError: if there is no domain, or the weight is negative.

    References:
        Sun and Saenko, *Deep CORAL*, 2016 (https://arxiv.org/abs/1607.01719), for the covariances;
        with the means beside them as in DomainBed (https://arxiv.org/abs/2007.01434).
    """

    def penalty(batch: Batch, examples: Examples) -> jax.Array:
        del examples
        values, weights = batch.representation, batch.membership
        # Within domains: C = n / (n - 1) (E[z z^T] - mu mu^T), without bias.
        means = weights.T @ values  # [num_domains, k]
        second = jnp.einsum("bd,bi,bj->dij", weights, values, values)
        counts = (weights > 0).sum(0).astype(values.dtype)
        unbiased = counts / jnp.maximum(counts - 1, 1.0)
        covariances = unbiased[:, None, None] * (second - means[:, :, None] * means[:, None])
        of_means = ((means[:, None] - means[None]) ** 2).mean(-1)
        of_covariances = ((covariances[:, None] - covariances[None]) ** 2).mean((-2, -1))
        # One example would pass for a covariance of 0, and draw the others' towards it.
        several = batch._replace(present=counts > 1)
        return mean_over_pairs(of_means, batch) + mean_over_pairs(of_covariances, several)

    return penalised_loss(
        model, penalty, num_domains=num_domains, weight=weight, label_likelihood=label_likelihood
    )

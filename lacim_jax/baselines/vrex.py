"""Variance risk extrapolation: the same risk in every domain."""

import jax
import optax

from lacim_jax.baselines.domain_risks import (
    Batch,
    domain_risks,
    mean_over_present,
    penalised_loss,
)
from lacim_jax.chance import variance_by_chance
from lacim_jax.erm import ERM, LossFn
from lacim_jax.model.lacim import Examples
from lacim_jax.model.likelihoods import CATEGORICAL, Likelihood


def vrex_loss(
    model: ERM,
    *,
    num_domains: int,
    weight: optax.ScalarOrSchedule,
    label_likelihood: Likelihood = CATEGORICAL,
    unbiased: bool = False,
) -> LossFn:
    r"""The mean of the domains' risks plus their variance.

        $\bar R + \beta \frac{1}{m} \sum_d (R_d - \bar R)^2$, with $\bar R$ the mean.

    Args:
        model: the network.
        num_domains: m, how many training domains there are, at least 1.
        weight: β, at least 0, or a schedule of it by step.
        label_likelihood: the family of p(y|x).
        unbiased: whether what batches add to the variance by chance is subtracted, so that their
            penalty is on average that of all data, and may be negative. Off by default, as in the
            published code; see `invariant_lacim_loss`, where it is on.

    Returns:
        `(params, step, examples, key) -> (loss, (step + 1, {"risk", "penalty"}))`.

    Raises:
        ValueError: if there is no domain, or the weight is negative.

    References:
        Krueger et al., *Out-of-distribution generalization via risk extrapolation*, ICML 2021
        (https://arxiv.org/abs/2003.00688), equation 8. Risks are averaged here and summed there, as
        in DomainBed, so that a weight means the same for any number of domains.
    """

    def penalty(batch: Batch, examples: Examples) -> jax.Array:
        risks = domain_risks(batch)
        variance = mean_over_present((risks - mean_over_present(risks, batch)) ** 2, batch)
        if not unbiased:
            return variance
        return variance - variance_by_chance(batch.losses, examples.domains, num_domains)

    return penalised_loss(
        model, penalty, num_domains=num_domains, weight=weight, label_likelihood=label_likelihood
    )

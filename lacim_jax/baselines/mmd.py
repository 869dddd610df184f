"""Maximum mean discrepancy: the same distribution of the representation in every domain."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from lacim_jax.baselines.domain_risks import Batch, mean_over_pairs, penalised_loss
from lacim_jax.erm import ERM, LossFn
from lacim_jax.model.lacim import Examples
from lacim_jax.model.likelihoods import CATEGORICAL, Likelihood


def mmd_loss(
    model: ERM,
    *,
    num_domains: int,
    weight: optax.ScalarOrSchedule,
    gammas: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3),
    label_likelihood: Likelihood = CATEGORICAL,
) -> LossFn:
    r"""The risk plus the squared discrepancy of each two domains under Gaussian kernels.

    With $k(x, y) = \sum_\gamma e^{-\gamma \|x - y\|^2}$ between representations,

        $E_{d,d} k + E_{e,e} k - 2 E_{d,e} k$,

    averaged over pairs of domains; 0 only where two domains' distributions are equal.

    Args:
        model: the network; what is compared is what its classifier sees.
        num_domains: how many training domains there are, at least 1.
        weight: at least 0, or a schedule of it by step.
        gammas: of the kernels that are summed; the default is DomainBed's.
        label_likelihood: the family of p(y|x).

    Returns:
        `(params, step, examples, key) -> (loss, (step + 1, {"risk", "penalty"}))`.

    Raises:
        ValueError: if there is no domain, or the weight is negative.

    References:
        Li et al., *Domain generalization with adversarial feature learning*, CVPR 2018, as in
        DomainBed (https://arxiv.org/abs/2007.01434): its discrepancy, without the adversary.
    """

    def penalty(batch: Batch, examples: Examples) -> jax.Array:
        del examples
        values = batch.representation
        # All pairs of examples at once; `membership` then averages over the pairs of two domains.
        squares = ((values[:, None] - values[None]) ** 2).sum(-1)
        kernel = sum((jnp.exp(-gamma * squares) for gamma in gammas), jnp.zeros_like(squares))
        means = batch.membership.T @ kernel @ batch.membership  # [num_domains, num_domains]
        within = jnp.diagonal(means)  # E_{d,d} k
        return mean_over_pairs(within[:, None] + within[None] - 2 * means, batch)

    return penalised_loss(
        model, penalty, num_domains=num_domains, weight=weight, label_likelihood=label_likelihood
    )

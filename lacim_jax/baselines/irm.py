"""Invariant risk minimisation: one classifier that is optimal in every domain at once."""

import jax
import jax.numpy as jnp
import optax

from lacim_jax.baselines.domain_risks import Batch, mean_over_present, penalised_loss
from lacim_jax.erm import ERM, LossFn
from lacim_jax.model.lacim import Examples
from lacim_jax.model.likelihoods import CATEGORICAL, Likelihood


def irm_loss(
    model: ERM,
    *,
    num_domains: int,
    weight: optax.ScalarOrSchedule,
    label_likelihood: Likelihood = CATEGORICAL,
) -> LossFn:
    r"""The risk plus IRMv1's penalty, the squared slope of each domain's risk in the logits' scale.

    With $R_d(w)$ the risk of domain d when all logits are multiplied by w,

        $\frac{1}{m} \sum_d R_d + \lambda \frac{1}{m} \sum_d \big(R_d'(1)\big)^2$.

    A classifier on top of the representation is optimal in domain d only if $R_d'(1) = 0$. The
    square of a mean over few examples is too large on average; as in the authors' code, it is
    estimated without bias. Theirs is the product of the mean slopes over two halves of the domain's
    examples, which depends on their order, and has a bias where labels alternate; here it is the
    mean product of the slopes $r_i$ of any two of its n examples,

        $\frac{(\sum_i r_i)^2 - \sum_i r_i^2}{n (n - 1)}$

    (a domain with a single example in the batch adds nothing).

    It is usual to begin with a small weight and raise it once the risk is low:
    `optax.piecewise_constant_schedule(1.0, {500: 100.0})`.

    Args:
        model: the network.
        num_domains: m, how many training domains there are, at least 1.
        weight: λ, at least 0, or a schedule of it by step.
        label_likelihood: the family of p(y|x).

    Returns:
        `(params, step, examples, key) -> (loss, (step + 1, {"risk", "penalty"}))`.

    Raises:
        ValueError: if there is no domain, or the weight is negative.

    References:
        Arjovsky et al., *Invariant risk minimization*, 2019 (https://arxiv.org/abs/1907.02893),
        equation IRMv1 and appendix D.
    """

    def penalty(batch: Batch, examples: Examples) -> jax.Array:
        slopes = _slopes(batch.logits, examples.labels, label_likelihood)
        belongs = (batch.membership > 0).astype(slopes.dtype)  # [batch, num_domains]
        count = belongs.sum(0)
        total, squares = belongs.T @ slopes, belongs.T @ slopes**2
        # Σ_{i≠j} r_i r_j is the square of the sum, less the squares; of one example there is none.
        pairs = jnp.maximum(count * (count - 1), 1.0)
        products = jnp.where(count > 1, total**2 - squares, 0.0) / pairs
        return mean_over_present(products, batch)

    return penalised_loss(
        model, penalty, num_domains=num_domains, weight=weight, label_likelihood=label_likelihood
    )


def _slopes(logits: jax.Array, labels: jax.Array, label_likelihood: Likelihood) -> jax.Array:
    """The slope of each example's loss in a factor on its logits, at 1; [batch]."""

    def slope(one: jax.Array, label: jax.Array) -> jax.Array:
        return jax.jvp(lambda z: -label_likelihood.log_prob(z, label), (one,), (one,))[1]

    return jax.vmap(slope)(logits, labels)

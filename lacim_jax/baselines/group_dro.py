"""Distributionally robust optimisation over domains: train on the worst."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lacim_jax.baselines.domain_risks import (
    check_num_domains,
    domain_risks,
    mean_over_present,
    read,
)
from lacim_jax.erm import ERM, LossFn
from lacim_jax.model.checks import check_weight
from lacim_jax.model.lacim import Examples
from lacim_jax.model.likelihoods import CATEGORICAL, Likelihood


def group_dro_loss(
    model: ERM,
    *,
    num_domains: int,
    rate: ArrayLike,
    label_likelihood: Likelihood = CATEGORICAL,
) -> LossFn:
    r"""The risks weighted towards the domain where they are highest, $\sum_d q_d R_d$.

    The weights follow exponentiated gradient ascent, $q_d \propto q_d e^{\eta R_d}$, begin equal,
    and are the loss's state: their logarithms, [num_domains], zeros at first.

    A domain without an example in the batch counts as one of risk 0, as in the authors' code. It is
    not raised, but all weights are normalised together: what the others gain it loses, and between
    two absent domains the ratio stays. Its term in the loss is 0, and so the loss, and its
    gradient, are smaller by the weight that the absent domains have. Batches with examples of every
    domain avoid both.

    Args:
        model: the network.
        num_domains: how many training domains there are, at least 1.
        rate: η, at least 0; 0.01 in the authors' code.
        label_likelihood: the family of p(y|x).

    Returns:
        `(params, log_weights, examples, key) -> (loss, (log_weights, {"risk", "worst"}))`, with
        `log_weights` beginning as `jnp.zeros(num_domains)`; the key is not used.

    Raises:
        ValueError: if there is no domain, or the rate is negative.

    References:
        Sagawa et al., *Distributionally robust neural networks for group shifts*, ICLR 2020
        (https://arxiv.org/abs/1911.08731), algorithm 1.
    """
    check_num_domains(num_domains)
    check_weight("rate", rate)

    def loss_fn(
        params: Any, log_weights: jax.Array, examples: Examples, key: Any
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        del key
        batch = read(model, params, examples, num_domains, label_likelihood)
        risks = domain_risks(batch)
        # q_d ∝ q_d e^(η R_d), in logarithms; the weights are constants to the gradient.
        step = jnp.asarray(rate, risks.dtype) * jax.lax.stop_gradient(risks)
        # Only differences count; kept centred, so that they never grow out of range together.
        log_weights = jax.nn.log_softmax(log_weights + step)
        worst = jnp.where(batch.present, risks, -jnp.inf).max()
        terms = {"risk": mean_over_present(risks, batch), "worst": worst}
        return (jnp.exp(log_weights) * risks).sum(), (log_weights, terms)

    return loss_fn

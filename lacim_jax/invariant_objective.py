"""LaCIM with what it assumes asked for: a label that depends on s alike in every domain."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray

from lacim_jax.chance import belonging, variance_by_chance
from lacim_jax.model.checks import check_compared, check_weight
from lacim_jax.model.lacim import Examples, LaCIM
from lacim_jax.objective import weighted_bound


def invariant_lacim_loss(
    model: LaCIM,
    *,
    num_domains: int,
    weight: optax.ScalarOrSchedule,
    num_samples: int = 1,
    beta: optax.ScalarOrSchedule = 1.0,
    label_weight: optax.ScalarOrSchedule | Literal["balanced"] = "balanced",
    unbiased: bool = True,
) -> Callable[..., tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]:
    r"""Invariant LaCIM: the bound, less the variance of the label's risk between domains.

    LaCIM assumes that p(y|s) does not depend on the domain, but its bound asks for no such thing:
    an s with a spurious part explains the labels of the training domains better, if not equally
    well in each. If s is the cause and nothing else, what is left of the label, $R_d = - E_d \log
    q(y|x)$, is as much in every domain in which s is distributed alike. So with λ = `label_weight`
    this minimises

        $-L + \lambda \, w \, \tfrac{1}{m} \sum_d (R_d - \bar R)^2$,      divided by max(1, w),

    the penalty of V-REx on LaCIM's label term; the division, as in IRM's code, keeps steps of one
    size while w grows. All domains have one prior and so one q(s,v|x) (Pool-LaCIM): a prior or a
    head of its own would let each domain reach the same risk in a way of its own, and dodge the
    penalty.

    A batch's risks vary by chance too. With $s_d^2$ the variance of a domain's $n_d$ losses, this
    adds $\tfrac{m-1}{m^2} \sum_d s_d^2 / n_d$ to the penalty on average, so that small batches and
    large weights punish every spread of the losses, and answers shrink towards none. By default it
    is subtracted, and the penalty of batches is on average that of all data. Where each batch is
    all data, nothing is left to chance, and the spread that is subtracted would be rewarded: set
    `unbiased=False` there.

    Args:
        model: with `num_domains=1`: one prior, whatever the domain.
        num_domains: m, training domains in the data, at least 2.
        weight: w, at least 0, or a schedule of it by step: small until the label is learnt, as by
            `optax.piecewise_constant_schedule(1.0, {200: 1e2})`.
        num_samples: draws for each example.
        beta: factor on the divergence, or a schedule of it by step.
        label_weight: factor on the label's term, as in `lacim_loss`.
        unbiased: whether the share of chance is subtracted from the variance, which may then be
            negative. V-REx's code does not, nor does `vrex_loss` by default.

    Returns:
        `(params, step, examples, key) -> (loss, (step + 1, terms))`, like `lacim_loss`, the domains
        of examples from 0 to m - 1, any other giving NaN; `terms` has the penalty too.

    Raises:
        ValueError: if the model has several domains, m is less than 2, or a factor is a negative
            number; by the loss, if domains that are not traced are out of range.

    References:
        Sun et al., NeurIPS 2021, for the assumption; Krueger et al., *Out-of-distribution
        generalization via risk extrapolation*, ICML 2021, for the penalty; Arjovsky et al.,
        *Invariant risk minimization*, 2019, for the division.
    """
    if model.num_domains != 1 or num_domains < 2:
        raise ValueError(
            "Invariant LaCIM has one prior for all of several domains, LaCIM(num_domains=1), and "
            f"num_domains of at least 2 here, got {model.num_domains} and {num_domains}."
        )
    check_weight("weight", weight)
    bound = weighted_bound(model, num_samples, beta, label_weight)

    def loss_fn(
        params: optax.Params, state: Any, examples: Examples, key: PRNGKeyArray
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        check_compared(examples.domains, num_domains)
        step = state[0] if isinstance(state, tuple) else state
        pooled = examples._replace(domains=jnp.zeros_like(examples.domains))
        terms, means, following = bound(params, state, pooled, key)
        penalty = _variance_of_risks(-terms.label, examples.domains, num_domains, unbiased)
        strength = jnp.asarray(weight(step) if callable(weight) else weight, penalty.dtype)
        strengthened = means["label_weight"] * strength * penalty
        loss = (strengthened - means["bound"]) / jnp.maximum(strength, 1)
        return loss, (following, {**means, "penalty": penalty})

    return loss_fn


def _variance_of_risks(
    losses: jax.Array, domains: jax.Array, num_domains: int, unbiased: bool
) -> jax.Array:
    """Of the mean losses of the domains that have an example in the batch; NaN by any other."""
    own = belonging(domains, num_domains, losses.dtype)
    counts = own.sum(0)
    risks = own.T @ losses / jnp.maximum(counts, 1)
    present = (counts != 0).astype(losses.dtype)
    total = jnp.maximum(present.sum(), 1)
    mean = (present * risks).sum() / total
    variance = (present * (risks - mean) ** 2).sum() / total
    if not unbiased:
        return variance
    return variance - variance_by_chance(losses, domains, num_domains)

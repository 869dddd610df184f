"""The risk of each training domain within a mixed batch: what invariance penalties compare."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from lacim_jax.chance import belonging
from lacim_jax.erm import ERM, LossFn
from lacim_jax.model.checks import check_compared, check_weight
from lacim_jax.model.lacim import Examples
from lacim_jax.model.likelihoods import Likelihood


class Batch(NamedTuple):
    """What a network made of a batch, and which example belongs to which domain."""

    representation: jax.Array  # shape=[batch, s_dim]: what the classifier saw
    logits: jax.Array  # shape=[batch, classes]
    losses: jax.Array  # shape=[batch]: minus the log-likelihood of each label, nats
    membership: jax.Array  # shape=[batch, num_domains]: 1 / (size of the example's domain), or 0
    present: jax.Array  # shape=[num_domains], bool: which domains have an example in the batch


Penalty = Callable[[Batch, Examples], jax.Array]
"""What is added to the mean risk: a scalar, 0 where the domains are alike."""


def membership(
    domains: Int[Array, " batch"], num_domains: int
) -> tuple[Float[Array, "batch num_domains"], Float[Array, " num_domains"]]:
    """Weights that average over each domain's examples, and how many there are.

    Args:
        domains: d, from 0 to num_domains - 1; any other gives a row of NaN.
        num_domains: how many training domains there are.

    Returns:
        Columns that sum to 1, or are 0 for a domain without an example; and the counts.

    Example:
        >>> membership(jnp.asarray([0, 2, 0]), 3)[0]
        Array([[0.5, 0. , 0. ],
               [0. , 0. , 1. ],
               [0.5, 0. , 0. ]], dtype=float32)
    """
    indicator = belonging(domains, num_domains, jnp.float32)
    counts = indicator.sum(0)
    return indicator / jnp.maximum(counts, 1.0)[None], counts


def domain_risks(batch: Batch) -> Float[Array, " num_domains"]:
    """The mean loss of each domain's examples; 0 for a domain without any.

    Args:
        batch: of examples.
    """
    return batch.membership.T @ batch.losses


def mean_over_present(values: Float[Array, " num_domains"], batch: Batch) -> Float[Array, ""]:
    """The mean of one number per domain, over the domains that have an example.

    Args:
        values: one per domain.
        batch: which domains do.
    """
    weights = batch.present.astype(values.dtype)
    return (weights * values).sum() / jnp.maximum(weights.sum(), 1.0)


def mean_over_pairs(
    values: Float[Array, "num_domains num_domains"], batch: Batch
) -> Float[Array, ""]:
    """The mean of one number a pair of different domains, over pairs that both have an example.

    Args:
        values: symmetric.
        batch: which domains do.
    """
    present = batch.present.astype(values.dtype)
    pairs = present[:, None] * present[None] * (1 - jnp.eye(present.size, dtype=values.dtype))
    return (pairs * values).sum() / jnp.maximum(pairs.sum(), 1.0)


def read(
    model: ERM, params: Any, examples: Examples, num_domains: int, label_likelihood: Likelihood
) -> Batch:
    """Passes a batch through the network.

    Args:
        model: the network.
        params: its parameters.
        examples: the batch.
        num_domains: how many training domains there are.
        label_likelihood: the family of p(y|x).

    Raises:
        ValueError: if domains that are not traced are out of range.
    """
    check_compared(examples.domains, num_domains)
    variables = {"params": params}
    represented = cast("jax.Array", model.apply(variables, examples.images, method="represent"))
    logits = cast("jax.Array", model.apply(variables, represented, method="classify"))
    losses = -jax.vmap(label_likelihood.log_prob)(logits, examples.labels)
    weights, counts = membership(examples.domains, num_domains)
    return Batch(represented, logits, losses, weights.astype(losses.dtype), counts != 0)


def penalised_loss(
    model: ERM,
    penalty: Penalty,
    *,
    num_domains: int,
    weight: optax.ScalarOrSchedule,
    label_likelihood: Likelihood,
) -> LossFn:
    """The mean of the domains' risks, plus a penalty on how they differ.

    Every domain counts alike, however many of its examples are in the batch.

    Args:
        model: the network.
        penalty: what to add.
        num_domains: how many training domains there are, at least 1.
        weight: of the penalty, at least 0, or a schedule of it by step.
        label_likelihood: the family of p(y|x).

    Returns:
        `(params, step, examples, key) -> (loss, (step + 1, {"risk", "penalty"}))`, with `step` an
        int32 scalar counted from 0; the key is not used.

    Raises:
        ValueError: if there is no domain, or the weight is negative.
    """
    check_num_domains(num_domains)
    check_weight("weight", weight)

    def loss_fn(
        params: Any, step: jax.Array, examples: Examples, key: Any
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        del key
        batch = read(model, params, examples, num_domains, label_likelihood)
        risk = mean_over_present(domain_risks(batch), batch)
        difference = penalty(batch, examples)
        loss = risk + jnp.asarray(at_step(weight, step), risk.dtype) * difference
        return loss, (step + 1, {"risk": risk, "penalty": difference})

    return loss_fn


def at_step(value: optax.ScalarOrSchedule, step: jax.Array) -> ArrayLike:
    """A weight's value at a step.

    Args:
        value: a scalar, or a schedule.
        step: counted from 0.
    """
    return value(step) if callable(value) else value


def check_num_domains(num_domains: int) -> None:
    """Refuses fewer than one domain.

    Args:
        num_domains: how many training domains there are.

    Raises:
        ValueError: if that is below 1.
    """
    if num_domains < 1:
        raise ValueError(f"num_domains must be at least 1, got {num_domains}.")

"""Training from several starts: what is held out of a training set, and how a start does on it."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from lacim_jax.model.lacim import Examples

SHARE = 10
"""One in so many examples of each domain is held out."""
_BATCHES = 256
"""At least so many batches judge a start, by several passes over few examples."""


def hold_out(examples: Examples, key: PRNGKeyArray) -> tuple[Examples, Examples]:
    """Parts a training set at random, one in ten of each domain being held out, and at least one.

    Args:
        examples: the training set, concrete.
        key: for the choice; a typed PRNG key, scalar.

    Returns:
        What remains, in its order, and what is held out. A domain with one example keeps it.

    Raises:
        ValueError: if no domain has two examples.
    """
    domains = np.asarray(examples.domains)
    shuffled = np.asarray(jax.random.permutation(key, len(domains)))
    out = np.zeros(len(domains), bool)
    for domain in np.unique(domains):
        own = shuffled[domains[shuffled] == domain]
        out[own[: max(len(own) // SHARE, min(1, len(own) - 1))]] = True
    if not out.any():
        raise ValueError(
            f"several starts are told apart by held-out examples, one in {SHARE} of each domain, "
            "but no domain has two; give some as held_out, or take one start."
        )
    remaining, held_out = np.flatnonzero(~out), np.flatnonzero(out)
    return (
        Examples(*(leaf[remaining] for leaf in examples)),
        Examples(*(leaf[held_out] for leaf in examples)),
    )


def held_out_loss(
    loss: Callable[..., Any], held_out: Examples, batch_size: int, key: PRNGKeyArray
) -> Callable[[Any, Any], float]:
    """The mean loss on batches of held-out examples, by the same batches and draws at every call.

    Losses that compare domains or labels within a batch see batches as large as in training, if
    so many examples are held out. What is left over of one pass is another in the next.

    Args:
        loss: as `lacim_loss` returns it.
        held_out: examples of the training domains, [n, ...].
        batch_size: at most n of them are in a batch.
        key: for batches and draws; a typed PRNG key, scalar.

    Returns:
        `(params, state) -> loss`, float64, NaN where it is not finite.
    """
    count = len(held_out.labels)
    size = min(batch_size, count)
    whole = count // size
    passes = -(-_BATCHES // whole)
    order_key, noise_key = jax.random.split(key)
    orders = [
        np.asarray(jax.random.permutation(own, count))
        for own in jax.random.split(order_key, passes)
    ]
    batches = np.concatenate([order[: whole * size].reshape(-1, size) for order in orders])
    keys = jax.random.split(noise_key, len(batches))

    @jax.jit
    def of_batch(
        params: Any, state: Any, examples: Examples, rows: jax.Array, key: PRNGKeyArray
    ) -> jax.Array:
        batch = jax.tree.map(lambda leaf: leaf[rows], examples)
        return loss(params, state, batch, key)[0]

    def of_start(params: Any, state: Any) -> float:
        values = [
            of_batch(params, state, held_out, rows, own)
            for rows, own in zip(batches, keys, strict=True)
        ]
        mean = np.mean(np.asarray(jax.device_get(values), np.float64))
        return float(mean) if np.isfinite(mean) else np.nan

    return of_start

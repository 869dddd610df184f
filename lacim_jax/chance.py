"""What a batch's choice alone adds to a penalty on how domains differ."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def variance_by_chance(
    losses: Float[Array, " batch"], domains: Int[Array, " batch"], num_domains: int
) -> Float[Array, ""]:
    r"""What the variance of the domains' risks has on average from the batch's choice alone.

    A mean of $n_d$ losses of variance $s_d^2$ varies by $s_d^2 / n_d$, and the variance between m
    such means is larger by $\tfrac{m-1}{m^2} \sum_d s_d^2 / n_d$, over the domains that have an
    example. Of one with a single example nothing is known, and nothing is counted.

    Args:
        losses: of the examples.
        domains: d, from 0 to num_domains - 1; examples of any other belong to none.
        num_domains: how many training domains there are.

    Example:
        >>> losses, domains = jnp.asarray([0.0, 2.0, 1.0, 1.0]), jnp.asarray([0, 0, 1, 1])
        >>> float(variance_by_chance(losses, domains, 2))  # (1 / 4) (2 / 2 + 0 / 2)
        0.25
    """
    own = jax.nn.one_hot(domains, num_domains, dtype=losses.dtype)
    counts = own.sum(0)
    risks = own.T @ losses / jnp.maximum(counts, 1)
    total = jnp.maximum((counts > 0).astype(losses.dtype).sum(), 1)
    spread = (own * (losses[:, None] - risks[None]) ** 2).sum(0) / jnp.maximum(counts - 1, 1)
    return (spread / jnp.maximum(counts, 1)).sum() * (total - 1) / total**2

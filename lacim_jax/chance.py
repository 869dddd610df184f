"""Which example is of which domain, and what a batch's choice adds to how domains differ."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int


def belonging(
    domains: Int[Array, " batch"], num_domains: int, dtype: DTypeLike
) -> Float[Array, "batch num_domains"]:
    """1 where an example is of a domain, and 0 elsewhere.

    Sums of a column count a domain's examples; `counts != 0` takes NaN for a domain that is there,
    and so leaves it in, where `counts > 0` would not.

    Args:
        domains: d, from 0 to num_domains - 1; any other gives a row of NaN.
        num_domains: how many there are.
        dtype: of the result.
    """
    # A row of zeros, as `one_hot` has it, would leave the example out, and no penalty would see it.
    known = (domains >= 0) & (domains < num_domains)
    rows = jax.nn.one_hot(domains, num_domains, dtype=dtype)
    return jnp.where(known[:, None], rows, jnp.nan)


def variance_by_chance(
    losses: Float[Array, " batch"], domains: Int[Array, " batch"], num_domains: int
) -> Float[Array, ""]:
    r"""What the variance of the domains' risks has on average from the batch's choice alone.

    A mean of $n_d$ losses of variance $s_d^2$ varies by $s_d^2 / n_d$, and the variance between m
    such means is larger by $\tfrac{m-1}{m^2} \sum_d s_d^2 / n_d$, over the domains that have an
    example. Of one with a single example nothing is known, and nothing is counted.

    Args:
        losses: of the examples.
        domains: d, from 0 to num_domains - 1; any other gives NaN.
        num_domains: how many training domains there are.

    Example:
        >>> losses, domains = jnp.asarray([0.0, 2.0, 1.0, 1.0]), jnp.asarray([0, 0, 1, 1])
        >>> float(variance_by_chance(losses, domains, 2))  # (1 / 4) (2 / 2 + 0 / 2)
        0.25
    """
    own = belonging(domains, num_domains, losses.dtype)
    counts = own.sum(0)
    risks = own.T @ losses / jnp.maximum(counts, 1)
    total = jnp.maximum((counts != 0).astype(losses.dtype).sum(), 1)
    spread = (own * (losses[:, None] - risks[None]) ** 2).sum(0) / jnp.maximum(counts - 1, 1)
    return (spread / jnp.maximum(counts, 1)).sum() * (total - 1) / total**2

"""Each example's own parameters, out of those of every domain or class."""

from typing import cast

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int


def rows(every: ArrayLike, index: Int[Array, " batch"]) -> Float[Array, " batch *rest"]:
    """The row of each example's domain or class; NaN where there is no such row.

    Args:
        every: parameters, [count, ...]; variables may be NumPy's, as read from a file.
        index: of a row for each example; from the end it does not count, -1 gives NaN.

    Example:
        >>> rows(jnp.asarray([[1.0], [2.0]]), jnp.asarray([1, 2, 1])).ravel()
        Array([ 2., nan,  2.], dtype=float32)
    """
    # The nearest row, which jax takes by default, would let a wrong domain pass unseen.
    picked = jnp.asarray(every).at[index]
    filled = picked.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    return cast("jax.Array", filled)

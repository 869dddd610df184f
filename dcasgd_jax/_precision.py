"""Which arithmetic is done in which precision.

Products of gradients leave the range of half-precision numbers long before the gradients do
(1e-4 squared is zero in float16), and the difference of two nearby weights loses all its digits in
bfloat16. So curvatures and mean squares live in float32, or wider where the parameters are wider;
what is handed back to optax has the dtype and the weak type of what came in.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike


def working_dtype(*arrays: ArrayLike) -> jnp.dtype:
    """The dtype in which products of these arrays are formed: their common one, float32 at least.

    Example:
        >>> import jax.numpy as jnp
        >>> working_dtype(jnp.ones(3, jnp.bfloat16), jnp.ones(3, jnp.float16))
        dtype('float32')
    """
    widest = jnp.dtype(jnp.float32)
    for array in arrays:
        dtype = jnp.result_type(array)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                "delay compensation is defined for real floating-point parameters and gradients, "
                f"got {dtype}; keep such leaves out of it with optax.masked."
            )
        # By size, since strict dtype promotion has no path between a half and a single.
        widest = dtype if dtype.itemsize > widest.itemsize else widest
    return widest


def cast(array: ArrayLike, dtype: DTypeLike) -> jax.Array:
    """`array` in `dtype`; one that has it already keeps its weak type."""
    array = jnp.asarray(array)
    return array if array.dtype == dtype else array.astype(dtype)


def cast_strongly(array: ArrayLike, dtype: DTypeLike) -> jax.Array:
    """`array` in `dtype`, never weakly typed: what a state keeps has one type before and after."""
    return jnp.asarray(array).astype(dtype)


def cast_like(array: ArrayLike, reference: ArrayLike) -> jax.Array:
    """`array` in the dtype and the weak type of `reference`, which has its shape."""
    reference = jnp.asarray(reference)
    array = cast(array, reference.dtype)
    if reference.weak_type and not array.weak_type:
        # jax has no public cast to a weak type, but writing into a weakly typed array keeps it so.
        return jnp.zeros_like(reference).at[...].set(array)
    return array

"""How much memory training takes, counted from shapes: nothing is computed or compiled."""

from collections.abc import Callable
from typing import Any

import jax
import optax


def kept_for_gradient(loss: Callable[..., Any], params: optax.Params, *inputs: Any) -> int:
    """Bytes that reverse mode keeps from the forward pass to the backward pass.

    Counted before XLA fuses anything or computes it again, so a bound from above; the parameters
    themselves are among it.

    Args:
        loss: (params, *inputs) -> scalar.
        params: arrays, or their shapes and dtypes.
        *inputs: of the loss; arrays, or their shapes and dtypes.

    Example:
        >>> import jax.numpy as jnp
        >>> kept_for_gradient(lambda w, x: jnp.sin(w * x).sum(), jnp.ones(3), jnp.ones(3))
        24
    """

    def pullback(params: optax.Params, *inputs: Any) -> Any:
        return jax.vjp(lambda params: loss(params, *inputs), params)[1]

    return size_of(jax.eval_shape(pullback, params, *inputs))


def size_of(tree: Any) -> int:
    """Bytes of all leaves, arrays or their shapes and dtypes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

"""Finding which signs of a model's weights may be flipped, by tracing it."""

from collections.abc import Callable
from typing import Any

import optax

from gsgd_jax.tracing.find import found_group
from gsgd_jax.tracing.interpreter import Trace
from gsgd_jax.tracing.result import FoundGauge, RescalingGroup
from gsgd_jax.tracing.rules.signs import SIGN_RULES


def find_signs(
    apply_fn: Callable[..., Any], params: optax.Params, *example_inputs: Any
) -> FoundGauge | RescalingGroup:
    r"""Finds the flips of signs that leave a model's outputs alone.

    Where an activation is odd, σ(-x) = -σ(x), as tanh, sin, erf and the identity are, all weights
    into a unit and all weights out of it may change their sign. `find_gauge` knows nothing of it:
    such activations pin scales. Here c_h is 1 or -1, and the same walk through the model is done
    with the rules of signs: odd functions pass a sign on, even ones (squares, absolute values)
    take it away, and what compares numbers by size (ReLU, maxima, sorting) pins it.

    The result is a group for `canonical` and `distance`. Its `act`, `rescale` and `balance` are
    about scales, and do not apply.

    Args:
        apply_fn: a function of the parameters and inputs that JAX can trace.
        params: the parameters, or anything with their tree, shapes and dtypes.
        *example_inputs: inputs, likewise.

    Returns:
        The group, of which entry e takes the sign Π_h c_h^k_eh. It may be too small where a rule
        is missing, but is never wrong; its `pins` say where.

    Raises:
        TypeError: as `find_gauge`.

    Example:
        >>> import jax.numpy as jnp
        >>> def model(params, x):
        ...     return jnp.tanh(x @ params["w"]) @ params["v"]
        >>> params = {"w": jnp.ones((3, 4)), "v": jnp.ones((4, 2))}
        >>> find_signs(model, params, jnp.ones((1, 3))).num_nodes
        4

    References:
        Chen, Lu and Hecht-Nielsen, *On the geometry of feedforward neural network error surfaces*,
        Neural Computation 1993, for the sign flips of tanh networks.
    """
    trace = Trace(SIGN_RULES, soften=False)
    return found_group(apply_fn, params, example_inputs, trace, absorbing=True)

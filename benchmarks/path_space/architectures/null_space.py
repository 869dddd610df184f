"""The scalings of parameters that leave a network's outputs alone, counted without tracing.

Multiplying parameter e by exp(t v_e) leaves the outputs alone for all t, at all parameters, if and
only if d(outputs)/d(log|w|) v = 0 at all of them: at one point other directions may be in the null
space too (products of linear maps, units that do not switch there), and these move with the point.
So the scalings are what the null spaces of several random points have in common.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

_AT_ONCE = 128
_SMALL = 1e-9


class Counted(NamedTuple):
    """What is counted."""

    scalings: int
    """Dimension of the common null space, without parameters that the outputs never see."""
    unseen: int
    """How many parameters the outputs do not depend on."""
    largest_null: float
    """The largest singular value thought to be zero, over the largest of all."""
    smallest_other: float
    """The smallest of the others, likewise."""


def common_null_space(
    network: Callable[..., Any],
    draw: Callable[[int], tuple[Any, tuple[Any, ...]]],
    *,
    least_draws: int = 24,
) -> Counted:
    """Counts the scalings, by the null space of d(outputs)/d(log|w|) at several draws together.

    To be run in float64. There are as many draws as it takes to have more outputs than parameters.

    Args:
        network: (parameters, *inputs) -> outputs.
        draw: of a number, parameters without zeros and inputs.
        least_draws: the least number of draws.
    """
    params, inputs = draw(0)
    flat, unravel = ravel_pytree(params)
    size = sum(
        int(np.prod(x.shape)) for x in jax.tree.leaves(jax.eval_shape(network, params, *inputs))
    )
    wanted = int(1.5 * flat.size) + 32
    draws = max(least_draws, -(-wanted // size))
    per_draw = -(-wanted // draws)

    @jax.jit
    def rows(flat: jax.Array, cotangents: jax.Array, *inputs: Any) -> jax.Array:
        outputs, pull = jax.vjp(lambda w: ravel_pytree(network(unravel(w), *inputs))[0], flat)
        return jax.vmap(lambda c: pull(c.astype(outputs.dtype))[0])(cotangents) * flat[None]

    parts = []
    for number in range(draws):
        params, inputs = draw(number)
        flat, _ = ravel_pytree(params)
        rng = np.random.default_rng(number)
        for _ in range(-(-per_draw // _AT_ONCE)):
            # Random mixtures of the outputs' gradients: as many as there are parameters span them.
            cotangents = rng.normal(size=(min(_AT_ONCE, per_draw), size))
            parts.append(np.asarray(rows(flat, jnp.asarray(cotangents), *inputs)))
    return counted(np.concatenate(parts))


def counted(jacobian: np.ndarray) -> Counted:
    """Counts the null space of a matrix, and its columns of zeros.

    Args:
        jacobian: d(outputs)/d(log|w|), more rows than columns.
    """
    sizes = np.linalg.norm(jacobian, axis=0)
    seen = sizes > 1e-11 * sizes.max()
    # Columns of very different size hide the rank; each parameter has a unit of its own.
    values = np.linalg.svd(jacobian[:, seen] / sizes[seen], compute_uv=False)
    values = values / values[0]
    null = values < _SMALL
    return Counted(
        int(null.sum()),
        int((~seen).sum()),
        float(values[null].max(initial=0.0)),
        float(values[~null].min()),
    )

"""The rescaling group's dimension by brute force: directions that leave the outputs alone."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree


def null_space_dimension(
    apply_fn: Callable[..., Any], draws: Iterable[tuple[Any, tuple[Any, ...]]], *, floor: int = 0
) -> int:
    """The null space of d(outputs)/d(log|w|): its least dimension over draws of (params, inputs).

    Every scaling of the group is such a direction at every point; for one draw there may be others
    (units that never switch), hence the least. Products of linear maps keep others at all draws.
    No further draw is made once the floor, known to be a lower bound, is met.
    To be run in float64, with more outputs than parameters and no parameter zero.
    """
    least, unravel = None, None

    @jax.jit
    def jacobian(flat, inputs):
        return jax.jacrev(lambda w: ravel_pytree(apply_fn(unravel(w), *inputs))[0])(flat)

    for params, inputs in draws:
        flat, unravel = ravel_pytree(params)
        rows = np.asarray(jacobian(flat, inputs)) * np.asarray(flat)
        assert rows.shape[0] >= rows.shape[1], f"too few outputs: {rows.shape}"
        # Columns of very different size hide the rank; each parameter has a unit of its own.
        sizes = np.linalg.norm(rows, axis=0)
        values = np.linalg.svd(rows / np.where(sizes > 0, sizes, 1), compute_uv=False)
        dimension = int((values < 1e-9 * values[0]).sum())
        least = dimension if least is None else min(least, dimension)
        if least <= floor:
            break
    return least

"""What path-space transformations are given, checked before anything is traced."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from gsgd_jax.coordinates.protocol import Coordinates


def check_state(state: Any) -> None:
    """Refuses a state of another transformation.

    Raises:
        TypeError: naming what came.
    """
    if not hasattr(state, "frame"):
        raise TypeError(
            "in_path_space needs a state that its own init has made, got "
            f"{type(state).__name__}; call tx.init(params) anew when the optimiser is another."
        )


def check_bound(name: str, bound: chex.Numeric | None) -> None:
    """Refuses a bound that would allow no step.

    Args:
        name: "max_ratio" or "max_growth".
        bound: None, or a scalar above 1; a traced one is let through.

    Raises:
        ValueError: naming what came.
    """
    if bound is None:
        return
    unread = isinstance(bound, Tracer) and not bound.ndim
    if not unread and (isinstance(bound, str) or np.ndim(bound) or not np.asarray(bound) > 1):
        what = {
            "max_ratio": "by which a step may change a skeleton path value",
            "max_growth": "by which weights may outgrow the largest one of the balanced start",
        }
        shown = f"shape {np.shape(bound)}, not a scalar" if np.ndim(bound) else repr(bound)
        raise ValueError(
            f"{name} must be above 1, got {shown}: it is the factor {what[name]}; give None for "
            "no bound."
        )


def check_gradients(
    gradients: optax.Updates, params: optax.Params, coordinates: Coordinates
) -> None:
    """Refuses gradients that are not of these parameters."""
    leaves = coordinates.leaves(gradients)  # which speaks of masks and shapes
    got, due = jax.tree.structure(gradients), jax.tree.structure(params)
    if got != due:
        raise ValueError(
            f"gradients must have the structure of the parameters, {due}, got {got}; take them "
            "with respect to the parameters that are passed."
        )
    for g, w in zip(leaves, jax.tree.leaves(params), strict=True):
        if jnp.issubdtype(w.dtype, jnp.inexact) and not jnp.issubdtype(g.dtype, jnp.inexact):
            raise TypeError(
                f"gradients of floating-point parameters are floating-point, got {g.dtype} for "
                f"{w.dtype}{list(w.shape)}; cast them."
            )

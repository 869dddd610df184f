"""What an inner transformation sees of weights, and extra arguments that speak of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gsgd_jax.coordinates.protocol import Chart

OF_WEIGHTS = ("grad", "value_fn", "obj_fn", "grad_fn")
"""Extra arguments of optax's transformations that are of weights, or functions of them."""


def shown(chart: Chart) -> optax.Params:
    """Path values as the inner transformation sees them: zero where an entry has none of its own.

    There stands a weight, which tells rescaled copies apart. A transformation that looks at norms
    of its parameters (LAMB, LARS, Adafactor) would tell them apart too.

    Args:
        chart: at the weights.
    """
    values = chart.values()
    fixed = getattr(chart, "fixed", None)
    if fixed is None:
        return values
    leaves, structure = jax.tree.flatten(values)
    seen = [
        leaf if mask is None else jnp.where(mask, jnp.zeros_like(leaf), leaf)
        for leaf, mask in zip(leaves, fixed, strict=True)
    ]
    return jax.tree.unflatten(structure, seen)


def in_path_values(
    extra_args: dict[str, Any], here: Chart, at: Callable[[optax.Params], Chart]
) -> dict[str, Any]:
    """Translated are those of line searches, `grad` and `value_fn`, Sophia's and opaque SAM's.

    Args:
        extra_args: of an update.
        here: the chart at its weights.
        at: the chart at other weights of the same run.
    """
    present = {name: extra for name, extra in extra_args.items() if extra is not None}
    translated = dict(extra_args)
    if "grad" in present:
        translated["grad"] = here.slopes(present["grad"])
    for name in ("value_fn", "obj_fn"):
        if name in present:
            translated[name] = _of_values(present[name], here)
    if "grad_fn" in present:
        translated["grad_fn"] = _slopes_of_values(present["grad_fn"], here, at)
    return translated


def _of_values(function: Callable[..., Any], here: Chart) -> Callable[..., Any]:
    """A function of weights, as one of path values."""

    def of_values(values: optax.Params, *args: Any, **kwargs: Any) -> Any:
        return function(here.weights(values), *args, **kwargs)

    return of_values


def _slopes_of_values(
    gradient: Callable[..., Any], here: Chart, at: Callable[[optax.Params], Chart]
) -> Callable[..., Any]:
    """A gradient in weights, as one in path values at path values."""

    def of_values(values: optax.Params, *args: Any, **kwargs: Any) -> optax.Updates:
        weights = here.weights(values)
        return at(weights).slopes(gradient(weights, *args, **kwargs))

    return of_values

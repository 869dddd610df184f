"""Extra arguments of optax's transformations that speak of weights, in path space."""

from collections.abc import Callable
from typing import Any

import optax

from gsgd_jax.coordinates.protocol import Chart


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

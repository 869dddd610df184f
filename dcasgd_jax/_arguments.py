"""What rules require of their arguments, checked before anything is traced."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.typing import ArrayLike
from optax._src.base import NO_PARAMS_MSG  # optax's own wording, which it does not re-export

from dcasgd_jax._precision import cast

_MEANINGS = {
    "stale_params": "the weights at which the gradient was computed",
    "staleness": "how many server steps ago the gradient's weights were the server's",
    "worker": "the number of the worker that sent the gradient, in [0, num_workers)",
    "batch": "the batch on which the gradient was computed",
}
_REMEDIES = {
    "stale_params": "where a training loop cannot pass it on, wrap the optimiser in "
    "constant_delay, which keeps its own snapshots",
    "worker": "simulate and constant_delay pass it",
    "batch": "simulate passes it",
}


def require(rule: str, **arguments: Any) -> None:
    """Refuses arguments of `update` that are None: `params`, or what a server hands on by name.

    Example:
        >>> require("staleness_aware", staleness=None)
        Traceback (most recent call last):
            ...
        ValueError: staleness_aware needs how many server steps ago the gradient's weights were the
        server's, got no `staleness`; call update(gradients, state, params, staleness=...).
    """
    for name, value in arguments.items():
        if value is not None:
            continue
        if name == "params":
            raise ValueError(NO_PARAMS_MSG)
        remedy = f"call update(gradients, state, params, {name}=...)"
        if name in _REMEDIES:
            remedy += f" ({_REMEDIES[name]})"
        raise ValueError(f"{rule} needs {_MEANINGS[name]}, got no `{name}`; {remedy}.")


def one_staleness(rule: str, staleness: Any) -> ArrayLike:
    """The staleness of a whole gradient; refuses one that is missing, or one for each leaf."""
    require(rule, staleness=staleness)
    if not jax.tree_util.all_leaves([staleness]):
        raise ValueError(
            f"{rule} decides on a whole gradient by its staleness, and got a tree with one for "
            "each leaf; give all leaves one delay, or take a rule that acts leaf by leaf, such as "
            "staleness_aware."
        )
    return staleness


def check_number(
    name: str,
    value: Any,
    *,
    least: float = 0.0,
    bound: float = math.inf,
    positive: bool = False,
    schedule: bool = False,
) -> None:
    """Refuses a hyperparameter outside [least, bound), or of 0 where it must be positive.

    A traced scalar is let through, and a schedule where one is allowed.
    """
    if isinstance(value, Tracer) or (schedule and callable(value)):
        return
    lower = "> 0" if positive else f">= {least:g}"

    def within(number: float) -> bool:
        return least <= number < bound and (number > 0 or not positive)

    if callable(value) or not within(_number(value)):
        allowed = "a schedule, or " if schedule else ""
        allowed += "a finite scalar" if bound == math.inf else "a scalar"
        upper = "" if bound == math.inf else f" and < {bound:g}"
        raise ValueError(f"{name} must be {allowed} {lower}{upper}, got {_shown(value)}.")


def _number(value: Any) -> float:
    """A real scalar as Python has it; NaN, which is in no range, for anything else."""
    array = np.asarray(value)
    kinds = (jnp.floating, jnp.integer)
    real = array.ndim == 0 and any(jnp.issubdtype(array.dtype, kind) for kind in kinds)
    return float(array) if real else math.nan


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)


def check_count(name: str, value: Any) -> None:
    """Refuses a number of things that is not an int >= 1: it fixes the shapes of the state."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(
            f"{name} must be an int >= 1, got {value!r}; under inject_hyperparams name it static: "
            f'static_args=("{name}",).'
        )


def check_worker(worker: ArrayLike, num_workers: int) -> None:
    """Refuses a worker that does not exist; a traced one is let through."""
    if isinstance(worker, Tracer):
        return
    whole = jnp.issubdtype(jnp.result_type(worker), jnp.integer) and jnp.ndim(worker) == 0
    if not whole or not 0 <= np.asarray(worker).item() < num_workers:
        raise ValueError(
            f"worker must be one whole number in [0, {num_workers}), got {worker}; make the rule "
            "for as many workers as the schedule has."
        )


def scalar(value: ArrayLike, dtype: jnp.dtype) -> ArrayLike:
    """A hyperparameter for arithmetic in `dtype`; a plain number adapts by itself."""
    return value if type(value) in (int, float) else cast(value, dtype)


def at_step(value: optax.ScalarOrSchedule, step: ArrayLike) -> ArrayLike:
    """The value of a hyperparameter, a scalar or a schedule, at a server step."""
    return value(jnp.asarray(step)) if callable(value) else value

"""What a rule demands of its arguments, refused at the border in the user's own words."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.typing import ArrayLike
from optax._src.base import NO_PARAMS_MSG  # optax's own wording, which it does not re-export

from dcasgd_jax._precision import cast

_MEANINGS = {
    "stale_params": "the weights at which the gradient was taken",
    "staleness": "how many server steps ago the gradient's weights were the server's",
    "worker": "whose gradient it is, in [0, num_workers)",
    "batch": "the batch that the gradient was taken on",
}
_REMEDIES = {
    "stale_params": "where a training loop cannot pass it on, wrap the optimiser in "
    "constant_delay, which keeps its own snapshots",
    "worker": "simulate does so, and constant_delay",
    "batch": "simulate does so",
}


def required(rule: str, **arguments: Any) -> None:
    """Refuses arguments of `update` that are None.

    Args:
        rule: the name of the rule that needs them.
        **arguments: what came, by name: `params`, or an extra argument that a simulated or a real
            server hands on.

    Raises:
        ValueError: naming the first that is missing, what it is, and how to pass it.

    Example:
        >>> required("staleness_aware", staleness=None)
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


def check_number(
    name: str,
    value: Any,
    *,
    least: float = 0.0,
    bound: float = math.inf,
    positive: bool = False,
    schedule: bool = False,
) -> None:
    """Refuses a hyperparameter that can be read and is out of its range.

    Args:
        name: of the hyperparameter.
        value: a traced scalar is let through, and a schedule where one is allowed.
        least: the smallest value allowed.
        bound: what it must be below.
        positive: whether zero is refused too.
        schedule: whether it may be a function of the server step.

    Raises:
        ValueError: naming the hyperparameter, its range and what came.
    """
    if isinstance(value, Tracer) or (schedule and callable(value)):
        return
    lower = "> 0" if positive else f">= {least:g}"

    def within(number: float) -> bool:
        return least <= number < bound and (number > 0 or not positive)

    if callable(value) or jnp.ndim(value) != 0 or not within(float(value)):
        allowed = "a schedule, or " if schedule else ""
        allowed += "a finite scalar" if bound == math.inf else "a scalar"
        upper = "" if bound == math.inf else f" and < {bound:g}"
        raise ValueError(f"{name} must be {allowed} {lower}{upper}, got {value}.")


def check_count(name: str, value: Any) -> None:
    """Refuses a number of things that is not a whole number of at least one.

    Args:
        name: of the argument.
        value: must be known when the rule is made: it fixes the shapes of the state.

    Raises:
        ValueError: naming what came.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(
            f"{name} must be an int >= 1, got {value!r}; under inject_hyperparams name it static: "
            f'static_args=("{name}",).'
        )


def check_worker(worker: ArrayLike, num_workers: int) -> None:
    """Refuses a worker that can be read and does not exist.

    Args:
        worker: a whole number; a traced one is let through.
        num_workers: M.

    Raises:
        ValueError: naming what came.
    """
    if isinstance(worker, Tracer):
        return
    whole = jnp.issubdtype(jnp.result_type(worker), jnp.integer) and jnp.ndim(worker) == 0
    if not whole or not 0 <= np.asarray(worker).item() < num_workers:
        raise ValueError(
            f"worker must be one whole number in [0, {num_workers}), got {worker}; make the rule "
            "for as many workers as the schedule has."
        )


def scalar(value: ArrayLike, dtype: jnp.dtype) -> ArrayLike:
    """A hyperparameter for arithmetic in `dtype`; a plain number adapts by itself.

    Args:
        value: a scalar.
        dtype: of the arithmetic.
    """
    return value if type(value) in (int, float) else cast(value, dtype)


def at_step(value: optax.ScalarOrSchedule, step: ArrayLike) -> ArrayLike:
    """The value of a hyperparameter at a server step.

    Args:
        value: a scalar or a schedule.
        step: updates so far, shape=(), dtype=int32.
    """
    return value(jnp.asarray(step)) if callable(value) else value

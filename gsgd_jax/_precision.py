"""Which arithmetic is done in which precision.

Path values are products of weights along a whole path, and leave the range of half-precision
numbers long before the weights do. So the factors of a path are kept in float32, or wider where the
parameters are wider; what is handed back has the dtype and the weak type of what came in.
"""

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def working_dtype(arrays: Iterable[jax.Array]) -> np.dtype:
    """The dtype in which path factors are kept: float64 if an array has it, else float32.

    Args:
        arrays: real floating-point arrays of any shapes.

    Raises:
        TypeError: if an array is of another dtype.
    """
    widest = np.dtype(np.float32)
    for array in arrays:
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(
                "path space is defined for real floating-point parameters, got "
                f"{array.dtype}[{','.join(map(str, array.shape))}]; leave such a leaf outside the "
                "gauge, with ground at both ends."
            )
        # By size, since strict dtype promotion has no path between a half and a single.
        widest = array.dtype if array.dtype.itemsize > widest.itemsize else widest
    return widest


def check_number(name: str, value: Any, *, bound: float = math.inf, schedule: bool = False) -> None:
    """Refuses a hyperparameter that can be read and is negative, not finite or too large.

    Args:
        name: of the hyperparameter.
        value: a traced scalar is let through, and a schedule where one is allowed.
        bound: what it must be below.
        schedule: whether it may be a function of the step.

    Raises:
        ValueError: naming the hyperparameter, its range and what came.
    """
    if isinstance(value, Tracer) or (schedule and callable(value)):
        return
    if callable(value) or not 0 <= _number(value) < bound:
        allowed = "a schedule, or a finite scalar" if schedule else "a finite scalar"
        upper = "" if bound == math.inf else f" and < {bound:g}"
        shown = repr(value) if isinstance(value, str) else str(value)
        if len(shown) > 60:  # a gauge, where arguments were exchanged
            shown = f"a {type(value).__name__}"
        raise ValueError(f"{name} must be {allowed} >= 0{upper}, got {shown}.")


def check_count(name: str, value: Any) -> None:
    """Refuses a number of steps or samples that is not whole, or not above 0.

    Args:
        name: of the argument.
        value: a traced scalar is let through.

    Raises:
        ValueError: naming the argument and what came.
    """
    if isinstance(value, Tracer):
        return
    array = np.asarray(value)
    if array.ndim or not jnp.issubdtype(array.dtype, jnp.integer) or not array > 0:
        raise ValueError(f"{name} must be a whole number above 0, got {value!r}.")


def check_scales(scales: Any, count: int) -> None:
    """Refuses what is no element of a rescaling group.

    Args:
        scales: c; where they can be read, their values are looked at too.
        count: of nodes.

    Raises:
        ValueError: saying what came.
    """
    rule = f"scales must be {count} positive finite numbers, one for each node, shape ({count},)"
    if np.shape(scales) != (count,):
        raise ValueError(f"{rule}, got shape {np.shape(scales)}; `num_nodes` says how many.")
    traced = isinstance(scales, jax.Array) and (
        isinstance(scales, Tracer) or not scales.is_fully_addressable
    )
    values = np.ones(0) if traced else np.asarray(scales, np.float64)
    wrong = values[~(np.isfinite(values) & (values > 0))]
    if wrong.size:
        raise ValueError(f"{rule}, got {wrong[0]:g} among them; logarithms go through `exp` first.")


def check_choice(name: str, value: Any, choices: Sequence[str], *, more: str = "") -> None:
    """Refuses what is none of some names, with the nearest of them.

    Args:
        name: of the argument.
        value: what came.
        choices: the names, two at least.
        more: what else is allowed, behind them.

    Raises:
        ValueError: naming all of them.

    Example:
        >>> check_choice("basis", "path", ("balanced", "paths", "cycles"))
        Traceback (most recent call last):
            ...
        ValueError: basis must be 'balanced', 'paths' or 'cycles', got 'path'; did you mean 'paths'?
    """
    if isinstance(value, str) and value in choices:
        return
    *others, last = map(repr, choices)
    (near,) = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.0)
    raise ValueError(
        f"{name} must be {', '.join(others)} or {last}{more}, got {value!r}; did you mean {near!r}?"
    )


def _number(value: Any) -> float:
    """A real scalar as Python has it; NaN, which is in no range, for anything else."""
    array = np.asarray(value)
    kinds = (jnp.floating, jnp.integer)
    real = array.ndim == 0 and any(jnp.issubdtype(array.dtype, kind) for kind in kinds)
    return float(array) if real else math.nan


def cast_like(array: jax.Array, reference: jax.Array) -> jax.Array:
    """`array` in the dtype and the weak type of `reference`.

    Args:
        array: shape [*s].
        reference: shape [*s].
    """
    reference = jnp.asarray(reference)  # a restored state may be of numpy
    array = array if array.dtype == reference.dtype else array.astype(reference.dtype)
    if reference.weak_type and not array.weak_type:
        # jax has no public cast to a weak type, but writing into a weakly typed array keeps it so.
        return jnp.zeros_like(reference).at[...].set(array)
    return array

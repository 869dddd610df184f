"""Whether steps are taken inside one compiled loop, or one compiled step after another."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Loop = str
"""How an engine goes from one piece to the next: "auto", "scan" or "driven".

"scan" is one compiled loop, a pure function that can be jitted and vmapped. "driven" calls a
compiled piece after another from Python. "auto" drives where gradients have convolutions and run on
CPU, where XLA runs them 5 to 24 times slower inside a loop
(https://github.com/jax-ml/jax/issues/12868); where waves of a larger network run on CPU, since a
loop would copy a snapshot at every step; and where batches are iterated over. Else it scans."""


def check_loop(loop: str) -> None:
    """Refuses a loop that there is not.

    Args:
        loop: one of `Loop`.

    Raises:
        ValueError: naming what came.
    """
    if loop not in ("auto", "scan", "driven"):
        raise ValueError(f"loop must be 'auto', 'scan' or 'driven', got {loop!r}.")


def is_driven(loop: Loop, *, on_host: bool, in_trace: bool, better: Callable[[], bool]) -> bool:
    """Decides between the two loops.

    Args:
        loop: what was asked for.
        on_host: whether batches are iterated over.
        in_trace: whether the caller is being traced.
        better: tells whether driving is faster on CPU; asked only where it matters.

    Raises:
        ValueError: if what was asked for, or what the batches need, cannot be done.
    """
    if loop == "scan" and on_host:
        raise ValueError(
            "batches that are iterated over cannot be scanned: leave loop at 'auto', or pass "
            "arrays or a function of the step."
        )
    if (loop == "driven" or on_host) and in_trace:
        raise ValueError(
            "a simulation inside jit, vmap or scan cannot be driven from Python, nor iterate over "
            "batches: call it outside, or use loop='scan' with arrays or a function of the step."
        )
    if loop != "auto" or on_host:
        return loop == "driven" or on_host
    return not in_trace and jax.default_backend() == "cpu" and better()


def convolution_finder(function: Callable[..., Any]) -> Callable[..., bool]:
    """A function that tells whether another convolves, wherever within it.

    It is asked before every stretch of a run, and tracing costs as much as many small steps: what
    was found for arguments of the same shapes is remembered.

    Args:
        function: traced abstractly.

    Returns:
        `(*args) -> bool`, for arrays or their shapes.
    """
    known: dict[Any, bool] = {}

    def convolves(*args: Any) -> bool:
        leaves, structure = jax.tree.flatten(args)
        key = structure, tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        if key not in known:
            known[key] = "conv_general_dilated" in str(jax.make_jaxpr(function)(*args))
        return known[key]

    return convolves

"""Programs as accelerators get them, without one: traced from shapes, lowered, and read."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

PLATFORMS = ("cuda", "tpu")

_HOST = re.compile(r"callback|SendToHost|stablehlo\.(?:send|recv|infeed|outfeed)")
_WIDE = re.compile(r"\b(?:\d+x)*f64\b")
_LOOP = re.compile(r"stablehlo\.while")


def of(shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    """An array of which there is the shape alone."""
    return jax.ShapeDtypeStruct(shape, dtype)


def keys(*shape: int) -> jax.ShapeDtypeStruct:
    """Typed PRNG keys."""
    return jax.ShapeDtypeStruct(shape, jax.eval_shape(lambda: jax.random.key(0)).dtype)


def lowered(function: Callable[..., Any], *args: Any, at_once: bool = False) -> dict[str, str]:
    """The module of each platform, as text.

    Args:
        function: of arrays; jitted here if it is not yet.
        *args: arrays, or their shapes and dtypes.
        at_once: whether one module is made for all platforms, in which they part where they
            differ: half the work for a large network.

    Raises:
        ValueError: from jax, if the function calls back to the host: no such call can be lowered
            for a device that is not there.
    """
    program: Any = function if hasattr(function, "trace") else jax.jit(function)
    traced = program.trace(*args)
    each = [PLATFORMS] if at_once else [(name,) for name in PLATFORMS]
    return {" ".join(names): traced.lower(lowering_platforms=names).as_text() for names in each}


def faults(module: str, *, scanned: bool) -> list[str]:
    """What is wrong with a module: the host called, float64, a loop that is not there."""
    found = [f"calls the host: {match}" for match in set(_HOST.findall(module))]
    found += ["computes in float64"] if _WIDE.search(module) else []
    return found + (["has no loop"] if scanned and not _LOOP.search(module) else [])

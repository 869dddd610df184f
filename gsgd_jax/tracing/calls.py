"""Equations that hold a jaxpr of their own: which they are, and where it is."""

from collections.abc import Mapping, Sequence
from typing import Any

CALLS = frozenset({
    "jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2", "custom_jvp_call",
    "custom_vjp_call", "custom_vjp_call_jaxpr",
})  # fmt: skip
"""Primitives that hand their inputs, one by one, to a jaxpr within."""


def called(eqn: Any) -> tuple[Any, Sequence[Any]]:
    """The jaxpr within a call, and its constants; None where there is none.

    Args:
        eqn: the equation of a call.
    """
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(name)
        if inner is not None:
            return getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
    return None, ()


def scan_arguments(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many of a scan's operands are constants, and how many carries; the rest are sequences.

    Args:
        params: of the equation.
    """
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    constants, carries, _ = params["ft_in"].unpack()  # from jax 0.12 on
    return len(constants), len(carries)


_MOST_LAYERS = 128


def in_layers(length: int) -> bool:
    """Whether a scan is short enough to give each of its layers scales of its own.

    Args:
        length: of the scan.
    """
    return length <= _MOST_LAYERS

"""A model as the program that JAX traces it to, or one error that says why it could not be."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import core

_DEBUGGING = ("debug_callback", "debug_print")
"""Primitives that only show values."""

_MISSING = re.compile(r"missing \d+ required (positional|keyword-only) argument")
_NO_VARIABLES = ("ScopeCollectionNotFound", "ScopeParamNotFoundError", "ScopeVariableNotFoundError")


def program(apply_fn: Callable[..., Any], params: optax.Params, inputs: Sequence[Any]) -> Any:
    """The equations of a model.

    Args:
        apply_fn: the model.
        params: its parameters.
        inputs: its example inputs.

    Raises:
        TypeError: if the model is a module, and not a function of parameters and inputs; no
            parameter is of real floating-point numbers; or inputs, collections or keys that the
            model asks for are missing.
    """
    _check(apply_fn, params)
    try:
        return jax.make_jaxpr(apply_fn)(params, *inputs)
    except Exception as error:
        advice = _advice(error, params, inputs)
        if advice is None:
            raise
        raise TypeError(advice) from error


def without_debugging(jaxpr: Any) -> Any:
    """A program without what only shows values, as `jax.debug.print` does: no output depends on it.

    Args:
        jaxpr: of the model.
    """
    eqns = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _DEBUGGING:
            continue
        if eqn.effects:  # else there is nothing of the kind within
            params = {
                name: tuple(map(_within, value)) if isinstance(value, tuple) else _within(value)
                for name, value in eqn.params.items()
            }
            eqn = eqn.replace(params=params, effects=_lasting(eqn.effects))
        eqns.append(eqn)
    return jaxpr.replace(eqns=eqns, effects=_lasting(jaxpr.effects))


def _within(value: Any) -> Any:
    """A parameter of an equation, which may be a program of its own."""
    if isinstance(value, core.ClosedJaxpr):
        return value.replace(jaxpr=without_debugging(value.jaxpr))
    return without_debugging(value) if isinstance(value, core.Jaxpr) else value


def _lasting(effects: Any) -> set[Any]:
    return {effect for effect in effects if "Debug" not in type(effect).__name__}


def _check(apply_fn: Callable[..., Any], params: optax.Params) -> None:
    """Refuses what is no function of parameters."""
    name = type(apply_fn).__name__
    if hasattr(apply_fn, "init") and hasattr(apply_fn, "apply"):
        raise TypeError(
            f"a group is found of a function of parameters and inputs, got {name}, a module; pass "
            "its `apply`."
        )
    partial = isinstance(apply_fn, jax.tree_util.Partial)  # which holds what it is closed over
    if not partial and any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(apply_fn)):
        raise TypeError(
            f"a group is found of a function of parameters and inputs, got {name}, which holds its "
            "own; split them off (nnx.split, eqx.partition), and pass a function that puts them "
            "back in."
        )
    kinds = [
        leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
        for leaf in jax.tree.leaves(params)
    ]
    if kinds and not any(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        raise TypeError(
            "a group is of real floating-point parameters, got "
            f"{', '.join(dict.fromkeys(map(str, kinds)))} alone; cast them, and pass inputs after "
            "the parameters."
        )


def _advice(error: Exception, params: optax.Params, inputs: Sequence[Any]) -> str | None:
    """What was forgotten, if it is known from what a model raised."""
    # Flax's errors are known by their names: nothing here needs flax.
    said, name = str(error).split(" (https:")[0].rstrip("."), type(error).__name__
    of_flax = type(error).__module__ == "flax.errors"
    if isinstance(error, TypeError) and _MISSING.search(said):
        return (
            f"a model is traced on an example of every input that it takes, got {_listed(inputs)}: "
            f"{said}; pass arrays after the parameters, and close over the rest, as train=False."
        )
    if of_flax and name in _NO_VARIABLES:
        keys = ", ".join(map(repr, params)) if isinstance(params, dict) else type(params).__name__
        return (
            "a flax model's apply takes its variables with the names of their collections, got "
            f"{keys}: {said}; pass lambda params, x: model.apply({{'params': params, ...}}, x), or "
            "all of what init returned."
        )
    if of_flax and name == "InvalidRngError":
        return (
            f"a model is traced as a function of parameters and inputs alone: {said}; switch "
            "dropout off, or close over its key, as in lambda params, x: model.apply(params, x, "
            "rngs={...})."
        )
    flags = [value for value in inputs if isinstance(value, bool)]
    if flags and isinstance(error, jax.errors.ConcretizationTypeError):
        return (
            f"inputs are arrays, which are traced, got {_listed(inputs)}; close over what is no "
            "array, as in lambda params, x: model.apply(params, x, train=False)."
        )
    return None


def _listed(inputs: Sequence[Any]) -> str:
    """Inputs by dtypes and shapes."""
    leaves = [
        str(leaf) if isinstance(leaf, bool) else f"{jnp.result_type(leaf)}{list(np.shape(leaf))}"
        for leaf in jax.tree.leaves(inputs)
    ]
    return ", ".join(leaves) or "none"

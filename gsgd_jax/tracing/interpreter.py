"""Walks a jaxpr with symbolic log-scales in place of arrays."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from gsgd_jax.tracing.scales import Scales, Value
from gsgd_jax.tracing.solver import System

Rule = Callable[["Trace", Any, list[Value]], list[Value]]
"""(trace, equation, values of its inputs) -> values of its outputs."""

_FOLDED = frozenset(
    (
        "add",
        "sub",
        "mul",
        "neg",
        "max",
        "min",
        "rem",
        "div",
        "lt",
        "le",
        "gt",
        "ge",
        "eq",
        "ne",
        "and",
        "or",
        "not",
        "select_n",
        "iota",
        "reshape",
        "squeeze",
        "expand_dims",
        "broadcast_in_dim",
        "convert_element_type",
        "concatenate",
        "slice",
    )
)
_LARGEST_KNOWN = 2**16


class Pin(NamedTuple):
    """Why some scales cannot be moved."""

    primitive: str  # "tanh"
    source: str  # "model.py:12 (__call__)"
    scales: int  # how many dimensions the group lost there


class Trace:
    """One walk through a model: its equations, and what pinned scales.

    A rule knows how one primitive passes scales on. A primitive without a rule pins the scales of
    its inputs: then they cannot be moved, and its outputs do not move either.

    Args:
        rules: by the primitives' names.
    """

    def __init__(self, rules: dict[str, Rule]):
        self.system = System()
        self.scales = Scales(self.system)
        self.seen: list[Value] = []  # values that depend on the inputs, in order
        self._rules = rules
        self._pins: dict[tuple[str, str], int] = {}

    @property
    def pins(self) -> tuple[Pin, ...]:
        """What pinned scales so far."""
        return tuple(Pin(*where, count) for where, count in self._pins.items())

    def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
        """The values of a jaxpr's outputs.

        Args:
            jaxpr: not closed.
            consts: of its constvars.
            inputs: of its invars.
        """
        env: dict[Any, Value] = {
            var: const if isinstance(const, Value) else constant(const)
            for var, const in zip(jaxpr.constvars, consts, strict=True)
        }
        env.update(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Value:
            return constant(atom.val) if isinstance(atom, core.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            given = [read(atom) for atom in eqn.invars]
            made = self._apply(eqn, given)
            data = any(value.data for value in given)
            for var, value in zip(eqn.outvars, made, strict=True):
                if not is_inexact(var.aval):
                    value = Value(tuple(getattr(var.aval, "shape", ())), known=value.known)
                env[var] = value = value._replace(data=value.data or data)
                if value.data and not value.absorbing:
                    self.seen.append(value)
        return [read(atom) for atom in jaxpr.outvars]

    def pin(self, eqn: Any, value: Value) -> None:
        """Requires that a value is left alone, and notes where.

        Args:
            eqn: the equation at whose account.
            value: a value.
        """
        self.charge(eqn, self.scales.ground(value))

    def charge(self, eqn: Any, count: int) -> None:
        """Notes that an equation took dimensions from the group.

        Args:
            eqn: the equation.
            count: how many.
        """
        if count:
            where = (eqn.primitive.name, _source(eqn))
            self._pins[where] = self._pins.get(where, 0) + count

    def give_up(self, eqn: Any, values: Sequence[Value]) -> list[Value]:
        """What holds for any primitive whatever: inputs that do not move leave outputs alone.

        Args:
            eqn: the equation.
            values: of its inputs.
        """
        for value in values:
            # Zeros may stand for entries of any scale, and stay what they are.
            self.pin(eqn, value)
        return [Value(tuple(getattr(var.aval, "shape", ()))) for var in eqn.outvars]

    def _apply(self, eqn: Any, values: list[Value]) -> list[Value]:
        name = eqn.primitive.name
        outs = [var.aval for var in eqn.outvars]
        if name in _FOLDED and all(value.known is not None for value in values):
            size = int(np.prod(outs[0].shape, dtype=np.int64))
            if size <= (1 if is_inexact(outs[0]) else _LARGEST_KNOWN):
                with jax.ensure_compile_time_eval():
                    given = [
                        jnp.asarray(value.known, atom.aval.dtype)
                        for value, atom in zip(values, eqn.invars, strict=True)
                    ]
                    return [constant(eqn.primitive.bind(*given, **eqn.params))]
        if name not in self._rules:
            return self.give_up(eqn, values)
        return self._rules[name](self, eqn, values)


def constant(array: Any) -> Value:
    """The value of an array that depends on nothing.

    Args:
        array: any array; PRNG keys and the like are kept unknown.
    """
    shape = tuple(np.shape(array))
    dtype = getattr(array, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.extended):
        return Value(shape)
    known = np.asarray(array)
    inexact = jnp.issubdtype(known.dtype, jnp.inexact)
    absorbing = bool(inexact and not np.any(np.isfinite(known) & (known != 0)))
    return Value(shape, absorbing=absorbing, known=known)


def is_inexact(aval: Any) -> bool:
    """Whether values of this type can be scaled.

    Args:
        aval: an abstract value.
    """
    dtype = getattr(aval, "dtype", None)
    return dtype is not None and bool(jnp.issubdtype(dtype, jnp.inexact))


def is_real(aval: Any) -> bool:
    """Whether parameters of this type can be in the group.

    Args:
        aval: an abstract value.
    """
    return is_inexact(aval) and bool(jnp.issubdtype(aval.dtype, jnp.floating))


def _source(eqn: Any) -> str:
    """The innermost line outside of installed packages, else the innermost outside of JAX."""
    traceback = eqn.source_info.traceback
    frames = [] if traceback is None else traceback.frames
    ours, libraries = Path(__file__).resolve().parents[1], Path(jax.__file__).parents[1]
    outside = [f for f in frames if not _is_below(f.file_name, ours)]
    users = [f for f in outside if not _is_below(f.file_name, libraries)]
    others = [f for f in outside if not _is_below(f.file_name, Path(jax.__file__).parent)]
    for frame in itertools.islice(itertools.chain(users, others), 1):
        return f"{Path(frame.file_name).name}:{frame.line_num} ({frame.function_name})"
    return "unknown source"


def _is_below(file: str, folder: Path) -> bool:
    return file.startswith(f"{folder}/") or file.startswith("<frozen")

"""Walks a jaxpr with symbolic log-scales in place of arrays."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from gsgd_jax.tracing.algebra.scales import Epsilon, Scales, Value
from gsgd_jax.tracing.algebra.solver import System
from gsgd_jax.tracing.algebra.tables import Tables
from gsgd_jax.tracing.calls import CALLS
from gsgd_jax.tracing.normalisation import all_sizes, divisor, is_positive, makes_size
from gsgd_jax.tracing.source import UNKNOWN, source

Rule = Callable[["Trace", Any, list[Value]], list[Value]]
"""(trace, equation, values of its inputs) -> values of its outputs."""

_FOLDED = frozenset({
    "add", "sub", "mul", "neg", "max", "min", "rem", "div", "lt", "le", "gt", "ge", "eq", "ne",
    "and", "or", "not", "select_n", "iota", "reshape", "squeeze", "expand_dims",
    "broadcast_in_dim", "convert_element_type", "concatenate", "slice",
})  # fmt: skip
"""Primitives that are computed where all of their inputs are known."""
LARGEST_KNOWN = 2**12
"""Floating-point constants that are larger are not looked into."""
_LARGEST_INDEX = 2**16
_MOVES = frozenset({
    "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "convert_element_type",
    "copy", "stop_gradient", "sqrt",
})  # fmt: skip
"""What a variance with its epsilon may go through on the way to where it divides."""


_HAND_ON = CALLS | {"scan", "while", "cond", "gather"}
"""Primitives that hand a table on, or look it up."""


class Pin(NamedTuple):
    """Why some scales cannot be moved."""

    primitive: str  # "tanh"
    source: str  # "model.py:12 (__call__)"
    scales: int  # how many dimensions the group lost there


class Approximation(NamedTuple):
    """An epsilon without which some scales could be moved exactly."""

    primitive: str  # "add"
    source: str  # "model.py:12 (__call__)"
    epsilon: float
    nodes: int  # how many nodes leave the outputs alone only where it is small


class Trace:
    """One walk through a model: its equations, and what pinned scales.

    A rule knows how one primitive passes scales on. A primitive without a rule pins the scales of
    its inputs: then they cannot be moved, and its outputs do not move either.

    Args:
        rules: by the primitives' names.
        soften: whether an epsilon may be treated as nothing.
    """

    def __init__(self, rules: dict[str, Rule], *, soften: bool = True):
        self.system = System()
        self.scales = Scales(self.system)
        self.intermediates: list[Value] = []  # values that depend on the inputs, in order
        self.divisors: list[Value] = []  # what normalises: sizes by which something is divided
        self.softened: list[tuple[Value, Epsilon]] = []  # those to which an epsilon was added
        self.soften = soften
        self.tables = Tables(self.scales)
        self.alike = False  # whether what is walked through stands for many steps at once
        self._rules = rules
        self._at: list[Any] = []  # the present equation, and those that hold it, outermost first
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
            operands = [read(atom) for atom in eqn.invars]
            self._at.append(eqn)
            results = self._apply(eqn, operands)
            self._at.pop()
            if eqn.primitive.name not in _HAND_ON:
                for value in operands:
                    if all(value.table != result.table for result in results):
                        self.tables.tie(value)
            data = any(value.data for value in operands)
            fixed = all(value.fixed for value in operands)
            given = all(value.given for value in operands)
            size = makes_size(eqn, operands) or all_sizes(eqn, operands)
            derived = all(v.size or v.derived for v in operands if v.data)
            called = eqn.primitive.name in CALLS  # of whose outputs some may be given, others not
            for var, value in zip(eqn.outvars, results, strict=True):
                own = given or (called and value.given)
                positive = called and value.positive
                if not is_inexact(var.aval):
                    value = Value(tuple(getattr(var.aval, "shape", ())), known=value.known)
                value = value._replace(
                    fixed=fixed,
                    data=value.data or data,
                    given=own,
                    positive=positive or (given and is_positive(eqn, operands, var.aval)),
                    size=value.size or size,
                    derived=data and (value.derived or derived),
                )
                env[var] = value
                if value.data and not value.absorbing:
                    self.intermediates.append(value)
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
            where = (eqn.primitive.name, self._source(eqn))
            self._pins[where] = self._pins.get(where, 0) + count

    def _source(self, eqn: Any) -> str:
        """Where it was written; of what a library wrote, where that was called."""
        places = map(source, [eqn, *reversed(self._at)])
        return next((place for place in places if place != UNKNOWN), UNKNOWN)

    def settle(self, values: Sequence[Value]) -> list[Value]:
        """Takes back that an epsilon is nothing: what it was added to is pinned where it was.

        Args:
            values: some of them softened.

        Returns:
            The values, none of them softened.
        """
        for value in values:
            if value.soft is not None:
                self.pin(value.soft.equation, value)
        return [value._replace(soft=None) for value in values]

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
            if size <= (LARGEST_KNOWN if is_inexact(outs[0]) else _LARGEST_INDEX):
                with jax.ensure_compile_time_eval():
                    arrays = [
                        jnp.asarray(value.known, atom.aval.dtype)
                        for value, atom in zip(values, eqn.invars, strict=True)
                    ]
                    return [constant(eqn.primitive.bind(*arrays, **eqn.params))]
        if name not in self._rules:
            return self.give_up(eqn, self.settle(values))
        if name in CALLS or name == "scan":
            return self._rules[name](self, eqn, values)
        divided_by = divisor(eqn, values)
        root = name == "pow" and values[1].known is not None  # as sqrt, if it does not divide
        if divided_by is None and (root or name in _MOVES):
            (moved,) = self._rules[name](self, eqn, [values[0]._replace(soft=None), *values[1:]])
            return [moved._replace(soft=values[0].soft)]
        if divided_by is not None:
            # (x^2 + epsilon)^-1/2 scales as 1/x where epsilon is nothing beside x^2: here, and
            # only here, the epsilon added before is forgiven.
            if divided_by.size:
                self.divisors.append(divided_by)
            if divided_by.soft is not None:
                self.softened.append((divided_by, divided_by.soft))
            values = [v._replace(soft=None) if v is divided_by else v for v in values]
        return self._rules[name](self, eqn, self.settle(values))


def constant(array: Any) -> Value:
    """The value of an array that depends on nothing.

    Args:
        array: any array; PRNG keys and the like are kept unknown.
    """
    shape = tuple(np.shape(array))
    dtype = getattr(array, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.extended):
        return Value(shape, fixed=True, given=True)
    known = np.asarray(array)
    inexact = jnp.issubdtype(known.dtype, jnp.inexact)
    absorbing = bool(inexact and not np.any(np.isfinite(known) & (known != 0)))
    positive = not np.iscomplexobj(known) and bool(np.all(known >= 0))
    return Value(shape, absorbing=absorbing, known=known, fixed=True, given=True, positive=positive)


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

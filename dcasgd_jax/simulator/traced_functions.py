"""Functions as data: what a user closed over is an argument, and programs are told by what they do.

A call of the simulator brings new closures: a loss's gradient, an optimiser made on the spot. To
`jax.jit` each would be a new program. Here a function is traced, and what is compared is its jaxpr;
arrays that it closed over, and the numbers of an optimiser, become leaves of a pytree.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core


@jax.tree_util.register_pytree_node_class
class StaticFunction:
    """A function as a pytree without leaves, the same as another if the functions are equal."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function returns."""
        return self.function(*args, **kwargs)

    def tree_flatten(self) -> tuple[tuple[()], Any]:
        """No leaves; the function is what it is told by."""
        return (), _comparable(self.function)

    @classmethod
    def tree_unflatten(cls, function: Any, leaves: Sequence[Any]) -> "StaticFunction":
        """The function again."""
        del leaves
        return cls(function.value if isinstance(function, _Same) else function)


@jax.tree_util.register_pytree_node_class
class TracedFunction:
    """A traced function as a pytree: its leaves are the values it closed over, its kind the jaxpr.

    It is called with arguments of the structure, shapes and dtypes it was traced with.
    """

    def __init__(self, program: "_Program", values: Sequence[Any]):
        self.program, self.values = program, values

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function returned, computed from the jaxpr."""
        leaves, structure = jax.tree.flatten((args, kwargs))
        avals = self.program.jaxpr.in_avals
        due = [(a.shape, a.dtype) for a in avals]
        came = [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]
        if structure != self.program.arguments or came != due:
            raise TypeError(
                "a function of the simulation is called with other structures, shapes or dtypes "
                f"than in its first step: {came} where it had {due}; keep them the same at every "
                "step."
            )
        number = len(self.program.jaxpr.jaxpr.constvars)
        assert len(self.values) == number
        closed = core.ClosedJaxpr(self.program.jaxpr.jaxpr, self.values)
        return jax.tree.unflatten(self.program.results, core.jaxpr_as_fun(closed)(*leaves))

    @property
    def convolves(self) -> bool:
        """Whether there is a convolution anywhere in it."""
        return _convolves(self.program.jaxpr.jaxpr)

    def tree_flatten(self) -> tuple[tuple[Sequence[Any]], Any]:
        """The values, and the program."""
        return (self.values,), self.program

    @classmethod
    def tree_unflatten(cls, program: Any, leaves: Sequence[Any]) -> "TracedFunction":
        """The function with other values."""
        return cls(program, leaves[0])


def portable(function: Callable[..., Any]) -> TracedFunction | StaticFunction:
    """A function as a pytree; one that was traced is one."""
    return function if isinstance(function, TracedFunction) else StaticFunction(function)


def trace(
    function: Callable[..., Any], *args: Any, lift_numbers: bool = False, **kwargs: Any
) -> tuple[TracedFunction, Any]:
    """A function, traced at these arguments or their shapes, and the shapes of what it returns.

    Args:
        function: pure.
        *args: of the function: pytrees of arrays, or of their shapes and dtypes.
        lift_numbers: whether floating-point numbers in the program (a learning rate) are values
            too, so that another number is the same program. Where a division by a constant would
            be compiled as a multiplication, the last digit may then differ.
        **kwargs: of the function, as `args`.

    Example:
        >>> import jax.numpy as jnp
        >>> one, _ = trace(lambda x: 0.1 * x, jnp.ones(3), lift_numbers=True)
        >>> other, _ = trace(lambda x: 0.2 * x, jnp.ones(3), lift_numbers=True)
        >>> jax.tree.structure(one) == jax.tree.structure(other), other(jnp.ones(3))
        (True, Array([0.2, 0.2, 0.2], dtype=float32))
    """
    structure = jax.tree.structure((args, kwargs))
    closed, shapes = jax.make_jaxpr(lambda a, k: function(*a, **k), return_shape=True)(args, kwargs)
    jaxpr, values = closed.jaxpr, list(closed.consts)
    if lift_numbers:
        jaxpr, numbers = _with_numbers_lifted(jaxpr)
        values = [*values, *numbers]
    results = jax.tree.structure(shapes)
    program = _Program(core.ClosedJaxpr(jaxpr, values), structure, results)
    shapes = jax.tree.unflatten(results, [_shape(aval) for aval in closed.out_avals])
    return TracedFunction(program, values), shapes


def shapes_of(tree: Any, *, without: int = 0) -> Any:
    """What stands for the arrays of a tree, never weakly typed, without so many leading axes."""

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(jnp.shape(leaf)[without:], jnp.result_type(leaf))

    return jax.tree.map(shape, tree)


def on_explicit_axes(tree: Any) -> bool:
    """Whether an array lies on a mesh whose axes are part of its type."""
    arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    return any(jax.typeof(leaf).sharding.mesh.explicit_axes for leaf in arrays)


def _shape(aval: Any) -> jax.ShapeDtypeStruct:
    """What stands for an array of this type, its weak type and sharding too."""
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)


class _Program:
    """A jaxpr, equal to another that does the same with the same shapes."""

    def __init__(self, closed: core.ClosedJaxpr, arguments: Any, results: Any):
        # Without the values, which are not part of it and would be kept for ever.
        self.jaxpr = core.ClosedJaxpr(closed.jaxpr, [None] * len(closed.consts))
        self.arguments, self.results = arguments, results
        self._key = _jaxpr_key(closed.jaxpr), arguments, results
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, _Program) and (self._hash, self._key) == (other._hash, other._key)


class _Same:
    """Anything, equal to itself alone; holding it, so that nothing else gets its address."""

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value


def _convolves(jaxpr: Any) -> bool:
    """Whether there is a convolution in a jaxpr or in one within it."""

    def within(value: Any) -> bool:
        if isinstance(value, core.ClosedJaxpr):
            return _convolves(value.jaxpr)
        if isinstance(value, core.Jaxpr):
            return _convolves(value)
        return isinstance(value, list | tuple) and any(map(within, value))

    return any(
        eqn.primitive.name == "conv_general_dilated" or any(map(within, eqn.params.values()))
        for eqn in jaxpr.eqns
    )


def _comparable(value: Any) -> Any:
    """The value itself if it can be compared by hashing, else what is equal to it alone."""
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return value


def _with_numbers_lifted(jaxpr: core.Jaxpr) -> tuple[core.Jaxpr, list[Any]]:
    """The jaxpr with floating-point literals as further constants, and their values."""
    variables, values, eqns = [], [], []
    for eqn in jaxpr.eqns:
        invars = list(eqn.invars)
        for place, invar in enumerate(invars):
            # An exponent stays: a power of 2 or 1/2 is compiled as a square or a root.
            if _is_number(invar) and not (eqn.primitive.name == "pow" and place == 1):
                variables.append(core.Var(invar.aval))
                values.append(_value(invar))
                invars[place] = variables[-1]
        eqns.append(eqn.replace(invars=invars))
    return jaxpr.replace(constvars=[*jaxpr.constvars, *variables], eqns=eqns), values


def _is_number(atom: Any) -> bool:
    """Whether this is a literal that may be another number in an otherwise equal program."""
    if not isinstance(atom, core.Literal) or jnp.shape(atom.val) != ():
        return False
    aval: Any = atom.aval
    floating = jnp.issubdtype(aval.dtype, jnp.floating)
    return floating and (not aval.weak_type or aval.dtype == jnp.result_type(float))


def _value(literal: Any) -> np.ndarray | float:
    """The number of a literal, as an argument of its dtype and weak type."""
    if literal.aval.weak_type:
        return float(literal.val)
    return np.asarray(literal.val, literal.aval.dtype)


# What custom rules of differentiation keep for a derivative that is no longer taken.
_DERIVATIVES = ("jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd", "out_trees")


def _jaxpr_key(jaxpr: core.Jaxpr) -> tuple[Any, ...]:
    """What a jaxpr does, its variables numbered in order."""
    numbers: dict[Any, int] = {}

    def atom(x: Any) -> Any:
        if isinstance(x, core.Literal):
            value = np.asarray(x.val)
            return "literal", x.aval, value.dtype.name, value.shape, value.tobytes()
        return numbers.setdefault(x, len(numbers))

    bound = tuple((atom(v), v.aval) for v in (*jaxpr.constvars, *jaxpr.invars))
    rows = tuple(
        (
            eqn.primitive,
            tuple(atom(x) for x in eqn.invars),
            tuple((atom(v), v.aval) for v in eqn.outvars),
            _parameters_key(eqn),
            _parameter_key(getattr(eqn.ctx, "compute_type", None)),
            _parameter_key(getattr(eqn.ctx, "xla_metadata", None)),
        )
        for eqn in jaxpr.eqns
    )
    return len(jaxpr.constvars), bound, rows, tuple(atom(x) for x in jaxpr.outvars)


def _parameters_key(eqn: core.JaxprEqn) -> tuple[Any, ...]:
    """The parameters of an equation."""
    custom = eqn.primitive.name.startswith("custom_")
    return tuple(
        (name, _parameter_key(value))
        for name, value in sorted(eqn.params.items())
        if not (custom and name in _DERIVATIVES)
    )


def _parameter_key(value: Any) -> Any:
    """A parameter of an equation, comparable: by what it is, or at worst by identity."""
    if isinstance(value, core.ClosedJaxpr):
        return _jaxpr_key(value.jaxpr), tuple(_Same(const) for const in value.consts)
    if isinstance(value, core.Jaxpr):
        return _jaxpr_key(value)
    if isinstance(value, list | tuple):
        return type(value), tuple(_parameter_key(item) for item in value)
    if isinstance(value, dict):
        return dict, tuple((key, _parameter_key(item)) for key, item in sorted(value.items()))
    if isinstance(value, float):
        return float, value.hex()  # 0.0 and -0.0 differ, and nan is itself
    if isinstance(value, Hashable):
        return type(value), _comparable(value)
    return _Same(value)

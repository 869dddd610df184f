"""Finding the rescaling group of any model by tracing it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.interpreters import partial_eval

from gsgd_jax.gauge import leaf_names
from gsgd_jax.tracing.algebra.scales import Value
from gsgd_jax.tracing.algebra.stacks import Layout, fresh, single
from gsgd_jax.tracing.algebra.tables import free_rows
from gsgd_jax.tracing.factors import Factors, exponents, leaf_factors, one_sided
from gsgd_jax.tracing.graph import choose_nodes, edges, fill_ground
from gsgd_jax.tracing.interpreter import Approximation, Pin, Trace, is_real
from gsgd_jax.tracing.normalisation import never_negative
from gsgd_jax.tracing.partition import layouts
from gsgd_jax.tracing.program import program, without_debugging
from gsgd_jax.tracing.result import FoundGauge, RescalingGroup
from gsgd_jax.tracing.rules import RULES
from gsgd_jax.tracing.source import source

_SMALL = 2**12


def find_gauge(
    apply_fn: Callable[..., Any],
    params: optax.Params,
    *example_inputs: Any,
    absorbing: bool = True,
) -> FoundGauge | RescalingGroup:
    r"""Finds the rescalings of the parameters that leave a model's outputs alone.

    The model is traced, and every parameter given an unknown log-scale per channel. Each operation
    then says what follows for its output, and what must hold: factors add log-scales, terms of a
    sum must have the same, summed indices must not matter, relu(c x) = c relu(x) for c > 0; inputs
    and outputs keep theirs. What solves these linear equations is the group.

    It is exact where the rules know an operation. One that they do not know, or that no scaling
    passes, such as tanh or exp, *pins* what it is given: the group found may then be too small, but
    is never wrong; `pins` and the printed summary say where. So do additions of a constant, in its
    entries that are not zero. Scales that the outputs never see, of unused parameters or entries,
    are left out. What is no real floating-point number is too.

    Only scalings by the channel are looked for: a matrix product of two kernels without activation
    in between allows more, of which the scalings are found. Of a model that returns its new running
    averages these are outputs too, and pin: trace the function that training differentiates.

    Layers run by `jax.lax.scan` (flax's `nn.scan`, a stack of blocks) have scales of their own, as
    the same layers have in a Python loop: parameters that are scanned over, up to 128 layers, are
    followed layer by layer, and so are stacks that a function takes apart by index. In longer scans
    layers share their scales, and a pin says so. Steps in time share theirs in any case.

    Rows of an embedding that are looked up by indices have one scale in common, as far as tokens
    meet: in a sum with positions, in a residual stream. Where a norm takes every token's scale away
    before, each row has a scale of its own, whatever the indices. To see it the example needs two
    tokens or more along each axis of the indices, and no more than 4096 in all.

    A scale that normalisation takes away (BatchNorm, LayerNorm, RMSNorm, GroupNorm, weights divided
    by their norm: recognised by what is computed, whoever wrote it) is a node that no edge leaves,
    an *absorbing* one. The epsilon added to the variance makes its symmetry *approximate*: it is
    exact as epsilon goes to 0. Constants up to 0.01 count as epsilon, where they are added to a sum
    of squares or of absolute values, or are the least that it may be, and the result is only
    divided by, perhaps after a square root; anywhere else they pin. The sum may be masked, or
    weighted by numbers that are seen not to be negative and depend on no parameter: booleans, what
    is counted or averaged of them, squares, exponentials; a mask of floating-point numbers may be
    negative, so compare it with 0 first. Such a group is given as a
    `RescalingGroup` that names the absorbing and the approximate nodes, and has its exact part, a
    gauge, as `gauge`. BatchNorm by running averages is no normalisation: kernel, running mean and
    scale then move together, exactly, if the averages are among the parameters; an average that the
    function closes over, or is given beside them, does not move and pins.

    Args:
        apply_fn: a function of the parameters and inputs that JAX can trace; close over anything
            that is no array, such as `train=False`. Of a model in `jax.shard_map`, the function
            inside: the map itself pins all that it is given.
        params: the parameters, or anything with their tree, shapes and dtypes (`jax.eval_shape`).
        *example_inputs: inputs, likewise; a small batch is as good as a large one.
        absorbing: whether to look for absorbing and approximate nodes; if not, the exact part is
            returned.

    Returns:
        Where every entry has at most one node at either end, and no node is absorbing or
        approximate, a `FoundGauge`, which is a `Gauge` for all that asks for one; else a
        `RescalingGroup`, which can be counted, applied and verified.

    Raises:
        TypeError: if no leaf is of real floating-point numbers, a module came instead of its
            `apply`, or inputs, collections of variables or keys that the model needs are missing;
            from JAX, if the function cannot be traced.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"w": jnp.ones((3, 4)), "b": jnp.ones(4), "v": jnp.ones((4, 2))}
        >>> def model(params, x):
        ...     return jax.nn.relu(x @ params["w"] + params["b"]) @ params["v"]
        >>> gauge = find_gauge(model, params, jnp.ones((1, 3)))
        >>> print(gauge)
        gauge: 4 nodes, 24 of 24 parameters in the group, 20 free dimensions
          b  (4,)    ground -> nodes 0-3  4 edges, 0 free
          v  (4, 2)  nodes 0-3 -> ground  8 edges, 8 free
          w  (3, 4)  ground -> nodes 0-3  12 edges, 12 free
        >>> gauge.verify(model, params, jnp.ones((1, 3))) < 1e-5
        True
    """
    return found_group(apply_fn, params, example_inputs, Trace(RULES, soften=absorbing), absorbing)


def found_group(
    apply_fn: Callable[..., Any],
    params: optax.Params,
    example_inputs: Sequence[Any],
    trace: Trace,
    absorbing: bool,
) -> FoundGauge | RescalingGroup:
    """What may be done to the parameters' channels that leaves a model's outputs alone.

    Args:
        apply_fn: the model.
        params: its parameters.
        example_inputs: its inputs.
        trace: a new one, with the rules of what is looked for.
        absorbing: whether to look for absorbing and approximate nodes.

    Raises:
        TypeError: as `find_gauge`.
    """
    closed = program(apply_fn, params, example_inputs)
    names, shapes = leaf_names(params), [tuple(np.shape(leaf)) for leaf in jax.tree.leaves(params)]
    leaves, layout_of = _interpret(closed, shapes, trace)
    if any(leaf is not None for leaf in leaves):
        rows = _with_free_rows(trace, leaves)
        choose_nodes(trace.scales, _candidates(trace, leaves, rows), leaves)
    return _result(_Traced(trace, leaves, layout_of, names, shapes), absorbing)


def _interpret(
    closed: Any, shapes: Sequence[tuple[int, ...]], trace: Trace
) -> tuple[list[Value | None], list[Layout]]:
    """Walks through the model: its equations, the leaves' scales, and where these may vary."""
    shown = without_debugging(closed.jaxpr)
    live = partial_eval.dce_jaxpr(shown, [True] * len(shown.outvars))
    jaxpr, used_inputs = live[0], live[1]
    used = [i for i, is_used in enumerate(used_inputs[: len(shapes)]) if is_used]
    leaves: list[Value | None] = [None] * len(shapes)
    layout_of = [Layout((), ())] * len(shapes)
    for i, layout in zip(used, layouts(jaxpr, len(used)), strict=True):
        if is_real(closed.jaxpr.invars[i].aval) and 0 not in shapes[i]:
            layout_of[i] = layout
            leaf = fresh(trace.scales, shapes[i], layout)
            leaves[i] = leaf if leaf.layers else leaf._replace(table=i)
    inputs = [leaves[i] or Value(shapes[i]) for i in used]
    for var in jaxpr.invars[len(used) :]:
        shape, positive = tuple(getattr(var.aval, "shape", ())), never_negative(var.aval)
        inputs.append(Value(shape, data=True, given=True, positive=positive))
    for output in trace.settle(trace.run(jaxpr, closed.consts, inputs)):
        trace.tables.tie(output)
        trace.scales.ground(output)
    return leaves, layout_of


def _with_free_rows(trace: Trace, leaves: list[Value | None]) -> list[Value]:
    """Gives rows of tables scales of their own where nothing forbids it, and returns these."""
    scales = []
    tables = trace.tables.settle(leaves)
    divisors, softened = tuple(trace.divisors), tuple(trace.softened)
    for number, alone in tables.items():
        leaf = leaves[number]
        assert leaf is not None
        rows = free_rows(trace.scales, leaf, alone, divisors, softened)
        leaves[number] = rows.leaf
        scales.append(rows.scales)
        # Rows are absorbed, and approximate, where what moves with them is.
        trace.divisors += [rows.scales] * rows.divides
        trace.softened += [(rows.scales, epsilon) for epsilon in rows.softened]
    return scales


def _candidates(trace: Trace, leaves: Sequence[Value | None], rows: Sequence[Value]) -> list[Value]:
    """Scales of what may become a node, in the order of the model."""
    # Channels before the factors by which a norm divides them.
    channels = sorted(trace.intermediates, key=lambda value: value.size or value.derived)
    parts = [part for leaf in leaves if leaf is not None for part in single(leaf)]
    small = [part for part in parts if np.prod(part.shape) <= _SMALL]
    # Many values of a layer have the same scales; some only since equations were solved.
    distinct = _distinct((*channels, *rows, *small))
    return _distinct([trace.scales.simplified(value) for value in distinct])


def _distinct(values: Sequence[Value]) -> list[Value]:
    """Values of different scales, the first of equals, in the same order."""
    first: dict[tuple, Value] = {}
    for value in values:
        tables = tuple((table.shape, table.tobytes()) for _, table in value.blocks)
        first.setdefault((value.overall, tables), value)
    return list(first.values())


class _Traced(NamedTuple):
    trace: Trace
    leaves: list[Value | None]
    layouts: list[Layout]
    names: list[str]
    shapes: list[tuple[int, ...]]


class _Nodes(NamedTuple):
    factors: list[Factors]  # of the leaves
    basis: np.ndarray  # the nodes' variables, in order
    sinks: np.ndarray  # nodes that no edge leaves or none enters
    pins: tuple[Pin, ...]


def _result(traced: _Traced, absorbing: bool) -> FoundGauge | RescalingGroup:
    """Nodes, and edges if there are any, from the solved equations."""
    trace = traced.trace
    normalised = _variables(trace, trace.divisors) if absorbing else set()
    nodes = _nodes(traced, normalised)
    place = {variable: node for node, variable in enumerate(nodes.basis.tolist())}
    absorbed = tuple(node for node in nodes.sinks.tolist() if nodes.basis.item(node) in normalised)
    approximations = _approximations(trace, place)
    approximate = tuple(sorted({node for nodes in approximations.values() for node in nodes}))
    notes = tuple(Approximation(*where, len(nodes)) for where, nodes in approximations.items())
    ends, obstacle = _ends(traced, nodes)
    if obstacle is None and not (absorbed or approximate):
        return _gauge(traced, nodes, ends)
    leaves, gauge = exponents(trace.system, nodes.factors, nodes.basis), None
    if absorbed or approximate:
        trace.system.drop(nodes.basis[[*absorbed, *approximate]].tolist())
        exact = _nodes(traced, set())
        ends, hindrance = _ends(traced, exact)
        gauge = _gauge(traced, exact, ends) if hindrance is None else None
    return RescalingGroup(
        tuple(traced.names),
        tuple(traced.shapes),
        tuple(leaves),
        len(nodes.basis),
        nodes.pins,
        obstacle,
        absorbing=absorbed,
        approximate=approximate,
        approximations=notes,
        gauge=gauge,
    )


def _nodes(traced: _Traced, normalised: set[int]) -> _Nodes:
    """What the leaves move with; without the scales that no output sees, unless normalised."""
    system, pins = traced.trace.system, traced.trace.pins
    factors, basis = leaf_factors(system, traced.leaves)
    sinks = one_sided(system, factors, basis)
    lost = [variable for variable in basis[sinks].tolist() if variable not in normalised]
    if lost:  # an edge needs two ends; such scales reach no output
        system.drop(lost)
        pins = (*pins, Pin("want of an outlet", "scales the outputs never see", len(lost)))
        factors, basis = leaf_factors(system, traced.leaves)
        sinks = one_sided(system, factors, basis)
    return _Nodes(factors, basis, sinks, pins)


def _ends(traced: _Traced, nodes: _Nodes) -> tuple[list[tuple[np.ndarray, np.ndarray]], str | None]:
    """Tails and heads of the leaves, up to the first that is no edge, and the name of that."""
    ends = []
    for name, leaf, shape in zip(traced.names, nodes.factors, traced.shapes, strict=True):
        end = edges(traced.trace.system, leaf, shape, nodes.basis)
        if end is None:
            return ends, name
        ends.append(end)
    return ends, None


def _gauge(traced: _Traced, nodes: _Nodes, ends: list[tuple[np.ndarray, np.ndarray]]) -> FoundGauge:
    names, shapes = tuple(traced.names), tuple(traced.shapes)
    tails, heads = [end[0] for end in ends], [end[1] for end in ends]
    groups = [layout.groups for layout in traced.layouts]
    filled = list(map(fill_ground, tails, heads, shapes, groups))
    tails, heads = zip(*filled, strict=True) if filled else ((), ())
    return FoundGauge(names, shapes, tails, heads, len(nodes.basis), nodes.pins)


def _variables(trace: Trace, values: Iterable[Value]) -> set[int]:
    """The variables in which the scales of some values are expressed."""
    numbers = [number for value in values for number in value.numbers()]
    return set(trace.system.variables(np.array(numbers, np.int64)).tolist())


def _approximations(trace: Trace, place: dict[int, int]) -> dict[tuple[str, str, float], set[int]]:
    """By epsilon the nodes that move what it was added to."""
    nodes_by_epsilon: dict[tuple[str, str, float], set[int]] = {}
    for value, epsilon in trace.softened:
        nodes = {place[v] for v in _variables(trace, [value]) if v in place}
        if nodes:
            where = epsilon.equation.primitive.name, source(epsilon.equation), epsilon.amount
            nodes_by_epsilon.setdefault(where, set()).update(nodes)
    return nodes_by_epsilon

"""Finding the rescaling group of any model by tracing it."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax.interpreters import partial_eval

from gsgd_jax.gauge import leaf_names
from gsgd_jax.tracing import contractions, control, elementwise, layout
from gsgd_jax.tracing.found import FoundGauge, RescalingGroup
from gsgd_jax.tracing.graph import choose_nodes, edges, exponents, fill_ground, one_sided
from gsgd_jax.tracing.interpreter import Pin, Trace, is_real
from gsgd_jax.tracing.partition import Partition, axis_partitions
from gsgd_jax.tracing.scales import Value

_RULES = elementwise.RULES | layout.RULES | contractions.RULES | control.RULES


def find_gauge(
    apply_fn: Callable[..., Any], params: optax.Params, *example_inputs: Any
) -> FoundGauge | RescalingGroup:
    r"""Finds the rescalings of the parameters that leave a model's outputs alone.

    The model is traced, and every parameter given an unknown log-scale per channel. Each operation
    then says what follows for its output, and what must hold: factors add log-scales, terms of a
    sum must have the same, summed indices must not matter, relu(c x) = c relu(x) for c > 0; inputs
    and outputs keep theirs. What solves these linear equations is the group.

    It is exact where the rules know an operation. One that they do not know, or that no scaling
    passes, such as tanh or exp, *pins* what it is given: the group found may then be too small, but
    is never wrong; `pins` and the printed summary say where. Normalisation pins its input: the
    epsilon in it breaks the symmetry. So do additions of a constant. Scales that the outputs never
    see, of unused parameters or entries or of what a division takes out again, are left out of a
    gauge, which needs an edge out of every node. What is no real floating-point number is too.

    Only scalings by the channel are looked for: a matrix product of two kernels without activation
    in between allows more, of which the scalings are found.

    Args:
        apply_fn: a function of the parameters and inputs that JAX can trace; close over anything
            that is no array, such as `train=False`.
        params: the parameters, or anything with their tree, shapes and dtypes (`jax.eval_shape`).
        *example_inputs: inputs, likewise; a small batch is as good as a large one.

    Returns:
        Where every entry has at most one node at either end a `FoundGauge`, which is a `Gauge` for
        all that asks for one; else a `RescalingGroup`, which can be counted, applied and verified
        but has no skeleton yet.

    Raises:
        TypeError: from JAX, if the function cannot be traced.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"w": jnp.ones((3, 4)), "b": jnp.ones(4), "v": jnp.ones((4, 2))}
        >>> def model(params, x):
        ...     return jax.nn.relu(x @ params["w"] + params["b"]) @ params["v"]
        >>> gauge = find_gauge(model, params, jnp.ones((1, 3)))
        >>> print(gauge)
        gauge: 4 nodes, 24 of 24 parameters in the group, 20 free dimensions
          b  (4,)    ground -> nodes 0-3
          v  (4, 2)  nodes 0-3 -> ground
          w  (3, 4)  ground -> nodes 0-3
        >>> gauge.verify(model, params, jnp.ones((1, 3))) < 1e-5
        True
    """
    closed = jax.make_jaxpr(apply_fn)(params, *example_inputs)
    live = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    jaxpr, used_inputs = live[0], live[1]
    shapes = [tuple(np.shape(leaf)) for leaf in jax.tree.leaves(params)]
    used = [i for i, is_used in enumerate(used_inputs[: len(shapes)]) if is_used]
    trace = Trace(_RULES)
    leaves: list[Value | None] = [None] * len(shapes)
    partitions: list[Partition] = [()] * len(shapes)
    for i, groups in zip(used, axis_partitions(jaxpr, len(used)), strict=True):
        if is_real(closed.jaxpr.invars[i].aval) and 0 not in shapes[i]:
            partitions[i] = groups
            leaves[i] = trace.scales.fresh(shapes[i], groups)
    given = [leaves[i] or Value(shapes[i]) for i in used]
    for var in jaxpr.invars[len(used) :]:
        given.append(Value(tuple(getattr(var.aval, "shape", ())), data=True))
    outputs = trace.run(jaxpr, closed.consts, given)
    for output in outputs:
        trace.scales.ground(output)
    return _found(trace, leaves, partitions, leaf_names(params), shapes)


def _found(
    trace: Trace,
    leaves: list[Value | None],
    partitions: list[Partition],
    names: list[str],
    shapes: list[tuple[int, ...]],
) -> FoundGauge | RescalingGroup:
    """Nodes, and edges if there are any, from the solved equations."""
    pins, fields = trace.pins, (tuple(names), tuple(shapes))
    if any(leaf is not None for leaf in leaves):
        channels = [trace.scales.entries(value) for value in trace.seen]
        choose_nodes(trace.system, [c for c in channels if c is not None], leaves)
    while True:
        factors, basis = exponents(trace.system, leaves)
        ends = [edges(leaf, shape) for leaf, shape in zip(factors, shapes, strict=True)]
        if any(end is None for end in ends):
            obstacle = names[next(i for i, end in enumerate(ends) if end is None)]
            return RescalingGroup(*fields, tuple(factors), len(basis), pins, obstacle)
        tails = tuple(end[0] for end in ends if end is not None)
        heads = tuple(end[1] for end in ends if end is not None)
        lost = one_sided(tails, heads, len(basis))
        if not lost.size:
            filled = map(fill_ground, tails, heads, shapes, partitions)
            tails, heads = zip(*filled, strict=True) if leaves else ((), ())
            return FoundGauge(*fields, tails, heads, len(basis), pins)
        # An edge needs two ends. Such scales reach no output, or are normalised away on the way.
        trace.system.drop([basis[node] for node in lost.tolist()])
        pins = (*pins, Pin("want of an outlet", "scales the outputs never see", int(lost.size)))

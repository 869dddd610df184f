"""Balancing (equi-normalisation): of all rescaled copies, the one of least squared norm."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from gsgd_jax._factors import (
    Group,
    factor_parts,
    group_leaves,
    leaf_tables,
    power_part,
)
from gsgd_jax._precision import cast_like, check_count, check_number, working_dtype
from gsgd_jax.solver.incidence import (
    ON_DEVICE,
    ON_HOST,
    Arrays,
    Incidence,
    reduced,
    varying_like,
)
from gsgd_jax.solver.knots import knots_of
from gsgd_jax.solver.least_squares import Due, least_squares


def balance(
    params: optax.Params, gauge: Group, *, tolerance: float = 1e-13, max_steps: int = 100
) -> optax.Params:
    r"""Rescales a network so that every node's incoming and outgoing weights have equal norms.

    Of all weights w_e c_head / c_tail of the same function, these have the least sum of squares; at
    that minimum, and nowhere else,

        Σ_{head(e) = h} w_e² = Σ_{tail(e) = h} w_e²      for every node h.

    In x = log c the sum is convex, strictly so where every node hangs together with ground, so the
    result is the same for all weights that the group connects, up to rounding: a canonical
    representative. It is found by Newton's method, damped so that it converges from anywhere.
    Concrete parameters are balanced in float64; traced ones in float32 or wider. Their squares may
    leave its range: where weights are very large or small, both are brought near to one another by
    powers of two first.

    In a group that is no graph, entry e moves by Π_h c_h^k_eh, and the condition becomes
    Σ_e k_eh w_e² = 0. A node that normalisation absorbs has no outgoing weights, and keeps its
    scale.

    Args:
        params: parameters, concrete or traced; where traced ones are not finite, NaN comes back,
            since nothing can be raised.
        gauge: their rescaling group.
        tolerance: stop when no node's two squared norms differ by more than this, relatively;
            never less than 64 units in the last place.
        max_steps: stop after so many steps in any case; ten to thirty are usual.

    Returns:
        Balanced weights of the same function, dtypes kept. A node whose incoming or outgoing
        weights are all zero has no balance and keeps its scale, and nodes that feed one another, as
        residual streams without norms and recurrent layers do, keep their common one where nothing
        but zeros enters or leaves them all: so copies of a pruned network may differ there.

    Raises:
        TypeError: if the gauge is none, or a leaf in the group is not of real floating-point
            numbers.
        ValueError: if concrete parameters are not finite, or do not fit the gauge; or if a number
            is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> from gsgd_jax import mlp_gauge
        >>> params = [jnp.array([[4.0]]), jnp.array([[1.0]])]
        >>> balance(params, mlp_gauge(params))
        [Array([[2.]], dtype=float32), Array([[2.]], dtype=float32)]

    References:
        Stock et al., *Equi-normalization of neural networks*, ICLR 2019, who visit one node after
        another.
    """
    check_number("tolerance", tolerance)
    check_count("max_steps", max_steps)
    scales = balancing_scales(
        params, gauge, one_sided=False, tolerance=tolerance, max_steps=max_steps
    )
    # Concrete parameters are moved on the host too, where nothing needs to be compiled.
    xp = np if isinstance(scales, np.ndarray) else jnp
    leaves = group_leaves(gauge, params)
    for i, parts in enumerate(factor_parts(gauge, scales, xp)):
        if parts:
            moved = xp.asarray(leaves[i]).astype(scales.dtype)
            for part in parts:
                moved = moved * part
            leaves[i] = cast_like(jnp.asarray(moved), jnp.asarray(leaves[i]))
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def balancing_scales(
    params: optax.Params,
    group: Group,
    *,
    one_sided: bool = True,
    still: tuple[int, ...] = (),
    tolerance: float = 1e-13,
    max_steps: int = 100,
) -> jax.Array | np.ndarray:
    r"""The group element c that balances; in the working dtype, [num_nodes].

    Where one start is another rescaled by powers of two, its c is the other's divided by these, to
    the bit (for concrete parameters; under a trace two starts may round a tie apart). For that the
    network is balanced twice: once to find the powers of two nearest to c, with which both starts
    become the same numbers, and once from there, where all that is computed is the same. Where a
    square would overflow or vanish, it is balanced once before, by the roots of its weights, from
    which squares do not: their c, to the fourth, is near enough to begin at.

    Args:
        params: parameters, concrete or traced.
        group: their rescaling group.
        one_sided: whether a node all of whose incoming, or all of whose outgoing, weights are zero
            (or absent, where a norm absorbs its scale) is given the scale at which the others have
            the squared norm of `usual_squares`, and likewise a knot of nodes; otherwise it keeps
            its scale, and the knot its common one.
        still: numbers of nodes that keep their scale in any case.
        tolerance: see `balance`.
        max_steps: see `balance`.

    Raises:
        TypeError: if a leaf in the group is not of real floating-point numbers.
        ValueError: if concrete parameters are not finite, or do not fit the group.
    """
    leaves, tables = group_leaves(group, params), leaf_tables(group)
    inside = [i for i in range(len(leaves)) if tables[i]]
    dtype = working_dtype(jnp.asarray(leaves[i]) for i in inside)
    if not inside:
        return np.ones(group.num_nodes, dtype)
    options = (group, one_sided, still, float(tolerance), max_steps)
    if any(isinstance(leaves[i], Tracer) or not _addressable(leaves[i]) for i in inside):
        return _scales([leaves[i].astype(dtype) for i in inside], *options, ON_DEVICE)
    arrays = concrete_leaves(params, group)
    return _scales([arrays[i] for i in inside], *options, ON_HOST).astype(dtype)


def concrete_leaves(params: optax.Params, group: Group) -> list[np.ndarray]:
    """The leaves on the host, those in the group in float64; zeros for PRNG keys, outside it.

    Raises:
        TypeError: if a leaf in the group is not of real floating-point numbers.
        ValueError: if a leaf is traced, or one in the group not finite.
    """
    leaves, tables = group_leaves(group, params), leaf_tables(group)
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        raise ValueError(
            "skeletons and sections are chosen before training, from concrete parameters, got "
            "traced ones; do it outside jit, vmap and grad, and close over what was chosen."
        )
    inside = [i for i in range(len(leaves)) if tables[i]]
    working_dtype(jnp.asarray(leaves[i]) for i in inside)  # or a TypeError
    # Keys have no numbers that NumPy could hold, and nothing is asked of them.
    leaves = [
        np.zeros(leaf.shape)
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else leaf
        for leaf in leaves
    ]
    arrays = [np.asarray(leaf) for leaf in jax.device_get(leaves)]
    for i in inside:
        arrays[i] = arrays[i].astype(np.float64)
        if not np.isfinite(arrays[i]).all():
            raise ValueError(
                f"coordinates and balanced weights are found from finite parameters, but "
                f"{group.names[i]} is not finite; start from weights that are."
            )
    return arrays


def _addressable(leaf: jax.Array | np.ndarray) -> bool:
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable


def _scales(
    weights: Sequence[Any],
    group: Group,
    one_sided: bool,
    still: tuple[int, ...],
    tolerance: float,
    max_steps: int,
    arrays: Arrays,
) -> Any:
    """`balancing_scales` of the leaves in the group, in their dtype."""
    xp, tables = arrays.xp, [parts for parts in leaf_tables(group) if parts]
    arrays = varying_like(weights, arrays)
    roots, extreme = _roots(weights, tables, xp)
    may_move = ~np.isin(np.arange(group.num_nodes), still)
    knots = _knots(group)
    alone = usual_squares(group)
    due = Due(alone, alone if knots is None else usual_squares(group, outside=True))
    least = functools.partial(
        least_squares,
        _incidence(group),
        may_move,
        due if one_sided else None,
        knots=knots,
        tolerance=tolerance,
        max_steps=max_steps,
    )

    def balanced_from(state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        """Log c from the copy that powers of two lead to; and the powers nearest to the first c."""
        turn, powers, _ = state
        padded = xp.append(powers, xp.ones_like(powers[:1]))
        moved = []
        for weight, root, parts in zip(weights, roots, tables, strict=True):
            there = functools.reduce(
                lambda w, table: w * power_part(table, padded, xp), parts, weight
            )
            square = reduced(xp.square(there), parts, xp)
            moved.append(square if root is None else xp.where(turn < 0, root, square))
        logs = least(moved, arrays=arrays)
        # Moved off the middle between two powers, where symmetric networks often lie.
        exponents = xp.where(turn < 0, 4 * logs, logs) / np.asarray(np.log(2), logs.dtype)
        nearest = xp.nan_to_num(xp.round(exponents + 0.1234)).astype(np.int32)
        powers = xp.where(turn < 1, powers * xp.ldexp(xp.ones_like(logs), nearest), powers)
        return turn + 1, powers, logs

    ones = xp.ones(group.num_nodes, weights[0].dtype)
    turns = (xp.where(extreme, -1, 0), ones, xp.zeros_like(ones))
    _, powers, logs = arrays.loop(lambda state: state[0] < 2, balanced_from, turns)
    return xp.exp(logs) * powers


def _roots(weights: Sequence[Any], tables: Sequence[Any], xp: Any) -> tuple[list[Any], Any]:
    """Sums of the roots |w|^(1/2) of every leaf; whether some squares may leave their range.

    None for roots on the host, where none may.
    """
    limits = jnp.finfo(weights[0].dtype)
    low, high = float(limits.tiny) ** 0.4, float(limits.max) ** 0.4
    sizes = [xp.abs(w) for w in weights]
    extreme = functools.reduce(
        xp.logical_or, (xp.any((s > high) | ((s < low) & (s > 0))) for s in sizes)
    )
    if xp is np and not extreme:
        return [None] * len(sizes), extreme
    return [reduced(xp.sqrt(s), p, xp) for s, p in zip(sizes, tables, strict=True)], extreme


@functools.lru_cache(maxsize=64)
def _incidence(group: Group) -> Incidence:
    return Incidence([parts for parts in leaf_tables(group) if parts], group.num_nodes)


@functools.lru_cache(maxsize=64)
def _knots(group: Group) -> np.ndarray | None:
    """See `knots_of`; None where there is none."""
    knots = knots_of(_incidence(group), group.num_nodes)
    return knots if (knots >= 0).any() else None


@functools.lru_cache(maxsize=64)
def usual_squares(group: Group, *, outside: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Sums of squares as initialisers make them, of all that enters and all that leaves each node.

    Balance says nothing about a node with weights on one side alone, such as the residual stream of
    a network with RMS norms, which all layers write to. Kernels have their outputs on the last axis
    (or, of a node that is one input or output of theirs, on the first), and initialisers give the
    weights into each output a sum of squares of about 1. So a node is due the number of outputs
    that it scales, over all leaves. Vectors, such as biases, which usually begin at zero, count
    for nothing where there are others. Much less or more would be passed on to all nodes near by:
    a chain of n balanced layers turns a factor here into its n-th power in its last one.

    Args:
        group: the rescaling group.
        outside: whether of the nodes of a knot only those entries count that come from outside it,
            or lead out of it.

    Returns:
        Of what enters, and of what leaves: float64 [num_nodes] each, at least 1, or the node's
        share of 1 for its knot.
    """
    knots = _knots(group) if outside else None
    shapes = [s for s, parts in zip(group.shapes, leaf_tables(group), strict=True) if parts]
    incidence, due = _incidence(group), np.zeros((2, group.num_nodes + 1))
    for leaf, shape in zip(incidence.leaves, shapes, strict=True):
        if sum(n > 1 for n in shape) < 2:
            continue
        for own, places in zip(leaf.shapes, leaf.places, strict=True):
            powers = incidence.powers[places]
            for side, sign in enumerate((1, -1)):
                there = powers * sign > 0
                if knots is not None:
                    there &= ~_inside(incidence, leaf, places, -sign, knots)
                first, last = (
                    _extents(incidence.nodes[places], there, own, axis, group.num_nodes)
                    * (1 if own[axis] == shape[axis] else shape[axis])
                    for axis in (0, -1)
                )
                due[side] += np.where((first == 1) | (last == 1), 1, last)
    least = np.ones(group.num_nodes)
    if knots is not None:
        least[knots >= 0] /= np.bincount(knots[knots >= 0])[knots[knots >= 0]]
    entering, leaving = np.maximum(due[:, :-1], least)
    return entering, leaving


def _inside(
    incidence: Incidence, leaf: Any, places: slice, sign: int, knots: np.ndarray
) -> np.ndarray:
    """Which nodes of a part are of the one knot that all entries end in, on a side of the leaf."""
    padded = np.append(knots, -1)
    opposite = [incidence.nodes[p][incidence.powers[p] * sign > 0] for p in leaf.places]
    met = np.unique(padded[np.concatenate(opposite)])
    own = padded[incidence.nodes[places]]
    return (own == met[0]) & (own >= 0) if len(met) == 1 else np.zeros(own.shape, bool)


def _extents(
    nodes: np.ndarray, there: np.ndarray, shape: Sequence[int], axis: int, count: int
) -> np.ndarray:
    """At how many indices along an axis of a part each node occurs, [count + 1]."""
    indices = np.indices(tuple(shape))[axis].reshape(-1, 1)
    pairs = np.unique((nodes.astype(np.int64) * shape[axis] + indices)[there])
    return np.bincount(pairs // shape[axis], minlength=count + 1)

"""Balancing (equi-normalisation): of all rescaled copies, the one of least squared norm."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from gsgd_jax._factors import (
    Group,
    Table,
    factor_parts,
    group_leaves,
    leaf_tables,
    log_parts,
    power_part,
)
from gsgd_jax._precision import cast_like, working_dtype


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
    Concrete parameters are balanced in float64; traced ones in float32 or wider.

    In a group that is no graph, entry e moves by Π_h c_h^k_eh, and the condition becomes
    Σ_e k_eh w_e² = 0. A node that normalisation absorbs has no outgoing weights, and keeps its
    scale.

    Args:
        params: parameters, concrete or traced.
        gauge: their rescaling group.
        tolerance: stop when no node's two squared norms differ by more than this, relatively;
            never less than 64 units in the last place.
        max_steps: stop after so many Newton steps in any case; about ten are usual.

    Returns:
        Balanced weights of the same function, dtypes kept. A node whose incoming or outgoing
        weights are all zero has no balance and keeps its scale, so that copies of a pruned network
        may differ there.

    Raises:
        TypeError: if a leaf in the group is not of real floating-point numbers.
        ValueError: if concrete parameters are not finite, or do not fit the gauge.

    Example:
        >>> import jax.numpy as jnp
        >>> from gsgd_jax import mlp_gauge
        >>> params = [jnp.array([[4.0]]), jnp.array([[1.0]])]
        >>> balance(params, mlp_gauge(params))
        [Array([[2.]], dtype=float32), Array([[2.]], dtype=float32)]

    References:
        Stock et al., *Equi-normalization of neural networks*, ICLR 2019, who visit one node after
        another. Sun and Tran-Dinh, *Generalized self-concordant functions: a recipe for Newton-type
        methods*, Mathematical Programming, 2019, for the damping.
    """
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
    become the same numbers, and once from there, where all that is computed is the same.

    Args:
        params: parameters, concrete or traced.
        group: their rescaling group.
        one_sided: whether a node all of whose incoming, or all of whose outgoing, weights are zero
            (or absent, where a norm absorbs its scale) is given the scale at which the others have
            norm 1; otherwise it keeps its scale.
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
    """The leaves on the host, those in the group in float64.

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


class _Arrays(NamedTuple):
    """Arithmetic on the host, which compiles nothing, or under a trace."""

    xp: Any  # numpy or jax.numpy
    add_at: Callable[[np.ndarray, Any, int], Any]  # ids, values, length: sums of the values by id
    loop: Callable[[Callable[[Any], Any], Callable[[Any], Any], Any], Any]  # while_loop


def _host_loop(condition: Callable[[Any], Any], body: Callable[[Any], Any], state: Any) -> Any:
    while condition(state):
        state = body(state)
    return state


ON_HOST = _Arrays(
    np, lambda ids, values, length: np.bincount(ids.ravel(), values.ravel(), length), _host_loop
)
ON_DEVICE = _Arrays(
    jnp,
    lambda ids, values, length: jnp.zeros(length, values.dtype).at[ids].add(values),
    jax.lax.while_loop,
)


def _scales(
    weights: Sequence[Any],
    group: Group,
    one_sided: bool,
    still: tuple[int, ...],
    tolerance: float,
    max_steps: int,
    arrays: _Arrays,
) -> Any:
    """`balancing_scales` of the leaves in the group, in their dtype."""
    xp, tables = arrays.xp, [parts for parts in leaf_tables(group) if parts]
    squares = [_reduced(xp.square(w), parts, xp) for w, parts in zip(weights, tables, strict=True)]
    may_move = ~np.isin(np.arange(group.num_nodes), still)
    least = functools.partial(
        _least_squares, tables, may_move, one_sided, tolerance=tolerance, max_steps=max_steps
    )

    def balanced_from(state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        """Log c from the copy that powers of two lead to; and the powers nearest to the first c."""
        turn, powers, _ = state
        padded = xp.append(powers, xp.ones_like(powers[:1]))
        moved = list(squares)
        for i, parts in enumerate(tables):
            for table in parts:
                moved[i] = moved[i] * xp.square(power_part(table, padded, xp))
        logs = least(moved, arrays=arrays)
        # Moved off the middle between two powers, where symmetric networks often lie.
        nearest = xp.round(logs / np.asarray(np.log(2), logs.dtype) + 0.1234).astype(np.int32)
        powers = xp.where(turn == 0, xp.ldexp(xp.ones_like(logs), nearest), powers)
        return turn + 1, powers, logs

    ones = xp.ones(group.num_nodes, weights[0].dtype)
    turns = (0, ones, xp.zeros_like(ones))
    _, powers, logs = arrays.loop(lambda state: state[0] < 2, balanced_from, turns)
    return xp.exp(logs) * powers


def _reduced(array: Any, tables: Sequence[Table], xp: Any) -> Any:
    """Summed over the axes along which no factor varies, such as a convolution's taps."""
    varying = np.broadcast_shapes(*(table.nodes.shape[:-1] for table in tables))
    axes = tuple(a for a, n in enumerate(varying) if n == 1 and array.shape[a] > 1)
    return xp.sum(array, axis=axes, keepdims=True)


def _least_squares(
    tables: Sequence[tuple[Table, ...]],
    may_move: np.ndarray,
    one_sided: bool,
    squares: Sequence[Any],
    *,
    arrays: _Arrays,
    tolerance: float,
    max_steps: int,
) -> Any:
    r"""The x that minimises F(x) = ½ Σ_e w_e² exp(2 Σ_h k_eh x_h) - Σ_h p_h x_h, [num_nodes].

    p_h is 0 for a node with weights on both sides, 1 for one with incoming weights alone and -1
    for one with outgoing ones alone, which gives these a sum of squares of 1. Newton's method:

        ∂F/∂x_h = Σ_e k_eh size_e - p_h,    ∂²F/∂x_h∂x_g = 2 Σ_e k_eh k_eg size_e,

    size_e being w_e² of the copy at x. The damping needs no line search (Sun and Tran-Dinh).
    """
    xp, sums = arrays.xp, functools.partial(_node_sums, tables, arrays, len(may_move))
    dtype = squares[0].dtype
    present = [(square > 0).astype(dtype) for square in squares]
    entered, left = sums(present, lambda k: k > 0) > 0, sums(present, lambda k: k < 0) > 0
    pull = xp.where(entered & ~left, 1.0, xp.where(left & ~entered, -1.0, 0.0))
    moves = (entered | left if one_sided else entered & left) & may_move
    pull = xp.where(moves, pull, 0.0).astype(dtype)

    def logs_of(vector: Any) -> list[Any]:
        """Σ_h k_eh x_h of every entry."""
        padded = xp.append(vector, xp.zeros_like(vector[:1]))
        return [functools.reduce(xp.add, log_parts(parts, padded, xp)) for parts in tables]

    def step(state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        """From (x, steps, _) to the next x, but from the last one to itself, and its error."""
        logs, steps, _ = state
        sizes = [s * xp.exp(2 * k) for s, k in zip(squares, logs_of(logs), strict=True)]
        slope = xp.where(moves, sums(sizes, lambda k: k) - pull, 0)
        both_sides = xp.where(moves, sums(sizes, np.abs) + xp.abs(pull), 1)
        error = xp.max(xp.abs(slope) / both_sides, initial=0)
        diagonal = xp.where(moves, 2 * sums(sizes, np.square), 1)

        def hessian(direction: Any) -> Any:
            along = [2 * s * k for s, k in zip(sizes, logs_of(direction), strict=True)]
            return xp.where(moves, sums(along, lambda k: k), direction)

        slope = xp.where((error > enough) & (steps < max_steps), slope, 0)
        direction = _conjugate_gradients(hessian, -slope, diagonal, arrays)
        along = xp.stack([xp.max(xp.abs(change), initial=0) for change in logs_of(direction)])
        longest = 2 * xp.max(along) + jnp.finfo(dtype).tiny
        return logs + direction * xp.log1p(longest) / longest, steps + 1, error

    # Relative differences of a node's two sums of squares.
    enough = np.asarray(max(tolerance / 2, 64 * float(jnp.finfo(dtype).eps)), dtype)
    start = (xp.zeros(len(may_move), dtype), 0, xp.full([], np.inf, dtype))
    return arrays.loop(lambda state: (state[2] > enough) & (state[1] <= max_steps), step, start)[0]


def _node_sums(
    tables: Sequence[tuple[Table, ...]],
    arrays: _Arrays,
    count: int,
    values: Sequence[Any],
    weigh: Callable[[np.ndarray], np.ndarray],
) -> Any:
    """Σ_e weigh(k_eh) value_e of every node h."""
    total = arrays.xp.zeros(count + 1, values[0].dtype)
    for value, parts in zip(values, tables, strict=True):
        for table in parts:
            shape = table.nodes.shape[:-1]
            axes = tuple(a for a, n in enumerate(shape) if n == 1 and value.shape[a] > 1)
            own = arrays.xp.sum(value, axis=axes, keepdims=True)
            own = arrays.xp.broadcast_to(own, shape)[..., None]
            weighed = own * weigh(table.powers).astype(value.dtype)
            total = total + arrays.add_at(table.nodes, weighed, count + 1)
    return total[:-1]


def _conjugate_gradients(
    matrix: Callable[[Any], Any], target: Any, diagonal: Any, arrays: _Arrays
) -> Any:
    """Solves a positive definite system, to four digits: Newton's method corrects the rest.

    Of libraries, scipy's is no dependency and jax's would have the host compile a program first.
    """
    zero, first = arrays.xp.zeros_like(target), target / diagonal
    size = target @ first
    tiny = jnp.finfo(target.dtype).tiny

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        solution, residual, search, size, count = state
        image = matrix(search)
        length = size / (search @ image + tiny)
        solution, residual = solution + length * search, residual - length * image
        scaled = residual / diagonal
        new_size = residual @ scaled
        return solution, residual, scaled + new_size / (size + tiny) * search, new_size, count + 1

    return arrays.loop(
        lambda state: (state[3] > 1e-8 * size) & (state[4] < 200),
        step,
        (zero, target, first, size, 0),
    )[0]

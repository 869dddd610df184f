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
    reduced,
    varying_like,
)
from gsgd_jax.solver.least_squares import least_squares
from gsgd_jax.solver.small_layers import small_leaves
from gsgd_jax.solver.usual_squares import due_in, incidence_of, knots_in


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
    small_as_zero: bool = False,
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
        small_as_zero: whether layers of `small_leaves` are left out, as if they were zero: they get
            the scale that those before them leave to them, where balance would share their
            smallness with all. Which they are is told from a balanced copy, so that it is the same
            for all that the group connects; those that are small only without the ones left out
            follow, until there is none. Not where scales would leave the range of the weights.
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
    # Exponents of scales, and of their quotients, stay in the range of the weights' dtype.
    furthest = float(np.log(float(jnp.finfo(dtype).max))) / 2
    options = (
        group, one_sided, furthest if small_as_zero else None, still, float(tolerance), max_steps,
    )  # fmt: skip
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
    furthest: float | None,
    still: tuple[int, ...],
    tolerance: float,
    max_steps: int,
    arrays: Arrays,
) -> Any:
    """`balancing_scales` of the leaves in the group, in their dtype.

    Small layers count as zero where that moves no logarithm of c by more than `furthest`; nowhere
    if that is None.
    """
    xp, tables = arrays.xp, [parts for parts in leaf_tables(group) if parts]
    arrays = varying_like(weights, arrays)
    roots, extreme = _roots(weights, tables, xp)
    may_move = ~np.isin(np.arange(group.num_nodes), still)
    least = functools.partial(
        least_squares,
        incidence_of(group),
        may_move,
        due_in(group) if one_sided else None,
        knots=knots_in(group),
        tolerance=tolerance,
        max_steps=max_steps,
    )

    def balanced_from(state: tuple[Any, ...]) -> tuple[Any, ...]:
        """Log c from the copy that powers of two lead to; and the powers nearest to the first c."""
        turn, powers, plain, _, counted = state
        padded = xp.append(powers, xp.ones_like(powers[:1]))
        moved = []
        for i, (weight, root, parts) in enumerate(zip(weights, roots, tables, strict=True)):
            there = functools.reduce(
                lambda w, table: w * power_part(table, padded, xp), parts, weight
            )
            # Multiplied here it is part of one kernel; behind, compiling takes half as long again.
            square = counted[i] * reduced(xp.square(there), parts, xp)
            moved.append(square if root is None else xp.where(turn < 0, root, square))
        logs, totals = least(moved, arrays=arrays)
        # Moved off the middle between two powers, where symmetric networks often lie.
        exponents = xp.where(turn < 0, 4 * logs, logs) / np.asarray(np.log(2), logs.dtype)
        nearest = xp.nan_to_num(xp.round(exponents + 0.1234)).astype(np.int32)
        powers = xp.where(turn < 1, powers * xp.ldexp(xp.ones_like(logs), nearest), powers)
        if furthest is None:
            return turn + 1, powers, logs, logs, counted
        small = small_leaves(group, totals, arrays) & (turn > 0)
        fewer = xp.where(small, 0, counted)
        again = xp.any(fewer != counted)  # at most once for every leaf
        plain = xp.where(xp.all(counted > 0), logs, plain)
        return xp.where(again, turn, turn + 1), powers, plain, logs, fewer

    ones = xp.ones(group.num_nodes, weights[0].dtype)
    all_leaves = xp.ones(len(weights), weights[0].dtype)
    turns = (xp.where(extreme, -1, 0), ones, xp.zeros_like(ones), xp.zeros_like(ones), all_leaves)
    _, powers, plain, logs, _ = arrays.loop(lambda state: state[0] < 2, balanced_from, turns)
    if furthest is not None:
        near = xp.max(xp.abs(logs - plain), initial=0) < furthest
        logs = xp.where(near, logs, plain)  # NaN is in both
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

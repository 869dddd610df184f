"""PathCond: of all rescaled copies, the one whose path kernel is best conditioned."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax._factors import Group, Table, group_leaves, leaf_tables
from gsgd_jax._precision import check_count, check_number, working_dtype
from gsgd_jax.balance import concrete_leaves
from gsgd_jax.family.path_norm import path_sum
from gsgd_jax.gauge import GROUND, Gauge
from gsgd_jax.solver.incidence import ON_HOST, Incidence, reduced
from gsgd_jax.solver.least_squares import least_squares


def condition(
    params: optax.Params,
    gauge: Group,
    kernel: optax.Params | None = None,
    *,
    tolerance: float = 1e-13,
    max_steps: int = 100,
) -> optax.Params:
    r"""Rescales a network so that the diagonal of its path kernel is as even as can be.

    The path kernel is G = ∂Φᵀ ∂Φ, where Φ holds the products of weights along all paths, which is
    what rescaling cannot change. Its diagonal says how much each weight moves them:

        G_ee = Σ_{p ∋ e} Π_{e' ∈ p, e' ≠ e} w_{e'}².

    Under a group element c it becomes G_ee Π_h c_h^(-2 k_eh). Chosen is the c at which diag(G) is
    nearest to a multiple of the identity in the log-det divergence, the minimum of

        n log Σ_e G_ee Π_h c_h^(-2 k_eh) + 2 Σ_e Σ_h k_eh log c_h,

    over the n entries with G_ee > 0: a convex problem in log c, with one solution. It is solved by
    Newton's method in float64 on the host. Call it once, before training.

    Without a kernel, paths are those of the gauge's graph: from ground, where inputs and biases
    enter, to ground. That is the whole kernel of a perceptron; taps of a convolution count as
    parallel edges, and a scale that is pinned inside cuts the path. Where the graph has cycles, as
    with residual streams, or the group is no graph, give `kernel=path_kernel(apply_fn, params, x)`.

    Args:
        params: concrete parameters.
        gauge: their rescaling group.
        kernel: diag(G), a tree like `params`, not negative; None for that of the gauge's graph.
        tolerance: stop when no node's condition is missed by more than this, relatively.
        max_steps: stop after so many steps in any case.

    Returns:
        Weights of the same function, dtypes kept. Equal for all rescaled copies, to rounding.

    Raises:
        TypeError: if a leaf in the group is not of real floating-point numbers.
        ValueError: if parameters are traced, not finite or not the gauge's, if the kernel is
            negative, not finite or zero throughout, or if it is None and the group is no graph, or
            one with cycles; or if a number is out of its range.

    Example:
        >>> from gsgd_jax import mlp_gauge
        >>> params = [jnp.array([[4.0, 4.0]]), jnp.array([[1.0], [1.0]])]
        >>> condition(params, mlp_gauge(params))
        [Array([[2., 2.]], dtype=float32), Array([[2.],
               [2.]], dtype=float32)]

    References:
        Lebeurrier, Vayer and Gribonval, *Path-conditioned training: a principled way to rescale
        ReLU neural networks*, ICML 2026, arXiv 2602.19799; there one node after another.
    """
    check_number("tolerance", tolerance)
    check_count("max_steps", max_steps)
    weights = concrete_leaves(params, gauge)
    diagonal = _graph_kernel(weights, gauge) if kernel is None else _checked(kernel, gauge)
    incidence, tables = _with_overall_scale(gauge)
    # Factors that no entry of a leaf tells apart are summed over: a convolution's taps are one.
    sizes = [reduced(leaf, parts, np) for leaf, parts in zip(diagonal, tables, strict=True)]
    live = [
        reduced((leaf > 0).astype(np.float64), p, np)
        for leaf, p in zip(diagonal, tables, strict=True)
    ]
    total, count = sum(g.sum() for g in sizes), sum(n.sum() for n in live)
    if not total > 0:
        raise ValueError(
            "a path kernel needs an entry above 0, but no path of weights that are not zero leads "
            "from inputs to outputs; condition a network that is not dead."
        )
    # With t = log(n / Σ_e G_ee ...) the logarithm goes: n log S = min_t (n e^-t S + n t) - n. So
    # the overall scale is one more node, all entries move with it, and together they must be n.
    scaled = [g * (count / total) for g in sizes]
    zero = incidence.logs(np.zeros(gauge.num_nodes + 1), np)
    counted = incidence.totals(live, zero, ON_HOST)
    entering, leaving = incidence.sums(
        counted, (lambda k: np.maximum(k, 0), lambda k: np.maximum(-k, 0)), ON_HOST
    )
    entering[-1], leaving[-1] = count, 0
    logs = least_squares(
        incidence,
        np.ones(gauge.num_nodes + 1, bool),
        None,
        scaled,
        pulls=(leaving, entering),
        arrays=ON_HOST,
        tolerance=tolerance,
        max_steps=max_steps,
    ).logs
    touched = zip(group_leaves(gauge, params), leaf_tables(gauge), strict=True)
    dtype = working_dtype(jnp.asarray(leaf) for leaf, own in touched if own)
    return gauge.act(params, np.exp(-logs[:-1]).astype(dtype))


def path_kernel(
    apply_fn: Callable[..., Any], params: optax.Params, *example_inputs: Any
) -> optax.Params:
    r"""The diagonal of a network's path kernel, by one forward and one backward pass.

        G_ee = ∂/∂(w_e²) Σ_p v_p²,

    the sum over all paths that `path_norm` describes, with the same limits. The batch axis and
    positions of an image are summed over.

    Args:
        apply_fn: the network, a function of parameters and inputs.
        params: its parameters.
        *example_inputs: one example; only shapes and dtypes are used.

    Returns:
        A tree like `params`, float32 or wider; zero for leaves of other numbers.

    Raises:
        ValueError: if an input is of integers.

    Example:
        >>> params = [jnp.array([[2.0]]), jnp.array([[5.0]])]
        >>> def network(params, x):
        ...     return jax.nn.relu(x @ params[0]) @ params[1]
        >>> path_kernel(network, params, jnp.ones((1, 1)))  # 5² and 2²
        [Array([[25.]], dtype=float32), Array([[4.]], dtype=float32)]

    References:
        Lebeurrier, Vayer and Gribonval, *Path-conditioned training: a principled way to rescale
        ReLU neural networks*, ICML 2026, arXiv 2602.19799, section 3.
    """
    leaves, structure = jax.tree.flatten(params)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    real = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]
    floats = [w for w, is_ in zip(leaves, real, strict=True) if is_]
    squares = [jnp.square(w.astype(working_dtype([w]))) for w in floats]

    def total(squares: list[jax.Array]) -> jax.Array:
        rest = iter(squares)
        whole = [next(rest) if is_ else w for w, is_ in zip(leaves, real, strict=True)]
        return path_sum(apply_fn, jax.tree.unflatten(structure, whole), *example_inputs)

    slopes = iter(jax.grad(total)(squares))
    dtype = squares[0].dtype if squares else jnp.float32
    found = [
        next(slopes) if is_ else jnp.zeros(w.shape, dtype)
        for w, is_ in zip(leaves, real, strict=True)
    ]
    return jax.tree.unflatten(structure, found)


def _checked(kernel: optax.Params, gauge: Group) -> list[np.ndarray]:
    """The leaves of a kernel that is given, in float64."""
    leaves = [np.asarray(leaf, np.float64) for leaf in group_leaves(gauge, kernel)]
    for name, leaf in zip(gauge.names, leaves, strict=True):
        if not (np.isfinite(leaf) & (leaf >= 0)).all():
            raise ValueError(
                "the diagonal of a path kernel is finite and not negative, but at "
                f"{name} it reaches {leaf.min():.3g} ... {leaf.max():.3g}; take "
                "path_kernel(apply_fn, params, x) of the network without its softmax or norms."
            )
    return leaves


def _graph_kernel(weights: list[np.ndarray], gauge: Group) -> list[np.ndarray]:
    """Of every entry α_tail β_head: the squared paths from ground to it, and from it to ground."""
    if not isinstance(gauge, Gauge):
        raise ValueError(
            "this rescaling group is no graph, so it has no paths of its own; give "
            "kernel=path_kernel(apply_fn, params, x)."
        )
    squares = [np.asarray(np.square(np.asarray(w, np.float64))) for w in weights]
    before = _sums_along(squares, gauge.tails, gauge.heads, gauge.num_nodes)
    behind = _sums_along(squares, gauge.heads, gauge.tails, gauge.num_nodes)
    return [
        # Counters and keys are no weights, and on no path.
        np.broadcast_to(before[tails] * behind[heads] if _is_real(w) else 0.0, shape)
        for w, tails, heads, shape in zip(
            weights, gauge.tails, gauge.heads, gauge.shapes, strict=True
        )
    ]


def _is_real(weight: np.ndarray) -> bool:
    return jnp.issubdtype(weight.dtype, jnp.floating)


def _sums_along(
    squares: list[np.ndarray], near: tuple[np.ndarray, ...], far: tuple[np.ndarray, ...], count: int
) -> np.ndarray:
    """Of every node the sum over all ways to it from ground of products of squares.

    Args:
        squares: of the weights.
        near: of every leaf the ends at which ways arrive.
        far: the ends to which they go on.
        count: of nodes.

    Returns:
        [count + 1]; 1 for ground, the last.
    """
    sums, done = np.append(np.zeros(count), 1.0), np.append(np.zeros(count, bool), True)
    while not done.all():
        # A node is done when everything that leads to it is.
        open_ends, arrived = np.zeros((2, count + 1))
        for square, tails, heads in zip(squares, near, far, strict=True):
            if not done[heads].all():
                _add_at(open_ends, heads, np.ones_like(square), ~done[tails])
                _add_at(arrived, heads, square, sums[tails])
        new = ~done & (open_ends == 0)
        if not new.any():
            raise ValueError(
                "the nodes of this gauge feed themselves, as in residual streams and recurrent "
                "layers, so paths of its graph never end; give kernel=path_kernel(apply_fn, "
                "params, x)."
            )
        sums[new], done[new] = arrived[new], True
    return sums


def _add_at(sums: np.ndarray, ids: np.ndarray, values: np.ndarray, factor: np.ndarray) -> None:
    """Adds values times a factor that broadcasts to them to the sums of their ids."""
    over = tuple(a for a, n in enumerate(ids.shape) if n == 1)
    axes, broadcast = list(range(values.ndim)), [a for a, n in enumerate(factor.shape) if n > 1]
    kept = [a for a in axes if a not in over]
    factor = factor.reshape([factor.shape[a] for a in broadcast]).astype(np.float64)
    totals = np.einsum(values, axes, factor, broadcast, kept, optimize=True)
    sums += np.bincount(
        np.where(ids == GROUND, len(sums) - 1, ids).ravel(), totals.ravel(), len(sums)
    )


@functools.lru_cache(maxsize=64)
def _with_overall_scale(gauge: Group) -> tuple[Incidence, list[tuple[Table, ...]]]:
    """The incidence of the nodes and one more, with which all entries of all leaves move."""
    nodes = gauge.num_nodes
    tables = []
    for parts, shape in zip(leaf_tables(gauge), gauge.shapes, strict=True):
        own = [Table(np.where(t.nodes == nodes, nodes + 1, t.nodes), t.powers) for t in parts]
        ones = (1,) * (len(shape) + 1)
        overall = Table(np.full(ones, nodes, np.int32), np.ones(ones))
        tables.append((*own, overall))
    return Incidence(tables, nodes + 1), tables

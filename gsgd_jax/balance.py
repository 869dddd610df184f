"""Balancing (equi-normalisation): of all rescaled copies, the one of least squared norm."""

from collections.abc import Callable

import jax
import numpy as np
import optax
from jax.core import Tracer

from gsgd_jax.gauge import GROUND, Gauge
from gsgd_jax.precision import working_dtype


def balance(
    params: optax.Params, gauge: Gauge, *, tolerance: float = 1e-13, max_steps: int = 100
) -> optax.Params:
    r"""Rescales a network so that every node's incoming and outgoing weights have equal norms.

    Of all weights w_e c_head / c_tail of the same function, these have the least sum of squares; at
    that minimum, and nowhere else,

        Σ_{head(e) = h} w_e² = Σ_{tail(e) = h} w_e²      for every node h.

    In x = log c² the sum is convex, strictly so where every node hangs together with ground, so the
    result is the same for all weights that the group connects, up to rounding: a canonical
    representative. It is found by Newton's method, damped so that it converges from anywhere, in
    float64 on the host: this is meant for before training, not for inside a step.

    Args:
        params: concrete parameters, not traced ones.
        gauge: their rescaling group.
        tolerance: stop when no node's two squared norms differ by more than this, relatively.
        max_steps: stop after so many Newton steps in any case; about ten are usual.

    Returns:
        Balanced weights of the same function, dtypes kept. A node whose incoming or outgoing
        weights are all zero has no balance and keeps its scale.

    Raises:
        ValueError: if the parameters are traced, not finite, or do not fit the gauge.

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
    arrays = concrete_leaves(params, gauge)
    scales = balancing_scales(arrays, gauge, tolerance=tolerance, max_steps=max_steps)
    return gauge.act(params, scales)


def balancing_scales(
    arrays: list[np.ndarray], gauge: Gauge, *, tolerance: float = 1e-13, max_steps: int = 100
) -> np.ndarray:
    """The group element c that balances, float64 [num_nodes]; see `balance`.

    Args:
        arrays: the leaves, as `concrete_leaves` gives them.
        gauge: their rescaling group.
        tolerance: see `balance`.
        max_steps: see `balance`.
    """
    inside = [i for i in range(len(arrays)) if gauge.touches(i)]
    squares = {i: np.square(arrays[i]) for i in inside}
    x = np.zeros(gauge.num_nodes + 1)  # log c², of ground too: it stays 0
    alive = np.ones(gauge.num_nodes, bool)
    for step in range(max_steps + 1):
        moved = {
            i: square * np.exp(x[gauge.heads[i]]) * np.exp(-x[gauge.tails[i]])
            for i, square in squares.items()
        }
        coming, going = np.zeros((2, gauge.num_nodes + 1))
        for i, square in moved.items():
            _collect(square, gauge.heads[i], coming)
            _collect(square, gauge.tails[i], going)
        coming, going = coming[:-1], going[:-1]
        if step == 0:
            alive = (coming > 0) & (going > 0)
        slope, diagonal = np.where(alive, coming - going, 0), np.where(alive, coming + going, 1)
        if step == max_steps or np.abs(slope / diagonal).max(initial=0) <= tolerance / 2:
            break

        direction = _conjugate_gradients(
            _curvature(moved, gauge, alive, diagonal), -slope, diagonal
        )
        longest = 2 * np.abs(direction).max() + np.finfo(np.float64).tiny  # of any x_head - x_tail
        x[:-1] += direction * np.log1p(longest) / longest
    return np.exp(x[:-1] / 2)


def concrete_leaves(params: optax.Params, gauge: Gauge) -> list[np.ndarray]:
    """The leaves on the host, those in the group in float64.

    Raises:
        TypeError: if a leaf in the group is not of real floating-point numbers.
        ValueError: if a leaf is traced, or one in the group not finite.
    """
    leaves = gauge.leaves(params)
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        raise ValueError(
            "skeletons and balanced weights are found before training, from concrete parameters, "
            "got traced ones; do it outside jit, vmap and grad, and close over the skeleton."
        )
    working_dtype(leaf for i, leaf in enumerate(leaves) if gauge.touches(i))  # or a TypeError
    arrays = [np.asarray(leaf) for leaf in jax.device_get(leaves)]
    for i, array in enumerate(arrays):
        if gauge.touches(i):
            arrays[i] = array.astype(np.float64)
            if not np.isfinite(arrays[i]).all():
                raise ValueError(
                    f"skeletons and balanced weights are found from finite parameters, but "
                    f"{gauge.names[i]} is not finite; start from weights that are."
                )
    return arrays


def _curvature(
    moved: dict[int, np.ndarray], gauge: Gauge, alive: np.ndarray, diagonal: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """The Hessian in x times a direction: the Laplacian of the graph, weighted by w², grounded."""

    def product(direction: np.ndarray) -> np.ndarray:
        padded, sums = np.append(direction, 0.0), np.zeros(gauge.num_nodes + 1)
        for i, square in moved.items():
            _collect(square * padded[gauge.tails[i]], gauge.heads[i], sums)
            _collect(square * padded[gauge.heads[i]], gauge.tails[i], sums)
        return np.where(alive, diagonal * direction - sums[:-1], direction)

    return product


def _collect(entries: np.ndarray, ids: np.ndarray, sums: np.ndarray) -> None:
    """Adds the entries of a leaf to the sums of their nodes; [num_nodes + 1], ground last."""
    if (ids == GROUND).all():
        return
    axes = tuple(i for i in range(entries.ndim) if entries.shape[i] != ids.shape[i])
    np.add.at(sums, ids.ravel(), entries.sum(axes).ravel())


def _conjugate_gradients(
    matrix: Callable[[np.ndarray], np.ndarray], target: np.ndarray, diagonal: np.ndarray
) -> np.ndarray:
    """Solves a positive definite system, to four digits: Newton's method corrects the rest."""
    solution, residual = np.zeros_like(target), target
    scaled = residual / diagonal
    search, size = scaled, residual @ scaled
    enough = 1e-8 * size
    for _ in range(200):
        if size <= enough:
            break
        image = matrix(search)
        step = size / (search @ image)
        solution, residual = solution + step * search, residual - step * image
        scaled = residual / diagonal
        size, previous = residual @ scaled, size
        search = scaled + size / previous * search
    return solution

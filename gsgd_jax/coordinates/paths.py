"""Path values, weight allocation, and the inverse chain rule, as pure functions on the tree."""

import chex
import optax

from gsgd_jax._factors import Group
from gsgd_jax.coordinates.balanced import Balanced
from gsgd_jax.coordinates.protocol import Coordinates, StepInfo
from gsgd_jax.gauge import Gauge
from gsgd_jax.tracing.result import RescalingGroup


def coordinates_of(coordinates: Coordinates | Group) -> Coordinates:
    """The coordinates themselves, or the balanced ones of a group.

    Raises:
        TypeError: naming what came, if it is neither.
    """
    if isinstance(coordinates, Gauge | RescalingGroup):
        return Balanced(coordinates)
    if isinstance(coordinates, type) or not isinstance(coordinates, Coordinates):
        name = "the class " + coordinates.__name__ if isinstance(coordinates, type) else None
        raise TypeError(
            "coordinates must be a rescaling group (`find_gauge`, `mlp_gauge`) or be chosen for "
            "one (`choose_skeleton`, `choose_section`), got "
            f"{name or type(coordinates).__name__}; the inner transformation comes before them."
        )
    return coordinates


def path_values(params: optax.Params, coordinates: Coordinates | Group) -> optax.Params:
    r"""The coordinates of a network on path space: v_e = α_tail(e) w_e β_head(e).

    Rescaling the network does not change them, and `allocate` inverts them. They come on the
    parameters' own tree. For a group, they are the weights of its balanced copy (see `Balanced`).
    For a skeleton of the basis "paths" they have the form above: at an entry of the tree T, which
    has no path of its own, stands its weight (a coordinate along the group, not of the function).
    Entries outside the group stand for themselves. See `Skeleton` for the basis "cycles", and
    `Section` for pivots in any group.

    Args:
        params: a parameter tree.
        coordinates: a rescaling group, or what was chosen for it: a skeleton, a section.

    Returns:
        A tree like `params`, dtypes kept.

    Raises:
        ValueError: if the tree is not the gauge's.

    Example:
        >>> import jax.numpy as jnp
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [jnp.array([[2.0, 3.0]]), jnp.array([[5.0], [7.0]])]
        >>> skeleton = choose_skeleton(mlp_gauge(params), params, basis="paths")
        >>> path_values(params, skeleton)[1].ravel()  # 2 * 5 and 3 * 7
        Array([10., 21.], dtype=float32)

    References:
        Meng et al., *G-SGD*, ICLR 2019, for basis paths.
    """
    return coordinates_of(coordinates).at(params).values()


def allocate(
    values: optax.Params, params: optax.Params, coordinates: Coordinates | Group
) -> optax.Params:
    r"""Weight allocation: the weights with given path values, in the copy that `params` is in.

    In balanced coordinates w'_e = v'_e / f_e, with the factors f of `params`. With a skeleton the
    tree entries of `params` stay, which gives α, and from the output to the input,

        w'_e = v'_e / (α_tail(e) β'_head(e)),       β'_h = w'_out(h) β'_head(out(h)).

    The recursion has a closed solution: the way out from h follows the tree up to its first free
    edge s, and β'_h = v'_s / α_h.

    Args:
        values: path values; what stands at entries of the tree is not looked at, so the gradient
            with respect to it is zero.
        params: a parameter tree; with a skeleton only its tree entries are used.
        coordinates: as in `path_values`.

    Returns:
        A tree like `values`, dtypes kept; and `allocate(path_values(params, s), params, s)` is
        `params`.

    Raises:
        ValueError: if a tree is not the gauge's.

    Example:
        >>> import jax.numpy as jnp
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [jnp.array([[2.0, 3.0]]), jnp.array([[5.0], [7.0]])]
        >>> skeleton = choose_skeleton(mlp_gauge(params), params, basis="paths")
        >>> values = [jnp.zeros((1, 2)), jnp.array([[8.0], [27.0]])]  # zeros: not looked at
        >>> kernels = allocate(values, params, skeleton)
        >>> kernels[0], kernels[1].ravel()
        (Array([[2., 3.]], dtype=float32), Array([4., 9.], dtype=float32))

    References:
        Meng et al., *G-SGD*, ICLR 2019, for layers of equal width.
    """
    return coordinates_of(coordinates).at(params).weights(values)


def inverse_chain_rule(
    grads: optax.Updates, params: optax.Params, coordinates: Coordinates | Group
) -> optax.Updates:
    r"""The gradient with respect to path values, from that with respect to weights.

    It is the vector-Jacobian product of `allocate` at the path values of `params`, for any g,
    whether or not a loss has it as its gradient; here in closed form, with one pass over weights
    and gradients. With f_e = w_e g_e, and for every node D_h the sum of f over its incoming entries
    off the tree,

        dL/dv_e = g_e / (α_tail(e) β_head(e))                    for e in N,
        dL/dv_s = g_s / (α_tail(s) β_head(s)) - C_s / v_s        for s in S,

    where C_s sums D_h over the nodes h whose way out leaves the tree by s: as v_s grows, so does
    β_h, and the weights coming into h shrink. Entries of the tree get zero. With the basis
    "cycles", where nothing depends on S, every entry off the tree has the first form. In balanced
    coordinates, which freeze no entry, it is g_e / f_e.

    Args:
        grads: gradients with respect to the weights.
        params: a parameter tree.
        coordinates: as in `path_values`.

    Returns:
        A tree like `grads`, dtypes kept.

    Raises:
        ValueError: if a tree is not the gauge's.

    Example:
        >>> import jax.numpy as jnp
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [jnp.array([[2.0, 3.0]]), jnp.array([[5.0], [7.0]])]
        >>> skeleton = choose_skeleton(mlp_gauge(params), params, basis="paths")
        >>> grads = [jnp.array([[5.0, 7.0]]), jnp.array([[2.0], [3.0]])]  # of the sum of both paths
        >>> slopes = inverse_chain_rule(grads, params, skeleton)
        >>> slopes[0], slopes[1].ravel()
        (Array([[0., 0.]], dtype=float32), Array([1., 1.], dtype=float32))

    References:
        Meng et al., *G-SGD*, ICLR 2019, for layers of equal width.
    """
    return coordinates_of(coordinates).at(params).slopes(grads)


def weight_updates(
    updates: optax.Updates,
    params: optax.Params,
    coordinates: Coordinates | Group,
    *,
    max_ratio: chex.Numeric | None = None,
) -> tuple[optax.Updates, StepInfo]:
    r"""The change of weights that a change u of the path values asks for.

    In exact arithmetic `allocate(path_values(params) + u) - params`. Computed as

        Δw_e = ρ_h u_e / (α_tail(e) β_head(e)) + (ρ_h - 1) w_e

    with h = head(e) and ρ_h = β_h / β'_h = v_s / (v_s + u_s), nothing cancels: where u is zero, so
    is Δw, in half precision too.

    Args:
        updates: u; what stands at entries of the tree is not looked at.
        params: a parameter tree.
        coordinates: as in `path_values`.
        max_ratio: the largest factor, above 1, by which a step may change a free skeleton entry's
            path value either way; None for no bound.

    Returns:
        A tree like `updates` with the change of weights, zero on the tree, dtypes kept; and what
        became of the free skeleton entries.

    Raises:
        ValueError: if a tree is not the gauge's.

    Example:
        >>> import jax.numpy as jnp
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [jnp.array([[2.0, 3.0]]), jnp.array([[5.0], [7.0]])]
        >>> skeleton = choose_skeleton(mlp_gauge(params), params, basis="paths")
        >>> steps = [jnp.zeros((1, 2)), jnp.array([[-1.0], [3.0]])]  # of path values
        >>> changes, info = weight_updates(steps, params, skeleton)
        >>> changes[1].ravel()
        Array([-0.5,  1. ], dtype=float32)
        >>> info.least_ratio  # path value 10 becomes 9
        Array(0.9, dtype=float32)
    """
    return coordinates_of(coordinates).at(params).changes(updates, max_ratio=max_ratio)

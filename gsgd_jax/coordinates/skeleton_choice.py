"""Choosing the coordinates of path space for a network."""

import dataclasses
import functools
from typing import Literal, get_args, overload

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax._factors import Group, factor_parts
from gsgd_jax._precision import check_choice
from gsgd_jax.balance import balancing_scales, concrete_leaves
from gsgd_jax.coordinates.arborescence import arborescence, lost_nodes
from gsgd_jax.coordinates.balanced import Balanced
from gsgd_jax.coordinates.skeleton import Basis, Skeleton
from gsgd_jax.gauge import GROUND, Gauge

Rule = Literal["diagonal", "largest", "random"]


@overload
def choose_skeleton(
    gauge: Group, params: optax.Params, *, basis: Literal["balanced"] = "balanced"
) -> Balanced: ...
@overload
def choose_skeleton(
    gauge: Gauge,
    params: optax.Params,
    *,
    basis: Basis,
    rule: Rule | Skeleton | None = None,
    key: jax.Array | None = None,
    tree_values: Literal["ones", "balanced"] = "ones",
) -> Skeleton: ...
def choose_skeleton(
    gauge: Group,
    params: optax.Params,
    *,
    basis: Literal["balanced"] | Basis = "balanced",
    rule: Rule | Skeleton | None = None,
    key: jax.Array | None = None,
    tree_values: Literal["ones", "balanced"] = "ones",
) -> Balanced | Skeleton:
    r"""Chooses the coordinates of path space: the balanced ones, or a skeleton's by name.

    With the default basis, "balanced", path values are the weights of the balanced copy of the
    network (see `Balanced`). They are never singular and freeze nothing; `in_path_space(inner,
    gauge)` takes them without being asked.

    The papers' coordinates are asked for by `basis="paths"`. There every node has one in-edge and
    one out-edge, the *skeleton*, and the coordinates are the values of the paths that run along it
    but for one entry. They are singular: as the value of a skeleton entry nears zero, the weights
    into its node grow without bound, and through zero they change sign and the function jumps.
    So steps along them are bounded (`in_path_space`), and sooner or later a skeleton has to be
    chosen anew. `basis="cycles"` has coordinates that are weights of a copy in which one entry of
    every node is frozen, with its sign. Rules for the edges of either:

    - "diagonal", the papers' and the default of "paths": unit j of a layer is entered from unit
      j mod n of the layer before and left to unit j mod n' of the layer after, n and n' being their
      widths. It looks at no value, so it is the same for all seeds and representatives.
    - "largest", the default of "cycles": every node is entered and left by the entry of largest |w|
      of the *balanced* network (see `balance`), biases included; the first of equals. Balanced
      weights are the same for all weights that the group connects, hence so is the choice, but for
      ties at rounding.
    - "random": every node is entered and left by one of its entries that are not zero, each as
      likely as the others.
    - a `Skeleton` of the same gauge: its own edges, checked against these parameters.

    In residual streams and recurrent layers, where such choices could close a cycle, they are
    limited to edges that lead nearer to ground (see `arborescence`); the diagonal is left where it
    does not. A node that no entry but zeros enters, or (for "paths") leaves, is dead or constant.
    It has no edge to choose: it leaves the group and is listed in `Skeleton.left_out`. Such nodes
    are usual in pruned networks. A skeleton chosen once they live takes them in again, and
    `change_skeleton` goes over to it. Where no node would be left, as with a last layer of zeros,
    the choice is refused.

    Nothing is written into the parameters. With "paths", the step of gradient descent on an entry
    is 1 / (α β)² times that on the weight, so small skeleton entries make every useful step
    diverge. Start from `skeleton_init`, as the papers do, or take the rule "largest".

    Choosing anew during training, from the parameters reached, does not change the function: the
    weights stay as they are. Only the inner transformation's moments refer to the coordinates left;
    `change_skeleton` says what becomes of them, and `skeleton_margin` when it is time.

    Args:
        gauge: the rescaling group; for a skeleton it must be a graph, a `Gauge`.
        params: concrete parameters, not traced ones.
        basis: "balanced", "paths", the papers', or "cycles"; see `Skeleton` for the last two.
        rule: of "paths" and "cycles": "diagonal", "largest", "random", or the skeleton whose edges
            to take.
        key: a PRNG key, for "random" only.
        tree_values: for "cycles", which representative's weights the coordinates are: the one whose
            tree entries have magnitude 1, or those they have in the balanced network.

    Returns:
        `Balanced` coordinates; or a skeleton, none of whose entries is zero in `params`.

    Raises:
        ValueError: if the parameters are traced, not finite or do not fit the gauge, an option is
            unknown or belongs to another basis, the gauge is no graph, all of its nodes are dead or
            constant, no choice of edges reaches
            ground, an entry on the skeleton is zero, or a product along it leaves the range of its
            dtype: path values could then not be inverted.

    Example:
        >>> import jax.numpy as jnp
        >>> from gsgd_jax import mlp_gauge
        >>> params = [jnp.array([[1.0, 5.0], [2.0, 4.0]]), jnp.array([[1.0], [3.0]])]
        >>> print(choose_skeleton(mlp_gauge(params), params))
        balanced coordinates of Gauge(2 nodes, 6 edges, 4 free)
        >>> skeleton = choose_skeleton(mlp_gauge(params), params, basis="paths")
        >>> skeleton.in_edges, skeleton.out_edges  # entries 0 to 3 are the first kernel's
        (array([0, 3]), array([4, 5]))
        >>> choose_skeleton(mlp_gauge(params), params, basis="paths", rule="largest").in_edges
        array([2, 1])

    References:
        Meng et al., *G-SGD: optimizing ReLU neural networks in its positively scale-invariant
        space*, ICLR 2019, for the diagonal skeleton of layers of equal width. Its published form is
        wrong where a layer is narrower than the layers on both sides of it; this one holds there.
    """
    _check_options(gauge, basis, rule, tree_values)
    arrays = concrete_leaves(params, gauge)
    if basis == "balanced":
        return Balanced(gauge)
    assert isinstance(gauge, Gauge), "it was checked"
    rule = rule or ("diagonal" if basis == "paths" else "largest")
    whole, (gauge, left_out) = gauge, _alive(gauge, arrays, basis)
    origin = whole if left_out else None
    if isinstance(rule, Skeleton):
        if rule.gauge != gauge:
            raise ValueError(
                f"the skeleton given as rule is of {rule.gauge!r}, and these parameters have "
                f"{gauge!r}; take a skeleton of the same gauge, or another rule."
            )
        in_edges, out_edges = rule.in_edges, rule.out_edges
    else:
        balanced = _balanced(params, gauge, arrays) if rule == "largest" else arrays
        into, out = _preferences(gauge, rule, balanced, key)
        in_edges = arborescence(gauge, into, side="input")
        out_edges = arborescence(gauge, out, side="output")
    skeleton = Skeleton(gauge, in_edges, out_edges, basis, left_out=left_out, chosen_for=origin)
    leaves = enumerate(gauge.leaves(params))
    dtypes = [jnp.result_type(leaf) for i, leaf in leaves if gauge.touches(i)]
    _check_invertible(skeleton, arrays, dtypes)
    if tree_values == "ones":
        return skeleton
    tree = _balanced(params, gauge, arrays)
    scales = np.abs(_products(tree, skeleton.in_edges, skeleton.in_rounds))
    return dataclasses.replace(skeleton, tree_scales=scales)


def _check_options(gauge: Group, basis: str, rule: object, tree_values: str) -> None:
    """Refuses options that are unknown or belong to another basis."""
    check_choice("basis", basis, ("balanced", *get_args(Basis)))
    check_choice("tree_values", tree_values, ("ones", "balanced"))
    if tree_values == "balanced" and basis != "cycles":
        raise ValueError(f"tree_values='balanced' belongs to the basis 'cycles', got {basis!r}.")
    if rule is not None and not isinstance(rule, Skeleton):
        check_choice("rule", rule, get_args(Rule), more=", or a Skeleton")
    if rule is not None and basis == "balanced":
        raise ValueError(
            "a rule chooses the edges of a skeleton, and balanced coordinates have none; give "
            "basis='paths' or basis='cycles' with it."
        )
    if basis != "balanced" and not isinstance(gauge, Gauge):
        raise ValueError(
            "a skeleton needs a graph, an edge into and out of every node, but got "
            f"{gauge!r}; its part that is one, if any, is `group.gauge`, and the default basis, "
            "'balanced', has coordinates for all of it, as has choose_section."
        )


def dead_nodes(gauge: Gauge, params: optax.Params) -> np.ndarray:
    """The nodes that no way of entries other than zero joins to the input, or to the output.

    What comes before the ReLU of the former is zero, so they are dead; nothing depends on the
    latter. In balanced coordinates they take part as the others do. A skeleton leaves them out.

    Args:
        gauge: the rescaling group.
        params: concrete parameters.

    Returns:
        Their numbers, ascending; integer.

    Raises:
        ValueError: if the parameters are traced, not finite or do not fit the gauge.

    Example:
        >>> from gsgd_jax import mlp_gauge
        >>> params = [jnp.array([[0.0, 1.0]]), jnp.array([[1.0], [2.0]])]
        >>> dead_nodes(mlp_gauge(params), params)
        array([0])
    """
    arrays = concrete_leaves(params, gauge)
    sides = (lost_nodes(gauge, arrays, side=side) for side in ("input", "output"))
    return np.union1d(*sides)


def _alive(gauge: Gauge, arrays: list[np.ndarray], basis: Basis) -> tuple[Gauge, tuple[int, ...]]:
    """The gauge without the nodes that have no edge to choose, and which these are."""
    lost = lost_nodes(gauge, arrays, side="input")
    if basis == "paths":
        lost = np.union1d(lost, lost_nodes(gauge, arrays, side="output"))
    if lost.size and lost.size == gauge.num_nodes:
        raise ValueError(
            "a skeleton needs a node that entries other than zero enter and, for 'paths', leave, "
            f"got {lost.size} nodes and none such (a last layer of zeros?); start from other "
            "weights, or take balanced coordinates until there is one."
        )
    return (gauge.without(lost) if lost.size else gauge), tuple(lost.tolist())


def _preferences(
    gauge: Gauge, rule: Rule, arrays: list[np.ndarray], key: jax.Array | None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For every entry how much it is liked as an in-edge, and as an out-edge; like the leaves."""
    if rule == "random":
        if key is None:
            raise ValueError("rule='random' needs key=, a PRNG key; got none.")
        generator = np.random.default_rng(np.asarray(jax.random.bits(key, (4,), np.uint32)))
        # Drawn in (0, 1], since entries that are zero have preference zero.
        into, out = (
            [np.where(w == 0, 0.0, 1 - generator.random(w.shape)) for w in arrays] for _ in range(2)
        )
        return into, out
    if rule == "largest":
        sizes = [np.asarray(np.abs(w)) for w in arrays]
        return sizes, sizes
    count = range(len(gauge.names))
    return (
        [_diagonal(gauge.shapes[i], gauge.heads[i], gauge.tails[i]) for i in count],
        [_diagonal(gauge.shapes[i], gauge.tails[i], gauge.heads[i]) for i in count],
    )


def _diagonal(shape: tuple[int, ...], own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Entry [j mod n, j] of a kernel first; the middle of all axes that neither end varies along.

    A kernel comes before a bias or a scale, however the leaves are ordered. Entries off the
    diagonal are there for nodes that no diagonal leads nearer to ground.
    """
    preference = np.full(shape, 0.25, np.float32)
    nodes, first = np.unique(own, return_index=True)  # first: j
    first = first[nodes != GROUND]
    if first.size:
        index = list(np.unravel_index(first, own.shape))
        for axis, size in enumerate(shape):
            if own.shape[axis] == 1 < size:
                varies = other.shape[axis] > 1
                index[axis] = first % size if varies else np.full_like(first, size // 2)
        preference[tuple(index)] = 1.0 if len(shape) > 1 else 0.5
    return preference


def _balanced(params: optax.Params, gauge: Gauge, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The balanced weights, in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.unflatten(jax.tree.structure(params), arrays)
        parts = factor_parts(gauge, balancing_scales(wide, gauge, one_sided=False))
        factors = [[np.asarray(part) for part in own] for own in parts]
    return [functools.reduce(np.multiply, own, w) for own, w in zip(factors, arrays, strict=True)]


def _products(
    arrays: list[np.ndarray], edges: np.ndarray, rounds: tuple[np.ndarray, ...]
) -> np.ndarray:
    """Products of weights along edges, in float64; [num_nodes]."""
    flat = np.concatenate([np.zeros(0), *(w.astype(np.float64).ravel() for w in arrays)])
    products = np.append(flat[edges], 1.0)
    for jump in rounds:
        products = products * products[jump]
    return products[:-1]


def _check_invertible(skeleton: Skeleton, arrays: list[np.ndarray], dtypes: list[np.dtype]) -> None:
    """No entry that is divided by is zero, and no product leaves the range of the dtypes.

    `arrays` are of every leaf, `dtypes` of those that the group touches: the others may be PRNG
    keys, which have no range.
    """
    gauge = skeleton.gauge
    sides = [(skeleton.in_edges, skeleton.in_rounds), (skeleton.out_edges, skeleton.out_rounds)]
    products = []
    for edges, rounds in sides[: 2 if skeleton.basis == "paths" else 1]:
        for i, array in enumerate(arrays):
            low, high = gauge.offsets[i : i + 2]
            here = edges[(edges >= low) & (edges < high)] - low
            zeros = here[array.ravel()[here] == 0]
            if zeros.size:
                index = [int(j) for j in np.unravel_index(zeros[0], array.shape)]
                raise ValueError(
                    f"path values can be inverted only where no entry of the skeleton is zero, but "
                    f"{gauge.names[i]}{index} is, and {zeros.size - 1} more of that leaf; choose "
                    "by rule='largest', or start from weights that are not zero."
                )
        products.append(np.abs(_products(arrays, edges, rounds)))
    products.append(np.prod(products, axis=0))
    limits = [jnp.finfo(dtype) for dtype in dtypes]
    tiny = max((float(limit.tiny) for limit in limits), default=0.0)
    huge = min((float(limit.max) for limit in limits), default=0.0)
    if not all(((p >= tiny) & (p <= huge)).all() for p in products):
        least, most = np.min(products), np.max(products)
        raise ValueError(
            "products of weights along the skeleton must lie in the range of their dtype, "
            f"{tiny:.1e} to {huge:.1e}, got {least:.1e} to {most:.1e}; choose by rule='largest', "
            "or start from weights of another scale."
        )

"""Choosing a skeleton for a network."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax.arborescence import arborescence
from gsgd_jax.balance import balancing_scales, concrete_leaves
from gsgd_jax.gauge import GROUND, Gauge
from gsgd_jax.skeleton import Basis, Skeleton

Rule = Literal["diagonal", "largest", "random"]


def choose_skeleton(
    gauge: Gauge,
    params: optax.Params,
    *,
    rule: Rule | Skeleton = "diagonal",
    key: jax.Array | None = None,
    basis: Basis = "paths",
    tree_values: Literal["ones", "balanced"] = "ones",
) -> Skeleton:
    r"""Chooses every node's in-edge and out-edge, and with them a basis of path space.

    Rules:

    - "diagonal", the papers': unit j of a layer is entered from unit j mod n of the layer before
      and left to unit j mod n' of the layer after, n and n' being their widths. It looks at no
      value, so it is the same for all seeds and representatives.
    - "largest": every node is entered and left by the entry of largest |w| of the *balanced*
      network (see `balance`), biases included; the first of equals. Balanced weights are the same
      for all weights that the group connects, hence so is the choice, but for ties at rounding.
    - "random": every node is entered and left by one of its entries that are not zero, each as
      likely as the others.
    - a `Skeleton` of the same gauge: its own edges, checked against these parameters.

    In residual streams and recurrent layers, where such choices could close a cycle, they are
    limited to edges that lead nearer to ground (see `arborescence`); the diagonal is left where it
    does not.

    Nothing is written into the parameters. With "paths", the step of gradient descent on an entry
    is 1 / (α β)² times that on the weight, so small skeleton entries make every useful step
    diverge. Start from `skeleton_init`, as the papers do, or take the rule "largest", or the basis
    "cycles" with tree_values="balanced".

    Choosing anew during training, from the parameters reached, does not change the function: the
    weights stay as they are. Only the inner transformation's moments refer to the coordinates left;
    `change_skeleton` says what becomes of them, and `skeleton_margin` when it is time.

    Args:
        gauge: the rescaling group.
        params: concrete parameters, not traced ones.
        rule: "diagonal", "largest", "random", or the skeleton whose edges to take.
        key: a PRNG key, for "random" only.
        basis: "paths", the papers', or "cycles"; see `Skeleton`.
        tree_values: for "cycles", which representative's weights the coordinates are: the one whose
            tree entries have magnitude 1, or those they have in the balanced network.

    Returns:
        A skeleton, none of whose entries is zero in `params`.

    Raises:
        ValueError: if the parameters are traced, not finite or do not fit the gauge, an option is
            unknown, the gauge is no graph, no choice of edges reaches ground, an entry on the
            skeleton is zero, or a product along it leaves the range of its dtype: path values could
            then not be inverted.

    Example:
        >>> import jax.numpy as jnp
        >>> from gsgd_jax import mlp_gauge
        >>> params = [jnp.array([[1.0, 5.0], [2.0, 4.0]]), jnp.array([[1.0], [3.0]])]
        >>> skeleton = choose_skeleton(mlp_gauge(params), params)
        >>> skeleton.in_edges, skeleton.out_edges  # entries 0 to 3 are the first kernel's
        (array([0, 3]), array([4, 5]))
        >>> choose_skeleton(mlp_gauge(params), params, rule="largest").in_edges
        array([2, 1])

    References:
        Meng et al., *G-SGD: optimizing ReLU neural networks in its positively scale-invariant
        space*, ICLR 2019, for the diagonal skeleton of layers of equal width. Its published form is
        wrong where a layer is narrower than the layers on both sides of it; this one holds there.
    """
    if tree_values not in ("ones", "balanced"):
        raise ValueError(f"tree_values must be 'ones' or 'balanced', got {tree_values!r}.")
    if tree_values == "balanced" and basis != "cycles":
        raise ValueError("tree_values='balanced' belongs to the basis 'cycles', got 'paths'.")
    if not isinstance(gauge, Gauge):
        raise ValueError(
            "a skeleton needs a graph, an edge into and out of every node, but got "
            f"{gauge!r}; its part that is one, if any, is `group.gauge`, and choose_section gives "
            "coordinates to all of it."
        )
    given = isinstance(rule, Skeleton)
    if not given and rule not in get_args(Rule):
        raise ValueError(f"rule must be one of {get_args(Rule)} or a Skeleton, got {rule!r}.")
    arrays = concrete_leaves(params, gauge)
    moves = rule == "largest" or tree_values == "balanced"
    balanced = _balanced(gauge, arrays) if moves else arrays
    if given:
        in_edges, out_edges = rule.in_edges, rule.out_edges
    else:
        into, out = _preferences(gauge, rule, balanced, key)
        in_edges = arborescence(gauge, into, side="input")
        out_edges = arborescence(gauge, out, side="output")
    skeleton = Skeleton(gauge, in_edges, out_edges, basis)
    dtypes = [jnp.result_type(leaf) for leaf in gauge.leaves(params)]
    _check_invertible(skeleton, arrays, dtypes)
    if tree_values == "ones":
        return skeleton
    scales = np.abs(_products(balanced, skeleton.in_edges, skeleton.in_rounds))
    return Skeleton(gauge, in_edges, out_edges, basis, tree_scales=scales)


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
        sizes = [np.abs(w) for w in arrays]
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


def _balanced(gauge: Gauge, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The balanced weights, in float64."""
    scales = np.append(balancing_scales(arrays, gauge), 1.0)  # GROUND, -1, is the last
    return [
        w * scales[gauge.heads[i]] / scales[gauge.tails[i]] if gauge.touches(i) else w
        for i, w in enumerate(arrays)
    ]


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
    """No entry that is divided by is zero, and no product leaves the range of the dtypes."""
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
    limits = [jnp.finfo(dtype) for i, dtype in enumerate(dtypes) if gauge.touches(i)]
    tiny = max((float(limit.tiny) for limit in limits), default=0.0)
    huge = min((float(limit.max) for limit in limits), default=0.0)
    if not all(((p >= tiny) & (p <= huge)).all() for p in products):
        least, most = np.min(products), np.max(products)
        raise ValueError(
            "products of weights along the skeleton must lie in the range of their dtype, "
            f"{tiny:.1e} to {huge:.1e}, got {least:.1e} to {most:.1e}; choose by rule='largest', "
            "or start from weights of another scale."
        )

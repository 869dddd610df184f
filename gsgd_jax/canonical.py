"""One representative of all copies of a network, and the distance between two networks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax._factors import Group, factor_parts, group_leaves, leaf_tables
from gsgd_jax._precision import cast_like
from gsgd_jax.balance import balancing_scales, concrete_leaves
from gsgd_jax.gauge import GROUND, Gauge


def canonical(params: optax.Params, gauge: Group, signs: Group | None = None) -> optax.Params:
    r"""One and the same representative for all rescaled copies of a network.

    Rescaling is undone first: the result is balanced (see `balance`), and a node with weights on
    one side alone, pruned or before a norm, is given the scale at which these have the norm that
    initialisers give them. Then signs, where `find_signs` found some that may be flipped: going
    through entries from the largest down, each that no earlier one decides is made positive. In a
    graph these entries are the maximum spanning tree.

    So it is a function of what the network computes, as far as its group is known: for hashing
    (round first), for comparing and averaging networks, and as input of models of weights. Hidden
    units keep their order.

    Args:
        params: concrete parameters.
        gauge: their rescaling group.
        signs: the group of their sign flips; None for none.

    Returns:
        Weights of the same function, dtypes kept. From copies that differ by powers of two and
        signs the same to the bit; from others equal to rounding, unless two weights that decide on
        a sign are equally large to rounding.

    Raises:
        TypeError: if a leaf in a group is not of real floating-point numbers.
        ValueError: if parameters are traced, not finite, or not the groups'.

    Example:
        >>> from gsgd_jax import mlp_gauge
        >>> params = [jnp.array([[4.0]]), jnp.array([[1.0]])]
        >>> canonical(params, mlp_gauge(params))
        [Array([[2.]], dtype=float32), Array([[2.]], dtype=float32)]

    References:
        Stock et al., *Equi-normalization of neural networks*, ICLR 2019, for the balanced copy.
        Kalogeropoulos et al., *Scale equivariant graph metanetworks*, NeurIPS 2024, for its use.
    """
    arrays = _representative(params, gauge, signs)
    leaves = [jnp.asarray(leaf) for leaf in group_leaves(gauge, params)]
    cast = [
        cast_like(jnp.asarray(array.astype(np.float64 if w.dtype.itemsize > 4 else np.float32)), w)
        if jnp.issubdtype(w.dtype, jnp.floating)
        else w
        for array, w in zip(arrays, leaves, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(params), cast)


def distance(
    one: optax.Params, other: optax.Params, gauge: Group, signs: Group | None = None
) -> float:
    r"""How far two networks are apart, whichever rescaled copies of them are at hand.

    The Euclidean distance between their canonical representatives, over all leaves but PRNG keys: a
    metric on networks up to rescaling and flips, zero for copies of one. Hidden units are compared
    in their order; match them first where it means nothing.

    Args:
        one: concrete parameters.
        other: parameters of the same tree.
        gauge: their rescaling group.
        signs: the group of their sign flips; None for none.

    Returns:
        The distance, worked out in float64.

    Raises:
        TypeError: if a leaf in a group is not of real floating-point numbers.
        ValueError: if parameters are traced, not finite, or not the groups'.

    Example:
        >>> from gsgd_jax import mlp_gauge
        >>> one = [jnp.array([[4.0]]), jnp.array([[1.0]])]
        >>> other = [jnp.array([[0.5]]), jnp.array([[18.0]])]  # balanced: 3 and 3 against 2 and 2
        >>> round(distance(one, other, mlp_gauge(one)), 6)
        1.414214
    """
    ours, theirs = (_representative(params, gauge, signs) for params in (one, other))
    # Of complex leaves, which no group moves, both parts count.
    squares = [np.square(np.abs(a - b)).sum() for a, b in zip(ours, theirs, strict=True)]
    return float(np.sqrt(sum(squares)))


def _representative(params: optax.Params, gauge: Group, signs: Group | None) -> list[np.ndarray]:
    """The leaves of the canonical representative, on the host in float64 or complex128."""
    inside = concrete_leaves(params, gauge)
    arrays = [leaf.astype(np.complex128 if leaf.dtype.kind == "c" else float) for leaf in inside]
    tree = jax.tree.unflatten(jax.tree.structure(params), inside)
    scales = np.asarray(balancing_scales(tree, gauge), np.float64)
    arrays = _moved(arrays, gauge, scales)
    if signs is None or signs.num_nodes == 0:
        return arrays
    concrete_leaves(params, signs)  # or an error
    return _moved(arrays, signs, _flips(arrays, signs))


def _moved(arrays: list[np.ndarray], group: Group, scales: np.ndarray) -> list[np.ndarray]:
    """The leaves times their factors."""
    moved = list(arrays)
    for i, parts in enumerate(factor_parts(group, scales, np)):
        for part in parts:
            moved[i] = moved[i] * part
    return moved


def _flips(arrays: list[np.ndarray], signs: Group) -> np.ndarray:
    """Of every node 1 or -1, such that the largest independent entries become positive."""
    if isinstance(signs, Gauge):
        return _flips_of_graph(arrays, signs)
    nodes = signs.num_nodes
    sizes, rows = [], []
    for array, tables in zip(arrays, leaf_tables(signs), strict=True):
        if tables:
            # The nodes of odd power, as bits of a whole number for each entry.
            bits = np.zeros(array.shape, object)
            for table in tables:
                for slot in range(table.nodes.shape[-1]):
                    odd = (table.powers[..., slot] % 2 == 1) & (table.nodes[..., slot] < nodes)
                    shifted = [1 << int(n) for n in table.nodes[..., slot].ravel()]
                    shifted = np.array(shifted, object).reshape(odd.shape)
                    bits = bits ^ np.where(odd, shifted, 0)
            negative = (array < 0).astype(object) << nodes  # the right-hand side, as one bit more
            rows.append((bits | negative).ravel())
            sizes.append(np.abs(array).ravel())
    size, row = np.concatenate(sizes), np.concatenate(rows)
    order = np.argsort(-size, kind="stable")
    mask = (1 << nodes) - 1
    pivots: dict[int, int] = {}
    for equation in row[order[size[order] > 0]].tolist():
        for bit, pivot in pivots.items():  # Gauss's elimination modulo 2
            if equation >> bit & 1:
                equation ^= pivot
        if equation & mask:
            pivots[(equation & mask).bit_length() - 1] = equation
            if len(pivots) == nodes:
                break
    flips = 0
    # Pivots were reduced by earlier ones alone, so the last is solved first.
    for bit, pivot in reversed(pivots.items()):
        odd = ((pivot & mask & flips).bit_count() + (pivot >> nodes)) % 2
        flips |= odd << bit
    return np.array([-1.0 if flips >> n & 1 else 1.0 for n in range(nodes)])


def _flips_of_graph(arrays: list[np.ndarray], signs: Gauge) -> np.ndarray:
    """The same along the maximum spanning tree, by Borůvka's algorithm: log2(nodes) rounds."""
    count = signs.num_nodes
    ends: list[list[np.ndarray]] = [[], []]
    sizes, negatives = [], []
    for i, array in enumerate(arrays):
        if signs.touches(i):
            for side, ids in zip(ends, (signs.tails[i], signs.heads[i]), strict=True):
                side.append(np.broadcast_to(np.where(ids == GROUND, count, ids), array.shape))
            sizes.append(np.abs(array))
            negatives.append(array < 0)
    tail, head, size, negative = (
        np.concatenate([part.ravel() for part in parts]) for parts in (*ends, sizes, negatives)
    )
    order = np.argsort(-size, kind="stable")
    order = order[size[order] > 0]
    tail, head, negative = tail[order], head[order], negative[order]
    part, flip = np.arange(count + 1), np.zeros(count + 1, bool)  # flip: against the part's root
    while True:
        apart = part[tail] != part[head]
        tail, head, negative = tail[apart], head[apart], negative[apart]
        if not tail.size:
            flip ^= flip[count] & (part == part[count])  # ground keeps its sign
            return np.where(flip[:count], -1.0, 1.0)
        # Of every part the first, so the largest, of the edges that leave it.
        first = np.full(count + 1, tail.size)
        for side in (tail, head):
            np.minimum.at(first, part[side], np.arange(tail.size))
        for edge in np.unique(first[first < tail.size]).tolist():
            one, other = part[tail[edge]], part[head[edge]]
            if one != other:
                turn = flip[tail[edge]] ^ flip[head[edge]] ^ negative[edge]
                moved = part == other
                flip[moved] ^= turn
                part[moved] = one

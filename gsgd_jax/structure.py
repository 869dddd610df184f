"""The paths of small networks: enumerated, printed, and as the structure matrix."""

from collections.abc import Sequence

import numpy as np

from gsgd_jax.coordinates.skeleton import Skeleton, check_skeleton, edge_ends
from gsgd_jax.gauge import GROUND, Gauge

Path = tuple[int, ...]
"""The numbers of its entries, from the input to the output."""


def all_paths(gauge: Gauge, *, max_visits: int = 1, limit: int = 100_000) -> list[Path]:
    """Every path of a gauge from ground to ground, in lexicographic order.

    An entry with ground at both ends, outside the group, is a path by itself. The taps of a
    convolution are parallel edges, each on paths of its own.

    Args:
        gauge: of a small network; there are as many paths as products of widths.
        max_visits: how often a path may pass one node: once in feed-forward networks; more often
            where the group ties a node to itself, as recurrent layers and residual streams do.
        limit: raise an error rather than find more paths.

    Returns:
        The paths, as entry numbers.

    Raises:
        ValueError: if there are more than `limit`.

    Example:
        >>> from gsgd_jax import mlp_gauge
        >>> gauge = mlp_gauge([np.ones((2, 1)), np.ones((1, 2))])
        >>> all_paths(gauge)
        [(0, 2), (0, 3), (1, 2), (1, 3)]
    """
    tails, heads = edge_ends(gauge, np.arange(gauge.num_entries))
    leaving = [np.flatnonzero(tails == h).tolist() for h in range(gauge.num_nodes)]
    head = heads.tolist()
    visits = [0] * gauge.num_nodes
    found: list[Path] = []

    def follow(path: list[int]) -> None:
        node = head[path[-1]]
        if node == GROUND:
            if len(found) == limit:
                raise ValueError(
                    f"paths are enumerated for small networks only, but {gauge!r} has more than "
                    f"{limit}; raise limit=, or take the paths of a basis, `basis_paths`."
                )
            found.append(tuple(path))
        elif visits[node] < max_visits:
            visits[node] += 1
            for edge in leaving[node]:
                follow([*path, edge])
            visits[node] -= 1

    for edge in np.flatnonzero(tails == GROUND).tolist():
        follow([edge])
    return found


def basis_paths(skeleton: Skeleton) -> list[Path]:
    """The m - H paths whose values are the coordinates, in the order of their entries off the tree.

    That of entry e leads from the input to its tail along in-edges, and from its head to the output
    along out-edges. Where nodes are tied to themselves it may pass a node twice, and an entry too.

    Args:
        skeleton: of either basis; the paths are the papers'.

    Raises:
        TypeError: if the skeleton is none.

    Example:
        >>> import jax.numpy as jnp
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [jnp.ones((2, 1)), jnp.ones((1, 2))]
        >>> skeleton = choose_skeleton(mlp_gauge(params), params, basis="paths")
        >>> for path in basis_paths(skeleton):
        ...     print(describe_path(path, skeleton.gauge))
        input -> 0[1, 0] -> node 0 -> 1[0, 0] -> output
        input -> 0[0, 0] -> node 0 -> 1[0, 0] -> output
        input -> 0[0, 0] -> node 0 -> 1[0, 1] -> output
    """
    check_skeleton(skeleton, "basis_paths")
    gauge = skeleton.gauge
    tails, heads = edge_ends(gauge, np.arange(gauge.num_entries))
    paths = []
    for entry in np.setdiff1d(np.arange(gauge.num_entries), skeleton.in_edges).tolist():
        before, after, node = [], [], tails[entry]
        while node != GROUND:
            before.append(int(skeleton.in_edges[node]))
            node = tails[before[-1]]
        node = heads[entry]
        while node != GROUND:
            after.append(int(skeleton.out_edges[node]))
            node = heads[after[-1]]
        paths.append((*reversed(before), entry, *after))
    return paths


def structure_matrix(gauge: Gauge, paths: Sequence[Path] | None = None) -> np.ndarray:
    r"""How often each entry is on each path, A.

    The logarithms of path values are linear in those of the weights, log|v| = Aᵀ log|w|. The
    columns of A are orthogonal to the group, one equation a node; on all paths its rank is m - H
    where every entry is on a path.

    Args:
        gauge: of a small network.
        paths: their entry numbers; None for all paths, see `all_paths`.

    Returns:
        int64 [num_entries, num_paths].

    Example:
        >>> from gsgd_jax import mlp_gauge
        >>> gauge = mlp_gauge([np.ones((2, 1)), np.ones((1, 2))])
        >>> structure_matrix(gauge)
        array([[1, 1, 0, 0],
               [0, 0, 1, 1],
               [1, 0, 1, 0],
               [0, 1, 0, 1]])
        >>> int(np.linalg.matrix_rank(structure_matrix(gauge))), gauge.num_free
        (3, 3)

    References:
        Meng et al., *G-SGD: optimizing ReLU neural networks in its positively scale-invariant
        space*, ICLR 2019, section 3, for layers of equal width.
    """
    paths = all_paths(gauge) if paths is None else paths
    matrix = np.zeros((gauge.num_entries, len(paths)), np.int64)
    for column, path in enumerate(paths):
        np.add.at(matrix[:, column], np.array(path, np.int64), 1)
    return matrix


def describe_path(path: Path, gauge: Gauge) -> str:
    """A path in words: the leaves' entries and the nodes it passes, from input to output.

    Args:
        path: its entry numbers.
        gauge: numbers them.

    Returns:
        "input -> 0[1, 0] -> node 0 -> 1[0, 2] -> output"; see `basis_paths`.

    Raises:
        ValueError: if the entries do not follow one another from ground to ground.
    """
    entries = np.array(path, np.int64)
    tails, heads = (ends.tolist() for ends in edge_ends(gauge, entries))
    if not path or [*heads[:-1], GROUND] != [*tails[1:], heads[-1]] or tails[0] != GROUND:
        raise ValueError(
            f"a path leads from ground to ground, each entry on from the one before, but {path} "
            f"has tails {tails} and heads {heads} (-1 is ground)."
        )
    words = ["input"]
    for entry, head in zip(path, heads, strict=True):
        leaf = int(np.searchsorted(gauge.offsets, entry, side="right")) - 1
        index = np.unravel_index(entry - gauge.offsets[leaf], gauge.shapes[leaf])
        words.append(f"{gauge.names[leaf]}[{', '.join(map(str, index))}]")
        words.append("output" if head == GROUND else f"node {head}")
    return " -> ".join(words)

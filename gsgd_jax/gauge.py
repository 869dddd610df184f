"""The rescaling group of a network, as a graph over its parameters."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax._precision import cast_like, check_scales, working_dtype

GROUND = -1
"""The node of inputs and outputs, whose scale is fixed."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Gauge:
    r"""Which rescalings of the weights leave a network's function alone.

    A *node* h is a hidden channel whose scale c_h > 0 can be moved; the scale of inputs and
    outputs, the *ground*, is 1. Every parameter entry e is an *edge* tail(e) -> head(e), and the
    group acts by

        w_e  ->  w_e c_head(e) / c_tail(e).

    In a multilayer perceptron with ReLU the nodes are the hidden units; a kernel's entry [i, j] is
    the edge from unit i to unit j of the next layer, and a bias is an edge from ground. With m
    entries and H nodes, the functions that the group tells apart have m - H free dimensions (the
    rank of the structure matrix).

    A gauge is static: it holds NumPy arrays, is no pytree, and is equal, with equal hash, to any
    gauge of the same content, so it can be closed over by a jitted function or be its static
    argument. Leaves of the parameter tree are numbered as `jax.tree.leaves` orders them. Trees of
    another container type are accepted wherever a parameter tree is asked for, as long as leaves of
    the same shapes come in the same order: with or without Flax's {"params": ...} around it.

    Constructors: `mlp_gauge` for multilayer perceptrons, `trivial_gauge` for the trivial group.

    Args:
        names: of the leaves, "layer_0/kernel", for messages and summaries.
        shapes: of the leaves.
        tails: for every leaf the nodes at its entries' tails, integers in -1 ... num_nodes - 1, -1
            being ground; any shape that broadcasts to the leaf's, (in, 1) for a kernel (in, out).
        heads: likewise at their heads, (1, out) for a kernel.
        num_nodes: H.

    Raises:
        ValueError: if these do not fit one another, or a node has no edge at its tail or head.

    Example:
        >>> import jax.numpy as jnp
        >>> gauge = Gauge(
        ...     names=("hidden", "out"),
        ...     shapes=((3, 2), (2, 1)),
        ...     tails=(np.full((3, 1), GROUND), np.array([[0], [1]])),
        ...     heads=(np.array([[0, 1]]), np.full((1, 1), GROUND)),
        ...     num_nodes=2,
        ... )
        >>> print(gauge)
        gauge: 2 nodes, 8 of 8 parameters in the group, 6 free dimensions
          hidden  (3, 2)  ground -> nodes 0-1
          out     (2, 1)  nodes 0-1 -> ground
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    tails: tuple[np.ndarray, ...]
    heads: tuple[np.ndarray, ...]
    num_nodes: int

    def __post_init__(self):
        """Checks the arrays and makes them read-only, with the rank of their leaf."""
        lengths = {len(self.names), len(self.shapes), len(self.tails), len(self.heads)}
        if len(lengths) != 1:
            raise ValueError(f"a gauge needs one name, shape, tail and head a leaf, got {lengths}.")
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "shapes", tuple(tuple(map(int, s)) for s in self.shapes))
        for field in ("tails", "heads"):
            arrays = [self._ids(field, i) for i in range(len(self.names))]
            object.__setattr__(self, field, tuple(arrays))
            met = np.concatenate([np.zeros(0, np.int32), *(ids.ravel() for ids in arrays)])
            absent = np.setdiff1d(np.arange(self.num_nodes), met)
            if absent.size:
                raise ValueError(
                    f"every node must be the {field[:-1]} of an edge, but {absent.size} are of "
                    f"none, {absent[:5].tolist()} among them; number the nodes 0 ... num_nodes - 1 "
                    "and leave out channels that lead nowhere."
                )

    def _ids(self, field: str, leaf: int) -> np.ndarray:
        """One leaf's tails or heads, checked."""
        ids, shape = np.asarray(getattr(self, field)[leaf]), self.shapes[leaf]
        try:
            fits = np.broadcast_shapes(ids.shape, shape) == shape
        except ValueError:
            fits = False
        if not fits or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(
                f"{field} of {self.names[leaf]} must be integers of a shape that broadcasts to "
                f"{shape}, got {ids.dtype} {ids.shape}."
            )
        if ids.size and not (ids.min() >= GROUND and ids.max() < self.num_nodes):
            raise ValueError(
                f"{field} of {self.names[leaf]} must lie in -1 ... {self.num_nodes - 1}, got "
                f"{ids.min()} ... {ids.max()}."
            )
        ids = ids.astype(np.int32).reshape((1,) * (len(shape) - ids.ndim) + ids.shape)
        ids.flags.writeable = False
        return ids

    @property
    def num_entries(self) -> int:
        """The number of parameter entries, m."""
        return int(sum(self.sizes))

    @property
    def num_edges(self) -> int:
        """How many entries the group moves."""
        return sum(
            int(np.count_nonzero(np.broadcast_to((t != GROUND) | (h != GROUND), s)))
            for t, h, s in zip(self.tails, self.heads, self.shapes, strict=True)
        )

    @property
    def num_free(self) -> int:
        """The dimension of path space, m - H."""
        return self.num_entries - self.num_nodes

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """Entries of each leaf."""
        return tuple(int(np.prod(shape, dtype=np.int64)) for shape in self.shapes)

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """Where each leaf begins when all entries are numbered through, as `ravel_pytree` does."""
        return np.concatenate([[0], np.cumsum(self.sizes, dtype=np.int64)])

    def touches(self, leaf: int) -> bool:
        """Whether the group moves any entry of the leaf."""
        return bool((self.tails[leaf] != GROUND).any() or (self.heads[leaf] != GROUND).any())

    def leaves(self, params: Any) -> list[Any]:
        """The leaves of a tree that this gauge fits, NumPy arrays and scalars made JAX ones.

        Args:
            params: a parameter tree, or gradients or path values on it.

        Raises:
            ValueError: if their number or shapes are not the gauge's, `optax.masked` at work
                included.
        """
        leaves = unmasked_leaves(params)
        shapes = tuple(np.shape(leaf) for leaf in leaves)
        if shapes != self.shapes:
            raise ValueError(
                "the tree must have the leaves that the gauge was built for: "
                f"{difference(self.names, self.shapes, params)}; build "
                "gauge and skeleton from the parameters that they are used with."
            )
        for i, leaf in enumerate(leaves):
            leaves[i] = jnp.asarray(leaf) if isinstance(leaf, np.ndarray | np.generic) else leaf
        return leaves

    def without(self, nodes: Sequence[int] | np.ndarray) -> "Gauge":
        """The subgroup that leaves the scales of some nodes alone: they become ground.

        Args:
            nodes: their numbers; the others are numbered anew, in the same order.
        """
        kept = np.setdiff1d(np.arange(self.num_nodes), np.asarray(nodes, np.int64))
        number = np.full(self.num_nodes + 1, GROUND)  # the last is ground's, found by -1
        number[kept] = np.arange(len(kept))
        tails, heads = (tuple(number[ids] for ids in side) for side in (self.tails, self.heads))
        return Gauge(self.names, self.shapes, tails, heads, len(kept))

    def act(self, params: optax.Params, scales: jax.typing.ArrayLike) -> optax.Params:
        """Applies one element of the group: the same function from other weights.

        Args:
            params: a parameter tree.
            scales: c, positive, floating-point, shape [num_nodes].

        Returns:
            The tree with w_e c_head / c_tail for w_e, dtypes kept.

        Raises:
            ValueError: if the leaves' shapes are not the gauge's, there is not one scale for each
                node, or one that can be read is not positive and finite.
        """
        check_scales(scales, self.num_nodes)
        leaves = self.leaves(params)
        moved = [leaf for i, leaf in enumerate(leaves) if self.touches(i)]
        dtype = working_dtype(moved)
        scale = jnp.append(jnp.asarray(scales, dtype), jnp.ones([], dtype))  # -1 finds the ground
        for i, leaf in enumerate(leaves):
            if self.touches(i):
                factor = scale[self.heads[i]] / scale[self.tails[i]]
                leaves[i] = cast_like(leaf.astype(dtype) * factor, leaf)
        return jax.tree.unflatten(jax.tree.structure(params), leaves)

    def rescale(self, params: optax.Params, key: jax.Array, *, spread: float = 1.0) -> optax.Params:
        """Applies a random finite element of the group, log c_h ~ N(0, spread²).

        Args:
            params: a parameter tree.
            key: a PRNG key.
            spread: standard deviation of the log-scales.

        Returns:
            Other weights of the same function, dtypes kept.
        """
        dtype = working_dtype([w for i, w in enumerate(self.leaves(params)) if self.touches(i)])
        return self.act(params, jnp.exp(spread * jax.random.normal(key, (self.num_nodes,), dtype)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Gauge) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)

    @functools.cached_property
    def _content(self) -> tuple[Any, ...]:
        arrays = tuple((ids.shape, ids.tobytes()) for ids in (*self.tails, *self.heads))
        return (self.names, self.shapes, arrays, self.num_nodes)

    def __repr__(self) -> str:
        return f"Gauge({self.num_nodes} nodes, {self.num_edges} edges, {self.num_free} free)"

    def __str__(self) -> str:
        lines = [
            f"gauge: {self.num_nodes} nodes, {self.num_edges} of {self.num_entries} parameters in "
            f"the group, {self.num_free} free dimensions"
        ]
        names = max(map(len, self.names), default=0)
        shapes = max((len(str(shape)) for shape in self.shapes), default=0)
        for i, (name, shape) in enumerate(zip(self.names, self.shapes, strict=True)):
            ends = f"{_span(self.tails[i])} -> {_span(self.heads[i])}"
            ends = ends if self.touches(i) else "outside the group"
            lines.append(f"  {name:{names}}  {shape!s:{shapes}}  {ends}")
        return "\n".join(lines)


def trivial_gauge(params: optax.Params) -> Gauge:
    """The gauge with no node: nothing can be rescaled, and path space is weight space.

    Args:
        params: any tree of arrays.

    Example:
        >>> print(trivial_gauge({"w": jnp.ones((2, 3))}))
        gauge: 0 nodes, 0 of 6 parameters in the group, 6 free dimensions
          w  (2, 3)  outside the group
    """
    names, shapes = leaf_names(params), [np.shape(leaf) for leaf in jax.tree.leaves(params)]
    return grounded_gauge(names, shapes, {}, num_nodes=0)


def grounded_gauge(
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    ends: dict[int, tuple[np.ndarray, np.ndarray]],
    *,
    num_nodes: int,
) -> Gauge:
    """A gauge in which only some leaves are named, and all others are outside the group.

    Args:
        names: of all leaves.
        shapes: of all leaves.
        ends: tails and heads of the leaves inside, by number.
        num_nodes: H.
    """
    outside = [np.full((1,) * len(shape), GROUND) for shape in shapes]
    tails, heads = (
        tuple(ends[i][end] if i in ends else ids for i, ids in enumerate(outside)) for end in (0, 1)
    )
    return Gauge(tuple(names), tuple(shapes), tails, heads, num_nodes)


def leaf_names(params: optax.Params) -> list[str]:
    """The leaves' paths, "layer_0/kernel", in the order of `jax.tree.leaves`."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]
    return [name.removesuffix("/value") for name in names]  # which Flax nnx adds


def difference(
    names: Sequence[str], shapes: Sequence[tuple[int, ...]], params: optax.Params
) -> str:
    """What sets a tree apart from one with leaves of these names and shapes.

    Leaves are compared by name only where some are missing or too many: elsewhere names may differ,
    since a wrapper such as Flax's {"params": ...} adds to all of them.
    """
    present = leaf_names(params)
    got = [tuple(np.shape(leaf)) for leaf in jax.tree.leaves(params)]
    if len(got) != len(shapes):
        missing = [name for name in names if name not in present]
        extra = [name for name in present if name not in names]
        details = [
            f"{what} {', '.join(some[:5])}{', ...' if len(some) > 5 else ''}"
            for what, some in (("without", missing), ("with", extra))
            if some
        ]
        return " ".join([f"{len(shapes)} leaves, got {len(got)}", *details])
    pairs = zip(names, shapes, got, strict=True)
    return next(f"{name} {want}, got {is_}" for name, want, is_ in pairs if want != is_)


def unmasked_leaves(tree: Any) -> list[Any]:
    """The leaves of a tree that a group is to fit.

    Args:
        tree: a parameter tree, or one like it.

    Raises:
        ValueError: if `optax.masked` has hidden some.
    """
    leaves = jax.tree.leaves(tree, is_leaf=_is_masked)
    if any(_is_masked(leaf) for leaf in leaves):
        raise ValueError(
            "a path runs through all layers, so path space cannot be masked leaf by leaf, but "
            "optax.masked or optax.partition hid some leaves; put the mask inside, and to freeze "
            "leaves set their steps to zero there: in_path_space(optax.chain(inner, "
            "optax.masked(optax.set_to_zero(), frozen)), gauge)."
        )
    return leaves


def _is_masked(leaf: Any) -> bool:
    return isinstance(leaf, optax.MaskedNode)


def _span(ids: np.ndarray) -> str:
    """Nodes in words: "ground", "node 3", "nodes 0-63"."""
    nodes = np.unique(ids[ids != GROUND])
    if not nodes.size:
        return "ground"
    words = f"nodes {nodes[0]}-{nodes[-1]}" if nodes.size > 1 else f"node {nodes[0]}"
    return words if (ids != GROUND).all() else f"{words} and ground"

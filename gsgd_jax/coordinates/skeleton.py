"""Skeletons: the choice of coordinates on path space."""

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax._precision import check_choice
from gsgd_jax.coordinates.frame import Frame, balanced_frame
from gsgd_jax.gauge import GROUND, Gauge

if TYPE_CHECKING:
    from gsgd_jax.coordinates.skeleton_chart import SkeletonChart

Basis = Literal["paths", "cycles"]


class LeafView(NamedTuple):
    """What a skeleton says about one leaf; ids are those of the gauge with ground as num_nodes."""

    tails: np.ndarray | None  # int32, broadcasts to the leaf; None where every tail is ground
    heads: np.ndarray | None  # likewise
    tree: (
        np.ndarray | None
    )  # int32, like heads: in which flat entry the head's in-edge is here, or -1
    free: np.ndarray | None  # int32, like tails: likewise the tail's out-edge, where it is free


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Skeleton:
    r"""Two arborescences over a gauge, and with them a basis of path space.

    Every node h has an *in-edge*; following in-edges back from any node reaches ground at the
    input. It has an *out-edge* too; following these forward reaches ground at the output. Then

        T = {in-edges}             the tree: H entries, which weight allocation leaves alone
        S = {out-edges} \ T        the free skeleton entries
        N = all the other entries

    and with α_h the product of weights from ground to h along in-edges, β_h that from h to ground
    along out-edges, α_ground = β_ground = 1, the coordinates are, for every entry e of S and N,

        "paths":   v_e = α_tail(e) w_e β_head(e)          a whole path from input to output,
        "cycles":  v_e = |α_tail(e)| w_e / |α_head(e)|    the cycle that e closes with the tree.

    There are m - H of either kind. They do not change under rescaling, and with the signs of the
    skeleton's entries they determine the network up to rescaling. Neither is canonical: an
    optimiser's trajectory depends on the tree and on the basis, and with "cycles" also on the
    values that the tree is thought to have.

    Cycle values are the weights of that representative whose tree entries are 1 or -1; gradient
    descent on them is gradient descent on its weights with the tree frozen. `tree_scales` names
    another representative by its |α_h|; v_e are then the weights of that one.

    Static like the gauge: equal and hashed by content, to be closed over by a jitted function.
    Entries are numbered through as `jax.flatten_util.ravel_pytree` lays them out.

    `choose_skeleton` makes one from a network's parameters.

    Args:
        gauge: the rescaling group.
        in_edges: the number of every node's in-edge, integer [num_nodes].
        out_edges: the number of every node's out-edge, integer [num_nodes].
        basis: "paths" or "cycles".
        tree_scales: for "cycles", |α_h| of the representative whose weights the coordinates are,
            positive, [num_nodes]; None for 1.
        left_out: which nodes of the gauge that it was chosen for are ground here, since no entry
            enters or leaves them that is not zero; by their numbers there.
        chosen_for: that gauge; None if no node of it is left out.

    Raises:
        ValueError: if an edge does not enter or leave its node, or following the edges does not
            reach ground.

    Example:
        >>> from gsgd_jax import mlp_gauge
        >>> gauge = mlp_gauge([np.ones((2, 3)), np.ones((3, 1))])
        >>> print(Skeleton(gauge, in_edges=np.array([0, 4, 5]), out_edges=np.array([6, 7, 8])))
        skeleton: 3 tree entries, 3 free skeleton entries, 6 paths
          0  3 tree, 0 free of 6
          1  0 tree, 3 free of 3
    """

    gauge: Gauge
    in_edges: np.ndarray
    out_edges: np.ndarray
    basis: Basis = "paths"
    tree_scales: np.ndarray | None = None
    left_out: tuple[int, ...] = ()
    chosen_for: Gauge | None = None
    advised_growth: ClassVar[float] = 1024.0

    def __post_init__(self):
        """Checks the edges and makes the arrays read-only."""
        check_choice("basis", self.basis, get_args(Basis))
        if self.tree_scales is not None:
            if self.basis != "cycles":
                raise ValueError("tree_scales belong to the basis 'cycles'; path values have none.")
            scales = np.array(self.tree_scales, np.float64)
            if scales.shape != (self.gauge.num_nodes,) or not (
                np.isfinite(scales).all() and (scales > 0).all()
            ):
                raise ValueError(
                    f"tree_scales must be {self.gauge.num_nodes} positive numbers, got {scales}."
                )
            self._freeze("tree_scales", scales)
        for field in ("in_edges", "out_edges"):
            edges = np.array(getattr(self, field))
            count, entries = self.gauge.num_nodes, self.gauge.num_entries
            if edges.shape != (count,) or not np.isin(edges, np.arange(entries)).all():
                raise ValueError(
                    f"{field} must be {count} integers in 0 ... {entries - 1}, got "
                    f"{edges.dtype} {edges.shape}: {edges}."
                )
            self._freeze(field, edges.astype(np.int64))
        self._check("in_edges", own=1, side="input")
        self._check("out_edges", own=0, side="output")

    def _freeze(self, field: str, array: np.ndarray) -> None:
        array.flags.writeable = False
        object.__setattr__(self, field, array)

    def _check(self, field: str, *, own: int, side: str) -> None:
        """Every edge belongs to its node, and the way along the edges ends in ground."""
        edges = getattr(self, field)
        ends = edge_ends(self.gauge, edges)  # tails, heads
        wrong = np.flatnonzero(ends[own] != np.arange(len(edges)))
        if wrong.size:
            h, end = wrong[0], ("tail", "head")[own]
            raise ValueError(
                f"{field}[{h}] must be an edge whose {end} is node {h}, but the {end} of entry "
                f"{edges[h]} is {ends[own][h]} (-1 is ground)."
            )
        pointers = np.append(ends[1 - own], GROUND)
        for _ in range(len(edges).bit_length()):
            pointers = pointers[pointers]
        lost = np.flatnonzero(pointers != GROUND)
        if lost.size:
            raise ValueError(
                f"following {field} from any node must reach ground at the {side}, but "
                f"{lost.size} nodes lie on or behind a cycle, {lost[:5].tolist()} among them."
            )

    @property
    def whole(self) -> Gauge:
        """The gauge that it was chosen for, with the nodes that are left out."""
        return self.gauge if self.chosen_for is None else self.chosen_for

    def of_whole(self, numbers: np.ndarray, left_out: int | float) -> np.ndarray:
        """What is given for every node of `gauge`, for those of `whole`.

        Args:
            numbers: [num_nodes of `gauge`].
            left_out: what stands at a node that is left out.
        """
        if self.chosen_for is None:
            return numbers
        own = np.full(self.whole.num_nodes, left_out, numbers.dtype)
        own[np.setdiff1d(np.arange(len(own)), self.left_out)] = numbers
        return own

    @functools.cached_property
    def in_rounds(self) -> tuple[np.ndarray, ...]:
        """Ever longer jumps along the in-edges, for products by doubling; [num_nodes + 1] each."""
        return _jumps(edge_ends(self.gauge, self.in_edges)[0])

    @functools.cached_property
    def out_rounds(self) -> tuple[np.ndarray, ...]:
        """Ever longer jumps along the out-edges."""
        return _jumps(edge_ends(self.gauge, self.out_edges)[1])

    @functools.cached_property
    def roots(self) -> np.ndarray:
        r"""The node at which the way along out-edges from h first leaves the tree; [num_nodes].

        With s = out_edges[roots[h]], an entry of S, α_h β_h = v_s: up to there the path runs in the
        tree and is counted by α.
        """
        _, heads = edge_ends(self.gauge, self.out_edges)
        roots = np.where(np.isin(self.out_edges, self.in_edges), heads, np.arange(len(heads)))
        for _ in range(len(roots).bit_length()):
            roots = roots[roots]
        return roots

    @functools.cached_property
    def free_nodes(self) -> np.ndarray:
        """The nodes whose out-edge is in S; integer [|S|]."""
        return np.flatnonzero(~np.isin(self.out_edges, self.in_edges))

    @functools.cached_property
    def leaf_views(self) -> tuple[LeafView | None, ...]:
        """For every leaf what the coordinates need, or None where the group does not touch it."""
        gauge = self.gauge
        free = np.full(gauge.num_nodes, -1)
        if self.basis == "paths":
            free[self.free_nodes] = self.out_edges[self.free_nodes]
        return tuple(
            LeafView(
                tails=_ids(gauge.tails[i], gauge.num_nodes),
                heads=_ids(gauge.heads[i], gauge.num_nodes),
                tree=_local(self.in_edges, gauge.heads[i], gauge.offsets[i : i + 2]),
                free=_local(free, gauge.tails[i], gauge.offsets[i : i + 2]),
            )
            if gauge.touches(i)
            else None
            for i in range(len(gauge.names))
        )

    def frame(self, params: optax.Params) -> Frame:
        """The balanced frame of a start, in which steps are bounded."""
        return balanced_frame(params, self.gauge)

    def at(self, params: optax.Params, frame: Frame | None = None) -> "SkeletonChart":
        """The coordinates around some weights; see `Coordinates`."""
        from gsgd_jax.coordinates.skeleton_chart import skeleton_chart  # which builds on this file

        return skeleton_chart(params, self, frame)

    def leaves(self, params: optax.Params) -> list[jax.Array]:
        """The leaves of a tree that must be the gauge's.

        Raises:
            ValueError: if it is not, or is masked.
        """
        return [jnp.asarray(leaf) for leaf in self.gauge.leaves(params)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Skeleton) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)

    @functools.cached_property
    def _content(self) -> tuple[object, ...]:
        arrays = (self.in_edges, self.out_edges, self.tree_scales)
        return (
            self.gauge,
            self.basis,
            self.left_out,
            self.chosen_for,
            *(a if a is None else a.tobytes() for a in arrays),
        )

    def __repr__(self) -> str:
        return f"Skeleton({self.basis} over {self.gauge!r})"

    def __str__(self) -> str:
        gauge = self.gauge
        lines = [
            f"skeleton: {gauge.num_nodes} tree entries, {len(self.free_nodes)} free skeleton "
            f"entries, {gauge.num_free} {self.basis}"
        ]
        width = max(map(len, gauge.names), default=0)
        free = self.out_edges[self.free_nodes]
        for i, name in enumerate(gauge.names):
            low, high = gauge.offsets[i : i + 2]
            tree, rest = (int(((e >= low) & (e < high)).sum()) for e in (self.in_edges, free))
            if tree or rest:
                lines.append(f"  {name:{width}}  {tree} tree, {rest} free of {gauge.sizes[i]}")
        if self.left_out:
            shown = ", ".join(map(str, self.left_out[:8])) + (", ..." if self.left_out[8:] else "")
            lines.append(f"  {len(self.left_out)} dead or constant nodes left out: {shown}")
        return "\n".join(lines)


def edge_ends(gauge: Gauge, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tail and head of entries given by number, -1 being ground; shapes of `edges`."""
    tails, heads = np.full(edges.shape, GROUND), np.full(edges.shape, GROUND)
    for i, shape in enumerate(gauge.shapes):
        here = (edges >= gauge.offsets[i]) & (edges < gauge.offsets[i + 1])
        index = np.unravel_index(edges[here] - gauge.offsets[i], shape) if here.any() else ()
        for ends, ids in ((tails, gauge.tails[i]), (heads, gauge.heads[i])):
            ends[here] = np.broadcast_to(ids, shape)[index] if here.any() else GROUND
    return tails, heads


def _jumps(next_nodes: np.ndarray) -> tuple[np.ndarray, ...]:
    """next, next twice, next four times, ...: until all have arrived at ground."""
    ground = len(next_nodes)
    jump = np.append(np.where(next_nodes == GROUND, ground, next_nodes), ground)
    jumps = []
    while (jump != ground).any():
        jumps.append(jump)
        jump = jump[jump]
    return tuple(jumps)


def _ids(ids: np.ndarray, ground: int) -> np.ndarray | None:
    return None if (ids == GROUND).all() else np.where(ids == GROUND, ground, ids).astype(np.int32)


def _local(edges: np.ndarray, ids: np.ndarray, bounds: np.ndarray) -> np.ndarray | None:
    """Of each id its edge's flat index in this leaf; -1 if that lies elsewhere, or for ground."""
    here = (edges >= bounds[0]) & (edges < bounds[1])
    local = np.append(np.where(here, edges - bounds[0], -1), -1)[ids]
    return local.astype(np.int32) if (local >= 0).any() else None


def check_skeleton(skeleton: Any, what: str) -> None:
    """Refuses what is no skeleton, such as the gauge that one is chosen for.

    Args:
        skeleton: what came.
        what: asks for it, "skeleton_margin".

    Raises:
        TypeError: naming what came.
    """
    if not isinstance(skeleton, Skeleton):
        raise TypeError(
            f"{what} needs a skeleton, got {type(skeleton).__name__}; "
            "choose_skeleton(gauge, params, basis='paths')."
        )

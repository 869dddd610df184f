"""What tracing a model finds: its rescaling group, and what kept it from being larger."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax._precision import cast_like, check_scales, working_dtype
from gsgd_jax.gauge import GROUND, Gauge, difference, unmasked_leaves
from gsgd_jax.tracing.exponents import Exponents, log_factors
from gsgd_jax.tracing.interpreter import Approximation, Pin
from gsgd_jax.tracing.summary import nodes_of, num_moved, per_leaf, pin_lines, shortened


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FoundGauge(Gauge):
    """A gauge found by tracing: an ordinary one that knows what pinned scales.

    Args:
        names: as in `Gauge`.
        shapes: as in `Gauge`.
        tails: as in `Gauge`.
        heads: as in `Gauge`.
        num_nodes: as in `Gauge`.
        pins: which primitives took dimensions from the group, and where.
    """

    pins: tuple[Pin, ...] = ()

    def verify(
        self,
        apply_fn: Callable[..., Any],
        params: optax.Params,
        *inputs: Any,
        key: jax.Array | None = None,
        tolerance: float | None = None,
    ) -> float:
        """Checks that a random finite rescaling leaves the model's outputs alone.

        Args:
            apply_fn: the model, a function of parameters and inputs.
            params: its parameters.
            *inputs: its inputs.
            key: of the rescaling; None for a fixed one.
            tolerance: largest deviation allowed, relative to the largest output; None for the
                square root of the outputs' precision.

        Returns:
            The largest deviation, relative to the largest output.

        Raises:
            ValueError: if it is above the tolerance, it says by how much; or if all outputs are
                zero, where nothing can be seen.
        """
        key = jax.random.key(0) if key is None else key
        moved = self.rescale(params, key, spread=0.5)
        return _compare(apply_fn, params, moved, inputs, tolerance, 0.0)

    def __str__(self) -> str:
        head, *lines = super().__str__().split("\n")
        moved = [
            set(np.unique(np.concatenate([t.ravel(), h.ravel()])).tolist()) - {GROUND}
            for t, h in zip(self.tails, self.heads, strict=True)
        ]
        counts = [
            int(np.count_nonzero(np.broadcast_to((t != GROUND) | (h != GROUND), s)))
            for t, h, s in zip(self.tails, self.heads, self.shapes, strict=True)
        ]
        ends = per_leaf(moved, counts, self.sizes)
        width = max(map(len, lines), default=0)
        shown = [f"{line:{width}}  {end}" for line, end in zip(lines, ends, strict=True)]
        return "\n".join([head, *shown, *pin_lines(self.pins)])


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RescalingGroup:
    """A rescaling group that is more than a graph between inputs and outputs.

    Under it entry e becomes w_e Π_h c_h^k_eh, with exponents k that are integers, rarely fractions.
    Skeletons need a graph, an edge into and out of every node and at most one node at either end of
    an entry. Here some entry moves with several (gated units, attention behind a normalisation), or
    some node is *absorbing*: normalisation takes its scale away, and no edge leaves it. Counting,
    rescaling and verifying work on all of it; `gauge` is the part that has skeletons, and
    `choose_section` gives coordinates of path space for all of its exact nodes.

    Args:
        names: of the leaves.
        shapes: of the leaves.
        leaves: the exponents of their entries.
        num_nodes: the dimension of the group, absorbing and approximate nodes included.
        pins: which primitives took dimensions from the group, and where.
        obstacle: the name of a leaf that is no edge; None where all are.
        absorbing: numbers of the nodes that normalisation absorbs.
        approximate: numbers of the nodes whose symmetry an epsilon breaks: all else equal, outputs
            move in proportion to it.
        approximations: these epsilons, and where they are added.
        gauge: what is left without absorbing and approximate nodes, as a gauge; None if it is no
            graph.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    leaves: tuple[Exponents, ...]
    num_nodes: int
    pins: tuple[Pin, ...]
    obstacle: str | None
    absorbing: tuple[int, ...] = ()
    approximate: tuple[int, ...] = ()
    approximations: tuple[Approximation, ...] = ()
    gauge: FoundGauge | None = None

    @property
    def num_absorbing(self) -> int:
        """How many nodes normalisation absorbs."""
        return len(self.absorbing)

    @property
    def epsilon(self) -> float:
        """The largest constant that was treated as nothing; 0 if the group is exact."""
        return max((note.epsilon for note in self.approximations), default=0.0)

    @property
    def num_entries(self) -> int:
        """The number of parameter entries, m."""
        return int(sum(np.prod(shape, dtype=np.int64) for shape in self.shapes))

    @property
    def num_edges(self) -> int:
        """How many entries the group moves."""
        return sum(map(num_moved, self.leaves, self.shapes))

    @property
    def num_free(self) -> int:
        """The dimension of the space of functions, to first order: m - H."""
        return self.num_entries - self.num_nodes

    def act(self, params: optax.Params, scales: jax.typing.ArrayLike) -> optax.Params:
        """Applies one element of the group: the same function from other weights.

        Args:
            params: a parameter tree.
            scales: c, positive, floating-point, shape [num_nodes].

        Returns:
            The rescaled tree, dtypes kept.

        Raises:
            ValueError: if the leaves' shapes are not the group's, there is not one scale for each
                node, or one that can be read is not positive and finite.
        """
        check_scales(scales, self.num_nodes)
        arrays, inside = self._split(params)
        dtype = working_dtype([jnp.asarray(arrays[i]) for i in inside])
        logs = jnp.log(jnp.asarray(scales, dtype))
        for i in inside:
            array = jnp.asarray(arrays[i])
            factor = jnp.exp(log_factors(self.leaves[i], self.shapes[i], logs))
            arrays[i] = cast_like(array.astype(dtype) * factor, array)
        return jax.tree.unflatten(jax.tree.structure(params), arrays)

    def rescale(self, params: optax.Params, key: jax.Array, *, spread: float = 1.0) -> optax.Params:
        """Applies a random finite element of the group, log c_h ~ N(0, spread²).

        Args:
            params: a parameter tree.
            key: a PRNG key.
            spread: standard deviation of the log-scales.
        """
        return self.act(params, jnp.exp(self._logs(params, key, spread)))

    def _logs(self, params: optax.Params, key: jax.Array, spread: float) -> jax.Array:
        arrays, inside = self._split(params)
        dtype = working_dtype([jnp.asarray(arrays[i]) for i in inside])
        return spread * jax.random.normal(key, (self.num_nodes,), dtype)

    def verify(
        self,
        apply_fn: Callable[..., Any],
        params: optax.Params,
        *inputs: Any,
        key: jax.Array | None = None,
        tolerance: float | None = None,
    ) -> float:
        """Checks that a random finite rescaling leaves the model's outputs alone.

        Where some nodes are approximate the others are checked first, by themselves and without
        allowance. With all of them, an epsilon beside a variance v moves outputs by about
        epsilon / (2 v), relative: less than the square root of epsilon as long as v is above it.

        Args:
            apply_fn: the model, a function of parameters and inputs.
            params: its parameters.
            *inputs: its inputs.
            key: of the rescaling; None for a fixed one.
            tolerance: largest deviation allowed, relative to the largest output; None for the
                square root of the outputs' precision or, with approximate nodes, of their epsilon
                if that is larger.

        Returns:
            The largest deviation, relative to the largest output.

        Raises:
            ValueError: if it is above the tolerance, it says by how much; or if all outputs are
                zero, where nothing can be seen.
        """
        logs = self._logs(params, jax.random.key(0) if key is None else key, 0.5)
        if self.approximate:
            still = logs.at[np.array(self.approximate)].set(0.0)
            _compare(apply_fn, params, self.act(params, jnp.exp(still)), inputs, tolerance, 0.0)
        moved = self.act(params, jnp.exp(logs))
        return _compare(apply_fn, params, moved, inputs, tolerance, self.epsilon)

    def checked_leaves(self, params: optax.Params) -> list[Any]:
        """The leaves of a tree that must be the group's.

        Args:
            params: a parameter tree, or one like it.

        Raises:
            ValueError: if the leaves' shapes are not the group's, or some are masked.
        """
        arrays = unmasked_leaves(params)
        shapes = tuple(np.shape(array) for array in arrays)
        if shapes != self.shapes:
            raise ValueError(
                "the tree must have the leaves of the parameters that were traced: "
                f"{difference(self.names, self.shapes, params)}; find the group of the parameters "
                "that it is used with."
            )
        return arrays

    def _split(self, params: optax.Params) -> tuple[list[Any], list[int]]:
        """The leaves, and the numbers of those that the group moves."""
        arrays = self.checked_leaves(params)
        return arrays, [i for i, leaf in enumerate(self.leaves) if leaf.overall or leaf.blocks]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RescalingGroup) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content[:4])

    @property
    def _content(self) -> tuple[Any, ...]:
        """All that coordinates depend on; exponents, which are dictionaries, come last."""
        return (self.names, self.shapes, self.num_nodes, self.approximate, self.leaves)

    def __repr__(self) -> str:
        return f"RescalingGroup({self.num_nodes} nodes, {self.num_absorbing} absorbing)"

    def __str__(self) -> str:
        kinds = [
            f"{len(nodes)} of them {kind}"
            for nodes, kind in ((self.absorbing, "absorbing"), (self.approximate, "approximate"))
            if nodes
        ]
        lines = [
            ", ".join([f"rescaling group: {self.num_nodes} nodes", *kinds])
            + f", {self.num_edges} of {self.num_entries} parameters in the group, "
            f"{self.num_free} free dimensions"
        ]
        if self.obstacle is not None:
            lines.append(
                f"  not a graph ({self.obstacle} moves with several nodes at one end), so it has "
                "no skeleton; `choose_section` gives it coordinates"
            )
        width = max(map(len, self.names), default=0)
        shapes = max((len(str(shape)) for shape in self.shapes), default=0)
        moved = list(map(nodes_of, self.leaves))
        sizes = [int(np.prod(shape, dtype=np.int64)) for shape in self.shapes]
        counts = list(map(num_moved, self.leaves, self.shapes))
        ends = per_leaf(moved, counts, sizes)
        absorbing = set(self.absorbing)
        for name, shape, nodes, end in zip(self.names, self.shapes, moved, ends, strict=True):
            plural = "s" if len(nodes) > 1 else ""
            words = f"moves with {len(nodes)} node{plural}" if nodes else "outside the group"
            among = len(nodes & absorbing)
            words += f" ({among} absorbing)" if among else ""
            lines.append(f"  {name:{width}}  {shape!s:{shapes}}  {words}, {end}")
        notes = [
            f"  approximate by epsilon {n.epsilon:.2g} in {n.primitive} at {n.source}: "
            f"{n.nodes} nodes"
            for n in self.approximations
        ]
        return "\n".join([*lines, *shortened(notes), *pin_lines(self.pins)])


def _compare(
    apply_fn: Callable[..., Any],
    params: optax.Params,
    moved: optax.Params,
    inputs: tuple[Any, ...],
    tolerance: float | None,
    epsilon: float,
) -> float:
    before = jax.tree.leaves(apply_fn(params, *inputs))
    after = jax.tree.leaves(apply_fn(moved, *inputs))
    worst, seen = 0.0, False
    for one, other in zip(map(jnp.asarray, before), map(jnp.asarray, after), strict=True):
        inexact = jnp.issubdtype(one.dtype, jnp.inexact)
        old, new = (np.asarray(x, np.result_type(np.asarray(x), np.float64)) for x in (one, other))
        size = np.abs(old[np.isfinite(old)]).max(initial=0)
        gap = np.where(old == new, 0, np.abs(old - new)).max(initial=0) / (size or 1)
        bound = max(float(jnp.finfo(one.dtype).eps), epsilon) ** 0.5 if inexact else 0.0
        bound = bound if tolerance is None else tolerance
        if not gap <= bound:
            raise ValueError(
                f"rescaling must leave the outputs alone, but it moved them by {gap:.2g} of the "
                f"largest (tolerance {bound:.2g}); either the model is not the one traced, with "
                "other inputs, branches or options, or its precision is low: verify in float64."
            )
        worst, seen = max(worst, float(gap)), seen or size > 0
    if not seen:
        raise ValueError(
            "verify compares outputs that are not zero, but at these parameters and inputs all are "
            "(a last layer of zeros?), whatever the model; give parameters without such zeros, "
            "jax.tree.map(lambda w: w + 0.1, params)."
        )
    return worst

"""Coordinates for rescaling groups that are no graph: a section of their orbits."""

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax._precision import cast_like, working_dtype
from gsgd_jax.coordinates.frame import Frame, balanced_frame, held_within
from gsgd_jax.coordinates.node_vectors import entries
from gsgd_jax.coordinates.protocol import StepInfo
from gsgd_jax.tracing import RescalingGroup
from gsgd_jax.tracing.exponents import log_factors
from gsgd_jax.tracing.rows import exponent_rows


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Section:
    r"""Of all rescaled copies of a network, the one in which some entries have given magnitudes.

    What the basis "cycles" of a `Skeleton` is where the group is a graph, for any group. Under it
    entry e becomes w_e Π_h c_h^k_eh. Take as many *pivots* s as the group has exact nodes, so that
    the matrix K of their exponents has an inverse. Then exactly one c gives every pivot its
    magnitude t_s,

        log c = K⁻¹ (log t - log |w_S|),        v_e = w_e Π_h c_h^k_eh,

    and the weights v of that copy, which are the same for all copies, are the coordinates. A pivot
    has none: under a step it keeps its weight, and v is divided by the same factors to give the
    weights again, so a trajectory of rescaled copies is one of functions. Pivots are not zero, and
    nothing else is divided by: all coordinates cross zero freely.

    Nodes whose symmetry an epsilon breaks (`RescalingGroup.approximate`) are left alone. K⁻¹ is a
    dense matrix: meant for groups of up to some thousand nodes.

    Args:
        group: as `find_gauge` gives it.
        entries: numbers of the pivots, in the leaves laid end to end; integer [nodes].
        magnitudes: t, positive, float64 [nodes].

    Raises:
        ValueError: if the pivots' exponents have no inverse, or a magnitude is not positive.
    """

    group: RescalingGroup
    entries: np.ndarray
    magnitudes: np.ndarray
    advised_growth: ClassVar[float] = 1024.0

    def __post_init__(self):
        """Refuses pivots that fix no copy, or more than one."""
        entries, magnitudes = np.asarray(self.entries), np.asarray(self.magnitudes, np.float64)
        count = len(self.nodes)
        if entries.shape != (count,) or not np.isin(entries, np.arange(self._offsets[-1])).all():
            raise ValueError(
                f"a section needs {count} pivots, a number of an entry for every exact node of the "
                f"group, got {entries.dtype} {entries.shape}."
            )
        if magnitudes.shape != (count,) or not (magnitudes > 0).all():
            raise ValueError(f"magnitudes must be {count} positive numbers, got {magnitudes}.")
        order = np.argsort(entries)
        for field, array in (("entries", entries[order].astype(np.int64)),
                             ("magnitudes", magnitudes[order])):  # fmt: skip
            array.flags.writeable = False
            object.__setattr__(self, field, array)
        if np.linalg.matrix_rank(self._matrix) < count:
            raise ValueError(
                "the exponents of a section's pivots must be independent, or no copy has them as "
                "wished; choose them with `choose_section`."
            )

    @functools.cached_property
    def nodes(self) -> np.ndarray:
        """The exact nodes of the group; integer."""
        return np.setdiff1d(
            np.arange(self.group.num_nodes), np.asarray(self.group.approximate, np.int64)
        )

    @functools.cached_property
    def pivots(self) -> tuple[np.ndarray | None, ...]:
        """For every leaf the flat indices of its pivots; None where it has none."""
        found = []
        for low, high in zip(self._offsets[:-1], self._offsets[1:], strict=True):
            here = self.entries[(self.entries >= low) & (self.entries < high)] - low
            found.append(here if here.size else None)
        return tuple(found)

    @functools.cached_property
    def inverse(self) -> np.ndarray:
        """K⁻¹, float64 [nodes, nodes]."""
        return np.linalg.inv(self._matrix) if len(self.nodes) else np.zeros((0, 0))

    @functools.cached_property
    def _matrix(self) -> np.ndarray:
        rows = exponent_rows(self.group)
        return rows.dense(self.entries)[:, self.nodes]

    @functools.cached_property
    def _offsets(self) -> np.ndarray:
        sizes = [int(np.prod(shape, dtype=np.int64)) for shape in self.group.shapes]
        return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def frame(self, params: optax.Params) -> Frame:
        """The balanced frame of a start, in which steps are bounded.

        Where the copy is, the pivots say all along: they keep their weights.
        """
        return balanced_frame(params, self.group)

    def at(self, params: optax.Params, frame: Frame | None = None) -> "SectionChart":
        """The coordinates around some weights; see `Coordinates`."""
        return section_chart(params, self, frame)

    def leaves(self, params: optax.Params) -> list[jax.Array]:
        """The leaves of a tree that must be the group's.

        Args:
            params: a parameter tree, or one like it.

        Raises:
            ValueError: if it is not.
        """
        return [jnp.asarray(leaf) for leaf in self.group.checked_leaves(params)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Section) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)

    @functools.cached_property
    def _content(self) -> tuple[object, ...]:
        return (self.group, self.entries.tobytes(), self.magnitudes.tobytes())

    def __repr__(self) -> str:
        return f"Section({len(self.nodes)} pivots of {self.group!r})"

    def __str__(self) -> str:
        lines = [f"section: {len(self.nodes)} pivots of {self._offsets[-1]} entries"]
        width = max(map(len, self.group.names), default=0)
        lines += [
            f"  {name:{width}}  {len(own)} pivots of {int(np.prod(shape, dtype=np.int64))}"
            for name, shape, own in zip(
                self.group.names, self.group.shapes, self.pivots, strict=True
            )
            if own is not None
        ]
        return "\n".join(lines)


class SectionChart(NamedTuple):
    """The coordinates around some weights: v = f w off the pivots; see `Chart`."""

    section: Section
    params: optax.Params  # w
    factors: list[jax.Array | None]  # f, working dtype, broadcast to each leaf; None: not in group
    pivot: list[jax.Array | None]  # bool, like each leaf; None where there is none
    dtype: np.dtype  # in which values are worked out
    frame: Frame | None = None  # of the run's start, in which its steps are bounded

    @property
    def fixed(self) -> list[jax.Array | None]:
        """Which entries have no coordinate of their own; None of a leaf without such."""
        return self.pivot

    def values(self) -> optax.Params:
        """V = f w; at a pivot stands its weight."""
        return self._scaled(self.params, at_pivots=self.params)

    def weights(self, values: optax.Params) -> optax.Params:
        """W = v / f, with the pivots of the chart."""
        return self._scaled(values, inverse=True, at_pivots=self.params)

    def slopes(self, gradients: optax.Updates) -> optax.Updates:
        """dL/dv = dL/dw / f, and 0 at pivots."""
        return self._scaled(gradients, inverse=True)

    def changes(
        self,
        steps: optax.Updates,
        *,
        max_ratio: chex.Numeric | None = None,
        max_growth: chex.Numeric | None = None,
    ) -> tuple[optax.Updates, StepInfo]:
        """Δw = u / f, and 0 at pivots."""
        nothing = StepInfo(jnp.ones([], self.dtype), jnp.zeros([], jnp.int32))
        updates = self._scaled(steps, inverse=True)
        if self.frame is None or max_growth is None:
            return updates, nothing
        leaves, weights = self.section.leaves(updates), self.section.leaves(self.params)
        for i, factor in enumerate(self.factors):
            if factor is not None:
                update, weight = (tree[i].astype(self.dtype) for tree in (leaves, weights))
                held = held_within(update, weight, i, self.frame, max_growth)
                leaves[i] = cast_like(held, leaves[i])
        return jax.tree.unflatten(jax.tree.structure(updates), leaves), nothing

    def _scaled(
        self,
        tree: optax.Params,
        *,
        inverse: bool = False,
        at_pivots: optax.Params | None = None,
    ) -> optax.Params:
        """A tree times f or over it; at pivots, what is given there, or zero."""
        leaves = self.section.leaves(tree)
        kept = None if at_pivots is None else self.section.leaves(at_pivots)
        for i, factor in enumerate(self.factors):
            if factor is None:
                continue
            leaf = leaves[i].astype(self.dtype)
            scaled, mask = leaf / factor if inverse else leaf * factor, self.pivot[i]
            if mask is not None:
                fixed = 0.0 if kept is None else kept[i].astype(self.dtype)
                scaled = jnp.where(mask, fixed, scaled)
            leaves[i] = cast_like(scaled, leaves[i])
        return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def section_chart(
    params: optax.Params, section: Section, frame: Frame | None = None
) -> SectionChart:
    """The coordinates around `params`.

    Args:
        params: a parameter tree.
        section: of its group.
        frame: of a run's start; None for steps without a bound.

    Raises:
        ValueError: if the tree is not the group's.
    """
    weights, group = section.leaves(params), section.group
    touched = [bool(leaf.overall or leaf.blocks) for leaf in group.leaves]
    dtype = working_dtype(w for w, own in zip(weights, touched, strict=True) if own)
    found = [
        jnp.abs(entries(w, own).astype(dtype))
        for w, own in zip(weights, section.pivots, strict=True)
        if own is not None
    ]
    sizes = jnp.concatenate(found) if found else jnp.zeros(0, dtype)
    wanted = jnp.asarray(np.log(section.magnitudes), dtype)
    inverse = jnp.asarray(section.inverse, dtype)
    # Highest precision: on accelerators products are rounded to fewer bits otherwise.
    exact = jnp.matmul(inverse, wanted - jnp.log(sizes), precision=jax.lax.Precision.HIGHEST)
    logs = jnp.zeros(group.num_nodes, dtype).at[section.nodes].set(exact)
    factors, pivot = [], []
    for own, leaf, shape, places in zip(
        touched, group.leaves, group.shapes, section.pivots, strict=True
    ):
        factors.append(jnp.exp(log_factors(leaf, shape, logs)) if own else None)
        mask = None
        if places is not None:
            mask = np.zeros(int(np.prod(shape, dtype=np.int64)), bool)
            mask[places] = True
            mask = jnp.asarray(mask.reshape(shape))
        pivot.append(mask)
    return SectionChart(section, params, factors, pivot, dtype, frame)

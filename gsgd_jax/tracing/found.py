"""What tracing a model finds: its rescaling group, and what kept it from being larger."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax.gauge import Gauge
from gsgd_jax.precision import cast_like, working_dtype
from gsgd_jax.tracing.graph import Exponents
from gsgd_jax.tracing.interpreter import Pin

_SHOWN = 12


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
            ValueError: if it is above the tolerance; it says by how much.
        """
        return _verify(self, apply_fn, params, inputs, key, tolerance)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *_pin_lines(self.pins)])


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RescalingGroup:
    """A rescaling group that is no graph in the nodes found: some entry moves with several of them.

    Under it entry e becomes w_e Π_h c_h^k_eh, with exponents k that are integers, rarely fractions.
    Skeletons need a graph, at most one node at either end of an entry, so there is none yet for
    such a model (gated units, attention behind a normalisation). Rescaling and verifying work.

    Args:
        names: of the leaves.
        shapes: of the leaves.
        leaves: the exponents of their entries.
        num_nodes: the dimension of the group.
        pins: which primitives took dimensions from the group, and where.
        obstacle: the name of a leaf that is no edge.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    leaves: tuple[Exponents, ...]
    num_nodes: int
    pins: tuple[Pin, ...]
    obstacle: str

    def act(self, params: optax.Params, scales: jax.typing.ArrayLike) -> optax.Params:
        """Applies one element of the group: the same function from other weights.

        Args:
            params: a parameter tree.
            scales: c, positive, floating-point, shape [num_nodes].

        Returns:
            The rescaled tree, dtypes kept.

        Raises:
            ValueError: if the leaves' shapes are not the group's.
        """
        arrays, inside = self._split(params)
        dtype = working_dtype([jnp.asarray(arrays[i]) for i in inside])
        logs = jnp.log(jnp.asarray(scales, dtype))
        for i in inside:
            array = jnp.asarray(arrays[i])
            factor = jnp.exp(_logarithms(self.leaves[i], self.shapes[i], logs))
            arrays[i] = cast_like(array.astype(dtype) * factor, array)
        return jax.tree.unflatten(jax.tree.structure(params), arrays)

    def rescale(self, params: optax.Params, key: jax.Array, *, spread: float = 1.0) -> optax.Params:
        """Applies a random finite element of the group, log c_h ~ N(0, spread²).

        Args:
            params: a parameter tree.
            key: a PRNG key.
            spread: standard deviation of the log-scales.
        """
        arrays, inside = self._split(params)
        dtype = working_dtype([jnp.asarray(arrays[i]) for i in inside])
        return self.act(params, jnp.exp(spread * jax.random.normal(key, (self.num_nodes,), dtype)))

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
            ValueError: if it is above the tolerance; it says by how much.
        """
        return _verify(self, apply_fn, params, inputs, key, tolerance)

    def _split(self, params: optax.Params) -> tuple[list[Any], list[int]]:
        """The leaves, and the numbers of those that the group moves."""
        arrays = jax.tree.leaves(params)
        shapes = tuple(np.shape(array) for array in arrays)
        if shapes != self.shapes:
            raise ValueError(
                f"the tree must have leaves of shapes {self.shapes}, as the model that was traced, "
                f"got {shapes}; find the group of the parameters that it is used with."
            )
        return arrays, [i for i, leaf in enumerate(self.leaves) if leaf.overall or leaf.blocks]

    def __repr__(self) -> str:
        return f"RescalingGroup({self.num_nodes} nodes, no skeleton yet)"

    def __str__(self) -> str:
        lines = [
            f"rescaling group: {self.num_nodes} nodes, not a graph ({self.obstacle} moves with "
            "several at one end), so it has no skeleton yet"
        ]
        width = max(map(len, self.names), default=0)
        shapes = max((len(str(shape)) for shape in self.shapes), default=0)
        for name, shape, leaf in zip(self.names, self.shapes, self.leaves, strict=True):
            nodes = {v for form in (leaf.overall, *_tables(leaf)) for v in form}
            words = f"moves with {len(nodes)} nodes" if nodes else "outside the group"
            lines.append(f"  {name:{width}}  {shape!s:{shapes}}  {words}")
        return "\n".join([*lines, *_pin_lines(self.pins)])


def _tables(leaf: Exponents) -> Iterable[Any]:
    return (form for _, table in leaf.blocks for form in table)


def _logarithms(leaf: Exponents, shape: tuple[int, ...], logs: jax.Array) -> jax.Array:
    """The logarithm of every entry's factor, of a shape that broadcasts to the leaf's."""
    total = jnp.zeros((1,) * len(shape), logs.dtype)
    for axes, table in [((), [leaf.overall]), *leaf.blocks]:
        places = [i for i, form in enumerate(table) for _ in form]
        nodes = [node for form in table for node in form]
        powers = jnp.array([float(c) for form in table for c in form.values()], logs.dtype)
        moved = powers * logs[jnp.array(nodes, jnp.int32)]
        sums = jnp.zeros(len(table), logs.dtype).at[jnp.array(places, jnp.int32)].add(moved)
        total = total + sums.reshape([n if a in axes else 1 for a, n in enumerate(shape)])
    return total


def _pin_lines(pins: tuple[Pin, ...]) -> list[str]:
    lines = [f"  pinned by {p.primitive} at {p.source}: {p.scales} scales" for p in pins[:_SHOWN]]
    hidden = len(pins) - _SHOWN
    return [*lines, f"  and {hidden} more places, see .pins"] if hidden > 0 else lines


def _verify(
    group: FoundGauge | RescalingGroup,
    apply_fn: Callable[..., Any],
    params: optax.Params,
    inputs: tuple[Any, ...],
    key: jax.Array | None,
    tolerance: float | None,
) -> float:
    key = jax.random.key(0) if key is None else key
    before = jax.tree.leaves(apply_fn(params, *inputs))
    after = jax.tree.leaves(apply_fn(group.rescale(params, key, spread=0.5), *inputs))
    worst = 0.0
    for one, other in zip(map(jnp.asarray, before), map(jnp.asarray, after), strict=True):
        inexact = jnp.issubdtype(one.dtype, jnp.inexact)
        old, new = (np.asarray(x, np.result_type(np.asarray(x), np.float64)) for x in (one, other))
        size = np.abs(old[np.isfinite(old)]).max(initial=0)
        gap = np.where(old == new, 0, np.abs(old - new)).max(initial=0) / (size or 1)
        bound = float(jnp.finfo(one.dtype).eps) ** 0.5 if inexact else 0.0
        bound = bound if tolerance is None else tolerance
        if not gap <= bound:
            raise ValueError(
                f"rescaling must leave the outputs alone, but it moved them by {gap:.2g} of the "
                f"largest (tolerance {bound:.2g}); either the model is not the one traced, with "
                "other inputs, branches or options, or its precision is low: verify in float64."
            )
        worst = max(worst, float(gap))
    return worst

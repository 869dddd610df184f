"""Coordinates that are never singular: the weights of the balanced copy of a network."""

import dataclasses
from typing import ClassVar, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax._factors import Group, check_group, group_leaves, leaf_tables
from gsgd_jax._precision import cast_like, working_dtype
from gsgd_jax.coordinates.frame import Frame, balanced_frame, multiplied, within
from gsgd_jax.coordinates.protocol import StepInfo


@dataclasses.dataclass(frozen=True)
class Balanced:
    r"""Path values as the weights of the copy that is balanced at the start; the default.

    Of all rescaled copies of the start w⁰, one is balanced: every node's incoming and outgoing
    weights have equal norms (see `balance`; what counts as zero is said below). With c the group
    element that leads there, the coordinates along the run are

        v_e = f_e w_e,      f_e = Π_h c_h^k_eh,     which is c_head(e) / c_tail(e) in a graph.

    The balanced copy is the same for all copies of one network, so whichever of them training
    starts from, v starts at the same values and follows the same trajectory, and so does the
    function. The optimiser inside trains an ordinary network, the balanced one: no entry is frozen,
    none is divided by, every v_e crosses zero freely, and all functions can be reached.

    The frame, c and the factors f, is found once, from the start; it is data, not a constant of the
    program, so that one compiled step serves all seeds. A node all of whose incoming, or all of
    whose outgoing, weights are zero is given the scale at which the others have the norm that
    initialisers give them, 1 for one hidden unit. So are nodes that feed one another, a recurrent
    layer or a residual stream without norms and its branches, where nothing but zeros enters or
    leaves them all, such as a last layer of zeros: their common scale is the one at which what
    joins them to the rest has that norm. So is a node whose scale normalisation absorbs, such
    as the residual stream of a network with RMS norms, whose writers together get that norm. What
    an epsilon inside a norm makes approximate is exact here, since nothing is ever rescaled: f only
    says in which units steps are taken.

    A layer that begins small, but not at zero, as the last one of a policy often does, counts as
    zero too, and keeps its smallness to itself: balance would share it among all layers, and with a
    factor of 1e-8 training would stand still. Small is what leaves the nodes before it with a norm
    below 0.4 of that in the balanced copy of a usual network (`gsgd_jax.solver.small_layers`), in a
    network of L layers a factor below about 0.4 ** L: in a deep one let the last layer begin at
    exactly zero. Rescaled copies have their smallness in different layers; the frame has it in the
    last one. Where most of what enters the nodes is biases, nothing counts as small.

    Two starts that differ by powers of two follow the same trajectory to the bit, in float32 and
    bfloat16 too (away from overflow and underflow): c is computed by operations that commute with
    such factors.

    Args:
        group: the rescaling group, a `Gauge` or a `RescalingGroup`.

    Raises:
        TypeError: if it is neither.
    """

    group: Group
    advised_growth: ClassVar[float] = 100.0

    def __post_init__(self):
        """Refuses what is no group."""
        check_group(self.group)

    def frame(self, params: optax.Params) -> Frame:
        """The balanced frame of a start; works under jit."""
        return balanced_frame(params, self.group, small_as_zero=True)

    def at(self, params: optax.Params, frame: Frame | None = None) -> "BalancedChart":
        """The coordinates around some weights, in the frame of a run or in their own.

        Raises:
            ValueError: if the tree is not the group's.
        """
        leaves = self.leaves(params)
        frame = self.frame(params) if frame is None else frame
        tables = leaf_tables(self.group)
        dtype = working_dtype(w for w, own in zip(leaves, tables, strict=True) if own)
        return BalancedChart(self, params, frame, dtype)

    def leaves(self, params: optax.Params) -> list[jax.Array]:
        """The leaves of a tree that must be the group's.

        Raises:
            ValueError: if it is not, or is masked.
        """
        return [jnp.asarray(leaf) for leaf in group_leaves(self.group, params)]

    def __str__(self) -> str:
        return f"balanced coordinates of {self.group!r}"


class BalancedChart(NamedTuple):
    """See `Chart`."""

    coordinates: Balanced
    params: optax.Params  # w
    frame: Frame
    dtype: np.dtype  # in which values are worked out

    def values(self) -> optax.Params:
        """V = f w."""
        return self._scaled(self.params, self.frame.parts)

    def weights(self, values: optax.Params) -> optax.Params:
        """W = v / f."""
        return self._scaled(values, self.frame.inverses)

    def slopes(self, gradients: optax.Updates) -> optax.Updates:
        """dL/dv = dL/dw / f."""
        return self._scaled(gradients, self.frame.inverses)

    def changes(
        self,
        steps: optax.Updates,
        *,
        max_ratio: chex.Numeric | None = None,
        max_growth: chex.Numeric | None = None,
    ) -> tuple[optax.Updates, StepInfo]:
        """Δw = u / f, where u takes no balanced weight beyond `max_growth`."""
        leaves, weights = (self.coordinates.leaves(tree) for tree in (steps, self.params))
        for i, parts in enumerate(self.frame.parts):
            if parts:
                value = multiplied(weights[i].astype(self.dtype), parts)
                step = within(leaves[i].astype(self.dtype), value, self.frame, max_growth)
                leaves[i] = cast_like(multiplied(step, self.frame.inverses[i]), leaves[i])
        nothing = StepInfo(jnp.ones([], self.dtype), jnp.zeros([], jnp.int32))
        return jax.tree.unflatten(jax.tree.structure(steps), leaves), nothing

    def _scaled(self, tree: optax.Params, parts: list[tuple[jax.Array, ...]]) -> optax.Params:
        """Every leaf times its factor."""
        leaves = self.coordinates.leaves(tree)
        for i, own in enumerate(parts):
            if own:
                leaves[i] = cast_like(multiplied(leaves[i].astype(self.dtype), own), leaves[i])
        return jax.tree.unflatten(jax.tree.structure(tree), leaves)

"""What all coordinates of path space have in common."""

from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import chex
import jax
import optax


class StepInfo(NamedTuple):
    """What a step in path space did to the free skeleton entries, whose signs are coordinates."""

    least_ratio: jax.Array  # shape=(), working dtype: smallest v'/v asked for; <= 0: sign crossed
    bounded: jax.Array  # shape=(), dtype=int32: how many of their steps were shortened


@runtime_checkable
class Chart(Protocol):
    """Coordinates around some weights w: a change of variables between w and path values v.

    Trees have the parameters' structure, shapes and dtypes. Where an entry has no coordinate of its
    own (it is fixed to choose one of many rescaled copies), its weight stands in `values`, and zero
    in `slopes` and `changes`. A chart may say where, as `fixed`: for each leaf a mask that
    broadcasts to it, or None. What steps in these coordinates is then shown zero there.
    """

    def values(self) -> optax.Params:
        """The path values v of w."""
        ...

    def weights(self, values: optax.Params) -> optax.Params:
        """The weights with given path values, in the copy that w is in; `values` inverted."""
        ...

    def slopes(self, gradients: optax.Updates) -> optax.Updates:
        """The gradient with respect to v, from that with respect to w: the inverse chain rule."""
        ...

    def changes(
        self,
        steps: optax.Updates,
        *,
        max_ratio: chex.Numeric | None = None,
        max_growth: chex.Numeric | None = None,
    ) -> tuple[optax.Updates, StepInfo]:
        """The change of w that the step u of v asks for, within the bounds of `in_path_space`."""
        ...


@runtime_checkable
class Coordinates(Protocol):
    """A choice of coordinates for a rescaling group. It is static: hashed and compared by content.

    A run first asks for the *frame* of its start, arrays that stay fixed while it lasts and that an
    optimiser keeps in its state, and then for a chart at every step.
    """

    advised_growth: ClassVar[float]
    """How many times the largest balanced weight of its start a run's may reach, by default."""

    def frame(self, params: optax.Params) -> Any:
        """What stays fixed along a run from these weights: a tree of arrays. Works under jit."""
        ...

    def at(self, params: optax.Params, frame: Any = None) -> Chart:
        """The coordinates around some weights; a frame of None stands for theirs."""
        ...

    def leaves(self, params: optax.Params) -> list[jax.Array]:
        """The leaves of a tree that must be the group's.

        Raises:
            ValueError: if it is not, or is masked.
        """
        ...

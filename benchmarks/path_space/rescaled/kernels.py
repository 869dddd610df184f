"""Which leaves of a linen network are matrices, and which of their axes are outputs."""

from typing import Any

import jax
from optax.contrib import MuonDimensionNumbers

_INTO_HEADS = ("query", "key", "value")


def output_axes(path: Any, leaf: jax.Array) -> tuple[int, ...] | None:
    """The axes of a kernel that number its output channels; None for what is no kernel.

    Biases, embeddings and positions are none.

    Args:
        path: of the leaf, as `jax.tree_util.tree_map_with_path` gives it.
        leaf: of a linen network's parameters, or one that stands in the same place.
    """
    names = [getattr(key, "key", None) for key in path]
    if names[-1] != "kernel" or leaf.ndim < 2:
        return None
    if names[-2] in _INTO_HEADS:
        return tuple(range(1, leaf.ndim))
    return (leaf.ndim - 1,)


def muon_dimensions(tree: Any) -> Any:
    """Which leaves Muon treats as matrices: kernels, of convolutions and heads too.

    Args:
        tree: parameters, or a tree that holds them.
    """

    def dimensions(path: Any, leaf: jax.Array) -> MuonDimensionNumbers | None:
        axes = output_axes(path, leaf)
        if axes is None:
            return None
        inputs = tuple(i for i in range(leaf.ndim) if i not in axes)
        return MuonDimensionNumbers(inputs, axes)

    return jax.tree_util.tree_map_with_path(dimensions, tree)

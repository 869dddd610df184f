"""Trees of which some leaves may be missing: None, or hidden by `optax.masked`.

`masked` and `partition` hide leaves of updates and parameters, but hand extra arguments on whole,
so a plain tree map over updates and snapshots would find their structures at odds.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dcasgd_jax._precision import cast, cast_like, working_dtype


def is_hidden(node: Any) -> bool:
    """Whether a leaf is missing: None, or a `MaskedNode`."""
    return node is None or isinstance(node, optax.MaskedNode)


def map_present(function: Callable[..., Any], first: Any, *rest: Any) -> Any:
    """Maps over the leaves of `first` that are not missing; the missing ones stay as they are.

    The other trees have its structure where it has leaves, and any structure where it has none.

    Example:
        >>> map_present(lambda g, w: g + w, {"a": 1, "b": None}, {"a": 2, "b": {"c": 3}})
        {'a': 3, 'b': None}
    """
    return jax.tree.map(
        lambda node, *others: node if is_hidden(node) else function(node, *others),
        first,
        *rest,
        is_leaf=is_hidden,
    )


def present_leaves(tree: Any, like: Any) -> list[Any]:
    """The leaves of `tree` in the places where `like` has leaves.

    Example:
        >>> present_leaves({"a": 1, "b": {"c": 3}}, like={"a": 0, "b": None})
        [1]
    """
    nodes, structure = jax.tree.flatten(like, is_leaf=is_hidden)
    leaves = structure.flatten_up_to(tree)
    return [leaf for leaf, node in zip(leaves, nodes, strict=True) if not is_hidden(node)]


def with_present_leaves(leaves: Sequence[Any], like: Any) -> Any:
    """`like`, with these leaves in the places where it has leaves; undoes `present_leaves`.

    Example:
        >>> with_present_leaves([1], like={"a": 0, "b": None})
        {'a': 1, 'b': None}
    """
    nodes, structure = jax.tree.flatten(like, is_leaf=is_hidden)
    following = iter(leaves)
    return structure.unflatten([node if is_hidden(node) else next(following) for node in nodes])


def check_same_structure(gradients: optax.Updates, **others: Any) -> None:
    """Refuses trees that have not the structure of the gradients where these have leaves.

    Example:
        >>> check_same_structure({"w": 1.0}, params={"w": 2.0}, stale_params={"v": 2.0})
        Traceback (most recent call last):
            ...
        ValueError: gradients and stale_params must be trees of one structure, got {'w'} and {'v'};
        pass the gradients and the snapshot of these same parameters.
    """
    structure = jax.tree.structure(gradients, is_leaf=is_hidden)
    for name, tree in others.items():
        try:
            structure.flatten_up_to(tree)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"gradients and {name} must be trees of one structure, got {_outline(gradients)} "
                f"and {_outline(tree)}; pass the gradients and the snapshot of these same "
                "parameters."
            ) from error


def _outline(tree: Any) -> str:
    """A tree in a few words."""
    if isinstance(tree, Mapping) and tree:
        names = [repr(key) for key in tree]
        return f"{{{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}}}"
    if isinstance(tree, list | tuple):
        return f"a {type(tree).__name__} of {len(tree)}"
    shape = getattr(tree, "shape", None)
    return repr(tree) if shape is None else f"an array of shape {shape}"


def working_zeros(tree: Any, *, leading: tuple[int, ...] = ()) -> Any:
    """Zeros in the working dtype of each leaf, with `leading` axes put before the leaf's own."""

    def zeros(w: Any) -> jax.Array:
        zero = jnp.zeros_like(w, working_dtype(w))  # sharded as w is, never weakly typed
        return jnp.broadcast_to(zero, (*leading, *zero.shape)) if leading else zero

    return jax.tree.map(zeros, tree)


def movement(g: ArrayLike, w: ArrayLike, stale: ArrayLike) -> jax.Array:
    """How far one leaf moved since its gradient was taken: w - w_stale, float32 or wider."""
    if jnp.shape(stale) != jnp.shape(w) or jnp.shape(g) != jnp.shape(w):
        raise ValueError(
            "gradient, params and stale_params must have the same shapes leaf by leaf, got "
            f"{jnp.shape(g)}, {jnp.shape(w)} and {jnp.shape(stale)}; pass the one snapshot that "
            "this gradient was taken at, not a stack of them."
        )
    # Cast before subtracting: in half precision the difference of nearby weights has no digits.
    dtype = working_dtype(g, w, stale)
    return cast(w, dtype) - cast(stale, dtype)


def scale_updates(updates: optax.Updates, factor: Any) -> optax.Updates:
    """Updates times a scalar, or a scalar a leaf, in float32 or wider.

    Each leaf keeps its dtype and weak type.
    """

    def scaled(g: ArrayLike, by: ArrayLike) -> jax.Array:
        dtype = working_dtype(g)
        return cast_like(cast(g, dtype) * cast(by, dtype), g)

    if jax.tree_util.all_leaves([factor]):
        return map_present(lambda g: scaled(g, factor), updates)
    return map_present(scaled, updates, factor)


def dot(a: Sequence[jax.Array], b: Sequence[jax.Array]) -> jax.Array:
    """The inner product of two lists of arrays, in their widest dtype, float32 at least."""
    dtype = working_dtype(*a, *b)
    products = [jnp.sum(cast(x, dtype) * cast(y, dtype)) for x, y in zip(a, b, strict=True)]
    return sum(products, start=jnp.zeros([], dtype))

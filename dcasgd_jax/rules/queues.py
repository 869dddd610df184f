"""Queues in which each leaf of a tree waits for as many calls as its own delay says.

A queue is a tuple of trees like the parameters, the oldest first, as many as the longest delay. A
leaf of delay d is in the last d of them, and a `MaskedNode` is in its place in the others: it is
kept d times, and each member is a parameter tree to `optax.tree.map_params`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from dcasgd_jax._masked_trees import is_hidden


def check_delays(delay: Any) -> None:
    """Refuses delays that are no whole numbers >= 0."""
    # None within a tree is a part without parameters; by itself it is no delay.
    for depth in jax.tree.leaves(delay) or [None]:
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
            raise ValueError(
                f"delay must be an int >= 0 (of M workers: M - 1), or a tree of them, got "
                f'{depth!r}; under inject_hyperparams name it static: static_args=("delay",).'
            )


def delay_of_leaves(delay: Any, params: optax.Params) -> Any:
    """A tree like the parameters, of the delay of each leaf."""
    try:
        return jax.tree.map(lambda d, part: jax.tree.map(lambda _: d, part), delay, params)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "delays must be one int, or a tree prefix of the parameters with an int for each part, "
            f"got {jax.tree.structure(delay)} for parameters {jax.tree.structure(params)}."
        ) from error


def empty_queue(delay: Any, params: optax.Params) -> tuple[Any, ...]:
    """A queue of zeros like the parameters; it shares no buffers with them or another queue."""
    longest = max(jax.tree.leaves(delay), default=0)
    return tuple(_zeros(delay, params, longest - place) for place in range(longest))


def _zeros(delay: Any, params: optax.Params, least: int) -> Any:
    """Zeros for the leaves whose delay is `least` at least; optax's placeholder as it is."""
    if not jax.tree.leaves(params):
        return params
    zeros = jax.tree.map(lambda w: jnp.zeros_like(w, jnp.result_type(w)), params)
    return _keep(zeros, delay_of_leaves(delay, params), least)


def _keep(tree: Any, depths: Any, least: int) -> Any:
    """The leaves whose delay is `least` at least, with `MaskedNode` in place of the others."""

    def kept(x: Any, depth: Any) -> Any:
        return x if is_hidden(x) or depth >= least else optax.MaskedNode()

    return jax.tree.map(kept, tree, depths, is_leaf=is_hidden)


def passed_on(queue: tuple[Any, ...], entering: Any, depths: Any) -> tuple[tuple[Any, ...], Any]:
    """The queue after one more tree has entered, and what leaves it, each leaf after its delay.

    Example:
        >>> queue = ({"a": 1, "b": optax.MaskedNode()}, {"a": 2, "b": 20})
        >>> moved, leaving = passed_on(queue, {"a": 3, "b": 30}, {"a": 2, "b": 1})
        >>> leaving, moved[0], moved[1]
        ({'a': 1, 'b': 20}, {'a': 2, 'b': MaskedNode()}, {'a': 3, 'b': 30})
    """
    whole, longest = (*queue, entering), len(queue)
    places = [jax.tree.leaves(tree, is_leaf=is_hidden) for tree in whole]
    structure = jax.tree.structure(entering, is_leaf=is_hidden)
    each = jax.tree.leaves(depths, is_leaf=is_hidden)
    leaving = [places[longest - (0 if is_hidden(d) else d)][i] for i, d in enumerate(each)]
    moved = tuple(
        _keep(structure.unflatten(places[k + 1]), depths, longest - k) for k in range(longest)
    )
    return moved, structure.unflatten(leaving)

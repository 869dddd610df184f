"""The forms in which batches come: arrays, a function of the step, or an iterable."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpy.typing import ArrayLike


class Source(NamedTuple):
    """Where batches come from, whichever form they were given in."""

    take: Callable[[Any, int, Any], Any]
    """(first, count, step) -> the batches of that many steps, stacked: `first` is counted within
    the stretch, `step` by the server from the beginning; either may be traced, where the batches
    are not iterated over."""
    example: Callable[[Any], Any]
    """(step) -> the first of the batches, which is not taken; may be called abstractly."""
    on_host: bool
    """Whether batches have to be asked for one after another, in order, outside of any trace."""


def source(batches: Any, num_steps: int) -> Source:
    """The source of a stretch's batches.

    Args:
        batches: a pytree of arrays [num_steps, ...], or a function from the server step (int32
            scalar, counted from 0) to a batch, or an iterable of batches.
        num_steps: length of the stretch.

    Raises:
        ValueError: if arrays are not as long as the stretch, or there is none.
    """
    if callable(batches):
        return Source(
            lambda _, count, step: jax.vmap(batches)(step + jnp.arange(count, dtype=jnp.int32)),
            example=batches,
            on_host=False,
        )
    if iterates(batches):
        ahead, iterator = [], iter(batches)
        if num_steps:
            ahead = _taken(iterator, 0, 1)
            iterator = itertools.chain(ahead, iterator)
        return Source(
            lambda first, count, _: _stacked(_taken(iterator, first, count)),
            example=lambda _: jax.tree.map(jnp.asarray, ahead[0]),
            on_host=True,
        )
    _check_arrays(batches, num_steps)
    return Source(
        lambda first, count, _: jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, count), batches
        ),
        example=lambda _: jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], batches),
        on_host=False,
    )


def one_batch(batches: Any, index: Any, step: Any) -> Any:
    """The batch of one step, of arrays or of a function of the step.

    Args:
        batches: either.
        index: of the step within the stretch; may be traced.
        step: counted by the server from the beginning; likewise.
    """
    if callable(batches):
        # Vectorised over one step, so that it is the same to the bit as one of many.
        drawn = jax.vmap(batches)(jnp.asarray(step, jnp.int32)[None])
        return jax.tree.map(lambda leaf: leaf[0], drawn)
    return jax.tree.map(
        lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), batches
    )


def reorder_batches(batches: Any, order: ArrayLike) -> Any:
    """The batches of a recorded run in the order in which its gradients arrived.

    Args:
        batches: what the run was given: a pytree of arrays [num_batches, ...], or a function from
            the number of a batch (int32 scalar) to it.
        order: the number of the batch of each server step, shape [num_steps], dtype int32.

    Returns:
        What `simulate` takes for the same steps: arrays [num_steps, ...], or a function of the
        server step.

    Example:
        >>> import jax.numpy as jnp
        >>> reorder_batches(jnp.array([1.0, 2.0, 3.0]), [2, 0, 1])
        Array([3., 1., 2.], dtype=float32)
        >>> print(reorder_batches(lambda n: 10 * n, [2, 0, 1])(0))
        20
    """
    order = jnp.asarray(np.asarray(order, np.int32))
    if callable(batches):
        return lambda step: batches(order[step])
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[order], batches)


def iterates(batches: Any) -> bool:
    """Whether this is neither an array nor one of Python's containers: a generator, a loader.

    Args:
        batches: anything.
    """
    container = isinstance(batches, tuple | list | Mapping)
    return hasattr(batches, "__iter__") and not hasattr(batches, "shape") and not container


class BatchesEndedError(ValueError):
    """An iterable of batches that ended before the schedule did. Nothing that was done is lost."""

    state: Any = None
    """The `SimulatorState` after the last step that was taken."""

    def __init__(self, step: int, unused: list[Any]):
        """Says where it ended.

        Args:
            step: the first step of the stretch that has no batch.
            unused: batches that were taken for steps which are computed together with it.
        """
        self.unused = unused
        super().__init__(
            f"the iterable of batches ended before step {step} of this stretch; give one batch a "
            "server step. What was simulated until then is in the attribute `state` of this error, "
            "and batches that were taken and not used in `unused`."
        )


def _taken(iterator: Iterator[Any], first: int, count: int) -> list[Any]:
    taken = []
    for i in range(count):
        try:
            taken.append(next(iterator))
        except StopIteration:
            raise BatchesEndedError(first + i, taken) from None
    return taken


@contextlib.contextmanager
def keeping(state: Any) -> Iterator[None]:
    """Hands the state on with the error, should the batches end here.

    Args:
        state: of the simulation, as it is.
    """
    try:
        yield
    except BatchesEndedError as error:
        error.state = state
        raise


def _stacked(taken: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *taken)


def _check_arrays(batches: Any, num_steps: int) -> None:
    leaves = jax.tree_util.tree_leaves_with_path(batches)
    if not leaves:
        raise ValueError(
            "batches must hold an array at least; for a loss that reads no data, pass "
            "jnp.arange(num_steps) and let grad_fn ignore it."
        )
    for path, leaf in leaves:
        if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] != num_steps:
            raise ValueError(
                f"the leading axis of batches is the server step, {num_steps} of them, got "
                f"shape {jnp.shape(leaf)} at batches{jax.tree_util.keystr(path)}."
            )


def traced(*trees: Any) -> bool:
    """Whether any leaf is being traced, so that nothing can be driven from the host.

    Args:
        *trees: pytrees, or anything else.
    """
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))

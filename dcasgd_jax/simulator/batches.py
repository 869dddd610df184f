"""The forms in which batches come: arrays, a function of the step, or an iterable."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpy.typing import ArrayLike


class BatchSource(NamedTuple):
    """Where the batches of a stretch come from, in whichever form the user passed them."""

    stacked: Callable[[Any, int, Any], Any]
    """(first, count, step) -> the batches of `count` steps, stacked: `first` is counted within the
    stretch, `step` by the server from the beginning; both may be traced, unless the batches are
    iterated over."""
    example: Callable[[Any], Any]
    """(step) -> the first batch, which is not used up; may be called abstractly."""
    iterated: bool
    """Whether batches have to be asked for one after another, in order, outside of any trace."""


def batch_source(batches: Any, num_steps: int, held: tuple[Any, Any] = (None, None)) -> BatchSource:
    """The source of a stretch's batches; refuses arrays that are not as long as the stretch.

    `held` are the state and the log that an iterable which has no batch left hands back.
    """
    if callable(batches):
        return BatchSource(
            lambda _, count, step: jax.vmap(batches)(step + jnp.arange(count, dtype=jnp.int32)),
            example=batches,
            iterated=False,
        )
    if is_iterated(batches):
        first_batch, iterator = [], iter(batches)
        if num_steps:  # looked at for its shapes, and put back in front
            try:
                first_batch = _next_batches(iterator, 0, 1)
            except BatchesEndedError as error:
                error.state, error.log = held
                raise
            iterator = itertools.chain(first_batch, iterator)
        return BatchSource(
            lambda first, count, _: _stack(_next_batches(iterator, first, count)),
            example=lambda _: jax.tree.map(jnp.asarray, first_batch[0]),
            iterated=True,
        )
    _check_arrays(batches, num_steps)
    return BatchSource(
        lambda first, count, _: jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, count), batches
        ),
        example=lambda _: jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], batches),
        iterated=False,
    )


def one_batch(batches: Any, index: Any, step: Any) -> Any:
    """The batch of one step, at `index` of arrays or drawn by a function of `step`."""
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
    numbers = np.asarray(order, np.int32)
    order = jnp.asarray(numbers)
    if callable(batches):
        return lambda step: batches(order[step])
    for path, leaf in jax.tree_util.tree_leaves_with_path(batches):
        count = jnp.shape(leaf)[0]
        bad = np.flatnonzero((numbers < 0) | (numbers >= count))
        if bad.size:
            raise ValueError(
                f"step {bad[0]} was recorded on batch {numbers[bad[0]]}, but there are {count} at "
                f"batches{jax.tree_util.keystr(path)}; give the batches of the recorded run."
            )
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[order], batches)


def is_iterated(batches: Any) -> bool:
    """Whether this is neither an array nor one of Python's containers: a generator, a loader."""
    container = isinstance(batches, tuple | list | Mapping)
    return hasattr(batches, "__iter__") and not hasattr(batches, "shape") and not container


class BatchesEndedError(ValueError):
    """An iterable of batches that ended before the schedule did. Nothing that was done is lost."""

    state: Any = None
    """The `SimulatorState` after the last step that was taken."""
    log: Any = None
    """The `SimulatorLog` of the steps that were taken."""

    def __init__(self, step: int, unused: list[Any]):
        """Says where it ended.

        Args:
            step: the first step of the stretch that has no batch.
            unused: batches that were taken for steps which are computed together with it.
        """
        self.unused = unused
        super().__init__(
            f"the iterable of batches ended before step {step} of this stretch; give one batch a "
            "server step. This error's attributes `state` and `log` hold what was simulated until "
            "then, and `unused` the batches that were taken from the iterable and not used."
        )


def _next_batches(iterator: Iterator[Any], first: int, count: int) -> list[Any]:
    """The batches of steps first, ..., first + count - 1 of the stretch."""
    batches = []
    for i in range(count):
        try:
            batches.append(next(iterator))
        except StopIteration:
            raise BatchesEndedError(first + i, batches) from None
    return batches


def _stack(batches: list[Any]) -> Any:
    """One batch with a leading axis, in NumPy: it goes to the device as a whole.

    Random keys have no form in NumPy.
    """

    def stacked(*leaves: Any) -> Any:
        first = leaves[0]
        if isinstance(first, jax.Array) and jnp.issubdtype(first.dtype, jax.dtypes.prng_key):
            return jnp.stack(leaves)
        return np.stack([np.asarray(leaf) for leaf in leaves])

    return jax.tree.map(stacked, *batches)


def _check_arrays(batches: Any, num_steps: int) -> None:
    """Refuses arrays whose leading axis is not the server step."""
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
                f"shape {jnp.shape(leaf)} at batches{jax.tree_util.keystr(path)}; pass one batch a "
                "step, or a schedule of as many steps as there are batches."
            )


def any_traced(*trees: Any) -> bool:
    """Whether any leaf is being traced, so that nothing can be driven from the host."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))

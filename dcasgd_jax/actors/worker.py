"""A worker: takes gradients at the weights and on the batches that it is handed."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dcasgd_jax.actors.host_arrays import to_host
from dcasgd_jax.actors.process import Process, prepare
from dcasgd_jax.actors.shards import Shard, leaves_of
from dcasgd_jax.simulator.batches import one_batch
from dcasgd_jax.simulator.server import compute_gradient
from dcasgd_jax.simulator.state import ServerState


class Task(NamedTuple):
    """What a worker has to do."""

    grad_fn: Callable[..., Any]
    template: ServerState  # shapes and dtypes of what the servers hold
    shards: tuple[Shard, ...]
    check_finite: bool


class Report(NamedTuple):
    """What the coordinator hears of a gradient, which itself goes to the servers."""

    finite: bool


class GradientWorker:
    """Runs in a process of its own, as a Ray actor."""

    def __init__(self, process: Process, program: Sequence[Any]):
        """Prepares the process, then fetches its program.

        Args:
            process: how JAX is to be set up here.
            program: references of a `Task` and of the batches; in a list, so that nothing is
                unpacked before JAX is set up.
        """
        self._task: Task
        self._task, self._batches = prepare(process, program)
        self._compute = jax.jit(self._gradient)

    def ready(self) -> bool:
        """Answers when the process is there."""
        return True

    def gradient(self, batch_number: int, *snapshot: tuple[list[Any], Any]) -> list[Any]:
        """One gradient.

        Args:
            batch_number: of the batch to take it on.
            *snapshot: from each server, its leaves of the weights as they are kept, and the model
                state from the first.

        Returns:
            A `Report`, then for each server its leaves and what is pushed of the model state.
        """
        structure = jax.tree.structure(self._task.template.params)
        leaves: list[Any] = [None] * structure.num_leaves
        for shard, (shard_leaves, _) in zip(self._task.shards, snapshot, strict=True):
            for i, leaf in zip(shard.params, shard_leaves, strict=True):
                leaves[i] = leaf
        arrays = () if callable(self._batches) else self._batches
        weights, model_state = jax.tree.unflatten(structure, leaves), snapshot[0][1]
        gradients, pushed, finite = self._compute(
            weights, model_state, np.int32(batch_number), arrays
        )
        report = Report(finite=bool(finite) or not self._task.check_finite)
        return [report, *_parts(self._task.shards, *to_host((gradients, pushed)))]

    def _gradient(self, snapshot: Any, model_state: Any, batch_number: Any, arrays: Any) -> Any:
        """The gradients, what is pushed of the model state, and whether all of it is finite."""
        batches = self._batches if callable(self._batches) else arrays
        state = self._task.template
        weights = jax.tree.map(lambda s, w: s.astype(w.dtype), snapshot, state.params)
        batch = one_batch(batches, batch_number, batch_number)
        gradients, pushed = compute_gradient(self._task.grad_fn, state, weights, model_state, batch)
        finite = [
            jnp.isfinite(leaf).all()
            for leaf in jax.tree.leaves((gradients, pushed))
            if jnp.issubdtype(leaf.dtype, jnp.inexact)
        ]
        return gradients, pushed, jnp.stack(finite).all()


def _parts(shards: tuple[Shard, ...], gradients: Any, pushed: Any) -> list[tuple[list[Any], Any]]:
    """What each server gets of a gradient; the first also gets what is pushed."""
    return [(leaves_of(shard, gradients), pushed if shard.first else ()) for shard in shards]

"""A worker: takes gradients at the weights it is handed, on the batches it is told."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dcasgd_jax.actors.process import Process, prepare
from dcasgd_jax.actors.shards import Shard, pick
from dcasgd_jax.actors.wire import to_host
from dcasgd_jax.simulator.batches import one_batch
from dcasgd_jax.simulator.state import ServerState, evaluate


class Task(NamedTuple):
    """What a worker has to do."""

    grad_fn: Callable[..., Any]
    template: ServerState  # shapes and dtypes of what the servers hold
    shards: tuple[Shard, ...]
    check_finite: bool


class Report(NamedTuple):
    """What the coordinator is told of a gradient, which itself goes to the servers."""

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
        self._gradient = jax.jit(self._take)

    def ready(self) -> bool:
        """Answers when the process is there."""
        return True

    def gradient(self, number: int, *snapshot: tuple[list[Any], Any]) -> list[Any]:
        """One gradient.

        Args:
            number: of the batch.
            *snapshot: from each server, its leaves of the weights as they are kept, and the model
                state from the first.

        Returns:
            A `Report`, then for each server its leaves and what is pushed of the model state.
        """
        structure = jax.tree.structure(self._task.template.params)
        leaves: list[Any] = [None] * structure.num_leaves
        for shard, (own, _) in zip(self._task.shards, snapshot, strict=True):
            for i, leaf in zip(shard.params, own, strict=True):
                leaves[i] = leaf
        arrays = () if callable(self._batches) else self._batches
        weights = jax.tree.unflatten(structure, leaves)
        gradients, pushed, finite = self._gradient(
            weights, snapshot[0][1], np.int32(number), arrays
        )
        report = Report(finite=bool(finite) or not self._task.check_finite)
        return [report, *parts(self._task.shards, *to_host((gradients, pushed)))]

    def _take(self, snapshot: Any, model_state: Any, number: Any, arrays: Any) -> Any:
        batches = self._batches if callable(self._batches) else arrays
        state = self._task.template
        weights = jax.tree.map(lambda s, w: s.astype(w.dtype), snapshot, state.params)
        gradients, pushed = evaluate(
            self._task.grad_fn, state, weights, model_state, one_batch(batches, number, number)
        )
        finite = [
            jnp.isfinite(leaf).all()
            for leaf in jax.tree.leaves((gradients, pushed))
            if jnp.issubdtype(leaf.dtype, jnp.inexact)
        ]
        return gradients, pushed, jnp.stack(finite).all()


def parts(shards: tuple[Shard, ...], gradients: Any, pushed: Any) -> list[tuple[list[Any], Any]]:
    """What each server gets of a gradient.

    Args:
        shards: of the servers.
        gradients: like the parameters.
        pushed: of the model state, for the first.
    """
    return [(pick(shard, gradients), pushed if shard.first else ()) for shard in shards]

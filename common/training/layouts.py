"""How training is laid out over several devices: batches shared out, states as they were given."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Layout(NamedTuple):
    """Where a training step's arrays lie; hashable, to be compiled for."""

    batch: NamedSharding
    """Of a batch: an equal share for each device along the mesh's first axis."""
    whole: NamedSharding
    """Of what every device holds."""
    structure: Any
    """Of the state; a tree definition of jax."""
    state: tuple[NamedSharding, ...]
    """Of its leaves."""

    def keeping(self, one: Callable[..., tuple[Any, jax.Array]]) -> Callable[..., Any]:
        """A step after which the state lies as before it; else XLA may shard a leaf anew.

        Args:
            one: (state, ...) -> (state, loss).
        """
        shardings = jax.tree.unflatten(self.structure, self.state), self.whole

        def kept(*arguments: Any) -> tuple[Any, jax.Array]:
            return jax.lax.with_sharding_constraint(one(*arguments), shardings)

        return kept


def place(tree: Any, mesh: Mesh) -> Any:
    """A tree on all devices of a mesh; leaves that lie on it already stay as they are.

    Args:
        tree: of arrays, the same in every process that the mesh spans; of those that are put there
            this is checked.
        mesh: its axes automatic.
    """
    whole = NamedSharding(mesh, PartitionSpec())

    def put(leaf: Any) -> jax.Array:
        at = leaf.sharding if isinstance(leaf, jax.Array) else None
        there = isinstance(at, NamedSharding) and at.device_set == whole.device_set
        return leaf if there else jax.device_put(leaf, whole)

    return jax.tree.map(put, tree)


def layout(state: Any, mesh: Mesh, *, batch_size: int) -> Layout:
    """The layout of training from a state.

    Args:
        state: as `place` returns it.
        mesh: whose first axis shares a batch.
        batch_size: examples a step.

    Raises:
        ValueError: if a batch cannot be shared out equally.
    """
    axis = mesh.axis_names[0]
    if batch_size % mesh.shape[axis]:
        raise ValueError(
            "batch_size must be a multiple of the devices that share a batch, got "
            f"{batch_size} for {mesh.shape[axis]} devices along {axis!r}; choose another, or train "
            "on fewer devices."
        )
    leaves, structure = jax.tree.flatten(state)
    return Layout(
        batch=NamedSharding(mesh, PartitionSpec(axis)),
        whole=NamedSharding(mesh, PartitionSpec()),
        structure=structure,
        state=tuple(leaf.sharding for leaf in leaves),
    )

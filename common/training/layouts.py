"""How training is laid out over several devices: batches shared out, states left as they lie."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Layout(NamedTuple):
    """The shardings of a training step's arrays; hashable, since programs are compiled for it."""

    batch: NamedSharding
    """Of a batch: an equal share for each device along the mesh's first axis."""
    whole: NamedSharding
    """Of what every device holds."""
    structure: Any
    """Of the state; a tree definition of jax."""
    state: tuple[NamedSharding, ...]
    """Of its leaves."""

    def keeping(self, one: Callable[..., tuple[Any, jax.Array]]) -> Callable[..., Any]:
        """A step that keeps the state's shardings, which XLA might otherwise change.

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
        tree: arrays, the same in every process that the mesh spans, which is checked for those that
            are moved.
        mesh: its axes automatic.
    """
    whole = NamedSharding(mesh, PartitionSpec())

    def put(leaf: Any) -> jax.Array:
        # A leaf sharded over this mesh keeps its sharding; any other is copied to every device.
        at = leaf.sharding if isinstance(leaf, jax.Array) else None
        there = isinstance(at, NamedSharding) and at.device_set == whole.device_set
        return leaf if there else jax.device_put(leaf, whole)

    return jax.tree.map(put, tree)


def layout(state: Any, mesh: Mesh, *, batch_size: int) -> Layout:
    """The layout of training from a state.

    Args:
        state: on the mesh, where `place` puts it.
        mesh: its first axis shares out each batch.
        batch_size: examples per step.

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

"""The gradients of a chunk, computed together: vectorised, unrolled, or shared by devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

Axes = tuple[int | None, ...]
"""Of each input, the axis along which the members of a chunk lie; None: the same for all."""


def compute_together(
    gradient: Callable[..., Any],
    inputs: tuple[Any, ...],
    axes: Axes,
    width: int,
    *,
    together: str,
    mesh: Mesh | None,
) -> Any:
    """`gradient` of each of the `width` members of a chunk, stacked."""
    if width == 1:
        return _unrolled(gradient, inputs, axes, width)
    if mesh is not None and width % mesh.size == 0:
        return _over_mesh(gradient, inputs, axes, width, together=together, mesh=mesh)
    if together == "pmap" and width % jax.local_device_count() == 0:
        return _over_local_devices(gradient, inputs, axes)
    if together == "unrolled":
        return _unrolled(gradient, inputs, axes, width)
    return jax.vmap(gradient, in_axes=axes)(*inputs)


def _unrolled(gradient: Callable[..., Any], inputs: tuple[Any, ...], axes: Axes, width: int) -> Any:
    """One member after another in one program."""

    def member(i: int) -> Any:
        return gradient(
            *(
                tree if axis is None else jax.tree.map(lambda leaf: leaf[i], tree)
                for tree, axis in zip(inputs, axes, strict=True)
            )
        )

    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(member(i) for i in range(width)))


def _over_mesh(
    gradient: Callable[..., Any],
    inputs: tuple[Any, ...],
    axes: Axes,
    width: int,
    *,
    together: str,
    mesh: Mesh,
) -> Any:
    """An equal share of the members on each device of a mesh; then everyone has all of them."""
    (name,) = mesh.axis_names
    specs = tuple(PartitionSpec() if axis is None else PartitionSpec(name) for axis in axes)

    def on_one_device(*share: Any) -> Any:
        computed = compute_together(
            gradient, share, axes, width // mesh.size, together=together, mesh=None
        )
        return jax.lax.all_gather(computed, name, tiled=True)

    on_all_devices = jax.shard_map(
        on_one_device, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
    )
    return on_all_devices(*inputs)


def _over_local_devices(gradient: Callable[..., Any], inputs: tuple[Any, ...], axes: Axes) -> Any:
    """An equal share of the members on each local device."""
    devices = jax.local_device_count()
    shares = tuple(
        tree
        if axis is None
        else jax.tree.map(lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), tree)
        for tree, axis in zip(inputs, axes, strict=True)
    )
    computed = jax.pmap(jax.vmap(gradient, in_axes=axes), in_axes=axes)(*shares)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), computed)

"""Trees shared out over eight host devices, and what a compiled program sends between these."""

import re

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_SENT = re.compile(
    r"= ([^=]*?) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    r"|collective-broadcast)(?:-start)?\("
)


def mesh(axis: str = "model") -> Mesh:
    """All devices along one axis whose shardings XLA works out."""
    assert jax.device_count() == 8
    return jax.make_mesh((8,), (axis,), axis_types=(jax.sharding.AxisType.Auto,))


def shardings(tree, way):
    """Each leaf's, by "rows" (the last axis but one), "columns", or its "largest" axis."""
    over = mesh()

    def of(leaf):
        axis = {
            "rows": max(leaf.ndim - 2, 0),
            "columns": leaf.ndim - 1,
            "largest": int(np.argmax(leaf.shape)),
        }[way]
        names = [over.axis_names[0] if i == axis else None for i in range(leaf.ndim)]
        return NamedSharding(over, PartitionSpec(*names))

    return jax.tree.map(of, tree)


def largest_sent(compiled) -> int:
    """The most entries that any one array has which the devices exchange; 0 for none."""
    shapes = [
        shape
        for sent in _SENT.findall(compiled.as_text())
        for shape in re.findall(r"\[([\d,]*)\]", sent)
    ]
    return max((int(np.prod([int(n) for n in s.split(",") if n])) for s in shapes), default=0)


def assert_sharded_like(tree, wanted):
    """Every leaf of the one is shared out as the other says."""
    for leaf, sharding in zip(jax.tree.leaves(tree), jax.tree.leaves(wanted), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), (leaf.sharding, sharding)


def assert_gathers_are_found():
    """What the tests rely on: a leaf that is laid out anew is sent whole, and that is seen."""
    rows = jax.device_put(np.ones((16, 24)), shardings(np.ones((16, 24)), "columns"))
    gathered = jax.jit(lambda w: w.reshape(-1)[np.arange(0, 384, 7)]).lower(rows).compile()
    assert largest_sent(gathered) == 384
    assert largest_sent(jax.jit(lambda w: 2 * w).lower(rows).compile()) == 0

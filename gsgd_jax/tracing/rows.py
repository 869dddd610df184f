"""The exponents of single entries, as sparse rows."""

import dataclasses

import numpy as np

from gsgd_jax.tracing.algebra.linear import Form
from gsgd_jax.tracing.result import RescalingGroup


@dataclasses.dataclass(frozen=True)
class Rows:
    """Row e holds the exponents k_eh of entry e; entries of all leaves, laid end to end.

    Args:
        nodes: h, a slot each, integer [entries, slots]; a slot that is not needed has any node.
        powers: k_eh, float64 [entries, slots]; 0 in slots that are not needed.
        num_nodes: of the group.
    """

    nodes: np.ndarray
    powers: np.ndarray
    num_nodes: int

    def dense(self, entries: np.ndarray) -> np.ndarray:
        """The rows of some entries in full, float64 [len(entries), num_nodes].

        Args:
            entries: their numbers.
        """
        full = np.zeros((len(entries), self.num_nodes))
        np.add.at(full, (np.arange(len(entries))[:, None], self.nodes[entries]),
                  self.powers[entries])  # fmt: skip
        return full


def exponent_rows(group: RescalingGroup) -> Rows:
    """The exponents of every entry.

    Args:
        group: as `find_gauge` gives it.
    """
    parts = []
    for leaf, shape in zip(group.leaves, group.shapes, strict=True):
        tables = [((), [leaf.overall]), *leaf.blocks]
        nodes, powers = [], []
        for axes, table in tables:
            slots = _slots(table)
            inner = [n if axis in axes else 1 for axis, n in enumerate(shape)]
            for per_form, columns in zip(slots, (nodes, powers), strict=True):
                width = per_form.shape[-1]
                wide = np.broadcast_to(per_form.reshape(*inner, width), (*shape, width))
                columns.append(wide.reshape(int(np.prod(shape, dtype=np.int64)), width))
        parts.append((np.concatenate(nodes, axis=-1), np.concatenate(powers, axis=-1)))
    width = max((nodes.shape[1] for nodes, _ in parts), default=0)
    nodes, powers = (
        np.concatenate([np.pad(part[i], ((0, 0), (0, width - part[i].shape[1]))) for part in parts])
        if parts
        else np.zeros((0, 0))
        for i in (0, 1)
    )
    return Rows(nodes.astype(np.int64), powers.astype(np.float64), group.num_nodes)


def _slots(table: list[Form]) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and exponents of some forms, filled up to the longest."""
    width = max(map(len, table), default=0)
    nodes, powers = np.zeros((len(table), width), np.int64), np.zeros((len(table), width))
    for i, form in enumerate(table):
        nodes[i, : len(form)] = list(form)
        powers[i, : len(form)] = [float(power) for power in form.values()]
    return nodes, powers

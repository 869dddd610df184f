"""Choosing the pivots of a section, and the magnitudes they are given."""

from typing import Literal, get_args

import jax
import numpy as np
import optax

from gsgd_jax._factors import leaf_tables
from gsgd_jax._precision import check_choice
from gsgd_jax.balance import balancing_scales, concrete_leaves
from gsgd_jax.coordinates.section import Section
from gsgd_jax.gauge import Gauge
from gsgd_jax.tracing import RescalingGroup
from gsgd_jax.tracing.rows import Rows, exponent_rows

Rule = Literal["largest", "random"]
Magnitudes = Literal["balanced", "ones"]


def choose_section(
    group: RescalingGroup,
    params: optax.Params,
    *,
    rule: Rule = "largest",
    key: jax.Array | None = None,
    magnitudes: Magnitudes = "balanced",
) -> Section:
    r"""Chooses the pivots of a group that is no graph: path space for gated units and attention.

    Entries are gone through one after another, and those whose exponents do not depend on the ones
    taken before are pivots (the greedy algorithm of matroids, so the set with the largest product).

    - "largest": from the largest |w| of the *balanced* network on.
    - "random": in random order, entries that are zero left out.

    Balanced are, of all copies that the exact nodes give, the weights with the least

        Σ_e w_e² - 2 Σ_a n_a log |c_a|,

    a running over the nodes that normalisation absorbs, and others all of whose entries on one side
    are zero: the second sum gives the entries that such a node moves a sum of squares of n_a, the
    number of outputs that it scales, where the first alone would send them to zero. It is convex in
    log c, so the copy, the choice and the magnitudes are the same for all weights that the group
    connects, up to rounding and ties.

    Args:
        group: the rescaling group, as `find_gauge` gives it where it is no graph.
        params: concrete parameters, not traced ones.
        rule: "largest" or "random".
        key: a PRNG key, for "random" only.
        magnitudes: whether pivots have the magnitudes of the balanced network in the copy whose
            weights the coordinates are, or 1.

    Returns:
        A section, to be handed to `in_path_space` like a skeleton.

    Raises:
        TypeError: if the group is a gauge, or a leaf in it not of real floating-point numbers.
        ValueError: if the parameters are traced, not finite or do not fit the group, an option is
            unknown, or too many entries are zero to fix a copy.

    Example:
        >>> import jax.numpy as jnp
        >>> from gsgd_jax import find_gauge, in_path_space
        >>> def gated(params, x):
        ...     up, gate, down = params
        ...     return (jax.nn.relu(x @ gate) * (x @ up)) @ down
        >>> params = [jnp.array([[2.0]]), jnp.array([[4.0]]), jnp.array([[0.5]])]
        >>> group = find_gauge(gated, params, jnp.ones((1, 1)))
        >>> section = choose_section(group, params, magnitudes="ones")
        >>> tx = in_path_space(optax.sgd(0.1), section)
        >>> from gsgd_jax import path_values
        >>> path_values(params, section)[section.entries.tolist().index(1) + 1]  # 2 * 4 * 0.5
        Array([[4.]], dtype=float32)

    References:
        Edmonds, *Matroids and the greedy algorithm*, Mathematical Programming, 1971.
    """
    check_choice("rule", rule, get_args(Rule))
    check_choice("magnitudes", magnitudes, get_args(Magnitudes))
    if (rule == "random") == (key is None):
        raise ValueError("rule='random' needs key=, a PRNG key, and no other rule takes one.")
    if isinstance(group, Gauge):
        raise TypeError(
            "choose_section is for a rescaling group that is no graph, got a gauge, which is one; "
            'choose_skeleton(gauge, params, basis="cycles") chooses the same for it.'
        )
    arrays = concrete_leaves(params, group)
    weights = _entries(arrays, group)
    rows = exponent_rows(group)
    nodes = np.setdiff1d(np.arange(group.num_nodes), np.asarray(group.approximate, np.int64))
    exact = np.isin(rows.nodes, nodes)
    rows = Rows(rows.nodes, np.where(exact, rows.powers, 0.0), group.num_nodes)
    balanced = weights
    if rule == "largest" or magnitudes == "balanced":
        with jax.enable_x64(True):
            wide = jax.tree.unflatten(jax.tree.structure(params), arrays)
            still = tuple(int(node) for node in group.approximate)
            scales = np.asarray(balancing_scales(wide, group, still=still))
        balanced = weights * np.exp((rows.powers * np.log(scales)[rows.nodes]).sum(1))
    moved = np.flatnonzero((rows.powers != 0).any(1) & (weights != 0))
    if key is not None:
        generator = np.random.default_rng(np.asarray(jax.random.bits(key, (4,), np.uint32)))
        order = generator.permutation(moved)
    else:
        # To six digits: copies of one network differ by rounding, and equals keep their order.
        order = moved[np.argsort(-np.float32(np.round(np.log(np.abs(balanced[moved])), 6)),
                                 kind="stable")]  # fmt: skip
    entries = _independent(rows, order, len(nodes))
    if len(entries) < len(nodes):
        raise ValueError(
            f"a section needs a pivot that is not zero for each of {len(nodes)} nodes, but the "
            f"entries that are not zero fix {len(entries)} only; start from other weights."
        )
    entries = np.asarray(entries, np.int64)
    ones = magnitudes == "ones"
    return Section(group, entries, np.ones(len(nodes)) if ones else np.abs(balanced[entries]))


def _entries(arrays: list[np.ndarray], group: RescalingGroup) -> np.ndarray:
    """All entries, end to end, in float64; zeros outside the group, where nothing is chosen."""
    own = zip(arrays, leaf_tables(group), strict=True)
    return np.concatenate([w.ravel() if parts else np.zeros(w.size) for w, parts in own])


def _independent(rows: Rows, order: np.ndarray, count: int) -> list[int]:
    """The first entries, in order, whose rows are independent: at most `count`."""
    taken: list[int] = []
    reduced = np.zeros((0, rows.num_nodes))  # each 1 in its own column, where all others are 0
    columns = np.zeros(0, np.int64)
    for entry in order.tolist():
        if len(taken) == count:
            break
        row = rows.dense(np.array([entry]))[0]
        row = row - row[columns] @ reduced
        column = int(np.abs(row).argmax())
        if abs(row[column]) < 1e-9:
            continue
        row = row / row[column]
        reduced = np.concatenate([reduced - np.outer(reduced[:, column], row), row[None]])
        columns = np.append(columns, column)
        taken.append(entry)
    return taken

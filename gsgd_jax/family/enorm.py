"""ENorm: equi-normalisation after every step, node by node."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax._src.base import NO_PARAMS_MSG  # optax's own wording, which it does not re-export

from gsgd_jax._precision import cast_like, working_dtype
from gsgd_jax.coordinates.node_vectors import collect, spread, take
from gsgd_jax.gauge import GROUND, Gauge


class EnormState(NamedTuple):
    """State of `with_enorm`."""

    inner_state: optax.OptState  # of the inner transformation, which is not rescaled
    step: jax.Array  # shape=(), dtype=int32: how many so far


def enorm(
    params: optax.Params, gauge: Gauge, *, sweeps: int = 1, power: float = 2.0
) -> optax.Params:
    r"""Rescales each node so that its ways in and out have equal norms, one layer after another.

    A node's turn sets its scale to that at which Σ |w_e|^q over its incoming entries equals that
    over its outgoing ones, the others' scales being what they are:

        c_h = (|w_out(h)|_q / |w_in(h)|_q)^(1/2).

    The function does not change, and the sum of |w|^q never grows. With q = 2 sweeps converge to
    the weights that `balance` finds by Newton's method on the host; this runs under jit, for use
    inside a step. An entry from a node to itself, as in recurrent layers, does not move with it.

    Args:
        params: a parameter tree.
        gauge: its rescaling group.
        sweeps: how many times every node gets its turn; static.
        power: q.

    Returns:
        Weights of the same function, dtypes kept. A node whose incoming or outgoing weights are all
        zero keeps its scale.

    Raises:
        ValueError: if the tree is not the gauge's, sweeps is not positive or the power is not, or
            the group is no graph.

    Example:
        >>> from gsgd_jax import mlp_gauge
        >>> params = [jnp.array([[4.0]]), jnp.array([[1.0]])]
        >>> enorm(params, mlp_gauge(params))
        [Array([[2.]], dtype=float32), Array([[2.]], dtype=float32)]

    References:
        Stock et al., *Equi-normalization of neural networks*, ICLR 2019, section 3, with the
        incoming and outgoing entries of any graph for the columns and rows of two dense layers.
    """
    _check_graph(gauge)
    if sweeps < 1 or not power > 0:
        raise ValueError(f"sweeps and power must be positive, got {sweeps} and {power}.")
    leaves = gauge.leaves(params)
    inside = [i for i in range(len(leaves)) if gauge.touches(i)]
    dtype = working_dtype([leaves[i] for i in inside])
    count = gauge.num_nodes
    sizes = {i: jnp.abs(leaves[i].astype(dtype)) ** power for i in inside}
    tails, heads = (
        [np.where(ids == GROUND, count, ids) for ids in side] for side in (gauge.tails, gauge.heads)
    )
    for i in inside:
        loops = (tails[i] == heads[i]) & (tails[i] != count)
        if loops.any():
            sizes[i] = jnp.where(np.broadcast_to(loops, gauge.shapes[i]), 0, sizes[i])
    scales = jnp.ones(count + 1, dtype)  # c^q; ground, the last, stays 1
    turns = _turns(gauge)
    for _ in range(sweeps):
        for turn in turns:
            coming, going = jnp.zeros([2, count + 1], dtype)
            mine = np.append(np.isin(np.arange(count), turn), False)
            for i in inside:
                if mine[heads[i]].any():
                    coming = coming + collect(
                        spread(1 / scales, tails[i], sizes[i]), heads[i], count
                    )
                if mine[tails[i]].any():
                    going = going + collect(spread(scales, heads[i], sizes[i]), tails[i], count)
            alive = mine & (coming > 0) & (going > 0)
            ratio = jnp.where(alive, going, 1) / jnp.where(alive, coming, 1)
            scales = jnp.where(alive, jnp.sqrt(ratio), scales)
    return gauge.act(params, take(scales ** (1 / power), np.arange(count + 1))[:-1])


def with_enorm(
    inner: optax.GradientTransformation,
    gauge: Gauge,
    *,
    sweeps: int = 1,
    every: int = 1,
    power: float = 2.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Any optax transformation, with `enorm` after its steps.

    It returns the difference to the rescaled weights, so it belongs last in a chain. The memory of
    the inner transformation is not rescaled with the weights.

    Args:
        inner: any optax transformation.
        gauge: the rescaling group of the parameters.
        sweeps: of `enorm`.
        every: rescale after every so many steps.
        power: of `enorm`.

    Returns:
        A transformation whose `update` needs `params`.

    Raises:
        ValueError: here, if `every` is not positive; from `update`, if `params` is missing or the
            tree is not the gauge's.

    Example:
        >>> from gsgd_jax import mlp_gauge
        >>> params = [jnp.array([[4.0]]), jnp.array([[1.0]])]
        >>> tx = with_enorm(optax.sgd(0.0), mlp_gauge(params))
        >>> tx.update(params, tx.init(params), params)[0]
        [Array([[-2.]], dtype=float32), Array([[1.]], dtype=float32)]

    References:
        Stock et al., *Equi-normalization of neural networks*, ICLR 2019, algorithm 1.
    """
    if every < 1:
        raise ValueError(f"every must be a positive number of steps, got {every}.")
    _check_graph(gauge)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> EnormState:
        return EnormState(inner.init(params), jnp.zeros([], jnp.int32))

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, EnormState]:
        if params is None:
            raise ValueError(NO_PARAMS_MSG)
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        step = jnp.asarray(optax.safe_increment(state.step))

        def rescaled(updates: optax.Updates) -> optax.Updates:
            stepped = optax.apply_updates(params, updates)
            moved = enorm(stepped, gauge, sweeps=sweeps, power=power)
            # As the updates are, or `cond` would have branches of two types.
            return jax.tree.map(lambda m, w, u: cast_like(m - w, u), moved, params, updates)

        if every == 1:
            return rescaled(updates), EnormState(inner_state, step)
        updates = jax.lax.cond(step % every == 0, rescaled, lambda updates: updates, updates)
        return updates, EnormState(inner_state, step)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _check_graph(gauge: Any) -> None:
    """Refuses a group that has no ways into nodes and out of them."""
    if not isinstance(gauge, Gauge):
        raise ValueError(
            f"equi-normalisation needs a group that is a graph, got {gauge!r}; `balance` takes any."
        )


def _turns(gauge: Gauge) -> list[np.ndarray]:
    """Nodes in groups no two of which an edge joins: layers; single nodes where it must be."""
    signatures: list[list[int]] = [[] for _ in range(gauge.num_nodes)]
    for i in range(len(gauge.names)):
        for side, ids in enumerate((gauge.tails[i], gauge.heads[i])):
            for node in np.unique(ids[ids != GROUND]).tolist():
                signatures[node].append(2 * i + side)
    groups: dict[tuple[int, ...], list[int]] = {}
    for node, signature in enumerate(signatures):
        groups.setdefault(tuple(signature), []).append(node)
    label = np.full(gauge.num_nodes + 1, -1)
    for number, nodes in enumerate(groups.values()):
        label[nodes] = number
    joined = set()
    for tails, heads in zip(gauge.tails, gauge.heads, strict=True):
        ones, others = np.broadcast_arrays(tails, heads)
        within = (label[ones] == label[others]) & (ones != others) & (ones != GROUND)
        joined |= set(label[ones[within]].tolist())
    turns = []
    for number, nodes in enumerate(groups.values()):
        turns += [np.array([h]) for h in nodes] if number in joined else [np.array(nodes)]
    return turns

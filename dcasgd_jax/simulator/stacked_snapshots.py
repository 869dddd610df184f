"""Snapshots of all workers in one array a leaf, with a slot for each along a leading axis."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from dcasgd_jax.simulator.checks import check_params
from dcasgd_jax.simulator.options import Options
from dcasgd_jax.simulator.server import Push, Server, advance, in_params_dtype, sent_weights
from dcasgd_jax.simulator.state import SimulatorLog, SimulatorState, SlotColumns, server_part


def initial_state(server: Server, params: optax.Params, model_state: Any = ()) -> SimulatorState:
    """The state in which every worker holds the first weights."""
    check_params(params)
    # A copy in the same dtype, never weakly typed: donating the state leaves the caller's
    # weights alone, and the types of the state are the same before and after a step.
    params, model_state = jax.tree.map(
        lambda w: jnp.array(w, dtype=jnp.result_type(w)), (params, model_state)
    )
    opt_state = server.rule.init(params)
    sent = sent_weights(server, params, opt_state)

    def for_each_worker(tree: Any) -> Any:
        def copies(w: jax.Array, number: int) -> jax.Array:
            return jnp.broadcast_to(w, (number, *w.shape)).copy()

        return jax.tree.map(copies, tree, _by_leaf(server, server.num_workers, tree))

    return SimulatorState(
        params=params,
        opt_state=opt_state,
        snapshots=for_each_worker(sent),
        pulled=jax.tree.map(lambda number: jnp.zeros(number, jnp.int32), server.num_workers),
        step=jnp.zeros([], jnp.int32),
        model_state=model_state,
        model_snapshots=for_each_worker(model_state),
    )


def read_slots(server: Server, state: SimulatorState, slot: Any) -> tuple[optax.Params, Any]:
    """Weights in the parameters' dtypes, and model state, of one slot, several, or a slice."""
    slots = _by_leaf(server, slot, state.snapshots)
    snapshots = jax.tree.map(lambda s, i: s[i], state.snapshots, slots)
    model_snapshots = jax.tree.map(lambda s: s[slot], state.model_snapshots)
    return in_params_dtype(server, snapshots, state.params), model_snapshots


def apply_gradient(
    server: Server,
    state: SimulatorState,
    event: SlotColumns,
    computed: tuple[optax.Updates, Any],
    batch: Any,
) -> tuple[SimulatorState, SimulatorLog]:
    """One server step with what `compute_gradient` returned, and the snapshot that it hands out."""
    snapshot, _ = read_slots(server, state, event.read)
    staleness = jax.tree.map(lambda pulled, i: state.step - pulled[i], state.pulled, event.read)
    told = _by_leaf(server, staleness, state.params) if server.groups else staleness
    worker = None if server.groups else event.worker
    push = Push(snapshot, told, worker, *computed, batch)
    after, sent, distance = advance(server, server_part(state), push)
    # A slot is written after it was read: where the rule does not look at the snapshot, nothing
    # else says so, and XLA would copy all slots at every step to be on the safe side. (A
    # distance is never negative, but XLA does not know.)
    later = 0 if distance is None else (distance < 0).astype(jnp.int32)

    def written(slots: Any, value: Any, worker: Any, write: Any) -> Any:
        if write is None:  # always a slot: written in place, with nothing read before
            return jax.lax.dynamic_update_index_in_dim(slots, value, worker + later, 0)
        # Where nobody pulls, `write` is no slot, and the write is dropped.
        return slots.at[write + later].set(value, mode="drop")

    def in_leaves(tree: Any, values: Any) -> Any:
        each = zip(
            jax.tree.leaves(tree),
            jax.tree.leaves(values),
            _of_leaves(server, event.worker, tree),
            _of_leaves(server, event.write, tree),
            strict=True,
        )
        return jax.tree.unflatten(jax.tree.structure(tree), [written(*leaf) for leaf in each])

    if server.groups is None:
        pulled: Any = written(state.pulled, after.step, event.worker, event.write)
    else:
        columns: Any = state.pulled, event.worker, event.write
        pulled = tuple(written(p, after.step, *slots) for p, *slots in zip(*columns, strict=True))
    return SimulatorState(
        params=after.params,
        opt_state=after.opt_state,
        snapshots=in_leaves(state.snapshots, sent),
        pulled=pulled,
        step=after.step,
        model_state=after.model_state,
        model_snapshots=in_leaves(state.model_snapshots, after.model_state),
    ), SimulatorLog(staleness=staleness, distance=distance)


def _of_leaves(server: Server, values: Any, tree: Any) -> list[Any]:
    """For each leaf, the value of its group; without groups, the one value for all."""
    leaves = jax.tree.leaves(tree)
    if server.groups is None or not leaves:  # there are groups of the parameters alone
        return [values] * len(leaves)
    return [values[group] for group in server.groups]


def _by_leaf(server: Server, values: Any, tree: Any) -> Any:
    """The same as a tree."""
    return jax.tree.unflatten(jax.tree.structure(tree), _of_leaves(server, values, tree))


def place_state(state: SimulatorState, options: Options) -> SimulatorState:
    """The state on the devices of the mesh, if there is one."""
    return state if options.mesh is None else jax.device_put(state, shardings(state, options))


def shardings(state: SimulatorState, placed: Any) -> Any:
    """Everything everywhere, but for snapshots if they are to be shared out."""
    assert placed.mesh is not None
    everywhere = NamedSharding(placed.mesh, PartitionSpec())
    placed_at = jax.tree.map(lambda _: everywhere, state)
    if not placed.shard_snapshots:
        return placed_at
    by_worker = NamedSharding(placed.mesh, PartitionSpec(placed.mesh.axis_names[0]))
    return placed_at._replace(
        snapshots=jax.tree.map(lambda _: by_worker, state.snapshots),
        model_snapshots=jax.tree.map(lambda _: by_worker, state.model_snapshots),
    )

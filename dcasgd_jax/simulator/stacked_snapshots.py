"""Snapshots of all workers in one array a leaf, with a slot for each along a leading axis."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from dcasgd_jax.simulator.checks import check_params
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
        shape = (server.num_workers,)
        return jax.tree.map(lambda w: jnp.broadcast_to(w, (*shape, *w.shape)).copy(), tree)

    return SimulatorState(
        params=params,
        opt_state=opt_state,
        snapshots=for_each_worker(sent),
        pulled=jnp.zeros(server.num_workers, jnp.int32),
        step=jnp.zeros([], jnp.int32),
        model_state=model_state,
        model_snapshots=for_each_worker(model_state),
    )


def read_slots(server: Server, state: SimulatorState, slot: Any) -> tuple[optax.Params, Any]:
    """Weights in the parameters' dtypes, and model state, of one slot, several, or a slice."""
    snapshots = jax.tree.map(lambda s: s[slot], state.snapshots)
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
    staleness = state.step - state.pulled[event.read]
    push = Push(snapshot, staleness, event.worker, *computed, batch)
    after, sent, distance = advance(server, server_part(state), push)
    write = event.write
    if distance is not None:
        # A slot is written after it was read: where the rule does not look at the snapshot, nothing
        # else says so, and XLA would copy all slots at every step to be on the safe side. (A
        # distance is never negative, but XLA does not know.)
        write += (distance < 0).astype(jnp.int32)

    def written(slots: Any, value: Any) -> Any:
        # Where nobody pulls, `write` is no slot, and the write is dropped.
        return jax.tree.map(lambda s, w: s.at[write].set(w, mode="drop"), slots, value)

    return SimulatorState(
        params=after.params,
        opt_state=after.opt_state,
        snapshots=written(state.snapshots, sent),
        pulled=state.pulled.at[write].set(after.step, mode="drop"),
        step=after.step,
        model_state=after.model_state,
        model_snapshots=written(state.model_snapshots, after.model_state),
    ), SimulatorLog(staleness=staleness, distance=distance)

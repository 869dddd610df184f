"""The leaves that each of several servers holds, so that together they do what one would do.

Leaves that depend on each other stay on one server (see `coupling`), so the servers' steps are
exactly the rule's.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dcasgd_jax.actors.coupling import find_coupling
from dcasgd_jax.actors.host_arrays import from_host
from dcasgd_jax.simulator.server import Push, Server, advance
from dcasgd_jax.simulator.state import ServerState


class Shard(NamedTuple):
    """Which leaves one of the servers holds."""

    params: tuple[int, ...]  # of the parameters
    opt_state: tuple[int, ...]  # of the rule's state; counts and keys are on all servers
    first: bool  # the first one holds the model state too


class ShardState(NamedTuple):
    """The arrays that one shard holds."""

    params: list[Any]
    opt_state: list[Any]
    step: Any  # shape=(), dtype=int32: server steps taken
    model_state: Any  # () beside the first shard


class ShardPush(NamedTuple):
    """What of a push reaches one shard; all but the numbers are leaves that it holds."""

    gradients: list[Any]
    model_state: Any  # what the worker pushes of it; () beside the first shard
    snapshot: list[Any]  # that the gradient was taken at, as it is kept
    staleness: Any  # shape=(), int32
    worker: Any  # shape=(), int32


def assign_leaves(
    server: Server, state: ServerState, batch: Any, num_servers: int
) -> tuple[Shard, ...]:
    """Leaves that the rule takes together on one server, bytes evenly; from shapes and dtypes."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state.params)
    all_opt_state = tuple(range(len(jax.tree.leaves(state.opt_state))))
    if num_servers == 1:
        return (Shard(tuple(range(len(leaves))), all_opt_state, first=True),)
    coupling = find_coupling(server, state, batch)
    groups = coupling.groups
    if num_servers > len(groups):
        names = [[jax.tree_util.keystr(leaves[i][0]) for i in group] for group in groups]
        raise ValueError(_too_many_servers(num_servers, names))
    sizes = [leaf.size * leaf.dtype.itemsize for _, leaf in leaves]
    loads, assigned = [0] * num_servers, [set[int]() for _ in range(num_servers)]
    # The largest group first, each to the server that has least: close to even.
    for group in sorted(groups, key=lambda group: -sum(sizes[i] for i in group)):
        lightest = loads.index(min(loads))
        loads[lightest] += sum(sizes[i] for i in group)
        assigned[lightest] |= set(group)
    return tuple(
        Shard(
            params=tuple(sorted(leaves_held)),
            opt_state=tuple(i for i in all_opt_state if coupling.opt_state[i] <= leaves_held),
            first=k == 0,
        )
        for k, leaves_held in enumerate(assigned)
    )


def _too_many_servers(num_servers: int, groups: list[list[str]]) -> str:
    """The error, with the names of the largest group of leaves that cannot be parted."""
    largest = max(groups, key=len)
    reason = ""
    if len(largest) > 1:
        reason = (
            f"the rule takes {', '.join(largest)} together (as a global norm does, or path space), "
            "so "
        )
    return (
        f"num_servers={num_servers} servers cannot share these parameters: {reason}"
        f"{len(groups)} at most can be held apart; use num_servers <= {len(groups)}."
    )


def split(shard: Shard, state: ServerState) -> ShardState:
    """The part of a whole state that a shard holds."""
    return ShardState(
        params=leaves_of(shard, state.params),
        opt_state=[jax.tree.leaves(state.opt_state)[i] for i in shard.opt_state],
        step=state.step,
        model_state=state.model_state if shard.first else (),
    )


def leaves_of(shard: Shard, tree: Any) -> list[Any]:
    """Of a tree like the parameters, the leaves of a shard."""
    leaves = jax.tree.leaves(tree)
    return [leaves[i] for i in shard.params]


def join(shards: tuple[Shard, ...], parts: list[ShardState], template: ServerState) -> ServerState:
    """The whole state from what each shard holds, all after the same number of steps."""
    params: list[Any] = [None] * len(jax.tree.leaves(template.params))
    opt_state: list[Any] = [None] * len(jax.tree.leaves(template.opt_state))
    for shard, part in zip(shards, parts, strict=True):
        for i, leaf in zip(shard.params, part.params, strict=True):
            params[i] = leaf
        for i, leaf in zip(shard.opt_state, part.opt_state, strict=True):
            opt_state[i] = leaf
    return ServerState(
        params=jax.tree.unflatten(jax.tree.structure(template.params), params),
        opt_state=jax.tree.unflatten(jax.tree.structure(template.opt_state), opt_state),
        step=parts[0].step,
        model_state=parts[0].model_state,
    )


def advance_shard(
    server: Server,
    shard: Shard,
    template: ServerState,
    state: ShardState,
    push: ShardPush,
    batch: Any,
) -> tuple[ShardState, list[Any], jax.Array | None]:
    """What `advance` does with one gradient, as far as one shard is concerned.

    Args:
        server: the rule of the whole.
        shard: whose step it is.
        template: shapes and dtypes of the whole server's state.
        state: what the shard holds before the step.
        push: the gradient.
        batch: that it was taken on.

    Returns:
        What the shard holds after; its part of what workers that pull then hold; and its part of
        |w - snapshot| before the step, or None.
    """
    # The rule sees the whole tree, with zeros for what other servers hold: nothing of this shard
    # depends on them, and compiled, nothing is left of them.
    if not shard.first:
        server = dataclasses.replace(server, merge=lambda kept, _: kept)
    params = _whole(template.params, shard.params, state.params)
    whole = ServerState(
        params=params,
        opt_state=_whole(template.opt_state, shard.opt_state, state.opt_state),
        step=state.step,
        model_state=state.model_state,
    )
    snapshot = [
        s.astype(w.dtype) for s, w in zip(push.snapshot, leaves_of(shard, params), strict=True)
    ]
    whole_push = Push(
        snapshot=_whole(template.params, shard.params, snapshot),
        staleness=push.staleness,
        worker=push.worker,
        gradients=_whole(template.params, shard.params, push.gradients),
        model_state=push.model_state,
        batch=batch,
    )
    after, sent, distance = advance(server, whole, whole_push)
    return split(shard, after), leaves_of(shard, sent), distance


def to_device(shard: Shard, template: ServerState, state: ShardState) -> ShardState:
    """What a shard holds, as arrays of JAX instead of NumPy's."""
    return from_host(split(shard, template), state)


def _whole(template: Any, places: tuple[int, ...], leaves: list[Any]) -> Any:
    """A whole tree of these leaves in their places, zeros elsewhere."""
    shapes, structure = jax.tree.flatten(template)
    at_place = dict(zip(places, leaves, strict=True))
    return jax.tree.unflatten(
        structure,
        [
            at_place[i] if i in at_place else jnp.zeros(s.shape, s.dtype)
            for i, s in enumerate(shapes)
        ],
    )

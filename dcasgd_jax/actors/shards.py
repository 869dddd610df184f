"""Which server holds which leaves, so that together they do what one server would do.

A rule that treats leaves one by one can be spread over servers; one that looks at all of them
(a global norm, path space) cannot, and asking it leaf by leaf would be another rule. Which leaves
a rule takes together is read off its traced program: what each new weight is computed from. Leaves
that depend on each other stay on one server, so the servers' steps are exactly the rule's.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from dcasgd_jax.actors.wire import from_host
from dcasgd_jax.simulator.state import Server, ServerState, Step, advance


class Shard(NamedTuple):
    """What one of the servers holds."""

    params: tuple[int, ...]  # which leaves of the parameters
    opt_state: tuple[int, ...]  # which leaves of the rule's state; counts and keys are on all
    first: bool  # the first one holds the model state too


class Held(NamedTuple):
    """The arrays of one shard."""

    params: list[Any]
    opt_state: list[Any]
    step: Any  # shape=(), dtype=int32: server steps taken
    model_state: Any  # () beside the first shard


class Pushed(NamedTuple):
    """What one shard is told of an arrival; all but the numbers are leaves of its own."""

    gradients: list[Any]
    pushed: Any  # of the model state; () beside the first shard
    snapshot: list[Any]  # that the gradient was taken at, as it is kept
    staleness: Any  # shape=(), int32
    worker: Any  # shape=(), int32


def plan(server: Server, state: ServerState, batch: Any, num_servers: int) -> tuple[Shard, ...]:
    """Distributes the leaves: those that the rule takes together on one server, bytes evenly.

    Args:
        server: its rule.
        state: shapes and dtypes of what it holds.
        batch: shapes and dtypes of one batch.
        num_servers: how many shards there are to be.

    Raises:
        ValueError: if there are fewer groups of leaves than servers.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(state.params)
    everything = tuple(range(len(jax.tree.leaves(state.opt_state))))
    if num_servers == 1:
        return (Shard(tuple(range(len(leaves))), everything, first=True),)
    weights, kept = _needs(server, state, batch)
    groups = _joined([*(need | 1 << i for i, need in enumerate(weights)), *kept])
    if num_servers > len(groups):
        names = [[jax.tree_util.keystr(leaves[i][0]) for i in group] for group in groups]
        together = max(names, key=len)
        coupled = f"the rule takes {', '.join(together)} together" if len(together) > 1 else ""
        raise ValueError(
            f"num_servers={num_servers} servers cannot share these parameters: "
            + (f"{coupled} (as a global norm does, or path space), so " if coupled else "")
            + f"{len(groups)} at most can be held apart; use num_servers <= {len(groups)}."
        )
    sizes = [leaf.size * leaf.dtype.itemsize for _, leaf in leaves]
    loads, owned = [0] * num_servers, [set[int]() for _ in range(num_servers)]
    for group in sorted(groups, key=lambda group: -sum(sizes[i] for i in group)):
        lightest = loads.index(min(loads))
        loads[lightest] += sum(sizes[i] for i in group)
        owned[lightest] |= set(group)
    return tuple(
        Shard(
            params=tuple(sorted(own)),
            opt_state=tuple(i for i in everything if _members(kept[i]) <= own),
            first=k == 0,
        )
        for k, own in enumerate(owned)
    )


def split(shard: Shard, state: ServerState) -> Held:
    """The part of a whole state that a shard holds.

    Args:
        shard: whose.
        state: of the whole server.
    """
    return Held(
        params=pick(shard, state.params),
        opt_state=[jax.tree.leaves(state.opt_state)[i] for i in shard.opt_state],
        step=state.step,
        model_state=state.model_state if shard.first else (),
    )


def pick(shard: Shard, tree: Any) -> list[Any]:
    """Of a tree like the parameters, the leaves of a shard.

    Args:
        shard: whose.
        tree: like the parameters.
    """
    leaves = jax.tree.leaves(tree)
    return [leaves[i] for i in shard.params]


def join(shards: tuple[Shard, ...], held: list[Held], template: ServerState) -> ServerState:
    """The whole state from what each shard holds.

    Args:
        shards: all of them.
        held: what each holds, after the same number of steps.
        template: gives the structure.
    """
    params: list[Any] = [None] * len(jax.tree.leaves(template.params))
    opt_state: list[Any] = [None] * len(jax.tree.leaves(template.opt_state))
    for shard, part in zip(shards, held, strict=True):
        for i, leaf in zip(shard.params, part.params, strict=True):
            params[i] = leaf
        for i, leaf in zip(shard.opt_state, part.opt_state, strict=True):
            opt_state[i] = leaf
    return ServerState(
        params=jax.tree.unflatten(jax.tree.structure(template.params), params),
        opt_state=jax.tree.unflatten(jax.tree.structure(template.opt_state), opt_state),
        step=held[0].step,
        model_state=held[0].model_state,
    )


def advance_shard(
    server: Server, shard: Shard, template: ServerState, held: Held, pushed: Pushed, batch: Any
) -> tuple[Held, list[Any], jax.Array | None]:
    """What `advance` does with one gradient, as far as one shard is concerned.

    The rule sees the whole tree, with zeros for what other servers hold: nothing of this shard
    depends on them, and compiled, nothing is left of them.

    Args:
        server: the rule of the whole.
        shard: whose step it is.
        template: shapes and dtypes of the whole server's state.
        held: by the shard, before.
        pushed: the gradient.
        batch: it was taken on.

    Returns:
        What the shard holds after; its part of what workers that pull then hold; and its part of
        |w - snapshot| before the step, or None.
    """
    if not shard.first:
        server = server._replace(merge=lambda own, _: own)
    whole = _filled(template.params, shard.params, held.params)
    state = ServerState(
        params=whole,
        opt_state=_filled(template.opt_state, shard.opt_state, held.opt_state),
        step=held.step,
        model_state=held.model_state,
    )
    snapshot = [s.astype(w.dtype) for s, w in zip(pushed.snapshot, pick(shard, whole), strict=True)]
    step = Step(
        snapshot=_filled(template.params, shard.params, snapshot),
        staleness=pushed.staleness,
        worker=pushed.worker,
        gradients=_filled(template.params, shard.params, pushed.gradients),
        pushed=pushed.pushed,
        batch=batch,
    )
    after, sent, distance = advance(server, state, step)
    return split(shard, after), pick(shard, sent), distance


def restored(shard: Shard, template: ServerState, held: Held) -> Held:
    """What a shard holds, as arrays of JAX.

    Args:
        shard: whose.
        template: shapes and dtypes of the whole server's state.
        held: NumPy arrays.
    """
    return from_host(split(shard, template), held)


def _filled(template: Any, places: tuple[int, ...], leaves: list[Any]) -> Any:
    """A whole tree of these leaves in their places, zeros elsewhere."""
    shapes, structure = jax.tree.flatten(template)
    own = dict(zip(places, leaves, strict=True))
    filled = [own[i] if i in own else jnp.zeros(s.shape, s.dtype) for i, s in enumerate(shapes)]
    return jax.tree.unflatten(structure, filled)


def _needs(server: Server, state: ServerState, batch: Any) -> tuple[list[int], list[int]]:
    """From which leaves each new weight, and each leaf of the rule's state, is computed.

    Sets of leaves are bits of a number: bit i is leaf i of the weights, of their gradients, or of
    the snapshot. What a leaf of the rule's state was computed from counts as needed by what is
    computed from it, over any number of steps.
    """

    def step(
        params: Any, gradients: Any, snapshot: Any, opt_state: Any, batch: Any
    ) -> tuple[Any, Any, Any]:
        zero = jnp.zeros([], jnp.int32)
        before = ServerState(params, opt_state, zero, ())
        arrived = Step(snapshot, zero, zero, gradients, (), batch)
        after, sent, _ = advance(
            server._replace(merge=lambda own, _: own, log_distance=False), before, arrived
        )
        return after.params, sent, after.opt_state

    params = state.params
    program = jax.make_jaxpr(step)(params, params, params, state.opt_state, batch)
    own = [1 << i for i in range(len(jax.tree.leaves(params)))]
    kept = [0] * len(jax.tree.leaves(state.opt_state))
    others = [0] * (len(program.jaxpr.invars) - 3 * len(own) - len(kept))
    while True:
        out = _flow(program.jaxpr, [*own, *own, *own, *kept, *others])
        weights = [a | b for a, b in zip(out, out[len(own) : 2 * len(own)], strict=False)]
        after = [a | b for a, b in zip(kept, out[2 * len(own) :], strict=True)]
        if after == kept:
            return weights[: len(own)], kept
        kept = after


_CALLS = {
    "jit",
    "pjit",
    "closed_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "remote2",
    "checkpoint",
}


def _flow(program: Jaxpr, needs: list[int]) -> list[int]:
    """What each output of a program is computed from, given what its inputs are made of."""
    known = dict(zip(program.invars, needs, strict=True))

    def of(atom: Any) -> int:
        return 0 if isinstance(atom, Literal) else known.get(atom, 0)

    for equation in program.eqns:
        inputs = [of(atom) for atom in equation.invars]
        everything = int(np.bitwise_or.reduce(np.array([0, *inputs], object)))
        inner = _inner(equation)
        if equation.primitive.name == "cond":
            branches = [_flow(b.jaxpr, inputs[1:]) for b in equation.params["branches"]]
            outputs = [
                inputs[0] | int(np.bitwise_or.reduce(of_each))
                for of_each in np.array(branches, object).T
            ]
        elif inner is not None and len(inner.invars) == len(inputs):
            outputs = _flow(inner, inputs)
        else:  # a loop, say: all that comes out may need all that goes in
            outputs = [everything] * len(equation.outvars)
        known.update(zip(equation.outvars, outputs, strict=True))
    return [of(atom) for atom in program.outvars]


def _inner(equation: Any) -> Jaxpr | None:
    """The program that an equation calls with its own inputs, if it does no more than that."""
    if equation.primitive.name not in _CALLS:
        return None
    called = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    return called.jaxpr if isinstance(called, ClosedJaxpr) else called


def _joined(sets: list[int]) -> list[list[int]]:
    """The finest groups of leaves such that none of these sets lies across two."""
    groups: list[int] = []
    for needed in sets:
        if needed:
            touched = [group for group in groups if group & needed]
            merged = needed
            for group in touched:
                merged |= group
            groups = [*(group for group in groups if group not in touched), merged]
    return sorted(sorted(_members(group)) for group in groups)


def _members(bits: int) -> set[int]:
    return {i for i in range(bits.bit_length()) if bits >> i & 1}

"""Which leaves of the parameters a rule takes together, read off its traced program.

A rule that treats leaves one by one can be spread over servers; one that looks at several (a global
norm, path space) cannot, and asking it leaf by leaf would be another rule. So each new weight, and
each leaf of the rule's state, is followed back to the weights, gradients and snapshots that it is
computed from.

Sets of leaves are bits of a number: bit i is leaf i of the weights, of their gradients, or of the
snapshot.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from dcasgd_jax.simulator.server import Push, Server, advance
from dcasgd_jax.simulator.state import ServerState


class Coupling(NamedTuple):
    """Which leaves must be on one server."""

    groups: list[list[int]]  # of leaves of the parameters, the finest that the rule allows
    opt_state: list[set[int]]  # for each leaf of the rule's state, those it is computed from


def find_coupling(server: Server, state: ServerState, batch: Any) -> Coupling:
    """The coupling of a rule, from shapes and dtypes of the server's state and of one batch."""
    weights, opt_state = _dependencies(server, state, batch)
    with_themselves = [needed | 1 << i for i, needed in enumerate(weights)]
    groups = _merge_overlapping([*with_themselves, *opt_state])
    return Coupling(groups, [_members(needed) for needed in opt_state])


def _dependencies(server: Server, state: ServerState, batch: Any) -> tuple[list[int], list[int]]:
    """From which leaves each new weight, and each leaf of the rule's state, is computed."""

    def step(
        params: Any, gradients: Any, snapshot: Any, opt_state: Any, batch: Any
    ) -> tuple[Any, Any, Any]:
        zero = jnp.zeros([], jnp.int32)
        before = ServerState(params, opt_state, zero, ())
        push = Push(snapshot, zero, zero, gradients, (), batch)
        without_model = dataclasses.replace(server, merge=lambda kept, _: kept, log_distance=False)
        after, sent, _ = advance(without_model, before, push)
        return after.params, sent, after.opt_state

    params = state.params
    program = jax.make_jaxpr(step)(params, params, params, state.opt_state, batch)
    leaves = [1 << i for i in range(len(jax.tree.leaves(params)))]
    num_leaves = len(leaves)
    opt_state = [0] * len(jax.tree.leaves(state.opt_state))
    others = [0] * (len(program.jaxpr.invars) - 3 * num_leaves - len(opt_state))
    while True:
        outputs = _propagate(program.jaxpr, [*leaves, *leaves, *leaves, *opt_state, *others])
        weights = [
            new | sent
            for new, sent in zip(
                outputs[:num_leaves], outputs[num_leaves : 2 * num_leaves], strict=True
            )
        ]
        # What a leaf of the state was computed from counts as needed by what is computed from it,
        # over any number of steps: the sets only grow, so a fixed point is reached.
        after = [a | b for a, b in zip(opt_state, outputs[2 * num_leaves :], strict=True)]
        if after == opt_state:
            return weights, opt_state
        opt_state = after


_CALLS = {
    "jit",
    "pjit",
    "closed_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "remote2",
    "checkpoint",
}


def _propagate(program: Jaxpr, inputs: list[int]) -> list[int]:
    """What each output of a program is computed from, given what its inputs are made of."""
    made_of = dict(zip(program.invars, inputs, strict=True))

    def leaves_in(atom: Any) -> int:
        return 0 if isinstance(atom, Literal) else made_of.get(atom, 0)

    for equation in program.eqns:
        operands = [leaves_in(atom) for atom in equation.invars]
        called = _called_program(equation)
        if equation.primitive.name == "cond":
            branches = [_propagate(b.jaxpr, operands[1:]) for b in equation.params["branches"]]
            # The predicate decides about every output, whichever branch it comes from.
            outputs = [operands[0] | _union(each) for each in zip(*branches, strict=True)]
        elif called is not None and len(called.invars) == len(operands):
            outputs = _propagate(called, operands)
        else:  # a loop, say: all that comes out may need all that goes in
            outputs = [_union(operands)] * len(equation.outvars)
        made_of.update(zip(equation.outvars, outputs, strict=True))
    return [leaves_in(atom) for atom in program.outvars]


def _union(sets: Any) -> int:
    """The leaves that are in any of these sets; numbers of any size, so not NumPy's int64."""
    return int(np.bitwise_or.reduce(np.array([0, *sets], object)))


def _called_program(equation: Any) -> Jaxpr | None:
    """The program that an equation calls with its own inputs, if it does no more than that."""
    if equation.primitive.name not in _CALLS:
        return None
    called = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    return called.jaxpr if isinstance(called, ClosedJaxpr) else called


def _merge_overlapping(sets: list[int]) -> list[list[int]]:
    """The finest groups of leaves such that none of these sets lies across two."""
    groups: list[int] = []
    for needed in sets:
        if needed:
            touched = [group for group in groups if group & needed]
            apart = [group for group in groups if not group & needed]
            groups = [*apart, _union([needed, *touched])]
    return sorted(sorted(_members(group)) for group in groups)


def _members(bits: int) -> set[int]:
    """The leaves of a set of bits."""
    return {i for i in range(bits.bit_length()) if bits >> i & 1}

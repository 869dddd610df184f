"""The largest stable step on a quadratic, for any rule and delay, found by running it.

The quadratic has one sharp direction, of curvature 1, and others between 1/1000 and 1/10; all are
turned by a random rotation, so that no axis is an eigenvector. There is no noise. On it the limits
are known: ASGD with delay tau is stable below 2 sin(pi / (2 (2 tau + 1))), sequential SGD and the
exact Hessian below 2, whatever the delay; diag(lambda G) vanishes at the minimum with the square of
the gradient, so it cannot move the limit at which small deviations grow, but bounds how far.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from common.seeds import streams
from dcasgd_jax import Schedule, round_robin, slot_simulator

SHARPEST, REST = 1.0, (1e-3, 1e-1)
"""Curvatures: of the sharp direction, and the ends of the others'."""

_EVERY = 4
"""Server steps between two looks at the loss."""


class Valley(NamedTuple):
    """A quadratic and where to start."""

    hessian: jax.Array  # shape=(dim, dim), float32
    start: jax.Array  # shape=(dim,), float32: unit length, along all eigenvectors alike


def valley(seed: int, dim: int) -> Valley:
    """The turned quadratic of a seed, of 2 weights or more."""
    rotation = jax.random.orthogonal(streams(seed).init, dim)
    curvatures = jnp.concatenate([jnp.array([SHARPEST]), jnp.geomspace(*REST, dim - 1)])
    return Valley(
        hessian=(rotation * curvatures[None, :]) @ rotation.T,
        start=rotation.sum(axis=1) / jnp.sqrt(dim),
    )


def gradient(hessian: jax.Array) -> Callable[[jax.Array, Any], jax.Array]:
    """The gradient function that a simulator takes; it has no use for batches."""
    return lambda w, batch: hessian @ w


Rule = Callable[[jax.Array, jax.Array], optax.GradientTransformation]
"""(step size, Hessian) -> the server's rule."""


def limits(
    rule: Rule, delays: Sequence[int], valleys: Sequence[Valley], *, steps: np.ndarray, length: int
) -> np.ndarray:
    """The largest of the steps at which a rule is stable, and below which it is at all.

    Stable means: the loss stays, over the last quarter of the run, below that of the start. Near
    the limit deviations shrink or grow by a share of 1 / (tau + 1) a step, so `length` should be
    some 50 times the largest tau, and a multiple of 4. Steps ascend; 0 where none is stable,
    [delays, valleys].
    """
    slots = max(delays) + 1

    @jax.jit
    def stable(schedule: Schedule, valley: Valley, rates: jax.Array) -> jax.Array:
        parts = jax.tree.map(lambda column: column.reshape(-1, _EVERY), schedule)

        def one(rate: jax.Array) -> jax.Array:
            simulator = slot_simulator(
                gradient(valley.hessian), rule(rate, valley.hessian), slots, log_distance=False
            )

            def stretch(state: Any, part: Schedule) -> tuple[Any, jax.Array]:
                state, _ = simulator.run(state, part, jnp.zeros(_EVERY))
                return state, 0.5 * jnp.vdot(state.params, valley.hessian @ state.params)

            first = 0.5 * jnp.vdot(valley.start, valley.hessian @ valley.start)
            _, losses = jax.lax.scan(stretch, simulator.init(valley.start), parts)
            return jnp.all(losses[-(len(losses) // 4) :] < first)

        return jax.vmap(one)(rates)

    largest = np.zeros((len(delays), len(valleys)))
    rates = jnp.asarray(steps, jnp.float32)
    for i, delay in enumerate(delays):
        # All delays share one program: the slots that a short one leaves over are never read.
        schedule = dataclasses.replace(round_robin(delay + 1, length), num_workers=slots)
        for j, each in enumerate(valleys):
            bears = np.asarray(stable(schedule, each, rates))
            number = bears.size if bears.all() else int(np.argmin(bears))
            largest[i, j] = steps[number - 1] if number else 0.0
    return largest

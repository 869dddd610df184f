"""The compiled programs of a training loop, made once for each step function."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from common.training.layouts import Layout

Loop = Literal["auto", "scan", "driven"]
"""How steps follow one another: inside one compiled loop, or a compiled step after another. "auto"
drives where a step has convolutions and runs on CPU, where XLA runs their gradients inside a loop 5
to 24 times slower (https://github.com/jax-ml/jax/issues/12868). Else it scans."""

KEPT = 16
"""How many step functions' programs are kept, the latest ones: enough for two experiments."""


class Programs(NamedTuple):
    """The programs of one step function on data of one size."""

    permute: Callable[[jax.Array, jax.Array], jax.Array]
    """(order, epoch) -> rows, int32 [steps, batch], or [steps, runs, batch]."""
    scanned: Any
    """(state, rows of several steps, noise, data) -> (state, losses); the state is donated."""
    single: Any
    """(state, rows of one step, noise, data) -> (state, loss); the state is donated."""
    convolves: Callable[..., bool]
    """Whether a step convolves; takes the arguments of `single`."""


@functools.lru_cache(maxsize=KEPT)
def programs(
    step: Callable[..., Any],
    size: int,
    batch_size: int,
    *,
    many_runs: bool,
    layout: Layout | None = None,
) -> Programs:
    """The programs of a step; equal arguments give the same programs, compiled once.

    Args:
        step: a training step, which `train_step` makes.
        size: examples in the data.
        batch_size: examples per step.
        many_runs: whether states and keys have a leading axis [runs]; the data are shared.
        layout: over several devices; None for one.
    """
    steps = size // batch_size

    # Each epoch's order depends on its number alone, so a resumed run visits examples as one that
    # was never stopped; what is left of the data after the last whole batch is dropped.
    def permute(key: jax.Array, epoch: jax.Array) -> jax.Array:
        shuffled = jax.random.permutation(jax.random.fold_in(key, epoch), size)
        return shuffled[: steps * batch_size].reshape(steps, batch_size)

    def one(
        state: Any, rows: jax.Array, noise: jax.Array, data: chex.ArrayTree
    ) -> tuple[Any, jax.Array]:
        batch = jax.tree.map(lambda leaf: leaf[rows], data)
        if layout is not None:
            batch = jax.lax.with_sharding_constraint(batch, layout.batch)
        state, info = step(state, batch, jax.random.fold_in(noise, state.step))
        return state, info.loss

    if many_runs:
        permute = jax.vmap(permute, in_axes=(0, None), out_axes=1)
        one = jax.vmap(one, in_axes=(0, 0, 0, None))
    if layout is not None:
        one = layout.keeping(one)

    def by_scan(
        state: Any, rows: jax.Array, noise: jax.Array, data: chex.ArrayTree
    ) -> tuple[Any, jax.Array]:
        return jax.lax.scan(lambda carry, i: one(carry, i, noise, data), state, rows)

    single = jax.jit(one, donate_argnums=0)
    answer: list[bool] = []

    def convolves(*args: Any) -> bool:
        if not answer:
            # Tracing costs as much as many small steps: it is done once, and compiled from later.
            answer.append("conv_general_dilated" in str(single.trace(*args).jaxpr))
        return answer[0]

    return Programs(jax.jit(permute), jax.jit(by_scan, donate_argnums=0), single, convolves)


Advance = Callable[[Any, int, int, int], tuple[Any, np.ndarray]]
"""(state, epoch, position, length) -> the state after so many steps, and their losses, [length]
or [length, runs]."""


def advancing(
    compiled: Programs,
    example: Any,
    data: chex.ArrayTree,
    *,
    order: jax.Array,
    noise: jax.Array,
    loop: Loop,
) -> Advance:
    """The function that takes steps of an epoch.

    Args:
        compiled: of the step.
        example: a state, to trace with.
        data: arrays [n, ...].
        order: key of the data order, scalar or [runs].
        noise: key handed to the loss, of the same shape.
        loop: see `Loop`.
    """
    permuted: dict[int, jax.Array] = {}

    def rows_of(epoch: int) -> jax.Array:
        if epoch not in permuted:
            permuted.clear()
            permuted[epoch] = compiled.permute(order, jnp.asarray(epoch))
        return permuted[epoch]

    driven = loop == "driven" or (
        loop == "auto"
        and jax.default_backend() == "cpu"
        and compiled.convolves(example, rows_of(0)[0], noise, data)
    )

    def scan(state: Any, epoch: int, position: int, length: int) -> tuple[Any, np.ndarray]:
        rows = rows_of(epoch)[position : position + length]
        state, losses = compiled.scanned(state, rows, noise, data)
        return state, np.asarray(losses)

    def drive(state: Any, epoch: int, position: int, length: int) -> tuple[Any, np.ndarray]:
        losses = []
        for rows in rows_of(epoch)[position : position + length]:
            state, loss = compiled.single(state, rows, noise, data)
            losses.append(loss)
        return state, np.stack(jax.device_get(losses))

    return drive if driven else scan

"""What a compiled program costs: its compilation, and the bytes that it moves."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from benchmarks.delay.timed.workload import Workload
from dcasgd_jax import Simulator, round_robin

Lowering = Callable[[], Any]
"""() -> a program traced anew, for `compile()`."""


def scan_of(
    step: Any,
    workload: Workload,
    tx: optax.GradientTransformation,
    *,
    num_steps: int | None = None,
) -> Lowering:
    """The program of steps of plain training, or of a simulator, on the workload's batches.

    Args:
        step: a step as `jax.lax.scan` takes it, or a simulator, all of whose workers take turns.
        workload: the network and its batches.
        tx: the rule, for plain training.
        num_steps: how many steps; None for a batch each.
    """
    batches = jax.tree.map(lambda leaf: leaf[:num_steps], workload.batches)

    def lower() -> Any:
        if isinstance(step, Simulator):
            state = step.init(workload.params)
            schedule = round_robin(jax.tree.leaves(state.pulled)[0].size, len(batches[0]))
            run = jax.jit(lambda s, b, when: step.run(s, when, b), donate_argnums=0)
            return run.lower(state, batches, schedule)
        plain = jax.jit(lambda carry, b: jax.lax.scan(step, carry, b)[0], donate_argnums=0)
        return plain.lower((workload.params, tx.init(workload.params)), batches)

    return lower


def copies_moved(lower: Lowering, params: Any) -> float:
    """Bytes read and written by a program's operations, in copies of the parameters.

    As XLA counts them on the program that it has compiled: what an operation keeps to itself is not
    counted; what goes from one to the next is, whether it stays in a cache or not.
    """
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return float(lower().compile().cost_analysis()["bytes accessed"]) / size


def compile_ratio(lower: Lowering, baseline: Lowering, repetitions: int = 3) -> float:
    """The seconds of tracing and compiling one program over another's, a median of turns."""

    def seconds(of: Lowering) -> float:
        start = time.perf_counter()
        of().compile()
        return time.perf_counter() - start

    return float(np.median([seconds(lower) / seconds(baseline) for _ in range(repetitions)]))

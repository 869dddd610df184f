"""What a schedule must be for a simulator to follow it."""

import difflib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dcasgd_jax.schedules.checks import check_workers
from dcasgd_jax.schedules.schedule import Schedule


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuses what is none of some names, with the nearest of them."""
    if isinstance(value, str) and value in choices:
        return
    *others, last = map(repr, choices)
    (near,) = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.0)
    raise ValueError(
        f"{name} must be {', '.join(others)} or {last}, got {value!r}; did you mean {near!r}?"
    )


def check_params(params: Any) -> None:
    """Refuses first weights that are no tree of floating-point arrays."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = isinstance(leaf, jax.Array | np.ndarray | np.generic)
        if not array or not jnp.issubdtype(leaf.dtype, jnp.floating):
            got = f"{leaf.dtype}{list(leaf.shape)}" if array else f"a Python {type(leaf).__name__}"
            raise TypeError(
                "params must be a tree of real floating-point arrays, got "
                f"{got} at params{jax.tree_util.keystr(path)}; convert it with "
                "jnp.asarray(..., jnp.float32), or keep what is not trained in model_state."
            )


def check_schedule(schedule: Schedule, num_workers: int) -> None:
    """Refuses a schedule that a simulator of this many workers cannot follow, if it can be read."""
    worker = schedule.worker
    if schedule.num_workers != num_workers:
        raise ValueError(
            f"the schedule is for {schedule.num_workers} workers, the simulator for "
            f"{num_workers}; make both for the same number."
        )
    if jnp.ndim(worker) != 1 or not jnp.issubdtype(jnp.result_type(worker), jnp.integer):
        raise ValueError(
            "schedule.worker must hold whole numbers, shape [num_steps], got "
            f"{jnp.result_type(worker)} of shape {jnp.shape(worker)}; make it with round_robin, "
            "from_compute_times or from_arrivals."
        )
    if not isinstance(worker, Tracer):
        check_workers(np.asarray(worker), num_workers)
    for name, column, strangers in (
        ("reads", schedule.reads, 0),
        ("writes", schedule.writes, 1),  # one more slot, for nobody
    ):
        if column is None or isinstance(column, Tracer):
            continue
        if jnp.shape(column) != jnp.shape(worker) or not np.all(
            (np.asarray(column) >= 0) & (np.asarray(column) < num_workers + strangers)
        ):
            raise ValueError(
                f"schedule.{name} must be None, or hold slots in [0, {num_workers + strangers}), "
                f"one a step; got shape {jnp.shape(column)}. Leave it as the schedule was made."
            )

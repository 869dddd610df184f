"""Waves: runs of server steps whose gradients can be computed together, exactly."""

from typing import NamedTuple

import numpy as np

from dcasgd_jax.schedules.schedule import Schedule


class Waves(NamedTuple):
    """Consecutive runs that a schedule falls into."""

    start: np.ndarray  # shape [num_waves], dtype int64: the first step of each, from 0
    length: np.ndarray  # shape [num_waves], dtype int64: how many steps, >= 1; they sum to T


def waves(schedule: Schedule, *, longest: int | None = None) -> Waves:
    """Cuts a schedule into the fewest runs that depend on weights known at their beginning only.

    The gradient of step t is taken at w_{t - τ_t}, so the gradients of steps s, ..., e - 1 can all
    be computed when w_s is known if t - τ_t <= s for each of them. Each wave is as long as that
    allows. Between workers that pull upon their own arrivals, a wave ends before the first worker
    that is in it already; a synchronous round is one wave.

    Args:
        schedule: any, also a stretch of a longer one.
        longest: no wave is longer than this, so that its gradients fit into memory; >= 1, or None
            for no bound. Where nobody sends two gradients from one pull, none is longer than the
            number of workers anyway.

    Returns:
        The waves in order.

    Raises:
        ValueError: if `longest` is below 1.

    Example:
        >>> from dcasgd_jax import from_arrivals
        >>> schedule = from_arrivals([0, 1, 0, 2, 1, 1], np.arange(6.0))
        >>> waves(schedule)
        Waves(start=array([0, 2, 5]), length=array([2, 3, 1]))
    """
    if longest is not None and longest < 1:
        raise ValueError(f"longest must be None or at least 1, got {longest}.")
    staleness = np.asarray(schedule.staleness)
    num_steps = staleness.size
    step = np.arange(num_steps)
    # Versions from before a stretch are all known at its beginning.
    version = np.maximum(step - staleness, 0)
    # use[v]: the first step that needs version v or a later one. As no step needs a version that
    # is made after it, that is the first step behind v - 1 that is unknown to a wave from v - 1.
    use = np.full(num_steps + 1, num_steps)
    use[version[::-1]] = step[::-1]
    use = np.minimum.accumulate(use[::-1])[::-1]
    following = np.minimum(use[1:], step + (num_steps if longest is None else longest)).tolist()
    start, at = [], 0
    while at < num_steps:
        start.append(at)
        at = following[at]
    start = np.array(start, np.int64)
    return Waves(start=start, length=np.diff(start, append=num_steps))

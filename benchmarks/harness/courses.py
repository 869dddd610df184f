"""How step sizes change in the course of training."""

from typing import Literal, get_args

import numpy as np

RateCourse = Literal["drops", "rise and fall"]
"""Divided by ten after half of the epochs, and again after three quarters; or straight up from a
tenth for a fifth of all steps, then straight down to zero."""

_RISE = 0.2


def rates_of(course: RateCourse, rate: float, *, epochs: int, per_epoch: int) -> np.ndarray:
    """The step size of every step, at most the rate; float32, [epochs * per_epoch].

    Raises:
        ValueError: if there is no such course.
    """
    steps = np.arange(epochs * per_epoch)
    if course == "drops":
        epoch = steps // per_epoch
        drops = (2 * epoch >= epochs).astype(int) + (4 * epoch >= 3 * epochs)
        factors = 0.1**drops
    elif course == "rise and fall":
        # The last step is not zero: the fall would reach it one step later.
        factors = np.interp(steps, [0, _RISE * len(steps), len(steps)], [0.1, 1.0, 0.0])
    else:
        raise ValueError(f"the course of steps is one of {get_args(RateCourse)}, got {course!r}.")
    return (rate * factors).astype(np.float32)

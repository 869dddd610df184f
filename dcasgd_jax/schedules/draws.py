"""What workers draw: generators of their own, times about a mean, machines that differ."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from dcasgd_jax.schedules.checks import check_at_least

Seed = int | Sequence[int]
"""A whole number >= 0, or several, as in (experiment, run); zeros at the end make no difference."""

# Purposes of a worker's generators.
COMPUTING, MACHINE, SLOWDOWN, FAILURE, PRESENCE = range(5)


def generator_of(seed: Seed, worker: int, purpose: int) -> np.random.Generator:
    """A worker's generator for one purpose, independent of all others."""
    try:
        numbers = seed if isinstance(seed, list | tuple) else [seed]
        if any(number is None or isinstance(number, str) for number in numbers):
            raise TypeError  # NumPy would take None for a draw of its own, and read a string
        sequence = np.random.SeedSequence(seed, spawn_key=(worker, purpose))
    except (TypeError, ValueError):
        raise ValueError(
            f"seed must be a whole number >= 0, or a sequence of them, got {seed!r}."
        ) from None
    return np.random.default_rng(sequence)


def gamma_draws(generator: np.random.Generator, variation: float) -> Callable[[int], np.ndarray]:
    """Draws of mean 1 and this coefficient of variation, the same in portions of any sizes."""
    if variation == 0:
        return np.ones
    shape = 1 / variation**2  # of Gamma(1 / v², v²), whose mean is 1
    return lambda count: generator.standard_gamma(shape, count) / shape


def machine_means(
    num_workers: int, seed: Seed, mean: float | ArrayLike, heterogeneity: float
) -> np.ndarray:
    """Mean seconds for a gradient on each worker's machine, shape [num_workers]."""
    means = np.asarray(mean, dtype=np.float64)
    if means.shape not in ((), (num_workers,)):
        raise ValueError(
            f"mean must be a scalar or of shape [num_workers] = ({num_workers},), got shape "
            f"{means.shape}."
        )
    if not (np.isfinite(means).all() and (means > 0).all()):
        raise ValueError(f"mean must be finite and positive, got {mean}.")
    check_at_least("heterogeneity", heterogeneity, 0.0)
    factors = [
        gamma_draws(generator_of(seed, worker, MACHINE), heterogeneity)(1)[0]
        for worker in range(num_workers)
    ]
    means = means * np.array(factors)
    if not (means > 0).all():
        raise ValueError(
            f"heterogeneity {heterogeneity:g} makes machines of zero seconds a gradient: times so "
            "small are no numbers; take one of a few units at most."
        )
    return means

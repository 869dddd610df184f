"""Clusters: schedules from random times of computation.

Each worker draws from generators of its own, spawned from `seed` for it and for one purpose, and
draws as far as the schedule needs. So, with equal seeds,

- a schedule of fewer steps is a prefix of one of more;
- the first workers of a larger cluster draw what those of a smaller one do;
- all protocols (`wait_for`) see the same times, and so do `gamma_times`, `straggler_times` and
  `failure_times` but for what they add: differences are due to the protocol or to the addition.
"""

import numpy as np
from numpy.typing import ArrayLike

from dcasgd_jax.schedules.arrivals import Attempts, Stream
from dcasgd_jax.schedules.checks import check_at_least, check_protocol, check_whole
from dcasgd_jax.schedules.draws import (
    COMPUTING,
    FAILURE,
    SLOWDOWN,
    Seed,
    gamma_draws,
    generator_of,
    machine_means,
)
from dcasgd_jax.schedules.schedule import Schedule, from_streams


def gamma_times(
    num_workers: int,
    num_steps: int,
    *,
    seed: Seed,
    mean: float | ArrayLike = 1.0,
    variation: float = 0.1,
    heterogeneity: float = 0.0,
    wait_for: int | None = None,
) -> Schedule:
    r"""Gamma-distributed times on machines that are alike or not: the usual simulated cluster.

    Worker m's machine takes μ_m seconds on average, drawn once; the k-th gradient takes t_mk:

        μ_m ~ Gamma(1 / h², μ h²),    t_mk ~ Gamma(1 / v², μ_m v²)      (shape, scale)

    with means μ and μ_m and coefficients of variation h (of machines) and v (of one machine's
    times). h = 0 makes the machines alike, v = 0 a machine's times equal; with both, and all
    means equal, this is `round_robin`.

    Args:
        num_workers: M >= 1.
        num_steps: server steps T >= 0.
        seed: of all draws.
        mean: μ, mean seconds for one gradient, > 0: a scalar, or one for each worker, shape
            [num_workers].
        variation: v >= 0.
        heterogeneity: h >= 0.
        wait_for: None for asynchrony, m for rounds of m gradients; see `from_compute_times`.

    Returns:
        The first `num_steps` arrivals.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> asynchronous = gamma_times(8, 800, seed=0, heterogeneity=0.6)
        >>> synchronous = gamma_times(8, 800, seed=0, heterogeneity=0.6, wait_for=8)
        >>> bool(asynchronous.clock[-1] < synchronous.clock[-1])  # nobody waits for the slowest
        True
        >>> int(synchronous.staleness.max())
        7

    References:
        Ali et al., Task Execution Time Modeling for Heterogeneous Computing Systems, HCW 2000:
        the gamma distribution by coefficients of variation. It became the simulated cluster of
        Hakimi et al., Taming Momentum in a Distributed Asynchronous Environment (DANA), 2019
        (https://arxiv.org/abs/1907.11612), and Barkai et al., Gap-Aware Mitigation of Gradient
        Staleness, ICLR 2020 (https://arxiv.org/abs/1909.10802).
    """
    check_protocol(num_workers, num_steps, wait_for)
    means = machine_means(num_workers, seed, mean, heterogeneity)
    check_at_least("variation", variation, 0.0)

    def stream(worker: int) -> Stream:
        draw = gamma_draws(generator_of(seed, worker, COMPUTING), variation)
        return lambda count: Attempts(means[worker] * draw(count), None)

    return from_streams([stream(m) for m in range(num_workers)], num_steps, wait_for=wait_for)


def exponential_times(
    num_workers: int,
    num_steps: int,
    *,
    seed: Seed,
    mean: float | ArrayLike = 1.0,
    least: float = 0.0,
    heterogeneity: float = 0.0,
    wait_for: int | None = None,
) -> Schedule:
    r"""Exponential times, optionally none below a least time: few assumptions, many formulas.

    With μ_m as in `gamma_times`, t_mk = μ_m (l + (1 - l) E_mk) with E_mk ~ Exp(1), where l is the
    share of the mean that every gradient takes at least. With l = 0 and machines alike, each
    arrival is any worker's with equal probability, whatever came before: staleness is geometric
    with mean M - 1, and a synchronous round takes μ (1 + 1/2 + ... + 1/M) on average, where the
    server steps of M asynchronous workers take μ.

    Args:
        num_workers: M >= 1.
        num_steps: server steps T >= 0.
        seed: of all draws.
        mean: μ, mean seconds for one gradient, > 0: a scalar, or one for each worker, shape
            [num_workers].
        least: l in [0, 1].
        heterogeneity: h >= 0, the coefficient of variation between machines.
        wait_for: None for asynchrony, m for rounds of m gradients; see `from_compute_times`.

    Returns:
        The first `num_steps` arrivals.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> schedule = exponential_times(8, 100_000, seed=0)
        >>> print(f"{schedule.staleness.mean():.1f} {np.mean(schedule.staleness == 0):.3f}")
        7.0 0.127

    References:
        Dutta et al., Slow and Stale Gradients Can Win the Race, AISTATS 2018
        (https://arxiv.org/abs/1803.01113).
    """
    check_protocol(num_workers, num_steps, wait_for)
    means = machine_means(num_workers, seed, mean, heterogeneity)
    check_at_least("least", least, 0.0, most=1.0)

    def stream(worker: int) -> Stream:
        generator = generator_of(seed, worker, COMPUTING)
        return lambda count: Attempts(
            means[worker] * (least + (1 - least) * generator.standard_exponential(count)), None
        )

    return from_streams([stream(m) for m in range(num_workers)], num_steps, wait_for=wait_for)


def straggler_times(
    num_workers: int,
    num_steps: int,
    *,
    seed: Seed,
    mean: float | ArrayLike = 1.0,
    variation: float = 0.1,
    slowdown: float = 10.0,
    slow_workers: int = 1,
    slow_probability: float = 0.0,
    wait_for: int | None = None,
) -> Schedule:
    r"""A cluster with stragglers: machines that are always slow, machines that are at times.

    The times of `gamma_times`, multiplied by `slowdown` on the last `slow_workers` workers, and
    (once more, if need be) for each single gradient with `slow_probability`, independently.

    Args:
        num_workers: M >= 1.
        num_steps: server steps T >= 0.
        seed: of all draws.
        mean: mean seconds for one gradient where nothing is slow, > 0: a scalar, or one for each
            worker, shape [num_workers].
        variation: v >= 0, the coefficient of variation of one machine's times.
        slowdown: factor >= 1.
        slow_workers: how many machines are always slow, in [0, num_workers].
        slow_probability: of a single gradient's being slow, in [0, 1].
        wait_for: None for asynchrony, m for rounds of m gradients; see `from_compute_times`.

    Returns:
        The first `num_steps` arrivals.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> [
        ...     f"{straggler_times(16, 1600, seed=0, wait_for=m).clock[-1]:.0f}"
        ...     for m in (None, 16, 15)
        ... ]  # a synchronous round takes as long as its straggler, one of 15 does without
        ['107', '1015', '126']
    """
    check_protocol(num_workers, num_steps, wait_for)
    means = machine_means(num_workers, seed, mean, 0.0)
    check_at_least("variation", variation, 0.0)
    check_at_least("slowdown", slowdown, 1.0)
    check_at_least("slow_probability", slow_probability, 0.0, most=1.0)
    check_whole(slow_workers=slow_workers)
    if not 0 <= slow_workers <= num_workers:
        raise ValueError(f"slow_workers must be in [0, {num_workers}], got {slow_workers}.")
    means[num_workers - slow_workers :] *= slowdown

    def stream(worker: int) -> Stream:
        draw = gamma_draws(generator_of(seed, worker, COMPUTING), variation)
        coins = generator_of(seed, worker, SLOWDOWN)

        def attempts(count: int) -> Attempts:
            slow = coins.random(count) < slow_probability
            return Attempts(means[worker] * draw(count) * np.where(slow, slowdown, 1.0), None)

        return attempts

    return from_streams([stream(m) for m in range(num_workers)], num_steps, wait_for=wait_for)


def failure_times(
    num_workers: int,
    num_steps: int,
    *,
    seed: Seed,
    mean: float | ArrayLike = 1.0,
    variation: float = 0.1,
    heterogeneity: float = 0.0,
    time_to_failure: float = 100.0,
    time_away: float = 10.0,
    wait_for: int | None = None,
) -> Schedule:
    r"""Workers that fail and come back: a gradient in work is lost, on return all is fetched anew.

    The times of `gamma_times`, on machines that fail after F seconds of computing and are away
    for A seconds, both exponentially distributed and independent. As F has no memory, each
    computation meets a fresh F: with t_mk < F it succeeds; otherwise its gradient is lost, and
    after F + A seconds the worker is back, pulls the weights of that time, and starts anew. It
    does not fail while it waits for a round to end, nor for a computation that it has given up
    at the end of a round, before F seconds of it.

    A lost gradient is no server step. Where nothing is lost, staleness and the ages of what is in
    flight after T steps add up to (M - 1) T; here the server steps that go by during lost
    computations and absences make up the rest.

    Args:
        num_workers: M >= 1.
        num_steps: server steps T >= 0.
        seed: of all draws.
        mean: mean seconds for one gradient, > 0: a scalar, or one for each worker, shape
            [num_workers].
        variation: v >= 0, the coefficient of variation of one machine's times.
        heterogeneity: h >= 0, that between machines.
        time_to_failure: mean of F, seconds, > 0; not below a tenth of the time for a gradient, or
            hardly any would ever be done.
        time_away: mean of A, seconds, >= 0.
        wait_for: None for asynchrony, m for rounds of m gradients; see `from_compute_times`. A
            round of all workers waits for those that are away.

    Returns:
        The first `num_steps` arrivals.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> schedule = failure_times(4, 10_000, seed=0, time_to_failure=20.0, time_away=5.0)
        >>> lost = 3 - schedule.staleness.mean()  # steps lost for each step taken
        >>> print(f"{lost:.2f}")
        0.64
    """
    check_protocol(num_workers, num_steps, wait_for)
    means = machine_means(num_workers, seed, mean, heterogeneity)
    check_at_least("variation", variation, 0.0)
    check_at_least("time_away", time_away, 0.0)
    check_at_least("time_to_failure", time_to_failure, float(np.max(means)) / 10)

    def stream(worker: int) -> Stream:
        draw = gamma_draws(generator_of(seed, worker, COMPUTING), variation)
        failures = generator_of(seed, worker, FAILURE)

        def attempts(count: int) -> Attempts:
            time = means[worker] * draw(count)
            until, away = failures.standard_exponential((count, 2)).T * np.array(
                [[time_to_failure], [time_away]]
            )
            lost = until <= time
            return Attempts(np.where(lost, until + away, time), lost, until)

        return attempts

    return from_streams([stream(m) for m in range(num_workers)], num_steps, wait_for=wait_for)

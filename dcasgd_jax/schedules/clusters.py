"""Clusters as they are met: machines that differ, links, absences, and rounds with a quorum."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dcasgd_jax.schedules.arrivals import Attempts, Stream
from dcasgd_jax.schedules.availability import Availability, checked_periods
from dcasgd_jax.schedules.checks import check_at_least, check_protocol
from dcasgd_jax.schedules.draws import (
    COMPUTING,
    PRESENCE,
    Seed,
    gamma_draws,
    generator_of,
    machine_means,
)
from dcasgd_jax.schedules.presence import ALWAYS, Worker, stream_with_absences
from dcasgd_jax.schedules.quorum import Quorum, check_quorum, schedule_by_quorum
from dcasgd_jax.schedules.schedule import Schedule, from_streams
from dcasgd_jax.schedules.transfers import Transfers, of_workers


def cluster_times(
    num_workers: int,
    num_steps: int,
    *,
    seed: Seed,
    mean: float | ArrayLike = 1.0,
    variation: float = 0.1,
    heterogeneity: float = 0.0,
    transfers: Transfers = Transfers(),  # noqa: B008 (immutable)
    availability: Availability | None = None,
    wait_for: int | Quorum | None = None,
) -> Schedule:
    r"""A cluster as it is: links of some bandwidth, workers that leave and return, a quorum.

    The k-th update of worker m takes d_m + t_mk + u_m seconds from its pull to its arrival: the
    download, the computation, whose times t_mk are those of `gamma_times`, and the upload. It is
    taken at the weights of the pull, so that transfers make gradients stale as computing does.

    With `availability`, an update arrives only if its worker is there from the pull to the arrival.
    Otherwise it is lost; when the worker is back, it pulls the weights of that time and starts
    anew. What is lost is no server step.

    With `wait_for`, training goes in rounds; see `Quorum`. A round's updates are its server steps;
    the clock of its last is when they are merged. For what the server does with them, see
    `dcasgd_jax.peers.weighted_aggregation`. Local steps (`local_steps`) of k batches take k times
    the `mean` of one.

    Args:
        num_workers: M >= 1.
        num_steps: server steps T >= 0.
        seed: of all draws.
        mean: mean seconds for computing one update, > 0: a scalar, or one for each worker, shape
            [num_workers].
        variation: v >= 0, the coefficient of variation of one machine's times.
        heterogeneity: h >= 0, that between machines.
        transfers: seconds of downloads and uploads, as from `transfer_times`.
        availability: when workers are there: `day_and_night`, `markov_availability`,
            `recorded_availability`, or a function of your own. None: always.
        wait_for: None for asynchrony; q, or a `Quorum` with a time of grace, for rounds.

    Returns:
        The first `num_steps` arrivals.

    Raises:
        ValueError: if an argument is out of range; if the workers that ever return send fewer
            updates; if one loses 10,000 in a row.

    Example:
        >>> import jax.numpy as jnp
        >>> from dcasgd_jax import Quorum, day_and_night, merge_ends, transfer_times
        >>> links = transfer_times(jnp.zeros(1_000_000), download=8e6, upload=[8e6] * 7 + [1e6])
        >>> abroad = day_and_night(600.0, 300.0)
        >>> cluster = cluster_times(
        ...     8, 500, seed=0, transfers=links, availability=abroad,
        ...     wait_for=Quorum(5, grace=0.5, late="stale"),
        ... )
        >>> int(cluster.staleness.max()) > 7, len(merge_ends(cluster).nonzero()[0]) < 500 / 5
        (True, True)

    References:
        Bonawitz et al., Towards Federated Learning at Scale: System Design, MLSys 2019
        (https://arxiv.org/abs/1902.01046), for rounds that end with enough reports or with time;
        Decoupled DiLoCo, 2026 (https://arxiv.org/abs/2604.21428), for a quorum and a grace window
        among unreliable machines, as reported: of neither could we read the details.
    """
    quorum = None
    if wait_for is None:
        check_protocol(num_workers, num_steps, None)
    else:
        quorum = check_quorum(num_workers, num_steps, wait_for)
    _check_kinds(transfers, availability)
    means = machine_means(num_workers, seed, mean, heterogeneity)
    check_at_least("variation", variation, 0.0)
    download = of_workers("download", transfers.download, num_workers)
    upload = of_workers("upload", transfers.upload, num_workers)

    def seconds(worker: int) -> Callable[[int], np.ndarray]:
        draw = gamma_draws(generator_of(seed, worker, COMPUTING), variation)
        return lambda count: download[worker] + means[worker] * draw(count) + upload[worker]

    def periods(worker: int) -> Iterator[tuple[float, float]]:
        if availability is None:
            return iter(ALWAYS)
        given = availability(worker, generator_of(seed, worker, PRESENCE))
        return checked_periods(worker, given)

    # Where nobody leaves and all begin anew together, rounds do not depend on those before them.
    alone = availability is None and quorum is not None and quorum[1:] == (0.0, "dropped")
    if quorum is not None and not alone:
        workers = [Worker(seconds(m), periods(m)) for m in range(num_workers)]
        return schedule_by_quorum(workers, num_steps, quorum)

    def stream(worker: int) -> Stream:
        draw = seconds(worker)
        if availability is None:
            return lambda count: Attempts(draw(count), None)
        each = float(download[worker] + means[worker] + upload[worker])
        return stream_with_absences(worker, draw, periods(worker), each)

    size = None if quorum is None else quorum.size
    return from_streams([stream(m) for m in range(num_workers)], num_steps, wait_for=size)


def _check_kinds(transfers: Any, availability: Any) -> None:
    """Refuses what is neither transfers nor an availability."""
    if not isinstance(transfers, Transfers):
        raise ValueError(
            f"transfers must be a Transfers, as from transfer_times, got {transfers!r}; leave it "
            "out where nothing takes time to send."
        )
    if not (availability is None or callable(availability)):
        raise ValueError(
            "availability must be None or a function (worker, generator) -> periods, got "
            f"{availability!r}; of recorded periods take recorded_availability(periods)."
        )

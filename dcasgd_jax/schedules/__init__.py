"""Who arrives at the server when, and how stale: made with NumPy before anything is traced."""

from dcasgd_jax.schedules.availability import (
    Availability,
    day_and_night,
    markov_availability,
    recorded_availability,
)
from dcasgd_jax.schedules.clusters import cluster_times
from dcasgd_jax.schedules.compute_times import (
    exponential_times,
    failure_times,
    gamma_times,
    straggler_times,
)
from dcasgd_jax.schedules.quorum import Quorum, merge_ends
from dcasgd_jax.schedules.schedule import (
    Schedule,
    from_arrivals,
    from_compute_times,
    round_robin,
)
from dcasgd_jax.schedules.trace import read_trace, write_trace
from dcasgd_jax.schedules.transfers import Transfers, transfer_times
from dcasgd_jax.schedules.waves import Waves, waves

__all__ = [
    "Schedule",
    "round_robin",
    "gamma_times",
    "exponential_times",
    "straggler_times",
    "failure_times",
    "cluster_times",
    "Transfers",
    "transfer_times",
    "Availability",
    "day_and_night",
    "markov_availability",
    "recorded_availability",
    "Quorum",
    "merge_ends",
    "from_compute_times",
    "from_arrivals",
    "read_trace",
    "write_trace",
    "waves",
    "Waves",
]

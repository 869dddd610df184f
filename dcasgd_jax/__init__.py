"""Delayed gradients: compensation rules, arrival schedules, and an exact simulator.

In an optax pipeline, compensation is one more transformation. Pass the weights at which the
gradient was computed as `stale_params`::

    import optax
    from dcasgd_jax import delay_compensation

    tx = optax.chain(
        delay_compensation(2.0, mean_square_decay=0.95),  # DC-ASGD-a
        optax.add_decayed_weights(1e-4),                  # at the server's weights, uncompensated
        optax.sgd(0.1, momentum=0.9),
    )
    updates, state = tx.update(gradients, state, params, stale_params=snapshot)

The ladder from the exact Hessian to its cheapest diagonal is `curvature_compensation`;
`low_rank_compensation` learns the sharp directions from the gradients that arrive, and
`rotated_compensation` the axes in which a diagonal is of use. Published peers are in
`dcasgd_jax.peers`.

A cluster of eight workers, simulated to the last bit on one device::

    import jax
    from dcasgd_jax import dcasgd, round_robin, simulate

    schedule = round_robin(num_workers=8, num_steps=1000)
    params, info = simulate(jax.grad(loss), params, dcasgd(0.1, 0.04), schedule, batches)
    info.staleness, info.clock                          # per server step

In a training loop that cannot pass `stale_params` on (Flax's TrainState), the same eight workers
are `constant_delay(dcasgd(0.1, 0.04), 7)`, an ordinary optimiser.
"""

from dcasgd_jax.diagnostics import (
    StalenessError,
    best_strength,
    distance_by_staleness,
    error_left,
    stable_step,
    staleness_error,
    staleness_histogram,
    time_to,
)
from dcasgd_jax.rules import (
    Arrival,
    ConstantDelayState,
    Curvature,
    CurvatureCompensationState,
    DelayCompensationState,
    LowRankCompensationState,
    RotatedCompensationState,
    SendingRule,
    constant_delay,
    curvature_compensation,
    dcasgd,
    delay_compensation,
    empirical_fisher,
    gauss_newton,
    hessian,
    hessian_diagonal,
    local_steps,
    low_rank_compensation,
    outer_product,
    pipeline_delays,
    rotated_compensation,
    running_average,
)
from dcasgd_jax.schedules import (
    Availability,
    Quorum,
    Schedule,
    Transfers,
    Waves,
    cluster_times,
    day_and_night,
    exponential_times,
    failure_times,
    from_arrivals,
    from_compute_times,
    gamma_times,
    markov_availability,
    merge_ends,
    read_trace,
    recorded_availability,
    round_robin,
    straggler_times,
    transfer_times,
    waves,
    write_trace,
)
from dcasgd_jax.simulator import (
    BatchesEndedError,
    Engine,
    SimulationInfo,
    Simulator,
    SimulatorLog,
    SimulatorState,
    Together,
    simulate,
    slot_simulator,
    wavefront_simulator,
)

__version__ = "0.1.0"

__all__ = [
    "delay_compensation",
    "DelayCompensationState",
    "curvature_compensation",
    "CurvatureCompensationState",
    "Curvature",
    "Arrival",
    "hessian",
    "gauss_newton",
    "empirical_fisher",
    "outer_product",
    "hessian_diagonal",
    "low_rank_compensation",
    "LowRankCompensationState",
    "rotated_compensation",
    "RotatedCompensationState",
    "dcasgd",
    "constant_delay",
    "ConstantDelayState",
    "pipeline_delays",
    "local_steps",
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
    "simulate",
    "SimulationInfo",
    "Engine",
    "slot_simulator",
    "wavefront_simulator",
    "Together",
    "Simulator",
    "SimulatorState",
    "SimulatorLog",
    "SendingRule",
    "BatchesEndedError",
    "staleness_histogram",
    "distance_by_staleness",
    "staleness_error",
    "StalenessError",
    "error_left",
    "best_strength",
    "stable_step",
    "time_to",
    "running_average",
]

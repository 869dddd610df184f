"""Run by test_devices in a process of its own: one simulation on one device and on eight."""

import sys

import jax
import numpy as np

from dcasgd_jax import dcasgd, gamma_times, round_robin, wavefront_simulator
from tests.dcasgd_jax.networks import batches_of, gradient, weights_of
from tests.dcasgd_jax.rules import ladder_on_devices
from tests.dcasgd_jax.simulator import sharded_on_devices

SIZES, STEPS, WORKERS = (4, 3), 40, 8


def run(schedule, **options):
    """The final weights and distances, as one vector."""
    rng = np.random.default_rng(0)
    params, batches = weights_of(SIZES, rng), batches_of(STEPS, 3, SIZES, rng)
    tx = dcasgd(0.3, 2.0, mean_square_decay=0.9, momentum=0.5)
    simulator = wavefront_simulator(gradient, tx, WORKERS, log_distance=True, **options)
    state, log = simulator.run(simulator.init(params), schedule, batches)
    if options.get("shard_snapshots"):
        rows = {s.data.shape[0] for s in state.snapshots[0].addressable_shards}
        assert rows == {WORKERS // jax.device_count()}, rows
    leaves = jax.device_get((state.params, log.distance))
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(leaves)])


def main():
    """Compares, and says so."""
    assert jax.device_count() == 8
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    turns, gamma = (
        round_robin(WORKERS, STEPS),
        gamma_times(WORKERS, STEPS, seed=0, variation=0.5),
    )
    # One gradient a device is the gradient computed alone: the unrolled run, to the bit.
    for schedule, ways in (
        (
            turns,
            [
                {"loop": "driven", "mesh": mesh},
                {"loop": "scan", "mesh": mesh, "shard_snapshots": True},
                {"loop": "driven", "together": "pmap"},
            ],
        ),
        (gamma, [{"loop": "driven", "mesh": mesh, "shard_snapshots": True}]),
    ):
        alone = run(schedule, together="unrolled", loop="driven")
        for options in ways:
            np.testing.assert_array_equal(run(schedule, **options), alone)
            sys.stdout.write("agree to the bit\n")
    sharded_on_devices.compare()
    sys.stdout.write("shardings are kept\n")
    ladder_on_devices.compare()
    sys.stdout.write("the ladder agrees\n")


if __name__ == "__main__":
    main()

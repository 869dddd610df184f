"""Run twice by test_devices: one simulation over the devices of two processes."""

import sys

import jax
import numpy as np

from dcasgd_jax import dcasgd, gamma_times, wavefront_simulator
from tests.dcasgd_jax.networks import batches_of, gradient, weights_of

SIZES, STEPS, WORKERS = (4, 3), 16, 4


def run(**options):
    """The final weights, as seen by this process."""
    rng = np.random.default_rng(0)
    params, batches = weights_of(SIZES, rng), batches_of(STEPS, 3, SIZES, rng)
    schedule = gamma_times(WORKERS, STEPS, seed=0, variation=0.5)
    tx = dcasgd(0.3, 2.0, mean_square_decay=0.9)
    simulator = wavefront_simulator(gradient, tx, WORKERS, loop="driven", **options)
    # Data that every process has alike are handed over from the host.
    given = iter([jax.tree.map(lambda x, t=t: np.asarray(x[t]), batches) for t in range(STEPS)])
    state, _ = simulator.run(simulator.init(params), schedule, given)
    return jax.device_get(state.params)


def main():
    """Compares the run over both processes with the run of this one."""
    address, index = sys.argv[1:]
    jax.distributed.initialize(address, num_processes=2, process_id=int(index))
    assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (2, 4, 2)
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    alone = run(together="unrolled")
    for shard in (False, True):
        spread = run(mesh=mesh, shard_snapshots=shard)
        for got, expected in zip(spread, alone, strict=True):
            np.testing.assert_array_equal(got, expected)
    sys.stdout.write("agree to the bit\n")


if __name__ == "__main__":
    main()

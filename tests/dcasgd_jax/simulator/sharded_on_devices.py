"""Run by on_devices, in its process of eight devices: weights that no device holds whole."""

import jax
import jax.numpy as jnp
import numpy as np

from dcasgd_jax import dcasgd, gamma_times, slot_simulator, wavefront_simulator
from tests import on_eight_devices
from tests.compiled import compiled_quickly

SHAPES = ((16, 24), (3, 3, 8, 16), (24,))
STEPS, WORKERS = 6, 2
ENGINES = {"slots": slot_simulator, "wavefront": wavefront_simulator}


def gradient(params, batch):
    """Of a loss whose own arithmetic sends nothing, so that all that is sent is the server's."""
    return jax.tree.map(lambda w: (w**2 - 1) * w + 0.1 * batch * w, params)


def compare():
    """Raises unless both engines keep every sharding, gather no leaf, and compute the same run."""
    with jax.enable_x64(True):
        draw = np.random.default_rng(0).normal
        params = [jnp.asarray(draw(size=s)) for s in SHAPES]
        schedule = gamma_times(WORKERS, STEPS, seed=0, variation=0.5)
        batches, tx = (
            jnp.asarray(draw(size=STEPS)),
            dcasgd(0.05, 2.0, mean_square_decay=0.9, momentum=0.5),
        )
        for engine, make in ENGINES.items():
            simulator = make(gradient, tx, WORKERS, loop="scan")

            def run(state, batches, simulator=simulator):
                return simulator.run(state, schedule, batches)

            expected = compiled_quickly(run)(simulator.init(params), batches)
            for way in ("rows", "largest"):
                shardings = on_eight_devices.shardings(params, way)
                state = simulator.init(jax.device_put(params, shardings))
                snapshots = [
                    jax.sharding.NamedSharding(s.mesh, jax.sharding.PartitionSpec(None, *s.spec))
                    for s in shardings
                ]
                compiled = compiled_quickly(run).lower(state, batches).compile()
                assert on_eight_devices.largest_sent(compiled) <= 24, (engine, way)
                after, log = compiled(state, batches)
                for found in (state, after):
                    on_eight_devices.assert_sharded_like(found.params, shardings)
                    on_eight_devices.assert_sharded_like(found.snapshots, snapshots)
                    kept = [x for x in jax.tree.leaves(found.opt_state) if x.ndim]
                    assert len(kept) == 2 * len(params)
                    on_eight_devices.assert_sharded_like(kept, 2 * shardings)
                for got, due in zip(
                    jax.tree.leaves((after, log)), jax.tree.leaves(expected), strict=True
                ):
                    np.testing.assert_allclose(got, due, rtol=1e-12, atol=1e-15, err_msg=engine)

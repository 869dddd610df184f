"""Real asynchrony: the server's rule and the workers' gradients of `simulate`, as actors of Ray.

Who arrives when is not drawn here but happens, on one machine or on a cluster, and is recorded::

    import jax
    from dcasgd_jax import dcasgd, simulate, write_trace
    from dcasgd_jax.actors import Cluster, reorder_batches, run_asynchronously

    job = jax.grad(loss), params, dcasgd(0.1, 0.04)
    params, info = run_asynchronously(
        *job, batches, cluster=Cluster(num_workers=8), num_steps=10_000, checkpoint="run.npz"
    )
    write_trace(info.schedule, "trace.csv", batch=info.batch)

The simulator then repeats the run, or compares it with what another rule would have made of the
same arrivals::

    again, _ = simulate(*job, info.schedule, reorder_batches(batches, info.batch))

Ray is an extra, `pip install 'gsgd-dcasgd-lacim-jax[ray]'`; it is loaded when a run is started, and
traces are read and replayed without it.
"""

from dcasgd_jax.actors.recording import Recording, read_recording
from dcasgd_jax.actors.run import AsynchronousInfo, run_asynchronously
from dcasgd_jax.actors.settings import Checkpoint, Cluster, Monitoring
from dcasgd_jax.schedules.trace import read_batch_order
from dcasgd_jax.simulator.batches import reorder_batches

__all__ = [
    "run_asynchronously",
    "AsynchronousInfo",
    "Cluster",
    "Checkpoint",
    "Monitoring",
    "reorder_batches",
    "Recording",
    "read_recording",
    "read_batch_order",
]

"""Run twice by test_hosts: training over the devices of two processes, as of one."""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.cli import main as command_line
from benchmarks.harness import hosts
from benchmarks.harness.registry import Context
from benchmarks.path_space import mlp as gsgd_mlp
from common.progress import Silent
from common.results.records import last_run, read_records
from common.training import Execution, Keys, fit, init_state, train_step
from common.training.checkpoints import Checkpoints
from common.training.classification import cross_entropy_loss
from gsgd_jax import choose_skeleton, in_path_space, mlp_gauge

SMALL = dataclasses.replace(
    gsgd_mlp.Settings(),
    data="digits8x8",
    widths=(8, 10),
    batch_size=64,
    epochs=2,
    learning_rates=(0.1,),
)


def experiment(arguments, out):
    """Runs an experiment over both processes by its command line, and again on one device."""
    gsgd_mlp.PRESETS["smoke"], gsgd_mlp.METHODS = SMALL, gsgd_mlp.METHODS[2:3]
    gsgd_mlp.plots = lambda records, out: []
    assert command_line(["gsgd_mlp", "--seeds", "1", "--out", out, *arguments]) == 0
    assert (jax.process_count(), jax.device_count()) == (2, 4)
    # Gone on with as process 0 has it: only there the folder holds a run.
    folder = out if hosts.is_first() else f"{out}-of-no-run"
    again = ["--seeds", "1", "--resume", "--time-budget", "1", "--out", folder]
    assert command_line(["gsgd_mlp", *again]) == 0
    assert not Path(f"{out}-of-no-run").exists()
    if not hosts.is_first():
        return
    shared = last_run(read_records(Path(out) / "records.jsonl"))
    alone = list(gsgd_mlp.run(SMALL, Context((0,), None, Silent())))
    assert len(shared) == len(alone) == 2
    for one, other in zip(shared, alone, strict=True):
        assert one.origin["provenance"]["device"]["processes"] == 2
        for name, figure in other.metrics.items():
            np.testing.assert_allclose(one.metrics[name], figure, rtol=1e-4, err_msg=name)


def in_path_space_on(mesh, data, *, checkpoints=None, epochs=2):
    """Training by momentum in path space, kernels sharded by columns; on one device if None."""
    draw = np.random.default_rng(0).normal
    params = [jnp.asarray(draw(size=s) / 2) for s in ((4, 8), (8, 4))]
    skeleton = choose_skeleton(mlp_gauge(params), params, rule="largest", basis="paths")
    tx = in_path_space(optax.sgd(0.05, 0.9), skeleton)
    if mesh is not None:
        params = jax.device_put(params, NamedSharding(mesh, PartitionSpec(None, "model")))
    loss = cross_entropy_loss(lambda params, x: jax.nn.relu(x @ params[0]) @ params[1])
    return fit(
        train_step(loss, tx), init_state(params, tx), data,
        keys=Keys(jax.random.key(1), jax.random.key(2)), batch_size=8, epochs=epochs,
        checkpoints=checkpoints, execution=Execution(mesh=mesh),
    )  # fmt: skip


def training(out):
    """Trains over both processes, stopped and gone on with, and on one device."""
    inputs = np.random.default_rng(1).normal(size=(40, 4))
    data = (inputs, np.arange(40, dtype=np.int32) % 4)
    alone = in_path_space_on(None, data)
    automatic = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=2 * automatic)
    with Checkpoints(Path(out) / "checkpoints") as folder:
        in_path_space_on(mesh, data, checkpoints=folder, epochs=1)
        resumed = in_path_space_on(mesh, data, checkpoints=folder)
    np.testing.assert_allclose(resumed.curve["loss"], alone.curve["loss"], rtol=1e-10)
    for found, due in zip(resumed.state.params, alone.state.params, strict=True):
        assert {shard.data.shape[1] for shard in found.addressable_shards} == {found.shape[1] // 2}
        for shard in found.addressable_shards:
            np.testing.assert_allclose(shard.data, due[shard.index], rtol=1e-10)


def main():
    """Runs the experiment, then compares."""
    address, index, out = sys.argv[1:]
    arguments = ["--distributed", "--coordinator", address, "--num-processes", "2"]
    experiment([*arguments, "--process-id", index], out)
    with jax.enable_x64(True):
        training(out)
    sys.stdout.write("agree\n")


if __name__ == "__main__":
    main()

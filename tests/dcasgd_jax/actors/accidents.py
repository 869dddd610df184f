"""A small training job in which a worker and one of two servers die; and users' programs.

The programs run in processes of their own: that of the tests has functions that check the types of
their arguments, which Ray cannot hand to actors.
"""

import contextlib
import ipaddress
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.delay.timed import pushes
from dcasgd_jax import delay_compensation
from dcasgd_jax.actors import Checkpoint, Cluster, Monitoring, run_asynchronously
from dcasgd_jax.actors.process import ray_on_this_machine
from tests.dcasgd_jax.networks import gradient, weights_of

STEPS, EVERY = 40, 10
WORKER_DIES_ON, PROGRAM_DIES_AT, SERVER_DIES_AT = 9, 23, 33


def job(folder):
    """Gradient, weights, rule and batches; in this process, nothing dies."""
    spared = os.getpid()

    def strike(place, name):
        def dies(count):
            mark = Path(folder) / name
            if os.getpid() != spared and count == place and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return np.float32(1.0)

        one = jax.ShapeDtypeStruct((), jnp.float32)
        return lambda count: jax.pure_callback(dies, one, count, vmap_method="sequential")

    worker_lives = strike(WORKER_DIES_ON, "worker")
    server_lives = strike(SERVER_DIES_AT, "server")

    def batches(number):
        key = jax.random.fold_in(jax.random.key(7), number)
        return worker_lives(number) * jax.random.normal(key, (5, 4)), jnp.arange(5) % 3

    def update(updates, state, params=None):
        factor = server_lives(state)
        return jax.tree.map(lambda g: factor * g, updates), state + 1

    mortal = optax.GradientTransformation(lambda _: jnp.zeros([], jnp.int32), update)
    rule = optax.chain(delay_compensation(2.0, mean_square_decay=0.9), mortal, optax.sgd(0.2))
    return gradient, weights_of((4, 3), np.random.default_rng(3)), rule, batches


def train(folder, **options):
    """Goes on with the run in this folder."""
    return run_asynchronously(
        *job(folder),
        cluster=Cluster(num_workers=2, num_servers=2, placement="PACK"),
        num_steps=STEPS,
        checkpoint=Checkpoint(folder / "run.npz", every=EVERY),
        **options,
    )


def is_killed(folder, address):
    """Joins the Ray at an address, trains, and is killed."""
    import ray

    def on_step(step):
        if step == PROGRAM_DIES_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    ray.init(address=address, log_to_driver=False)
    train(folder, monitoring=Monitoring(on_step=on_step))


def asks_for_too_much():
    """The error of a run for which the machine is too small."""
    wanted = {"num_cpus": 64}
    cluster = Cluster(2, worker_options=wanted, server_options=wanted, start_timeout=1)
    square, batches = jax.grad(lambda w, x: (w - x) ** 2), np.zeros(3, np.float32)
    try:
        run_asynchronously(
            square, np.zeros([], np.float32), optax.sgd(0.1), batches, cluster=cluster, num_steps=3
        )
    except TimeoutError as error:
        return str(error)
    raise AssertionError("it was started")


def gallery():
    """The program of the documentation that runs workers, as it is printed there."""
    page = Path(__file__).parents[3] / "benchmarks" / "docs" / "pages" / "gallery.md"
    programs = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    (program,) = (code for code in programs if "run_asynchronously(" in code)
    return program


def listening():
    """(process, address) of all sockets on which this process and those it began listen."""
    addresses = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # listens
                # Hexadecimal, each word of four bytes with its last byte first.
                words = bytes.fromhex(fields[1].partition(":")[0])
                ordered = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
                addresses[f"socket:[{fields[9]}]"] = ipaddress.ip_address(ordered)
    parents, found = {}, []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(process.name)] = int(
                (process / "stat").read_text().rpartition(")")[2].split()[1]
            )
    ours = {os.getpid()}
    while begun := {child for child, parent in parents.items() if parent in ours} - ours:
        ours |= begun
    for number in ours:
        name = Path("/proc", str(number), "comm")
        for descriptor in Path("/proc", str(number), "fd").glob("*"):
            with contextlib.suppress(OSError):
                if (place := str(descriptor.readlink())) in addresses:
                    found.append(f"{name.read_text().strip()} {addresses[place]}")
    return sorted(found)


def starts_ray(folder):
    """Starts Ray as a run does, has a program killed, and goes on with its run."""
    import ray

    with ray_on_this_machine(
        ray, num_cpus=4, log_to_driver=False, object_store_memory=80 * 2**20
    ) as context:
        address = context.address_info["gcs_address"]
        program = [sys.executable, "-m", __spec__.name, "is_killed", folder, address]
        assert subprocess.run(program).returncode == -signal.SIGKILL
        shutil.copy(folder / "run.npz", folder / "killed.npz")
        sockets = []
        watch = Monitoring(on_step=lambda step: sockets or sockets.extend(listening()))
        params, info = train(folder, monitoring=watch)
        (folder / "listening.txt").write_text("\n".join(sockets))
        exec(compile(gallery(), "gallery.md", "exec"), {"__name__": "gallery"})
        np.savez(folder / "params.npz", *params, restored=info.restored)
        timed = pushes.measure((100,), 3, 0)
        (folder / "pushes.txt").write_text(
            "\n".join(f"{r.method}: {len(r.curve['seconds'])} {r.metrics['ratio']}" for r in timed)
        )
        (folder / "timeout.txt").write_text(asks_for_too_much())


if __name__ == "__main__":
    name, where, *rest = sys.argv[1:]
    {"starts_ray": starts_ray, "is_killed": is_killed}[name](Path(where), *rest)

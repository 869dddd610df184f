"""Ray, loaded only where actors are asked for, and JAX in the processes of actors."""

import contextlib
import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
)

_OTHER_MACHINES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Whether Ray may have other machines; heeded on every system, whatever its name."""


class Process(NamedTuple):
    """How JAX is to be set up in the process of an actor."""

    settings: dict[str, Any]  # of jax.config, as the caller has them
    accelerated: bool  # whether accelerators were asked for
    threads: int  # of one computation on CPU


def load_ray() -> Any:
    """The module `ray`, or an error that names the extra."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ImportError(
            "real workers run on Ray, which is not installed: install the extra `ray`, as in "
            "pip install 'gsgd-dcasgd-lacim-jax[ray]'."
        ) from error


@contextlib.contextmanager
def ray_on_this_machine(ray: Any, **options: Any) -> Iterator[Any]:
    """Ray, started on the loopback interface and shut down again: no other machine can reach it.

    Ray takes 127.0.0.1 for a slip where it may have other machines, puts the machine's own address
    in its place, and listens on all interfaces then. Where it is told that there are none (what it
    assumes on Windows and macOS, and a variable says elsewhere), it keeps to 127.0.0.1. Processes
    read the variable when they load Ray; this one has, so that here its constant is set.

    Args:
        ray: the module.
        **options: of `ray.init`.
    """
    constants: Any = importlib.import_module("ray._private.ray_constants")
    before, constant = os.environ.get(_OTHER_MACHINES), constants.ENABLE_RAY_CLUSTER
    os.environ[_OTHER_MACHINES], constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield ray.init(**{"include_dashboard": False, "_node_ip_address": "127.0.0.1"} | options)
    finally:
        ray.shutdown()
        constants.ENABLE_RAY_CLUSTER = constant
        del os.environ[_OTHER_MACHINES]
        if before is not None:
            os.environ[_OTHER_MACHINES] = before


def process_for(options: Mapping[str, Any]) -> Process:
    """What an actor with these options of Ray needs, set up as the caller's process is."""
    accelerators = ("num_gpus", "resources", "accelerator_type")
    return Process(
        settings={name: getattr(jax.config, name) for name in _SETTINGS},
        accelerated=any(options.get(name) for name in accelerators),
        threads=max(1, int(options.get("num_cpus") or 1)),
    )


def prepare(process: Process, program: Sequence[Any]) -> list[Any]:
    """Sets JAX up in the process of an actor, and then unpacks the references of its program."""
    # In this order: unpacking may create arrays, and with the first array JAX takes hold of its
    # devices.
    for name, value in process.settings.items():
        jax.config.update(name, value)
    if not process.accelerated:
        jax.config.update("jax_platforms", "cpu")
        # XLA's way to be told the size of its pool: as many as the machine has cores, times the
        # number of workers on it, would only get in each other's way.
        os.environ.setdefault("NPROC", str(process.threads))
    return load_ray().get(list(program))

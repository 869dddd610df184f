"""Where a real run takes place, and where its state is kept."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from jax.typing import DTypeLike

from dcasgd_jax._arguments import check_number

PlacementName = Literal["SPREAD", "PACK", "STRICT_SPREAD", "STRICT_PACK"]
"""Ray's strategies of placement groups."""


class Cluster(NamedTuple):
    """The actors of a run, and what each of them asks Ray for."""

    num_workers: int
    """M >= 1, how many take gradients."""
    num_servers: int = 1
    """K >= 1, how many share the leaves of the parameters."""
    worker_options: Mapping[str, Any] | None = None
    """Of each worker's actor, as for `options` of Ray, beside {"num_cpus": 1}: num_cpus, num_gpus,
    memory, resources, accelerator_type, scheduling_strategy and so on. Workers compute on CPU
    unless num_gpus, or resources such as a TPU's, are asked for here."""
    server_options: Mapping[str, Any] | None = None
    """Of each server's actor, as for `options` of Ray, beside {"num_cpus": 0}."""
    start_timeout: float = 120.0
    """Seconds that all actors together may take to start: at first, where servers are restored, and
    where no worker is left, those that replace them."""
    snapshot_dtype: DTypeLike | None = None
    """Of the weights sent to workers: bfloat16, say, halves what is sent. Gradients are taken at
    the rounded weights, which are `stale_params` too. None keeps the parameters' dtypes."""
    placement: PlacementName | None = None
    """How actors are spread over machines: evenly, "SPREAD", or on as few as will do, "PACK";
    "STRICT_SPREAD" and "STRICT_PACK" refuse anything else. All places are reserved before the first
    actor starts. A server that asks for nothing shares a worker's machine. None leaves each actor
    to Ray, or to a scheduling_strategy among its options."""


class Monitoring(NamedTuple):
    """What is logged and checked at every step of a run, and who hears of it."""

    log_distance: bool = True
    """Whether |w - snapshot| is computed."""
    check_finite: bool = True
    """Whether NaN and infinity in a gradient end the run. False hands them to the rule, as for
    `optax.apply_if_finite`."""
    on_step: Callable[[int], object] | None = None
    """Called in the process of `run_asynchronously` with t when gradient t has been handed to the
    server, for progress; with some t anew after a restoration."""


class Checkpoint(NamedTuple):
    """The file that a run's state and trace are kept in."""

    path: str | Path
    """Of the file; its folder must be there."""
    every: int = 100
    """Server steps between two checkpoints, >= 1."""


def check_cluster(cluster: Cluster) -> None:
    """Refuses a cluster without workers or servers, or that may not take any time to start."""
    check_whole_number("num_workers", cluster.num_workers, least=1)
    check_whole_number("num_servers", cluster.num_servers, least=1)
    check_number("start_timeout", cluster.start_timeout, positive=True)
    if cluster.placement is not None:
        _check_placement(
            cluster.placement, options_of_workers(cluster), options_of_servers(cluster)
        )


def options_of_workers(cluster: Cluster) -> dict[str, Any]:
    """Of each worker, as for `options` of Ray."""
    return {"num_cpus": 1, **(cluster.worker_options or {})}


def options_of_servers(cluster: Cluster) -> dict[str, Any]:
    """Of each server, as for `options` of Ray."""
    return {"num_cpus": 0, **(cluster.server_options or {})}


def bundle(options: Mapping[str, Any]) -> dict[str, Any]:
    """What an actor with these options needs, in the names of Ray's placement groups."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    wanted = {name: options.get(option) for option, name in names.items()}
    wanted |= dict(options.get("resources") or {})
    return {name: amount for name, amount in wanted.items() if amount}


def _check_placement(placement: str, *options: Mapping[str, Any]) -> None:
    """Refuses a placement that does not exist, or a second one within the options of actors."""
    if placement not in get_args(PlacementName):
        raise ValueError(
            f"placement must be None or one of {', '.join(get_args(PlacementName))}, got "
            f"{placement!r}."
        )
    if any("scheduling_strategy" in each for each in options):
        raise ValueError(
            "placement and a scheduling_strategy among the actors' options say twice where they "
            "run; leave one of them out."
        )
    if not bundle(options[0]):
        raise ValueError(
            "placement reserves what workers ask for, and worker_options ask for nothing; let "
            "them ask for num_cpus, num_gpus or resources."
        )


def absolute_checkpoint(checkpoint: Checkpoint | str | Path | None) -> Checkpoint | None:
    """The checkpoint that a user names, its path absolute; refuses a folder that is missing."""
    if checkpoint is None:
        return None
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint(checkpoint)
    check_whole_number("the checkpoint's `every`", checkpoint.every, least=1)
    path = Path(checkpoint.path).absolute()
    if not path.parent.is_dir():
        raise ValueError(f"the checkpoint's folder {path.parent} is missing; create it first.")
    return checkpoint._replace(path=path)


def check_whole_number(name: str, value: Any, *, least: int) -> None:
    """Refuses anything but an int that is large enough."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an int >= {least}, got {value!r}.")

"""Where a real run takes place, and where its state is kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dcasgd_jax._arguments import check_number


class Cluster(NamedTuple):
    """The actors of a run, and what each of them asks Ray for."""

    num_workers: int
    """M >= 1, how many take gradients."""
    num_servers: int = 1
    """K >= 1, how many share the leaves of the parameters."""
    worker_options: Mapping[str, Any] | None = None
    """Of each worker's actor, as for `options` of Ray, beside {"num_cpus": 1}. Workers compute on
    CPU unless num_gpus, or resources such as a TPU's, are asked for here."""
    server_options: Mapping[str, Any] | None = None
    """Of each server's actor, as for `options` of Ray, beside {"num_cpus": 0}."""
    start_timeout: float = 120.0
    """Seconds that all actors together may take to start."""


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

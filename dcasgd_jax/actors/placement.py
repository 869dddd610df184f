"""Where actors run: places that are reserved before any of them starts; and where there is none."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from dcasgd_jax.actors.process import load_ray
from dcasgd_jax.actors.settings import (
    Cluster,
    bundle,
    options_of_servers,
    options_of_workers,
)


class Places(NamedTuple):
    """Where each actor goes, as further options of Ray."""

    group: Any  # Ray's, or None
    workers: list[dict[str, Any]]
    servers: list[dict[str, Any]]


def reserve(cluster: Cluster) -> Places:
    """The places of all actors, which may not be free yet; without a placement, Ray's to choose."""
    num_workers, num_servers = cluster.num_workers, cluster.num_servers
    if cluster.placement is None:
        return Places(None, [{}] * num_workers, [{}] * num_servers)
    ray = load_ray()
    of_worker, of_server = bundle(options_of_workers(cluster)), bundle(options_of_servers(cluster))
    bundles = [of_worker] * num_workers + [of_server] * (num_servers if of_server else 0)
    group = ray.util.placement_group(bundles, strategy=cluster.placement)

    def at(index: int) -> dict[str, Any]:
        strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
            placement_group=group, placement_group_bundle_index=index
        )
        return {"scheduling_strategy": strategy}

    # A server that asks for nothing has no bundle, and shares a worker's machine.
    servers = [num_workers + k if of_server else k % num_workers for k in range(num_servers)]
    return Places(group, [at(m) for m in range(num_workers)], [at(k) for k in servers])


def release(places: Places | None) -> None:
    """Gives the reserved places back."""
    if places is not None and places.group is not None:
        load_ray().util.remove_placement_group(places.group)


def not_started(who: str, cluster: Cluster) -> str:
    """The error where actors find no room: what there is, and what was asked for."""
    ray = load_ray()
    return (
        f"{who} did not start in {cluster.start_timeout:g} s: the cluster has "
        f"{_resources(ray.cluster_resources())}, of which "
        f"{_resources(ray.available_resources())} were free, each worker asks for "
        f"{_resources(options_of_workers(cluster))} and each server for "
        f"{_resources(options_of_servers(cluster))}; ask for less "
        "(worker_options={'num_cpus': 0.5}), for fewer workers, or for a longer start_timeout."
    )


def _resources(resources: Mapping[str, Any]) -> str:
    """Ray's resources in words, without those that say nothing."""
    shown = {
        name: amount
        for name, amount in sorted(resources.items())
        if name != "memory" and not name.startswith(("node:", "object_store"))
    }
    return ", ".join(f"{name}={amount}" for name, amount in shown.items()) or "nothing"

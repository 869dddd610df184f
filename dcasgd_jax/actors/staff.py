"""The actors of a run: starts workers and servers where they have their places, and ends them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from dcasgd_jax.actors.host_arrays import from_host
from dcasgd_jax.actors.placement import Places, not_started, release, reserve
from dcasgd_jax.actors.process import load_ray, process_for
from dcasgd_jax.actors.server import Duty, ParameterServer, first_snapshots
from dcasgd_jax.actors.settings import (
    Checkpoint,
    Cluster,
    options_of_servers,
    options_of_workers,
)
from dcasgd_jax.actors.shards import split
from dcasgd_jax.actors.worker import GradientWorker, Task
from dcasgd_jax.simulator.server import Server
from dcasgd_jax.simulator.state import ServerState


class Job(NamedTuple):
    """What is to be done, settled before any actor is started."""

    server: Server
    task: Task
    batches: Any
    num_steps: int
    cluster: Cluster
    checkpoint: Checkpoint | None
    on_step: Callable[[int], object] | None


class Staff:
    """Who works on one run."""

    def __init__(self, job: Job, num_workers: int):
        """Starts nothing yet."""
        self._job, self._ray = job, load_ray()
        self.workers: list[Any] = [None] * num_workers
        self.servers: list[Any] = []
        self._actors: list[Any] = []  # all that were ever started
        self._places: Places | None = None

    def begin(self) -> None:
        """Reserves the places, and puts data and functions where any machine can fetch them."""
        put, job = self._ray.put, self._job
        batches = put(job.batches)
        self._task = [put(job.task), batches]
        self._duties = [
            [put(Duty(job.server, job.task.template, shard)), batches] for shard in job.task.shards
        ]
        self._places = reserve(job.cluster)

    def hire(self, worker: int) -> Any:
        """Starts a worker, and ends the one that there was; the reference is there when ready."""
        assert self._places is not None
        if self.workers[worker] is not None:
            self._ray.kill(self.workers[worker])  # one that only seemed dead would keep its place
        options = {**options_of_workers(self._job.cluster), **self._places.workers[worker]}
        actor = self._ray.remote(GradientWorker).options(**options)
        self.workers[worker] = actor.remote(process_for(options), self._task)
        self._actors.append(self.workers[worker])
        return self.workers[worker].ready.remote()

    def serve(self, kept: ServerState) -> tuple[list[Any], list[Any]]:
        """Starts servers from a state on the host, and ends those that there were.

        Returns:
            A snapshot, one reference a server, and references that are there when they are ready.
        """
        assert self._places is not None
        for server in self.servers:
            self._ray.kill(server)
        job, self.servers = self._job, []
        actor = self._ray.remote(ParameterServer)
        for duty, place in zip(self._duties, self._places.servers, strict=True):
            options = {**options_of_servers(job.cluster), **place}
            self.servers.append(actor.options(**options).remote(process_for(options), duty))
        self._actors.extend(self.servers)
        state, shards = from_host(job.task.template, kept), job.task.shards
        snapshots = first_snapshots(job.server, shards, state)
        return [self._ray.put(part) for part in snapshots], [
            server.start.remote(split(shard, kept))
            for server, shard in zip(self.servers, shards, strict=True)
        ]

    def wait_until(self, ready: list[Any]) -> None:
        """Until actors that were started are ready; raises TimeoutError where there is no room."""
        waiting = self._ray.wait(
            ready,
            num_returns=len(ready),
            timeout=self._job.cluster.start_timeout,
            fetch_local=False,
        )[1]
        if waiting:
            raise TimeoutError(
                not_started(f"{len(waiting)} of {len(ready)} actors", self._job.cluster)
            )
        self._ray.get(ready)

    def stop(self) -> None:
        """Ends all actors."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors.clear()
        release(self._places)

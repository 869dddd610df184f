"""Who does what next: hands out batches and weights, orders arrivals, and replaces what dies.

The coordinator lives in the caller's process and sees numbers and references only; gradients go
from workers to servers, weights from servers to workers. The order in which it meets gradients is
the order of the server steps, on all servers: Ray runs the calls of one caller in their order.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from dcasgd_jax.actors.process import described, engine
from dcasgd_jax.actors.recording import Columns, save
from dcasgd_jax.actors.server import Duty, ParameterServer, first_snapshots
from dcasgd_jax.actors.shards import join, split
from dcasgd_jax.actors.wire import from_host
from dcasgd_jax.actors.worker import GradientWorker, Report, Task
from dcasgd_jax.simulator.state import Server, ServerState

_TRIES = 3
"""How often a worker may die without a gradient in between, the servers without a checkpoint."""


class Plan(NamedTuple):
    """What is to be done, settled before any actor is started."""

    server: Server
    task: Task
    batches: Any
    num_steps: int
    checkpoint: Path | None
    checkpoint_every: int
    worker_options: dict[str, Any]
    server_options: dict[str, Any]
    start_timeout: float
    on_step: Callable[[int], object] | None


class Assignment(NamedTuple):
    """What a worker is at, or has done."""

    worker: int
    number: int  # of the batch
    version: int  # server steps that made the weights it is taken at
    snapshot: list[Any]  # references, one a server
    parts: list[Any]  # likewise, of the gradient


class Coordinator:
    """One run, from its state when it was started to the last step."""

    def __init__(self, plan: Plan, state: ServerState, columns: Columns):
        """Starts nothing yet.

        Args:
            plan: of the run.
            state: of the servers, on the host.
            columns: of the trace up to that state.
        """
        self.plan, self.columns = plan, columns
        self.kept = state  # what servers that die are restored to
        self.replaced = self.restored = 0
        self._ray = engine()
        self._actors: list[Any] = []
        self._servers: list[Any] = []
        self._workers: list[Any] = [None] * columns.num_workers
        self._failures = [0] * columns.num_workers
        self._restored_to, self._restarts = -1, 0
        self._pending: dict[Any, Assignment] = {}
        self._logs: dict[int, list[Any]] = {}
        self._latest: tuple[list[Any], int] = ([], 0)
        batches = columns.columns["batch"]
        self._unused = max(batches, default=-1) + 1  # the first batch that was never handed out
        self._again = self._missing()

    def run(self) -> None:
        """Goes on until all steps are taken, and keeps the state after the last."""
        self._start()
        while True:
            try:
                while len(self.columns) < self.plan.num_steps:
                    self._next()
                self.keep()
            except self._ray.exceptions.RayError as error:
                self._mend(error)
            else:
                return

    def keep(self) -> None:
        """Brings the servers' state home, and into the file where there is one."""
        held = self._ray.get([server.state.remote() for server in self._servers])
        if {int(part.step) for part in held} != {len(self.columns)}:
            raise self._ray.exceptions.RayError("not all servers have taken all steps")
        self._log(len(self.columns))
        self.kept = join(self.plan.task.shards, held, self.plan.task.template)
        if self.plan.checkpoint is not None:
            save(self.plan.checkpoint, self.kept, self.columns)

    def stop(self) -> None:
        """Ends all actors."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors.clear()

    def _start(self) -> None:
        # Data and functions are put where actors of any machine can fetch them, once.
        put = self._ray.put
        batches = put(self.plan.batches)
        self._task = [put(self.plan.task), batches]
        self._duties = [
            [put(Duty(self.plan.server, self.plan.task.template, shard)), batches]
            for shard in self.plan.task.shards
        ]
        clock = self.columns.columns["clock"]
        ready = [self._hire(m) for m in range(len(self._workers))] + self._serve()
        waiting = self._ray.wait(
            ready, num_returns=len(ready), timeout=self.plan.start_timeout, fetch_local=False
        )[1]
        if waiting:
            raise TimeoutError(
                f"{len(waiting)} of {len(ready)} actors did not start in "
                f"{self.plan.start_timeout:g} s: the cluster has "
                f"{_resources(self._ray.cluster_resources())}, of which "
                f"{_resources(self._ray.available_resources())} were free, each worker asks for "
                f"{_resources({'num_cpus': 1, **self.plan.worker_options})} and each server for "
                f"{_resources({'num_cpus': 0, **self.plan.server_options})}; ask for less "
                "(worker_options={'num_cpus': 0.5}), for fewer workers, or for a longer "
                "start_timeout."
            )
        self._ray.get(ready)
        self._began = time.monotonic() - (clock[-1] if clock else 0.0)
        self._assign_all()

    def _hire(self, worker: int) -> Any:
        options = {"num_cpus": 1, **self.plan.worker_options}
        kind = self._ray.remote(GradientWorker).options(**options)
        self._workers[worker] = kind.remote(described(options), self._task)
        self._actors.append(self._workers[worker])
        return self._workers[worker].ready.remote()

    def _serve(self) -> list[Any]:
        options = {"num_cpus": 0, **self.plan.server_options}
        kind = self._ray.remote(ParameterServer).options(**options)
        self._servers = [kind.remote(described(options), duty) for duty in self._duties]
        self._actors.extend(self._servers)
        state = from_host(self.plan.task.template, self.kept)
        shards = self.plan.task.shards
        snapshots = first_snapshots(self.plan.server, shards, state)
        self._latest = [self._ray.put(part) for part in snapshots], len(self.columns)
        return [
            server.start.remote(split(shard, self.kept))
            for server, shard in zip(self._servers, shards, strict=True)
        ]

    def _missing(self) -> deque[int]:
        """Batches that were handed out, and of which no gradient is left."""
        used = np.array(self.columns.columns["batch"], np.int64)
        return deque(np.setdiff1d(np.arange(self._unused), used).tolist())

    def _assign_all(self) -> None:
        for worker in range(len(self._workers)):
            self._assign(worker)

    def _assign(self, worker: int) -> None:
        if self._again:
            number = self._again.popleft()
        elif self._unused < self.plan.num_steps:
            number, self._unused = self._unused, self._unused + 1
        else:
            return  # the last batches are being worked on
        snapshot, version = self._latest
        method = self._workers[worker].gradient.options(num_returns=1 + len(self._servers))
        report, *parts = method.remote(number, *snapshot)
        self._pending[report] = Assignment(worker, number, version, snapshot, parts)

    def _next(self) -> None:
        """Waits for a gradient, whosever it is, and has it applied."""
        # The longest at work are looked at first, so that nobody is passed over.
        report = self._ray.wait(list(self._pending), num_returns=1, fetch_local=False)[0][0]
        done = self._pending.pop(report)
        try:
            found: Report = self._ray.get(report)
        except self._ray.exceptions.RayError as error:
            self._mend(error, done)
            return
        step = len(self.columns)
        if not found.finite:
            self._refuse(done, step)
        self._failures[done.worker] = 0
        staleness = step - done.version
        self.columns.append(
            worker=done.worker,
            staleness=staleness,
            batch=done.number,
            clock=time.monotonic() - self._began,
            distance=math.nan,
        )
        logs, snapshot = [], []
        for server, part, pulled in zip(self._servers, done.parts, done.snapshot, strict=True):
            log, sent = server.step.options(num_returns=2).remote(
                step, done.worker, staleness, done.number, part, pulled
            )
            logs.append(log)
            snapshot.append(sent)
        self._logs[step], self._latest = logs, (snapshot, step + 1)
        self._assign(done.worker)
        self._log(done.version)  # a worker had those weights: the steps that made them are done
        if self.plan.on_step is not None:
            self.plan.on_step(step)
        if self.plan.checkpoint is not None and (step + 1) % self.plan.checkpoint_every == 0:
            self.keep()

    def _log(self, before: int) -> None:
        """Fetches what the servers logged of the steps before one."""
        for step in [step for step in self._logs if step < before]:
            found = self._ray.get(self._logs[step])
            if found[0] is not None:
                self.columns.columns["distance"][step] = math.hypot(*found)
            del self._logs[step]

    def _refuse(self, done: Assignment, step: int) -> NoReturn:
        kept = (
            f"{self.plan.checkpoint} holds the first {int(self.kept.step)} steps"
            if self.plan.checkpoint is not None
            else "no checkpoint was asked for"
        )
        raise FloatingPointError(
            f"worker {done.worker} sent a gradient with NaN or infinity for server step {step}, "
            f"taken on batch {done.number} at the weights of step {done.version}. It was not "
            f"applied; {kept}. Look at that batch, take smaller steps, or pass check_finite=False "
            "to leave it to the rule (optax.apply_if_finite)."
        )

    def _mend(self, error: Exception, done: Assignment | None = None) -> None:
        """Replaces what died, or raises the error where nothing did."""
        if not self._served():
            kept = int(self.kept.step)
            self._restarts = self._restarts + 1 if kept == self._restored_to else 1
            self._restored_to = kept
            if self._restarts > _TRIES:
                raise RuntimeError(
                    f"the servers died {self._restarts} times after the checkpoint of step {kept}, "
                    "each time before the next one; the cause is above. Make checkpoint_every "
                    "smaller if it is the servers that cannot be relied on."
                ) from error
            self.restored += 1
            self._restore()
        elif done is not None and not self._alive(done.worker):
            self._failures[done.worker] += 1
            if self._failures[done.worker] > _TRIES:
                raise RuntimeError(
                    f"worker {done.worker} died {self._failures[done.worker]} times in a row, the "
                    f"last time on batch {done.number}; the cause is above."
                ) from error
            self.replaced += 1
            self._again.append(done.number)
            self._hire(done.worker)
            self._assign(done.worker)
        else:
            if done is not None:
                error.add_note(
                    f"Raised by worker {done.worker} on batch {done.number}, at the weights of "
                    f"server step {done.version}."
                )
            raise error

    def _served(self) -> bool:
        try:
            taken = self._ray.get([server.taken.remote() for server in self._servers])
        except self._ray.exceptions.RayError:
            return False
        return set(taken) == {len(self.columns)}

    def _alive(self, worker: int) -> bool:
        try:
            return self._ray.get(self._workers[worker].ready.remote())
        except self._ray.exceptions.RayError:
            return False

    def _restore(self) -> None:
        """New servers, from the last state that was kept; what came after is taken anew."""
        for server in self._servers:
            self._ray.kill(server)
        self.columns.cut(int(self.kept.step))
        self._pending.clear()
        self._logs.clear()
        self._again = self._missing()
        self._ray.get(self._serve())
        self._assign_all()


def _resources(resources: dict[str, Any]) -> str:
    shown = {
        name: amount
        for name, amount in sorted(resources.items())
        if name != "memory" and not name.startswith(("node:", "object_store"))
    }
    return ", ".join(f"{name}={amount}" for name, amount in shown.items()) or "nothing"

"""Who does what next: hands out batches and weights, orders arrivals, and replaces what dies.

The coordinator lives in the caller's process and sees numbers and references only; gradients go
from workers to servers, weights from servers to workers. The order in which it meets gradients is
the order of the server steps, on all servers: Ray runs the calls of one caller in their order.
"""

import math
import time
from collections import Counter, deque
from typing import Any, NamedTuple, NoReturn

import numpy as np

from dcasgd_jax.actors.placement import not_started
from dcasgd_jax.actors.process import load_ray
from dcasgd_jax.actors.recording import TraceColumns, save
from dcasgd_jax.actors.shards import join
from dcasgd_jax.actors.staff import Job, Staff
from dcasgd_jax.actors.worker import Report
from dcasgd_jax.simulator.state import ServerState

_MAX_RETRIES = 3
"""How often a worker may die without a gradient in between, workers on one batch, and the servers
without a checkpoint."""


class Assignment(NamedTuple):
    """What a worker is at, or has done."""

    worker: int
    batch_number: int
    version: int  # server steps that made the weights it is taken at
    snapshot: list[Any]  # references, one a server
    parts: list[Any]  # references of the gradient's parts, one a server


class Coordinator:
    """One run, from its state when it was started to the last step."""

    def __init__(self, job: Job, state: ServerState, columns: TraceColumns):
        """Starts nothing yet.

        Args:
            job: what is to be done.
            state: of the servers, on the host.
            columns: of the trace up to that state.
        """
        self.job, self.columns = job, columns
        self.kept_state = state  # what servers that die are restored to
        self.replaced = self.restored = 0
        self._ray = load_ray()
        self._staff = Staff(job, columns.num_workers)
        self._deaths_in_a_row = [0] * columns.num_workers
        self._deaths_on: Counter[int] = Counter()  # by batch: one may kill whoever takes it
        self._restored_to, self._restarts = -1, 0
        self._pending: dict[Any, Assignment] = {}  # by the reference of the gradient's report
        self._arriving: dict[Any, int] = {}  # workers that replace others, by what says "ready"
        self._idle: deque[int] = deque()  # workers that there was no batch for
        self._logs: dict[int, list[Any]] = {}
        self._latest: tuple[list[Any], int] = ([], 0)  # snapshot and version for whoever pulls
        numbers = columns.columns["batch"]
        self._next_batch = max(numbers, default=-1) + 1  # the first that was never handed out
        self._lost_batches = self._missing_batches()

    def run(self) -> None:
        """Goes on until all steps are taken, and keeps the state after the last."""
        self._start()
        while True:
            try:
                while len(self.columns) < self.job.num_steps:
                    self._next()
                self.keep()
            except self._ray.exceptions.RayError as error:
                self._mend(error)
            else:
                return

    def stop(self) -> None:
        """Ends all actors."""
        self._staff.stop()

    def keep_what_is_new(self) -> None:
        """Keeps the steps since the last time; does not wait for servers that have taken none."""
        if self.job.checkpoint is not None and len(self.columns) > int(self.kept_state.step):
            self.keep()

    def keep(self) -> None:
        """Brings the servers' state home, and into the file where there is one."""
        parts = self._ray.get([server.state.remote() for server in self._staff.servers])
        if {int(part.step) for part in parts} != {len(self.columns)}:
            raise self._ray.exceptions.RayError("not all servers have taken all steps")
        self._fetch_logs(before=len(self.columns))
        state = join(self.job.task.shards, parts, self.job.task.template)
        if self.job.checkpoint is not None:
            save(self.job.checkpoint.path, state, self.columns)
        self.kept_state = state  # only now: a stop while it is written must keep it again

    def _start(self) -> None:
        """Hires all actors, waits for them, and hands out the first work."""
        self._staff.begin()
        ready = [self._staff.hire(m) for m in range(len(self._staff.workers))]
        self._staff.wait_until(ready + self._serve())
        clock = self.columns.columns["clock"]
        self._began = time.monotonic() - (clock[-1] if clock else 0.0)
        self._assign_all()

    def _serve(self) -> list[Any]:
        """Starts the servers from the kept state; the references are there when they are ready."""
        snapshot, ready = self._staff.serve(self.kept_state)
        self._latest = snapshot, len(self.columns)
        return ready

    def _missing_batches(self) -> deque[int]:
        """Batches that were handed out, and of which no gradient is left."""
        used = np.array(self.columns.columns["batch"], np.int64)
        return deque(np.setdiff1d(np.arange(self._next_batch), used).tolist())

    def _assign_all(self) -> None:
        """Hands out the first work after the start, or after a restoration."""
        for worker in range(len(self._staff.workers)):
            if worker not in self._arriving.values():
                self._assign(worker)

    def _assign(self, worker: int) -> None:
        """Hands a worker the latest weights and a batch, if any is left."""
        if self._lost_batches:
            batch_number = self._lost_batches.popleft()
        elif self._next_batch < self.job.num_steps:
            batch_number, self._next_batch = self._next_batch, self._next_batch + 1
        else:
            self._idle.append(worker)  # the last batches are being worked on
            return
        snapshot, version = self._latest
        method = self._staff.workers[worker].gradient
        report, *parts = method.options(num_returns=1 + len(snapshot)).remote(
            batch_number, *snapshot
        )
        self._pending[report] = Assignment(worker, batch_number, version, snapshot, parts)

    def _next(self) -> None:
        """Waits for a gradient, whosever it is, and has it applied."""
        # Who is new is looked at first, then the longest at work, so that nobody is passed over. A
        # gradient comes, or its worker's death; but who replaces another may never start, where a
        # machine is gone.
        found, _ = self._ray.wait(
            [*self._arriving, *self._pending],
            num_returns=1,
            timeout=None if self._pending else self.job.cluster.start_timeout,
            fetch_local=False,
        )
        if not found:
            raise TimeoutError(
                not_started("all workers died, and those to replace them", self.job.cluster)
            )
        (ready,) = found
        if ready in self._arriving:
            self._welcome(ready)
            return
        done = self._pending.pop(ready)
        try:
            report: Report = self._ray.get(ready)
        except self._ray.exceptions.RayError as error:
            self._mend(error, done)
            return
        step = len(self.columns)
        if not report.finite:
            self._refuse(done, step)
        self._deaths_in_a_row[done.worker] = 0
        self._apply(done, step)
        self._assign(done.worker)
        # A worker had the weights of this version: the steps that made them are done.
        self._fetch_logs(before=done.version)
        if self.job.on_step is not None:
            self.job.on_step(step)
        checkpoint = self.job.checkpoint
        if checkpoint is not None and (step + 1) % checkpoint.every == 0:
            self.keep()

    def _apply(self, done: Assignment, step: int) -> None:
        """Records a gradient, and has each server apply its part of it."""
        staleness = step - done.version
        self.columns.append(
            worker=done.worker,
            staleness=staleness,
            batch=done.batch_number,
            clock=time.monotonic() - self._began,
            distance=math.nan,
        )
        logs, snapshot, servers = [], [], self._staff.servers
        for server, part, pulled in zip(servers, done.parts, done.snapshot, strict=True):
            log, sent = server.step.options(num_returns=2).remote(
                step, done.worker, staleness, done.batch_number, part, pulled
            )
            logs.append(log)
            snapshot.append(sent)
        self._logs[step], self._latest = logs, (snapshot, step + 1)

    def _fetch_logs(self, *, before: int) -> None:
        """Fetches what the servers logged of the steps before one."""
        for step in [step for step in self._logs if step < before]:
            distances = self._ray.get(self._logs[step])
            if distances[0] is not None:
                # Of leaves on different servers: √(Σ d²).
                self.columns.columns["distance"][step] = math.hypot(*distances)
            del self._logs[step]

    def _refuse(self, done: Assignment, step: int) -> NoReturn:
        """Ends the run for a gradient that is not finite."""
        kept = (
            f"{self.job.checkpoint.path} holds the first {int(self.kept_state.step)} steps"
            if self.job.checkpoint is not None
            else "no checkpoint was asked for"
        )
        raise FloatingPointError(
            f"worker {done.worker} sent a gradient with NaN or infinity for server step {step}, "
            f"computed on batch {done.batch_number} at the weights of step {done.version}. It was "
            f"not applied; {kept}. Look at that batch, take smaller steps, or pass "
            "monitoring=Monitoring(check_finite=False) to leave it to the rule "
            "(optax.apply_if_finite)."
        )

    def _mend(self, error: Exception, done: Assignment | None = None) -> None:
        """Replaces what died, or raises the error where nothing did."""
        if not self._servers_live():
            self._restore(error)
        elif done is not None and not self._alive(done.worker):
            batch = done.batch_number
            self._replace(done.worker, error, f"on batch {batch}")
            self._deaths_on[batch] += 1
            if self._deaths_on[batch] > _MAX_RETRIES:
                raise RuntimeError(
                    f"{self._deaths_on[batch]} workers died on batch {batch}; the cause is above."
                ) from error
            self._lost_batches.append(batch)
            if self._idle:  # who has nothing to do need not wait for the new one
                self._assign(self._idle.popleft())
        else:
            if done is not None:
                error.add_note(
                    f"Raised by worker {done.worker} on batch {done.batch_number}, at the weights "
                    f"of server step {done.version}."
                )
            raise error

    def _servers_live(self) -> bool:
        """Whether all servers answer, and have taken all steps."""
        try:
            steps = self._ray.get([server.steps_taken.remote() for server in self._staff.servers])
        except self._ray.exceptions.RayError:
            return False
        return set(steps) == {len(self.columns)}

    def _alive(self, worker: int) -> bool:
        """Whether a worker answers."""
        try:
            return self._ray.get(self._staff.workers[worker].ready.remote())
        except self._ray.exceptions.RayError:
            return False

    def _replace(self, worker: int, error: Exception, when: str) -> None:
        """Hires another in a worker's stead, who gets work when it is ready."""
        self._deaths_in_a_row[worker] += 1
        if self._deaths_in_a_row[worker] > _MAX_RETRIES:
            raise RuntimeError(
                f"worker {worker} died {self._deaths_in_a_row[worker]} times in a row, the last "
                f"time {when}; the cause is above."
            ) from error
        self.replaced += 1
        self._arriving[self._staff.hire(worker)] = worker

    def _welcome(self, ready: Any) -> None:
        """Hands work to a worker that replaces another, at the weights of this moment."""
        worker = self._arriving.pop(ready)
        try:
            self._ray.get(ready)
        except self._ray.exceptions.RayError as error:
            self._replace(worker, error, "while it started")
        else:
            self._assign(worker)

    def _restore(self, error: Exception) -> None:
        """New servers, from the last state that was kept; what came after is taken anew."""
        kept = int(self.kept_state.step)
        self.columns.cut(kept)
        self._pending.clear()
        self._idle.clear()
        self._logs.clear()
        self._lost_batches = self._missing_batches()
        while True:
            self._restarts = self._restarts + 1 if kept == self._restored_to else 1
            self._restored_to = kept
            if self._restarts > _MAX_RETRIES:
                raise RuntimeError(
                    f"the servers died {self._restarts} times after the checkpoint of step {kept}, "
                    "each time before the next one; the cause is above. Where servers cannot be "
                    "relied on, keep their state more often: Checkpoint(path, every=...)."
                ) from error
            self.restored += 1
            try:
                self._staff.wait_until(self._serve())
            except self._ray.exceptions.RayError as again:
                error = again
            else:
                break
        self._assign_all()

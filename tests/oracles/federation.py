"""A federation in plain Python and float64: workers that come and go, a quorum, local steps.

Shares nothing with dcasgd_jax. One event after another: of all that is to happen next, the earliest
is looked for among all workers; at one time, arrivals come before the end of the window.
"""

import math
from typing import NamedTuple

import numpy as np


class Run(NamedTuple):
    worker: list
    clock: list
    version: list  # updates that had been merged when its weights were pulled
    ends: list  # whether a merge came right after


class Events:
    """Updates that arrive, with nothing in them."""

    def pull(self):
        return None

    def push(self, pulled, number):
        pass

    def merge(self):
        pass


class LocalSteps(Events):
    """FedAvg and DiLoCo: k steps of heavy-ball SGD each, means by tokens, Nesterov outside."""

    def __init__(self, start, gradient, batches, tokens, *, inner, outer):
        self.w, self.velocity = start.copy(), np.zeros_like(start)
        self.gradient, self.batches, self.tokens = gradient, batches, tokens
        self.inner, self.outer = inner, outer  # (rate, momentum)
        self.gathered = []

    def pull(self):
        return self.w.copy()

    def push(self, pulled, number):
        w, velocity = pulled.copy(), np.zeros_like(pulled)
        rate, momentum = self.inner
        for batch in self.batches[number]:
            velocity = momentum * velocity + self.gradient(w, batch)
            w = w - rate * velocity
        self.gathered.append((self.tokens[number], pulled - w))

    def merge(self):
        total = sum(n for n, _ in self.gathered)
        mean = sum(n * change for n, change in self.gathered) / total
        rate, momentum = self.outer
        self.velocity = momentum * self.velocity + mean
        self.w = self.w - rate * (mean + momentum * self.velocity)
        self.gathered = []


class Worker:
    def __init__(self, times, periods):
        self.times, self.periods = times, periods

    def start(self, now, version, weights):
        self.version, self.weights, self.waiting = version, weights, False
        here = [(a, b) for a, b in self.periods if a <= now < b]
        later = [a for a, _ in self.periods if a > now]
        back = min(later, default=math.inf)
        if not here:
            self.until, self.arrives, self.gone_from = back, False, now
            return
        done = now + next(self.times)
        if done <= here[0][1]:
            self.until, self.arrives, self.gone_from = done, True, math.inf
        else:
            self.until, self.arrives, self.gone_from = back, False, here[0][1]


def run(times, periods, num_steps, server=None, *, quorum, grace=0.0, late="dropped"):
    """All until the merge that comes with update `num_steps` or after it."""
    server = Events() if server is None else server
    workers = [Worker(*each) for each in zip(times, periods, strict=True)]
    log, merged, closes = Run([], [], [], []), 0, math.inf
    for worker in workers:
        worker.start(0.0, 0, server.pull())
    arrived = 0
    while True:
        busy = [(w.until, m) for m, w in enumerate(workers) if not w.waiting]
        now, m = min(busy, default=(math.inf, -1))
        at_once = arrived == len(workers) or (grace == 0 and arrived == quorum)
        if arrived and (at_once or now > closes):
            if not at_once:
                log.clock[-1] = closes
            time, merged = log.clock[-1], len(log.worker)
            log.ends[-1] = True
            server.merge()
            if merged >= num_steps:
                return log
            for worker in workers:
                gives_up = late == "dropped" and time < worker.gone_from
                if worker.waiting or gives_up:
                    worker.start(time, merged, server.pull())
            arrived, closes = 0, math.inf
            continue
        worker = workers[m]
        if not worker.arrives:
            worker.start(now, merged, server.pull())
            continue
        server.push(worker.weights, len(log.worker))
        log.worker.append(m)
        log.clock.append(now)
        log.version.append(worker.version)
        log.ends.append(False)
        worker.waiting, arrived = True, arrived + 1
        if arrived == quorum:
            closes = now + grace

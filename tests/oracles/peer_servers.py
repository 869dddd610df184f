"""Each peer as a server in plain Python, written from its paper's algorithm, in float64."""

import numpy as np

STEPS, WORKERS, RATE = 60, 5, 0.05
RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(3, 3))
TARGETS = RNG.normal(size=(STEPS, 3))
START = np.array([1.0, -2.0, 0.5])


def gradient(w, target):
    """Of |R (w - target)|² / 2."""
    return ROOT.T @ (ROOT @ (w - target))


class Server:
    """Pushes and pulls in the order of a schedule; subclasses say what a push does."""

    def __init__(self):
        self.w = START.copy()
        self.pulls = [START.copy() for _ in range(WORKERS)]
        self.pulled_at = [0] * WORKERS  # server events
        self.versions = [0] * WORKERS  # steps that moved the weights
        self.version = 0
        self.event = 0

    def sent(self):
        return self.w.copy()

    def replay(self, plan):
        """Pulls as a schedule has them by its staleness, whoever pulls when."""
        weights, versions = [START.copy()], [0]
        for worker, age, target in zip(plan.worker, plan.staleness, TARGETS, strict=True):
            then = self.event - int(age)
            self.versions[worker], self.pulled_at[worker] = versions[then], then
            self.push(int(worker), gradient(weights[then], target))
            self.event += 1
            weights.append(self.sent())
            versions.append(self.version)
        return self.w

    def run(self, plan):
        for worker, target in zip(plan.worker, TARGETS, strict=True):
            self.push(int(worker), gradient(self.pulls[worker], target))
            self.event += 1
            self.pulls[worker] = self.sent()
            self.pulled_at[worker], self.versions[worker] = self.event, self.version
        return self.w

    def staleness(self, worker):
        return self.event - self.pulled_at[worker]

    def step(self, u):
        self.w = self.w - RATE * u
        self.version += 1


class StalenessAware(Server):
    def push(self, worker, g):
        self.step(g / max(1, self.staleness(worker)))


class DelayAdaptive(Server):
    def push(self, worker, g):
        self.step(g * WORKERS / max(WORKERS, self.staleness(worker)))


class FedBuff(Server):
    """Late by versions, as in the paper: ours is told of arrivals."""

    def __init__(self, size=4):
        super().__init__()
        self.size, self.buffer = size, []

    def push(self, worker, g):
        self.buffer.append(g / np.sqrt(1 + self.version - self.versions[worker]))
        if len(self.buffer) == self.size:
            self.step(sum(self.buffer) / self.size)
            self.buffer = []


class Rennala(Server):
    """By versions, as in the paper: ours looks at events."""

    def __init__(self, size=3):
        super().__init__()
        self.size, self.buffer, self.dropped = size, [], 0

    def push(self, worker, g):
        if self.versions[worker] != self.version:
            self.dropped += 1
            return
        self.buffer.append(g)
        if len(self.buffer) == self.size:
            self.step(sum(self.buffer) / self.size)
            self.buffer = []


class Ringmaster(Server):
    def __init__(self, threshold=3):
        super().__init__()
        self.threshold, self.dropped = threshold, 0

    def push(self, worker, g):
        if self.version - self.versions[worker] < self.threshold:
            self.step(g)
        else:
            self.dropped += 1


class DelayedNesterov(Server):
    def __init__(self, period=4, beta=0.8, c=0.1):
        super().__init__()
        self.period, self.beta, self.c = period, beta, c
        self.m, self.buffer = np.zeros(3), np.zeros(3)

    def push(self, worker, g):
        self.buffer = self.buffer + g
        if (self.event + 1) % self.period == 0:
            self.m = self.beta * self.m + self.buffer / self.period
            self.buffer = np.zeros(3)
            share = 1 - self.c * self.period + self.c
        else:
            share = self.c
        self.step(share * self.beta * self.m + g / self.period)


class DelayCorrectedNesterov(Server):
    """NAdam with every factor computed from the number of the step, as torch.optim documents it."""

    def __init__(self, beta=0.9, decay=0.05, beta2=0.95, eps=1e-6):
        super().__init__()
        self.constants, self.gradients = (beta, decay, beta2, eps), []

    def push(self, worker, g):
        beta, decay, beta2, eps = self.constants
        self.gradients.append(g)
        t = len(self.gradients)
        mu = [beta * (1 - 0.5 * 0.96 ** (i * decay)) for i in range(1, t + 2)]
        ages = np.arange(t)[::-1, None]
        m = ((1 - beta) * beta**ages * np.array(self.gradients)).sum(0)
        v = ((1 - beta2) * beta2**ages * np.array(self.gradients) ** 2).sum(0)
        hat = mu[t] * m / (1 - np.prod(mu)) + (1 - mu[t - 1]) * g / (1 - np.prod(mu[:t]))
        self.step(hat / (np.sqrt(v / (1 - beta2**t)) + eps))


class DanaZero(Server):
    def __init__(self, gamma=0.6):
        super().__init__()
        self.gamma, self.v = gamma, np.zeros((WORKERS, 3))

    def push(self, worker, g):
        self.v[worker] = self.gamma * self.v[worker] + g
        self.step(self.v[worker])

    def sent(self):
        return self.w - RATE * self.gamma * self.v.sum(0)


class DanaSlim(Server):
    def __init__(self, gamma=0.6):
        super().__init__()
        self.gamma, self.v = gamma, np.zeros((WORKERS, 3))

    def push(self, worker, g):
        self.v[worker] = self.gamma * self.v[worker] + g
        self.step(self.gamma * self.v[worker] + g)


class SpecTrain(Server):
    def __init__(self, horizon=2, beta=0.7):
        super().__init__()
        self.horizon, self.beta, self.v = horizon, beta, np.zeros(3)

    def push(self, worker, g):
        self.v = self.beta * self.v + g
        self.step(self.v)

    def sent(self):
        return self.w - self.horizon * RATE * self.v


class ErrorFeedback(Server):
    """Each step made good when the gradient that it lacked comes, with momentum inside."""

    def __init__(self, delay=3, beta=0.7, strength=0.5):
        super().__init__()
        self.delay, self.beta, self.strength = delay, beta, strength
        self.made = [np.zeros(3)]

    def push(self, worker, g):
        self.made.append(self.beta * self.made[-1] + g)
        lacked = 0.0
        if self.event >= self.delay:
            lacked = self.made[-1] - self.made[-1 - self.delay]
        self.step(self.made[-1] + self.strength * lacked)


class GapAware(Server):
    def __init__(self, decay=0.9):
        super().__init__()
        self.decay, self.v, self.last = decay, np.zeros(3), None

    def push(self, worker, g):
        if self.last is not None:
            self.v = self.decay * self.v + (1 - self.decay) * (self.w - self.last) ** 2
            typical = np.sqrt(self.v / (1 - self.decay**self.version))
            g = g / (1 + np.abs(self.w - self.pulls[worker]) / typical)
        self.last = self.w.copy()
        self.step(g)

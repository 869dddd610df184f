"""A parameter server in plain Python and float64 NumPy, written from the rules alone.

It shares nothing with dcasgd_jax: its own event queue, its own back-propagation, its own rules,
one event after another. Weights are flat lists of arrays.
"""

import heapq

import numpy as np


def event_queue(compute_times, num_steps):
    """Arrivals in order: list of (clock, worker, staleness), by a queue of pending completions.

    compute_times[m][k] is how long worker m takes for its k-th gradient.
    """
    draws = [iter(times) for times in compute_times]
    pending = [(next(draw), worker) for worker, draw in enumerate(draws)]
    heapq.heapify(pending)
    pulled = [0] * len(draws)
    events = []
    for step in range(num_steps):
        clock, worker = heapq.heappop(pending)
        events.append((clock, worker, step - pulled[worker]))
        pulled[worker] = step + 1
        # A worker that has run out of draws never comes back.
        heapq.heappush(pending, (clock + next(draws[worker], np.inf), worker))
    return events


class ParameterServer:
    """Holds the weights and a backup for each worker; workers pull and push."""

    def __init__(
        self,
        weights,
        num_workers,
        *,
        learning_rate,
        rule="asgd",
        lambda_=0.0,
        decay=0.95,
        eps=1e-7,
        momentum=0.0,
        weight_decay=0.0,
    ):
        self.weights = [np.array(w, np.float64) for w in weights]
        self.backups = [[w.copy() for w in self.weights] for _ in range(num_workers)]
        self.learning_rate, self.rule = learning_rate, rule
        self.lambda_, self.decay, self.eps = lambda_, decay, eps
        self.momentum, self.weight_decay = momentum, weight_decay
        self.mean_square = [np.zeros_like(w) for w in self.weights]
        self.velocity = [np.zeros_like(w) for w in self.weights]

    def pull(self, worker):
        self.backups[worker] = [w.copy() for w in self.weights]

    def push(self, worker, gradient):
        for i, g in enumerate(gradient):
            if self.rule == "asgd":
                strength = 0.0
            elif self.rule == "dcasgd-c":
                strength = self.lambda_
            elif self.rule == "dcasgd-a":
                self.mean_square[i] = self.decay * self.mean_square[i] + (1 - self.decay) * g**2
                strength = self.lambda_ / np.sqrt(self.mean_square[i] + self.eps)
            else:
                raise ValueError(self.rule)
            moved = self.weights[i] - self.backups[worker][i]
            direction = g + strength * g * g * moved + self.weight_decay * self.weights[i]
            self.velocity[i] = direction + self.momentum * self.velocity[i]
            self.weights[i] = self.weights[i] - self.learning_rate * self.velocity[i]


def train(server, workers, batches):
    """Runs the server over a list of arriving workers; returns |w - backup| at each arrival."""
    distances = []
    for worker, (inputs, labels) in zip(workers, batches, strict=True):
        backup = server.backups[worker]
        distances.append(
            np.sqrt(sum(((w - b) ** 2).sum() for w, b in zip(server.weights, backup, strict=True)))
        )
        server.push(worker, mlp_gradient(backup, inputs, labels))
        server.pull(worker)
    return np.array(distances)


def mlp_gradient(weights, inputs, labels):
    """Gradient of the mean cross-entropy of a tanh network, weights [W1, b1, W2, b2, ...]."""
    kernels, biases = weights[::2], weights[1::2]
    activations = [np.asarray(inputs, np.float64)]
    for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
        activations.append(np.tanh(activations[-1] @ kernel + bias))
    logits = activations[-1] @ kernels[-1] + biases[-1]
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    error = (probabilities - np.eye(logits.shape[1])[labels]) / len(labels)
    gradient = []
    for layer in reversed(range(len(kernels))):
        gradient = [activations[layer].T @ error, error.sum(axis=0), *gradient]
        if layer:
            error = (error @ kernels[layer].T) * (1 - activations[layer] ** 2)
    return gradient

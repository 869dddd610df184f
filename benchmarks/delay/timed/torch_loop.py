"""Asynchronous SGD as an event loop in PyTorch, for comparison; PyTorch is needed for nothing else.

Written as a user of PyTorch writes it, and without what costs time there: no `torch.nn.Module`, no
optimiser object, snapshots and weights updated in place.
"""

import importlib
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.delay.timed.heap import Times, arrivals

Weights = Sequence[Any]
"""Tensors: of each layer its kernel [in, out] and its bias [out]."""


class TorchNetwork(NamedTuple):
    """A perceptron in PyTorch, with batches to train it on."""

    loss: Callable[[Weights, int], Any]
    """(weights, number of the batch) -> mean cross-entropy."""
    start: Weights
    batches: tuple[Any, Any]
    """Images [steps, batch, in] and labels [steps, batch]."""


def of_perceptron(params: Any, batches: Any) -> TorchNetwork:
    """The network of `common.networks.MLP` in PyTorch, in the precision of its parameters.

    Args:
        params: of the network: `layer_0`, ..., each with `kernel` and `bias`.
        batches: images [steps, batch, in] and labels [steps, batch].
    """
    torch: Any = importlib.import_module("torch")
    layers = [params[f"layer_{number}"] for number in range(len(params))]
    start = [torch.tensor(np.array(layer[name])) for layer in layers for name in ("kernel", "bias")]
    images = torch.tensor(np.array(batches[0]))
    labels = torch.tensor(np.array(batches[1]), dtype=torch.int64)

    def loss(weights: Weights, batch: int) -> Any:
        hidden = torch.addmm(weights[1], images[batch], weights[0])
        for kernel, bias in zip(weights[2::2], weights[3::2], strict=True):
            hidden = torch.addmm(bias, torch.relu(hidden), kernel)
        return torch.nn.functional.cross_entropy(hidden, labels[batch])

    return TorchNetwork(loss, start, (images, labels))


def event_loop(
    network: TorchNetwork, times: Times, steps: int, *, learning_rate: float, strength: float
) -> Callable[[], list[np.ndarray]]:
    """ASGD, or DC-ASGD-c with a positive strength, event by event.

    Args:
        network: what is trained.
        times: the seconds of each worker's computations.
        steps: how many events there are, a batch each.
        learning_rate: of the server's step.
        strength: lambda of w <- w - eta (g + lambda g g (w - snapshot)); 0 for ASGD.

    Returns:
        What runs the loop from the first weights, and returns the last.
    """
    torch: Any = importlib.import_module("torch")

    def work() -> list[np.ndarray]:
        own = times()
        weights = [w.clone() for w in network.start]
        held = [[w.clone().requires_grad_() for w in weights] for _ in own]
        for step, worker in enumerate(arrivals(own, steps)):
            snapshot = held[worker]
            gradient = torch.autograd.grad(network.loss(snapshot, step), snapshot)
            with torch.no_grad():
                for w, g, pulled in zip(weights, gradient, snapshot, strict=True):
                    if strength:
                        g.addcmul_(g * g, w - pulled, value=strength)
                    w.sub_(g, alpha=learning_rate)
                    pulled.copy_(w)  # the worker pulls what its gradient made
        return [w.numpy() for w in weights]

    return work


def gradients(network: TorchNetwork, steps: int) -> Callable[[], None]:
    """The gradients of as many batches at the first weights, and nothing else.

    Args:
        network: what is trained.
        steps: how many.
    """
    torch: Any = importlib.import_module("torch")
    weights = [w.clone().requires_grad_() for w in network.start]

    def work() -> None:
        for step in range(steps):
            torch.autograd.grad(network.loss(weights, step), weights)

    return work


def take_faster_threads(network: TorchNetwork, steps: int = 16) -> None:
    """Has PyTorch use one thread or one a core, whichever is faster for these gradients.

    Args:
        network: whose gradients are timed.
        steps: how many, at most.
    """
    torch: Any = importlib.import_module("torch")
    run, seconds = gradients(network, min(steps, len(network.batches[0]))), {}
    for threads in {1, os.cpu_count() or 1}:
        torch.set_num_threads(threads)
        run()
        start = time.perf_counter()
        run()
        seconds[threads] = time.perf_counter() - start
    torch.set_num_threads(min(seconds, key=seconds.__getitem__))

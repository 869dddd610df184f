"""APPFL's simulator in virtual time, on the perceptron that the others train.

Clients take one step of SGD on one batch; the server mixes their models into its own as they arrive
(FedAsync), so that its rule is another one; what is compared is the time for a gradient. All that
APPFL can do without is off: its log, validation, and the collections of garbage that it makes
several times an event, which take most of its time otherwise.
"""

import importlib
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.delay.timed.torch_loop import TorchNetwork

_MODEL = """
import torch


class Perceptron(torch.nn.Sequential):
    def __init__(self, widths):
        layers = []
        for fan_in, fan_out in zip(widths[:-1], widths[1:]):
            layers += [torch.nn.Linear(fan_in, fan_out), torch.nn.ReLU()]
        super().__init__(*layers[:-1])


def accuracy(true, predicted):
    return (predicted.argmax(1) == true).mean()
"""
"""APPFL reads models and metrics from files."""

_LEAN = {"optimize_memory": False}
_NO_LOG = {"logging_output_dirname": "", "logging_output_filename": ""}


def simulation(
    network: TorchNetwork, workers: int, steps: int, learning_rate: float
) -> Callable[[], int]:
    """A simulation that goes on for as many arrivals whenever it is called.

    Args:
        network: whose widths the perceptron has; the client's data are its batches.
        workers: clients, equally fast.
        steps: arrivals a call: whole rounds of the workers, since a round's gradients are computed
            together, at its beginning, and a part of one may hold none.
        learning_rate: of the client's step.

    Returns:
        What goes on with the simulation, and returns how many arrivals there have been.

    Raises:
        ValueError: if the steps are not whole rounds.
    """
    if steps % workers:
        raise ValueError(f"steps must be whole rounds of {workers} workers, got {steps}.")
    vsim: Any = importlib.import_module("appfl.vsim")
    server, clients = _agents(network, workers, learning_rate)
    logging.disable(logging.INFO)
    try:
        driver = vsim.AsyncSimDriver(
            server,
            clients,
            {client.get_id(): vsim.ClientProfile() for client in clients},
            workers,
            logging.getLogger(__name__),
            base_step_time=1.0,
        )
    finally:
        logging.disable(logging.NOTSET)

    def work() -> int:
        server.server_agent_config.server_configs.num_global_epochs += steps
        logging.disable(logging.INFO)
        try:
            driver.run()
        finally:
            logging.disable(logging.NOTSET)
        return len(driver.history)

    return work


def _agents(network: TorchNetwork, workers: int, learning_rate: float) -> tuple[Any, list[Any]]:
    """APPFL's server and clients."""
    torch: Any = importlib.import_module("torch")
    agent: Any = importlib.import_module("appfl.agent")
    images, labels = network.batches
    widths = [images.shape[-1], *(bias.numel() for bias in network.start[1::2])]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "perceptron.py")
        path.write_text(_MODEL, encoding="utf-8")
        model = {
            "model_path": str(path), "model_name": "Perceptron", "model_kwargs": {"widths": widths},
        }  # fmt: skip
        train = {
            "trainer": "VanillaTrainer", "mode": "step", "num_local_steps": 1, "device": "cpu",
            "optim": "SGD", "optim_args": {"lr": learning_rate}, "loss_fn": "CrossEntropyLoss",
            "train_batch_size": images.shape[1], "metric_path": str(path),
            "metric_name": "accuracy", "do_validation": False, **_NO_LOG, **_LEAN,
        }  # fmt: skip
        count = {"num_clients": workers}
        server = agent.SimServerAgent(
            {
                "client_configs": {"model_configs": model, "train_configs": train},
                "server_configs": {
                    "num_global_epochs": 0, "device": "cpu", **count, **_NO_LOG, **_LEAN,
                    "scheduler": "AsyncScheduler", "scheduler_kwargs": count | _LEAN,
                    "aggregator": "FedAsyncAggregator", "aggregator_kwargs": count | _LEAN,
                },
            }
        )  # fmt: skip
        data = torch.utils.data.TensorDataset(images[0], labels[0])
        clients = [
            agent.SimClientAgent(
                {"model_configs": model, "train_configs": train, **_LEAN},
                client_id=str(worker),
                client_dataset=data,
            )
            for worker in range(workers)
        ]
    return server, clients

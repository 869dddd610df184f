"""What a push to a real parameter server costs, against the bare calls that it is made of.

One worker and one server, as actors of Ray. A push is a gradient computed at the server's weights,
applied by it, and the next weights fetched, as `run_asynchronously` does it. The bare calls move
the same bytes between the same two actors by the same two calls, without JAX: what is more is the
order of steps, the trace, the gradient and the rule, which here are as small as they can be.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import optax

from benchmarks.harness.libraries import installed
from benchmarks.harness.reports import joined, met, numeric, where
from common.results.records import Record
from common.results.tables import markdown
from dcasgd_jax.actors import Cluster, Monitoring, run_asynchronously
from dcasgd_jax.actors.process import load_ray, ray_on_this_machine

PUSH, BARE = "push", "bare actor call"
TARGET = 1.2
"""Seconds of a push over those of the bare calls, at most."""

WARM_UP = 20
"""Pushes before the first that is timed: the first ones compile."""


class Spent(NamedTuple):
    """Of each push that was timed."""

    seconds: np.ndarray  # by the clock on the wall
    of_driver: float  # seconds of computing in the driving process, a push on average


def can_be_measured() -> bool:
    """Whether Ray is installed."""
    return installed("ray")


def measure(sizes: tuple[int, ...], steps: int, seed: int) -> Iterator[Record]:
    """Pushes and bare calls of so many float32 numbers, on the Ray there is or one of their own.

    Args:
        sizes: how many parameters there are.
        steps: pushes that are timed, for each size and way.
        seed: of the record; nothing is random.
    """
    ray = load_ray()
    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            stack.enter_context(ray_on_this_machine(ray, num_cpus=2, log_to_driver=False))
        for size in sizes:
            spent = {BARE: _spent(_bare_calls, size, steps), PUSH: _spent(_pushes, size, steps)}
            bare = float(np.median(spent[BARE].seconds))
            for method, (seconds, of_driver) in spent.items():
                yield Record(
                    method=method,
                    setting={"network": "real workers", "parameters": size},
                    seed=seed,
                    metrics={
                        "seconds": float(np.median(seconds)),
                        "ratio": float(np.median(seconds)) / bare,
                        "driver_seconds": of_driver,
                    },
                    curve={"push": list(range(steps)), "seconds": seconds.tolist()},
                    wall_time=float(seconds.sum()),
                )


def _spent(work: Callable[..., None], size: int, steps: int) -> Spent:
    """The times of the pushes after the first ones, from one to the next."""
    wall, own = [], []

    def on_step(step: int) -> None:
        del step
        wall.append(time.perf_counter())
        own.append(time.process_time())

    work(size, 1 + WARM_UP + steps, on_step)
    return Spent(np.diff(wall[WARM_UP:]), (own[-1] - own[WARM_UP]) / steps)


def _gradient(weights: Any, batch: Any) -> Any:
    """As small as a gradient can be that depends on its weights and its batch."""
    return weights * batch


def _pushes(size: int, steps: int, on_step: Callable[[int], None]) -> None:
    run_asynchronously(
        _gradient,
        np.ones(size, np.float32),
        optax.sgd(0.1),
        np.full(steps, 1e-3, np.float32),
        cluster=Cluster(1),
        num_steps=steps,
        monitoring=Monitoring(log_distance=False, check_finite=False, on_step=on_step),
    )


class _Worker:
    """Is handed weights, and answers with a word and as many bytes."""

    def gradient(self, batch: int, weights: np.ndarray) -> tuple[int, np.ndarray]:
        return batch, weights.copy()


class _Server:
    """Is handed a gradient and the weights that it was taken at, and answers with new ones."""

    def step(self, step: int, gradient: np.ndarray, weights: np.ndarray) -> tuple[int, np.ndarray]:
        return step, gradient + weights


def _bare_calls(size: int, steps: int, on_step: Callable[[int], None]) -> None:
    ray = load_ray()
    worker = ray.remote(_Worker).options(num_cpus=1).remote()
    server = ray.remote(_Server).options(num_cpus=0).remote()
    weights = ray.put(np.ones(size, np.float32))
    try:
        for step in range(steps):
            word, gradient = worker.gradient.options(num_returns=2).remote(step, weights)
            ray.wait([word], num_returns=1, fetch_local=False)
            ray.get(word)
            _, weights = server.step.options(num_returns=2).remote(step, gradient, weights)
            on_step(step)
    finally:
        ray.kill(worker)
        ray.kill(server)


def table(records: list[Record]) -> str:
    """Seconds of a push and of the bare calls, and their ratio, for every size."""
    rows, ratios = [], []
    for push in where(records, PUSH):
        size = push.setting["parameters"]
        (bare,) = [r for r in where(records, BARE, parameters=size) if r.seed == push.seed]
        ratios.append(push.metrics["ratio"])
        of_driver = (push.metrics["driver_seconds"], bare.metrics["driver_seconds"])
        rows.append(
            [
                f"{numeric(push, 'parameters'):,.0f}",
                *(f"{1e3 * r.metrics['seconds']:.2f}" for r in (push, bare)),
                *(f"{1e3 * seconds:.2f}" for seconds in of_driver),
                f"{ratios[-1]:.2f}",
            ]
        )
    header = ["parameters", "push, ms", "bare, ms", "driver, ms", "bare driver, ms", "ratio"]
    return joined(
        "**Real workers**, a push against the bare calls of actors with the same bytes:",
        markdown(header, rows),
        f"A push over bare calls: {max(ratios):.2f} at most (target {TARGET:g}: "
        f"{met(max(ratios), TARGET, at_most=True)}).",
    )

"""A small training run of each method as a program of its own, for `preemption` to kill.

    python -m benchmarks.soak.preempted_run METHOD SEED EPOCHS FOLDER

It says "ready" when nothing but training is left to do, goes on from the newest checkpoint in
FOLDER, saves one after every few steps, so that much of its time goes into writing, and leaves the
state it ends with in FOLDER/final.npz.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from common import networks
from common.seeds import Streams, host_generator, streams
from common.training import Execution, Keys, fit, init_state, train_step
from common.training.checkpoints import Checkpoints
from common.training.classification import cross_entropy_loss
from dcasgd_jax import delay_compensation, gamma_times, slot_simulator
from gsgd_jax import FoundGauge, choose_skeleton, find_gauge, in_path_space
from lacim_jax import MLP, Examples, LaCIM, MLPDecoder, MLPEncoder, lacim_loss

EXAMPLES, BATCH, CHUNK = 256, 16, 4
"""Of a data set, of a step, and steps between checkpoints."""
STEPS_AN_EPOCH = EXAMPLES // BATCH

Run = Callable[[Checkpoints], Any]
"""Goes on from the newest checkpoint; returns the state it ends with."""


def path_space(keys: Streams, epochs: int) -> Run:
    """G-Adam on a perceptron: the state holds Adam's moments of the path values."""
    inputs, labels = _examples(keys)
    network = networks.MLP((32, 32, 4))
    params = jax.jit(network.init)(keys.init, inputs)["params"]

    def apply(params: Any, inputs: jax.Array) -> jax.Array:
        return jnp.asarray(network.apply({"params": params}, inputs))

    gauge = find_gauge(apply, params, inputs[:2])
    assert isinstance(gauge, FoundGauge)  # a perceptron's units form a graph
    skeleton = choose_skeleton(gauge, params, rule="largest", basis="paths")
    tx = in_path_space(optax.adam(1e-3), skeleton)
    step = train_step(cross_entropy_loss(apply), tx)
    return _fitted(step, init_state(params, tx), (inputs, labels), keys, epochs)


def delayed(keys: Streams, epochs: int) -> Run:
    """DC-ASGD-a with momentum on a simulated cluster of 8: the state holds every worker's weights.

    Here the caller keeps the checkpoints, between two stretches of the schedule.
    """
    inputs, labels = _examples(keys)
    num_steps = epochs * STEPS_AN_EPOCH
    rows = jax.random.randint(keys.order, (num_steps, BATCH), 0, EXAMPLES)
    schedule = gamma_times(8, num_steps, seed=int(host_generator(keys.delay).integers(2**31)))
    network = networks.MLP((32, 4))

    def loss(params: Any, batch: jax.Array) -> jax.Array:
        logits = jnp.asarray(network.apply({"params": params}, inputs[batch]))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()

    server = optax.chain(
        delay_compensation(2.0, mean_square_decay=0.95), optax.sgd(0.05, momentum=0.9)
    )
    simulator = slot_simulator(jax.grad(loss), server, 8)
    first = simulator.init(jax.jit(network.init)(keys.init, inputs)["params"])

    def run(checkpoints: Checkpoints) -> Any:
        newest = checkpoints.restore(first)
        begin, state = (0, first) if newest is None else (newest.step, newest.state)
        go_on = jax.jit(simulator.run)
        for start in range(begin, num_steps, CHUNK):
            stretch = jax.tree.map(lambda x, s=start: x[s : s + CHUNK], (schedule, rows))
            state, _ = go_on(state, *stretch)
            checkpoints.save(start + CHUNK, state, {})
        return state

    return run


def latent(keys: Streams, epochs: int) -> Run:
    """LaCIM on two domains: every step draws latents, by a key folded with the step."""
    inputs, labels = _examples(keys)
    images = jax.nn.sigmoid(inputs).reshape(EXAMPLES, 4, 4, 1)
    data = Examples(images, labels // 2, jnp.arange(EXAMPLES, dtype=jnp.int32) % 2)
    model = LaCIM(
        MLPEncoder((32,)), MLPDecoder((4, 4, 1), widths=(32,)), MLP((16, 2)), num_domains=2,
        s_dim=2, v_dim=2,
    )  # fmt: skip
    params = jax.jit(model.init)(keys.init, images[:1], data.domains[:1])["params"]
    tx = optax.adam(1e-3)
    warm_up = optax.linear_schedule(0.0, 1.0, STEPS_AN_EPOCH)
    state = init_state(params, tx, jnp.zeros([], jnp.int32))
    return _fitted(train_step(lacim_loss(model, beta=warm_up), tx), state, data, keys, epochs)


RUNS: dict[str, Callable[[Streams, int], Run]] = {
    "G-SGD": path_space,
    "DC-ASGD": delayed,
    "LaCIM": latent,
}
"""(the seed's keys, epochs) -> the run, of each method."""


def _examples(keys: Streams) -> tuple[jax.Array, jax.Array]:
    """Inputs [EXAMPLES, 16], and which of four random directions each points along most."""
    first, second = jax.random.split(keys.data)
    inputs = jax.random.normal(first, (EXAMPLES, 16))
    labels = (inputs @ jax.random.normal(second, (16, 4))).argmax(-1)
    return inputs, labels.astype(jnp.int32)


def _fitted(step: Any, state: Any, data: Any, keys: Streams, epochs: int) -> Run:
    def run(checkpoints: Checkpoints) -> Any:
        return fit(
            step, state, data, keys=Keys(keys.order, keys.noise), batch_size=BATCH,
            epochs=epochs, checkpoints=checkpoints, execution=Execution(chunk=CHUNK),
        ).state  # fmt: skip

    return run


def main(method: str, seed: str, epochs: str, folder: str) -> None:
    """Runs it; see the module."""
    run = RUNS[method](streams(int(seed)), int(epochs))
    with Checkpoints(Path(folder) / "checkpoints") as checkpoints:
        print("ready", flush=True)
        leaves = jax.tree.leaves(run(checkpoints))
    np.savez(Path(folder) / "final.npz", *map(np.asarray, leaves))


if __name__ == "__main__":
    main(*sys.argv[1:])

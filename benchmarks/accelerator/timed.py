"""What the pieces consist of that time ways against each other: turns of so many steps each."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.accelerator.costs import Program
from benchmarks.accelerator.work import Work, classifier, gradients_of, searched, shaped
from benchmarks.harness.libraries import installed
from benchmarks.latent.contests import Network, Settings
from benchmarks.path_space.timed.networks import PERCEPTRON, network_of
from common import networks
from lacim_jax import (
    MLP,
    ConvDecoder,
    ConvEncoder,
    Examples,
    LaCIM,
    MLPDecoder,
    MLPEncoder,
    lacim_loss,
)

COMPILING = {"MLP": 2.0, PERCEPTRON: 3.0, "ResNet-20": 10.0}
"""Seconds that a program of a network takes to compile, about."""
DEEP = 20.0
"""Those of any other."""


def in_path_space(settings: Any, seeds: int) -> tuple[Work, ...]:
    """Of gsgd_speed: both ways, every turn of them; what is timed on the host is not counted."""
    found = []
    for network in settings.networks:
        convolves = network != PERCEPTRON
        steps, turns = settings.steps[convolves], 1 + settings.repetitions[convolves]
        for batch_size in settings.batch_sizes[convolves]:
            program = functools.partial(_network, network, settings.width, batch_size)
            found.append(
                Work(
                    f"{network}, width {settings.width:g}, batch {batch_size}", program,
                    float(seeds * 2 * turns * steps), compiled=seeds * 2 * settings.compilations,
                    compile_seconds=COMPILING.get(network, DEEP),
                )
            )  # fmt: skip
    return tuple(found)


def _network(name: str, width: float, batch_size: int) -> Program:
    module, image, _ = network_of(name, width)
    return classifier(module, image, batch_size)


def under_delay(settings: Any, seeds: int) -> tuple[Work, ...]:
    """Of dcasgd_speed: gradients of every way and turn; not event loops, which are the host's."""
    found, workers = [], settings.workers
    # By waves with all numbers of workers, and two further ones; synchronous and by slots. Of the
    # compiled ones there are copies of weights, too, and eleven that are counted, not run.
    waves, others, copying = len(workers) + 2, 1 + len(workers), sum(m > 1 for m in workers)
    for network in settings.networks:
        steps = settings.steps[network != "MLP"] * (1 + settings.repetitions)
        for batch_size in settings.batch_sizes:
            program = functools.partial(_simulated, network, settings, batch_size)
            name, each = f"{network}, {batch_size} a gradient", COMPILING.get(network, DEEP)
            found += [
                Work(name, program, float(seeds * others * steps),
                     compiled=seeds * (others + copying + 11), compile_seconds=each),
                Work(name, program, float(seeds * waves * steps), compiled=seeds * waves,
                     compile_seconds=each, together=max(workers)),
            ]  # fmt: skip
    return tuple(found)


def _simulated(network: str, settings: Any, batch_size: int) -> Program:
    if network == "MLP":
        return classifier(networks.MLP((settings.width, settings.width, 10)), (784,), batch_size)
    return classifier(
        networks.resnet(20, 10, width=settings.resnet_width, norm="group"), (32, 32, 3), batch_size
    )


def latent(settings: Settings, seeds: int) -> tuple[Work, ...]:
    """Of lacim_speed: training and search of every network, by programs and by Python's loops."""
    turns = 1 + settings.repetitions
    works = [work for network in settings.networks for work in _of_network(network, settings)]
    side, channels = 32, settings.channels
    model = LaCIM(
        ConvEncoder(channels, channels[-1]), ConvDecoder((side, side, 3), channels[::-1]),
        MLP((64, 2)), num_domains=2, s_dim=settings.s_dim, v_dim=settings.v_dim,
    )  # fmt: skip
    gradients = gradients_of(settings.authors_draws - 1, 2, settings.search_steps)
    times = 1 + turns * (1 + installed("torch"))  # by as many steps as theirs takes, too
    fitted = functools.partial(_trained, model, (side, side, 3), settings.batch_size)
    works += [
        Work("a step of LaCIM with convolutions", fitted, float(settings.fitted_steps),
             compiled=1, compile_seconds=5.0),
        Work(
            "a search by convolutions", functools.partial(_searched, model, (side, side, 3)),
            float(times * settings.search_images * gradients), compiled=4, compile_seconds=5.0,
            together=settings.chunk_size * 2,
        ),
    ]  # fmt: skip
    return tuple(
        work._replace(steps=seeds * work.steps, compiled=seeds * work.compiled) for work in works
    )


def _of_network(network: Network, settings: Settings) -> Iterator[Work]:
    side, turns = 28 // network.pool, 1 + settings.repetitions
    image = (side, side, 2)
    model = LaCIM(
        MLPEncoder(network.widths), MLPDecoder(image, network.widths[::-1]), MLP((64, 2)),
        num_domains=2, s_dim=settings.s_dim, v_dim=settings.v_dim,
    )  # fmt: skip
    train = functools.partial(_trained, model, image, settings.batch_size)
    search = functools.partial(_searched, model, image)
    steps = settings.train_images // settings.batch_size
    starts, count = 2 * (1 + settings.draws), settings.search_steps
    whole, fewer = starts * (count + 1), gradients_of(settings.draws, 2, count)
    # Once more each for what is stated beside the times, and half of one for programs compiled.
    images = settings.search_images * ((turns + 1) * (whole + fewer) + fewer / 2)
    batches = math.ceil(settings.search_images / settings.batch_size)
    of_step, of_search = f"a step of {network.name}", f"a search of {network.name}"
    return iter(
        (
            Work(of_step, train, float(turns * steps + settings.fitted_steps), 3, 1.5),
            Work(of_step, train, float(turns * steps), 1, 1.5, driven=True),
            Work(of_search, search, images, 8, 1.5, together=2 * settings.chunk_size),
            Work(of_search, search, float(turns * batches * settings.batch_size * whole), 2, 1.5,
                 together=settings.batch_size, driven=True),
            Work(of_search, search, float(turns * batches * settings.batch_size * whole), 1, 1.5,
                 together=settings.batch_size * starts, driven=True),
        )
    )  # fmt: skip


def _trained(model: LaCIM, image: tuple[int, ...], batch_size: int) -> Program:
    images, labels = shaped(batch_size, *image), shaped(batch_size, dtype=jnp.int32)
    params: optax.Params = jax.eval_shape(model.init, jax.random.key(0), images, labels)["params"]
    objective = lacim_loss(model)

    def loss(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        examples = Examples(images, labels, labels)
        return objective(params, jnp.zeros([], jnp.int32), examples, jax.random.key(0))[0]

    return Program(loss, params, (images, labels))


def _searched(model: LaCIM, image: tuple[int, ...]) -> Program:
    images, labels = shaped(1, *image), shaped(1, dtype=jnp.int32)
    variables: Any = jax.eval_shape(model.init, jax.random.key(0), images, labels)
    return searched(model, variables["params"], image)

"""Full presets fit into the memory they are sized for, and bfloat16 reaches the networks."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.delay import cifar10 as dcasgd_cifar10
from benchmarks.delay import imagenet as dcasgd_imagenet
from benchmarks.delay.images import Data
from benchmarks.delay.training import Trainer
from benchmarks.harness.registry import Context
from benchmarks.latent import baselines as lacim_baselines
from benchmarks.latent import colored_digits as lacim_colored_digits
from benchmarks.latent import identifiability as lacim_identifiability
from benchmarks.latent.methods import METHODS
from benchmarks.latent.styles import pacs as lacim_pacs
from benchmarks.path_space import cifar10 as gsgd_cifar10
from benchmarks.path_space import control as gsgd_control
from benchmarks.path_space import mlp as gsgd_mlp
from benchmarks.path_space import sequence as gsgd_sequence
from common.data import PixelStatistics
from common.networks import resnet
from common.progress import Silent
from lacim_jax import Examples
from tests.memory import kept_for_gradient, size_of

MEMORY = 80e9
"""Bytes of the accelerator that full presets are sized for."""

SPARE = 0.75
"""Share of them that runs may take: the rest is for data, evaluation and what XLA sets aside."""

SEEDS = 3


def of(shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def of_run(loss, params, *given):
    """Bytes of one run: for its backward pass, and parameters, gradients and state of the rule."""
    slopes = jax.eval_shape(jax.grad(loss), params, *given)
    for leaf in jax.tree.leaves((params, slopes)):
        assert leaf.dtype == jnp.float32
    return kept_for_gradient(loss, params, *given) + 4 * size_of(params)


def residual_network(network, image, batch_size):
    variables = dict(jax.eval_shape(network.init, jax.random.key(0), of((1, *image))))
    params, averages = variables.pop("params"), variables

    def loss(params, averages, images, labels):
        logits, _ = network.apply(
            {"params": params, **averages}, images, train=True, mutable=["batch_stats"]
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    shapes = of((batch_size, *image)), of((batch_size,), jnp.int32)
    return of_run(loss, params, averages, *shapes)


def test_residual_networks_fit():
    full = gsgd_cifar10.PRESETS["full"]
    one = residual_network(resnet(34, 10), (32, 32, 3), full.batch_size)
    assert full.at_once >= SEEDS * len(full.learning_rates)
    assert full.at_once * one < SPARE * MEMORY
    full = dcasgd_cifar10.PRESETS["full"]
    one = residual_network(resnet(20, 10), (32, 32, 3), full.batch_size)
    assert full.at_once >= SEEDS * len(full.learning_rates)
    assert full.at_once * one < SPARE * MEMORY
    full = dcasgd_imagenet.PRESETS["full"]
    network = resnet(50, 1000, stem="7x7")
    one = residual_network(network, (224, 224, 3), full.batch_size)
    (workers,) = full.workers
    assert full.longest * one + workers * one / 40 < SPARE * MEMORY  # a network is 2% of its run


def test_less_is_kept_in_bfloat16():
    kept = [
        residual_network(resnet(8, 10, dtype=dtype), (16, 16, 3), 64)
        for dtype in (jnp.float32, jnp.bfloat16)
    ]
    assert kept[1] < 0.85 * kept[0]


@pytest.mark.parametrize(
    ("experiment", "image", "columns", "domains"),
    [
        (lacim_pacs, (512,), SEEDS * 4, 3),
        (lacim_baselines, (28, 28, 2), SEEDS * 3, 2),
        (lacim_colored_digits, (28, 28, 2), SEEDS * 2, 2),
    ],
)
def test_trials_of_a_latent_model_fit(experiment, image, columns, domains):
    full = experiment.PRESETS["full"]
    method, found = METHODS["LaCIM"], []
    for bfloat16 in (False, True):
        settings = dataclasses.replace(full, bfloat16=bfloat16)
        sizes = settings.sizes(image, num_domains=domains, num_classes=7)
        model = method.build(sizes)
        labels = of((full.batch_size,), jnp.int32)
        examples = Examples(of((full.batch_size, *image)), labels, labels)
        params = jax.eval_shape(model.init, jax.random.key(0), examples.images, examples.domains)[
            "params"
        ]
        hyper = {"beta": jnp.ones([]), "label_weight": jnp.ones([])}

        def loss(params, examples, model=model, hyper=hyper, sizes=sizes):
            objective = method.loss(model, hyper, lambda _: jnp.ones([]), sizes)
            return objective(params, method.state(sizes), examples, jax.random.key(0))[0]

        found.append(of_run(loss, params, examples))
    runs = full.trials * columns
    at_once = runs if full.at_once is None else min(full.at_once, runs)
    # A step gathers every column of its images before each run takes its own.
    gathered = full.batch_size * columns * 4 * np.prod(image)
    assert at_once * (found[0] + gathered) < SPARE * MEMORY
    assert found[1] < found[0]


class Told(Exception):  # noqa: N818
    """Raised by a network's stand-in, with the dtype that it was asked for."""


@pytest.mark.parametrize(
    ("experiment", "network", "changes"),
    [
        (gsgd_mlp, "MLP", {"data": "digits8x8"}),
        (gsgd_control, "MLP", {}),
        (gsgd_sequence, "Transformer", {"train_size": 40, "validation_size": 9, "test_size": 9}),
    ],
)
@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_option_reaches_the_network(experiment, network, changes, bfloat16, monkeypatch):
    def stand_in(*args, dtype, **kwargs):
        del args, kwargs
        raise Told(jnp.dtype(dtype).name)

    monkeypatch.setattr(experiment, network, stand_in)
    settings = dataclasses.replace(experiment.PRESETS["smoke"], bfloat16=bfloat16, **changes)
    context = Context(seeds=(0,), data_dir=None, progress=Silent())
    with pytest.raises(Told, match="bfloat16" if bfloat16 else "float32"):
        list(experiment.run(settings, context))


def test_the_option_reaches_networks_of_simulated_workers_and_of_latent_models():
    part = jnp.zeros((64, 8, 8, 1)), jnp.zeros(64, jnp.int32)
    data = Data(part, part, part, 10, PixelStatistics(np.zeros(1), np.ones(1)))
    small = dataclasses.replace(dcasgd_cifar10.PRESETS["smoke"], batch_size=2, bfloat16=True)
    assert Trainer(small, data)._network.dtype == jnp.bfloat16
    settings = dataclasses.replace(lacim_colored_digits.PRESETS["smoke"], bfloat16=True)
    sizes = settings.sizes((14, 14, 2), num_domains=2, num_classes=2)
    model: Any = lacim_colored_digits.method_of("LaCIM").build(sizes)
    assert {model.encoder.dtype, model.decoder.dtype} == {jnp.bfloat16}
    settings = dataclasses.replace(
        lacim_identifiability.PRESETS["smoke"], bfloat16=True, size=50, held_out=20
    )
    causal, _ = lacim_identifiability.load_parts(
        settings, lacim_identifiability.Setting("continuous", 3), 0
    )
    model = lacim_identifiability.build(settings, "LaCIM", causal)
    assert {model.encoder.dtype, model.decoder.dtype} == {jnp.bfloat16}

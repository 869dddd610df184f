"""Our search and the authors', of the same images by the same convolutional decoder and starts."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness.libraries import installed
from benchmarks.harness.registry import Context
from benchmarks.latent.colored import torch_search
from benchmarks.latent.colored.reference import shaded
from benchmarks.latent.contests import Contest, Settings, operations
from benchmarks.latent.reports.authors_search import AUTHORS, BESIDE_AUTHORS, ENOUGH
from benchmarks.latent.reports.speed import OURS
from common.data import load
from common.data.generated.colored_digits import color_digits
from common.seeds import streams
from lacim_jax import (
    MLP,
    ConvDecoder,
    ConvEncoder,
    Examples,
    LaCIM,
    Search,
    fit,
    infer_along,
    mixture_prior,
    predict,
)

STEPS = (0, 1, 2, 4, 8, 16, 32, 50)
"""Of which the first is taken that explains the images as well as the authors' search does."""


class Convolutions(NamedTuple):
    """What is decoded, and by how much."""

    channels: tuple[int, ...]
    """Of the encoder's layers; the decoder has them in the opposite order."""

    @property
    def name(self) -> str:
        """What is decoded, from which layers."""
        return f"32x32x3 from {'-'.join(map(str, reversed(self.channels)))} channels"


def searching(network: Convolutions, settings: Settings, seed: int, context: Context) -> Contest:
    """A search of all images by a trained model; without PyTorch, ours alone.

    Args:
        network: encoder and decoder.
        settings: of data, training and search.
        seed: of data, weights and starts.
        context: where data are.
    """
    train, data = _examples(settings, seed, context)
    channels, keys = network.channels, streams(seed)
    decoder = ConvDecoder(data.images.shape[1:], tuple(reversed(channels)))
    model = LaCIM(
        ConvEncoder(channels, channels[-1]), decoder, MLP((64, 2)), num_domains=2,
        s_dim=settings.s_dim, v_dim=settings.v_dim,
    )  # fmt: skip
    variables = fit(
        model, train, keys.init, num_steps=settings.fitted_steps, batch_size=settings.batch_size
    ).variables
    # The means are two of the starts, where the authors draw all.
    search = Search(draws=settings.authors_draws - 1, chunk_size=settings.chunk_size)
    enough = Search(draws=search.draws, chunk_size=search.chunk_size, screening=0, keep=1)
    images, key = np.asarray(data.images), keys.noise

    def ours(search: Search, steps: int) -> np.ndarray:
        return predict(model, variables, images, key, steps=steps, search=search).objective_after

    whole, count = functools.partial(ours, search), settings.search_steps
    starts = 2 * settings.authors_draws
    kept, screened = min(search.keep or starts, starts), min(search.screening, count)
    gradients = {OURS: float(starts * (screened + 1) + kept * (count - screened))}
    ways = {OURS: functools.partial(whole, count)}
    reached = {"objective": float(whole(count).mean())}
    if installed("torch"):
        noise = jax.random.normal(key, (search.draws, 2, settings.s_dim + settings.v_dim))
        points = np.asarray(jax.jit(model.apply, static_argnames="method")(
            variables, images, noise, method="starts"
        ))  # fmt: skip
        run = torch_search.search(
            torch_search.of_decoder(decoder, variables["params"]["decoder"]), images, points,
            torch_search.TorchSearch(steps=count),
        )  # fmt: skip
        reached["authors_objective"] = _objective(model, variables, images, run())
        steps = [each for each in STEPS if each <= count]
        along = infer_along(model, variables, images, key, steps=steps, search=enough)
        means = [float(each.objective_after.mean()) for each in along]
        first = next((i for i, m in enumerate(means) if m >= reached["authors_objective"]), -1)
        reached |= {"enough_steps": float(steps[first]), "enough_objective": means[first]}
        ways |= {ENOUGH: functools.partial(ours, enough, steps[first]), AUTHORS: run}
        # What is decoded without a gradient is half of it.
        gradients |= {ENOUGH: float(starts + steps[first]), AUTHORS: starts / 2 + count}
    one = _of_gradient(model, variables, data)
    arithmetic = {way: each * one for way, each in gradients.items()}
    return Contest(BESIDE_AUTHORS, len(images), arithmetic, ways, lambda: reached)


def _examples(settings: Settings, seed: int, context: Context) -> tuple[Examples, Examples]:
    """Images to train on, and others to search, in the authors' colours."""
    dataset = load(settings.data, "train", data_dir=context.data_dir)
    sizes = settings.search_images, min(settings.train_images, len(dataset.labels) // 2)
    key, count = streams(seed).data, sum(sizes)
    colored = color_digits(
        key, dataset.images[:count], dataset.labels[:count], correlation=0.9,
        domains=np.arange(count) % 2,
    )  # fmt: skip
    whole = shaded(colored, key)
    searched, train = (
        Examples(*(leaf[rows] for leaf in whole))
        for rows in (slice(sizes[0]), slice(sizes[0], None))
    )
    return train, searched


def _objective(model: LaCIM, variables: Any, images: np.ndarray, latents: np.ndarray) -> float:
    """What `infer` climbs, in the mean over images."""

    @jax.jit
    def mean(latents: jax.Array, images: jax.Array) -> jax.Array:
        pixels: Any = model.apply(variables, latents, method="decode")
        priors: Any = model.apply(variables, method="priors")
        log_x = jax.vmap(model.likelihood.log_prob)(pixels, images)
        return (log_x + jax.vmap(lambda z: mixture_prior(z, priors))(latents)).mean()

    return float(mean(jnp.asarray(latents), jnp.asarray(images)))


def _of_gradient(model: LaCIM, variables: Any, data: Examples) -> float:
    """Floating-point operations of one image's gradient for its latents."""

    def total(latents: jax.Array) -> jax.Array:
        pixels: Any = model.apply(variables, latents, method="decode")
        return jax.vmap(model.likelihood.log_prob)(pixels, data.images[:1]).sum()

    latents = jnp.zeros((1, model.s_dim + model.v_dim))
    return operations(jax.jit(jax.grad(total)), latents)

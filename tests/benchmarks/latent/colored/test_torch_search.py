"""The authors' search in PyTorch: the same decoder as ours, the best start, steps as they take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.latent.colored.torch_search import TorchSearch, of_decoder, search
from lacim_jax import BERNOULLI, ConvDecoder
from tests.compiled import compiled_quickly

torch = pytest.importorskip("torch", reason="needs PyTorch, the extra torch")
DECODER = ConvDecoder((8, 4, 3), (16, 8))
N, STARTS, DIM = 5, 3, 6


@pytest.fixture(scope="module")
def problem():
    keys = jax.random.split(jax.random.key(0), 4)
    starts = jax.random.normal(keys[0], (N, STARTS, DIM))
    params = compiled_quickly(DECODER.init)(keys[1], starts[:, 0])["params"]
    # Biases and scales are 0 and 1 at first, which would hide that they are exchanged.
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(keys[2], leaf.shape), params)
    return params, starts, jax.random.uniform(keys[3], (N, *DECODER.shape))


def losses(params, latents, images):
    """The mean binary cross-entropy of each image, [n]."""
    logits = DECODER.apply({"params": params}, latents)
    return -jax.vmap(BERNOULLI.log_prob)(logits, images) / images[0].size


def test_the_decoder_is_ours(problem):
    params, starts, _ = problem
    found = of_decoder(DECODER, params)(torch.tensor(np.array(starts[:, 0])))
    expected = compiled_quickly(DECODER.apply)({"params": params}, starts[:, 0])
    np.testing.assert_allclose(found.permute(0, 2, 3, 1), expected, rtol=1e-4, atol=1e-5)


def test_without_steps_the_best_start_is_kept(problem):
    params, starts, images = problem
    settings = TorchSearch(steps=0, batch_size=2)
    found = search(of_decoder(DECODER, params), np.asarray(images), np.asarray(starts), settings)()
    every = compiled_quickly(jax.vmap(losses, in_axes=(None, 1, None)))(params, starts, images)
    best = np.asarray(every).argmin(0)
    assert len(set(best)) > 1
    np.testing.assert_array_equal(found, np.asarray(starts)[np.arange(N), best])


def test_a_step_goes_down_the_mean_of_the_batch_and_the_decay(problem):
    params, starts, images = problem
    starts = starts[:, :1]
    rate, decay = 0.01, 0.5
    settings = TorchSearch(steps=1, learning_rate=rate, decay=decay, batch_size=N)
    found = search(of_decoder(DECODER, params), np.asarray(images), np.asarray(starts), settings)()
    slope = compiled_quickly(jax.grad(lambda z: losses(params, z, images).mean()))(starts[:, 0])
    slope = slope + decay * starts[:, 0]
    # Adam's first step is the slope over its own size.
    expected = starts[:, 0] - rate * slope / (jnp.abs(slope) + 1e-8)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)

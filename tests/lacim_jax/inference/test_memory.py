"""The memory of a search: it is that of a chunk, and a stated one is kept to."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lacim_jax import MLP, LaCIM, MLPDecoder, MLPEncoder, Search, search_memory, search_within

MODEL = LaCIM(MLPEncoder((4,)), MLPDecoder((16, 16, 1), (8,)), MLP((2,)), num_domains=2, s_dim=1)
IMAGES = np.full((200, 16, 16, 1), 0.5, np.float32)
SEARCH = Search(optimiser=optax.sgd(0.1), chunk_size=50)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(MODEL.init)(jax.random.key(0), IMAGES[:1], jnp.zeros(1, jnp.int32))


@pytest.fixture(scope="module")
def memory(variables):
    """Of a chunk of 50."""
    return search_memory(MODEL, variables, IMAGES, search=SEARCH)


def test_memory_is_that_of_a_chunk_whatever_the_number_of_images(variables, memory):
    assert search_memory(MODEL, variables, IMAGES[:1], search=SEARCH) == memory
    twice = dataclasses.replace(SEARCH, chunk_size=100, loop="driven")
    larger = search_memory(MODEL, variables, IMAGES, search=twice)
    # Ten starts of each image are decoded to 256 pixels of four bytes, once at least.
    assert 1 < (larger - memory) / (50 * 10 * 256 * 4) < 12


def test_a_stated_memory_is_used_and_kept_to(variables, memory):
    found = search_within(memory, MODEL, variables, IMAGES, search=SEARCH)
    assert 25 < found.chunk_size <= 100
    assert search_memory(MODEL, variables, IMAGES, search=found) <= memory
    assert dataclasses.replace(found, chunk_size=50) == SEARCH


def test_too_little_memory_is_refused(variables):
    with pytest.raises(ValueError, match=r"a memory of 100 bytes does not hold one .* takes [0-9]"):
        search_within(100, MODEL, variables, IMAGES[:3], search=SEARCH)


def test_memory_may_be_written_as_a_float(variables, memory):
    """16e9 is how one writes it."""
    found = search_within(memory + 0.5, MODEL, variables, IMAGES, search=SEARCH)
    assert found == search_within(memory, MODEL, variables, IMAGES, search=SEARCH)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("memory", [np.nan, np.inf, "16 GB", None])
def test_memory_that_is_no_number_of_bytes_is_refused(variables, memory):
    with pytest.raises(ValueError, match="memory must be a finite number of bytes, got"):
        search_within(memory, MODEL, variables, IMAGES, search=SEARCH)

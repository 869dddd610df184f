"""Stratified parts: disjoint, whole, seeded, and true to the shares of the classes."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import from_arrays, take, train_validation_split

PROFILE = settings(derandomize=True, deadline=None, max_examples=30)


def numbered(counts):
    """A data set whose images hold their own number, labels shuffled."""
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = np.random.default_rng(1).permutation(labels)
    number = np.arange(len(labels))
    images = np.stack([number // 256, number % 256], axis=1).astype(np.uint8)
    return from_arrays(images[:, None, None, :], labels, num_classes=len(counts), name="numbered")


def numbers(dataset):
    high, low = dataset.images[:, 0, 0].T.astype(int)
    return high * 256 + low


@PROFILE
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(lambda c: sum(c) > 1),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31 - 1),
)
def test_split_is_a_stratified_partition(counts, share, seed):
    whole = numbered(counts)
    size = sum(counts)
    if not 0 < round(share * size) < size:
        with pytest.raises(ValueError, match="leave both parts an image"):
            train_validation_split(whole, jax.random.key(seed), fraction=share)
        return
    parts = train_validation_split(whole, jax.random.key(seed), fraction=share)
    assert sorted(np.concatenate([numbers(p) for p in parts])) == list(range(size))
    validation = parts[1]
    assert len(validation.images) == round(share * size)
    exact = len(validation.images) * np.array(counts) / size
    got = np.bincount(validation.labels, minlength=len(counts))
    assert (np.abs(got - exact) < 1).all()
    for part in parts:
        assert (np.diff(numbers(part)) > 0).all()  # the order is kept
        np.testing.assert_array_equal(part.labels, whole.labels[numbers(part)])


@PROFILE
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(lambda c: sum(c) > 0),
    data=st.data(),
)
def test_take_is_stratified_and_exact(counts, data):
    whole = numbered(counts)
    size = data.draw(st.integers(1, sum(counts)))
    part = take(whole, size, key=jax.random.key(0))
    assert len(part.images) == size == len(set(numbers(part)))
    got = np.bincount(part.labels, minlength=len(counts))
    assert (np.abs(got - size * np.array(counts) / sum(counts)) < 1).all()


def test_the_key_decides():
    whole = numbered([50, 50])
    one, same, other = (
        numbers(take(whole, 20, key=jax.random.key(seed))).tolist() for seed in (0, 0, 1)
    )
    assert one == same
    assert one != other


def test_every_image_is_taken_equally_often():
    whole = numbered([6, 6])
    times = np.zeros(12)
    for seed in range(400):
        times[numbers(take(whole, 4, key=jax.random.key(seed)))] += 1
    # Each is taken with probability 1/3: mean 133, standard deviation 9.4; five of them.
    assert np.abs(times - 400 / 3).max() < 47


def test_names_say_what_the_parts_are():
    train, validation = train_validation_split(numbered([9, 9]), jax.random.key(0), fraction=0.5)
    assert (train.name, validation.name) == ("numbered (train part)", "numbered (validation part)")


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, 0.01, float("nan")])
def test_split_refuses_an_empty_part(fraction):
    with pytest.raises(ValueError, match="fraction must lie between 0 and 1 and leave both"):
        train_validation_split(numbered([5, 5]), jax.random.key(0), fraction=fraction)


@pytest.mark.parametrize("size", [0, 11, -1])
def test_take_refuses_sizes_there_are_not(size):
    with pytest.raises(ValueError, match=f"between 1 and the 10 images of numbered, got {size}"):
        take(numbered([5, 5]), size, key=jax.random.key(0))

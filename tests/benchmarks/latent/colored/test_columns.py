"""Versions of coloured digits side by side: of the sizes asked for, each from its own seed."""

import jax
import numpy as np
import pytest

from benchmarks.latent.colored.columns import Column, load_columns

OPTIONS = {
    "correlations": (0.9, 0.8), "test_correlation": 0.1, "validation": 0.25, "pool": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def columns():
    versions = [Column(0.25, 0), Column(0.0, 0), Column(0.0, 1)]
    return load_columns(versions, "mnist5k", None, sizes=(400, 100), **OPTIONS)


def test_sizes_are_those_asked_for(columns):
    train, validation, test = columns
    assert train.images.shape == (300, 3, 7, 7, 2)
    assert validation.labels.shape == (100, 3)
    assert test.domains.shape == (100, 3)


def test_a_seed_chooses_its_digits_whatever_the_noise(columns):
    flipped, own, other = (
        jax.tree.map(lambda leaf, c=c: np.asarray(leaf[:, c]), columns.test) for c in range(3)
    )
    shape = flipped.images.max(-1), own.images.max(-1)
    np.testing.assert_array_equal(*shape)
    assert (flipped.labels != own.labels).any()
    assert (other.images.max(-1) != own.images.max(-1)).any()

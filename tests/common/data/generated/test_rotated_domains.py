"""Rotated digits: the angle is what the domain says, and no domain knows more than another."""

import jax
import numpy as np
import pytest

from common.data import from_arrays, load
from common.data.generated.rotated_domains import rotated_digits

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def digits():
    return load("digits8x8", "test")


def test_a_quarter_turn_is_exact_and_none_changes_nothing(digits):
    found = rotated_digits(KEY, digits, angles=(0.0, 90.0, 180.0))
    for domain, turns in enumerate((0, 1, 2)):
        own = found.domains == domain
        due = np.rot90(digits.images[own], turns, axes=(1, 2))
        np.testing.assert_array_equal(found.images[own], due)
    np.testing.assert_array_equal(found.labels, digits.labels)


def test_an_oblique_turn_moves_a_pixel_where_trigonometry_puts_it():
    image = np.zeros((1, 21, 21, 1), np.uint8)
    image[0, 10, 17] = 255  # seven to the right of the middle
    found = rotated_digits(KEY, from_arrays(image, np.array([0]), num_classes=1), angles=(30.0,))
    weights = found.images[0, :, :, 0].astype(float)
    row, column = (np.tensordot(weights, grid) / weights.sum() for grid in np.indices((21, 21)))
    due = 10 - 7 * np.sin(np.pi / 6), 10 + 7 * np.cos(np.pi / 6)
    np.testing.assert_allclose((row, column), due, atol=0.1)


def test_domains_are_equally_large_seeded_and_independent_of_the_label(digits):
    found = rotated_digits(KEY, digits)
    counts = np.bincount(found.domains)
    assert counts.max() - counts.min() <= 1
    again, other = rotated_digits(KEY, digits), rotated_digits(jax.random.key(1), digits)
    np.testing.assert_array_equal(found.images, again.images)
    assert (found.domains != other.domains).any()
    shares = [np.mean(found.domains[found.labels == label] == 0) for label in range(10)]
    assert all(0.05 < share < 0.5 for share in shares)  # a quarter, of 36 images or so


@pytest.mark.parametrize("angles", [(), (1.0,) * 400])
def test_as_many_angles_as_there_can_be(digits, angles):
    with pytest.raises(ValueError, match="at least one and at most one per image"):
        rotated_digits(KEY, digits, angles=angles)

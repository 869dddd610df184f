"""Coloured digits: labels, colours and domains are what was asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.data import load, take
from common.data.generated.colored_digits import (
    as_rgb,
    color_digits,
    colored_domains,
    without_color,
)

KEY = jax.random.key(0)
TRAIN = take(load("mnist5k", "train"), 2000, key=KEY)
TEST = take(load("mnist5k", "test"), 500, key=KEY)


def within(share, probability, n):
    """Whether a share of n independent draws is within four standard errors of its probability."""
    return abs(share - probability) <= 4 * np.sqrt(max(probability * (1 - probability), 1e-12) / n)


@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.9, 1.0])
@pytest.mark.parametrize("label_noise", [0.0, 0.25])
def test_shares_are_as_asked_for(correlation, label_noise):
    colored = color_digits(
        KEY, TRAIN.images, TRAIN.labels, correlation=correlation, label_noise=label_noise
    )
    labels, colors = np.asarray(colored.labels), np.asarray(colored.colors)
    truth = np.asarray(colored.digits) >= 5
    np.testing.assert_array_equal(colored.digits, TRAIN.labels)
    assert within(np.mean(labels != truth), label_noise, 2000)
    assert within(np.mean(labels == colors), correlation, 2000)
    # Given the label, the colour says nothing about the digit: both classes agree alike.
    for digit_class in (False, True):
        chosen = truth == digit_class
        assert within(np.mean((labels == colors)[chosen]), correlation, chosen.sum())


def test_the_digit_stands_in_the_channel_of_its_color():
    colored = color_digits(KEY, TRAIN.images, TRAIN.labels, correlation=0.5)
    assert colored.images.shape == (2000, 28, 28, 2)
    assert colored.images.dtype == jnp.float32
    images, colors = np.asarray(colored.images), np.asarray(colored.colors)
    rows = np.arange(2000)
    grey = TRAIN.images[..., 0].astype(np.float32) / 255
    np.testing.assert_allclose(images[rows, :, :, colors], grey, rtol=1e-6)
    np.testing.assert_array_equal(images[rows, :, :, 1 - colors], 0)
    assert 0.4 < colors.mean() < 0.6


def test_each_image_may_have_a_correlation_of_its_own():
    correlation = np.repeat([0.0, 1.0], 1000)
    colored = color_digits(KEY, TRAIN.images, TRAIN.labels, correlation=correlation)
    agree = np.asarray(colored.labels == colored.colors)
    np.testing.assert_array_equal(agree, correlation == 1)


def test_domains_have_their_correlations_and_share_no_image():
    domains = colored_domains(
        KEY, TRAIN, TEST, correlations=(0.95, 0.7, 0.2), label_noise=0.25, validation_fraction=0.2
    )
    sizes = {name: len(part.labels) for name, part in domains._asdict().items()}
    assert sizes == {"train": 1600, "validation": 400, "test": 500}
    for part in (domains.train, domains.validation):
        agree = np.asarray(part.labels == part.colors)
        counts = np.bincount(part.domains)
        assert np.ptp(counts) <= 1
        for d, correlation in enumerate((0.95, 0.7, 0.2)):
            share = agree[np.asarray(part.domains) == d].mean()
            assert within(share, correlation, counts[d])
    assert within(np.mean(np.asarray(domains.test.labels == domains.test.colors)), 0.1, 500)
    np.testing.assert_array_equal(domains.test.domains, 3)

    pixels = [np.asarray(p.images.sum(-1)).reshape(len(p.labels), -1) for p in domains]
    distinct = np.unique(np.concatenate(pixels), axis=0)
    assert len(distinct) == sum(sizes.values())
    known = {image.tobytes() for image in np.asarray(TRAIN.images, np.float32).reshape(2000, -1)}
    found = {np.rint(255 * image).astype(np.float32).tobytes() for p in pixels[:2] for image in p}
    assert found == known


def test_everything_follows_from_the_key():
    one, two = (colored_domains(jax.random.key(3), TRAIN, TEST) for _ in range(2))
    other = colored_domains(jax.random.key(4), TRAIN, TEST)
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert not np.array_equal(one.train.colors, other.train.colors)
    assert not np.array_equal(one.train.domains, other.train.domains)
    assert not np.array_equal(one.test.colors, other.test.colors)


def test_without_color_nothing_is_left_of_it_but_the_digit():
    colored = color_digits(KEY, TRAIN.images, TRAIN.labels, correlation=0.9)
    swapped = colored._replace(images=colored.images[..., ::-1])
    grey = without_color(colored)
    np.testing.assert_array_equal(grey.images, without_color(swapped).images)
    np.testing.assert_array_equal(grey.images[..., 0], grey.images[..., 1])
    np.testing.assert_allclose(grey.images.sum(-1), colored.images.sum(-1), rtol=1e-6)
    np.testing.assert_array_equal(grey.labels, colored.labels)


def test_pictures_have_three_channels():
    rgb = as_rgb(np.ones((2, 3, 3, 2), np.float32))
    assert rgb.shape == (2, 3, 3, 3)
    np.testing.assert_array_equal(rgb[..., 2], 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": TRAIN.images[..., 0]}, r"\[n, height, width, 1\], got \(2000, 28, 28\)"),
        ({"labels": TRAIN.labels[1:]}, r"one integer label per image, \[2000\], got int32\[1999\]"),
        ({"labels": TRAIN.labels + 1}, "the digits 0 to 9, .* got 1 to 10"),
        ({"correlation": 1.5}, "correlation is a probability, 0 to 1, got 1.5"),
        ({"correlation": np.ones(3)}, r"one per image, \[2000\], got shape \(3,\)"),
        ({"label_noise": -0.1}, "label_noise is a probability"),
    ],
)
def test_bad_input_is_one_clear_error(changes, message):
    given = {"images": TRAIN.images, "labels": TRAIN.labels, "correlation": 0.9, **changes}
    images, labels = given.pop("images"), given.pop("labels")
    with pytest.raises(ValueError, match=message):
        color_digits(KEY, images, labels, **given)


def test_scaled_images_are_refused():
    with pytest.raises(TypeError, match="uint8"):
        color_digits(KEY, TRAIN.images / 255, TRAIN.labels, correlation=0.9)


def test_there_must_be_a_training_domain():
    with pytest.raises(ValueError, match="at least one training domain"):
        colored_domains(KEY, TRAIN, TEST, correlations=())

"""Rendered structural models: the image shows the latents, and the latents follow the graph."""

import jax
import numpy as np
import pytest

from common.data import load
from common.data.generated.rendered_models import render, rendered_model

KEY = jax.random.key(0)
DIGITS = load("digits8x8", "train")


def rendered(size=1500, m=3, **options):
    model = rendered_model(KEY, num_domains=m, **options)
    return model, render(jax.random.key(1), DIGITS, model, size)


def logistic(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def test_shares_of_c_and_of_digits_and_moments_of_v_are_as_stated():
    model, data = rendered(size=6000)
    for d, due in enumerate(model.shares):
        share = np.bincount(data.c[data.domains == d], minlength=4) / 6000
        np.testing.assert_allclose(share, due, atol=0.03)
    for c in range(4):
        own = data.c == c
        if own.sum() < 1500:
            continue
        share = np.bincount(data.digits[own], minlength=10) / own.sum()
        np.testing.assert_allclose(share, model.digit_shares[c], atol=0.06)
        np.testing.assert_allclose(data.v[own].mean(0), model.style_mean[c], atol=0.08)
        np.testing.assert_allclose(data.v[own].std(0), model.style_sd[c], atol=0.06)
        # Given c, s says nothing about v.
        high = data.digits[own] >= 5
        if 200 < high.sum() < own.sum() - 200:
            gap = data.v[own][high].mean(0) - data.v[own][~high].mean(0)
            assert np.abs(gap).max() < 5 * model.style_sd[c].max() / np.sqrt(200)


def test_a_continuous_c_ties_digit_and_style():
    model, data = rendered(confounder="continuous", size=4000)
    for d, (mean, sd) in enumerate(model.shares):
        c = data.c[data.domains == d]
        np.testing.assert_allclose([c.mean(), c.std()], [mean, sd], atol=0.1)
    np.testing.assert_allclose((data.v - data.c[:, None] * model.style_mean).std(0), 0.3, rtol=0.05)
    assert np.corrcoef(data.c, data.digits)[0, 1] > 0.3


def test_colour_is_read_off_the_image():
    _, data = rendered(size=50, style="colour")
    red, green, blue = np.moveaxis(data.images.astype(np.float64).sum((1, 2)), -1, 0)
    np.testing.assert_allclose(green / (red + green), logistic(data.v[:, 0]), rtol=1e-5)
    assert not blue.any()


def test_position_moves_the_centre_of_mass():
    """Strokes are padded, so that none leaves the frame; the centre moves by what v says."""
    images = np.pad(DIGITS.images[:400], ((0, 0), (8, 8), (8, 8), (0, 0)))
    model = rendered_model(KEY, num_domains=1, style="position")
    blank = np.zeros_like(images)
    blank[:, 11:13, 11:13] = 255  # centred: every digit a square
    data = render(KEY, DIGITS._replace(images=blank, labels=DIGITS.labels[:400]), model, 60)
    mass = data.images[..., 0].astype(np.float64)
    np.testing.assert_allclose(mass.sum((1, 2)), 4, rtol=1e-5)
    across = (mass.sum(1) * np.arange(24)).sum(1) / 4 - 11.5
    down = (mass.sum(2) * np.arange(24)).sum(1) / 4 - 11.5
    due = 24 / 7 * (2 * logistic(data.v) - 1)
    np.testing.assert_allclose(np.stack([across, down], axis=1), due, atol=1e-4)


def test_the_background_is_blue_where_no_stroke_is():
    _, data = rendered(size=50, style="background")
    np.testing.assert_allclose(
        data.images[:, :, :, 2].min((1, 2)), logistic(data.v[:, 0]) / 2, rtol=1e-5
    )
    assert data.images.min() >= 0
    assert data.images.max() <= 1


def test_all_styles_at_once_and_labels_with_noise():
    model, data = rendered(label_noise=0.25, m=5)
    assert model.v_dim == data.v.shape[1] == 4
    assert data.images.shape == (7500, 8, 8, 3)
    assert data.images.dtype == np.float32
    wrong = np.mean(data.labels != (data.digits >= 5))
    assert abs(wrong - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 7500)
    few = rendered_model(KEY, num_domains=2, label_noise=0.25)
    np.testing.assert_array_equal(few.shares, model.shares[:2])


def test_what_cannot_be_rendered_is_refused():
    for options, message in [
        ({"num_domains": 0}, "num_domains"),
        ({"style": "texture"}, "style must be one of"),
        ({"confounder": "none"}, "confounder"),
        ({"label_noise": 1.5}, "label_noise"),
    ]:
        with pytest.raises(ValueError, match=message):
            rendered_model(KEY, **{"num_domains": 2, **options})
    model = rendered_model(KEY, num_domains=2)
    with pytest.raises(ValueError, match="size"):
        render(KEY, DIGITS, model, 0)
    only = DIGITS.labels < 9
    lacking = DIGITS._replace(images=DIGITS.images[only], labels=DIGITS.labels[only])
    with pytest.raises(ValueError, match=r"there is no \[9\]"):
        render(KEY, lacking, model, 5)

"""Glyphs: what is drawn is what the style says, and style and label are tied as documented."""

import dataclasses

import jax
import numpy as np
import pytest

from common.data.generated.glyph_fonts import HELD_OUT_FONTS, TRAINING_FONTS
from common.data.generated.glyphs import (
    DIGITS,
    LETTERS,
    STYLE,
    GlyphModel,
    draw_fonts,
    glyph_model,
    render,
)

KEY, OTHER = jax.random.key(0), jax.random.key(1)
FONTS = ("STIX", "DejaVu Sans Bold", "Arvo")
SIZE = 3000
UPRIGHT = (0.0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def model() -> GlyphModel:
    return glyph_model(KEY, FONTS, characters=DIGITS)


@pytest.fixture(scope="module")
def data(model):
    return model.sample(OTHER, SIZE)


def middle(image: np.ndarray) -> tuple[float, float]:
    """Row and column of the centre of the ink, counted from the image's middle."""
    rows, columns = np.indices(image.shape) - (len(image) - 1) / 2
    return float((rows * image).sum() / image.sum()), float((columns * image).sum() / image.sum())


def test_the_same_keys_draw_the_same_images_and_others_do_not(model):
    one, two = model.sample(OTHER, 5), glyph_model(KEY, FONTS, characters=DIGITS).sample(OTHER, 5)
    for name in one._fields:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert (model.sample(KEY, 5).images != one.images).any()
    assert (glyph_model(OTHER, FONTS, characters=DIGITS).mean != model.mean).any()
    assert (render("STIX", "A", UPRIGHT, side=16) == render("STIX", "A", UPRIGHT, side=16)).all()


def test_a_fonts_images_do_not_depend_on_which_other_fonts_there_are(model):
    alone = glyph_model(KEY, ["Arvo"], characters=DIGITS).sample(OTHER, 20)
    among = model.sample(OTHER, 20)
    rows = among.domains == 2
    one, other = (
        images[np.lexsort(images.reshape(20, -1).T)]
        for images in (alone.images, among.images[rows])
    )
    np.testing.assert_array_equal(one, other)


def test_an_image_is_its_character_in_its_domains_font_and_noise(model):
    data = model.sample(OTHER, 30)
    quiet = dataclasses.replace(model, noise=0.0).sample(OTHER, 30)
    for image, y, d, v in zip(quiet.images, quiet.labels, quiet.domains, quiet.style, strict=True):
        each = [render(font, DIGITS[y], v, side=16) for font in FONTS]
        errors = [np.abs(image[..., 0] - drawn).max() for drawn in each]
        assert errors[d] < 1e-2 < 0.05 < min(errors[:d] + errors[d + 1 :])  # v is float32
    noise = data.images - quiet.images
    assert abs(noise.std() - model.noise) < 2e-3
    assert abs(noise.mean()) < 2e-3
    assert data.images.shape == (90, 16, 16, 1)
    assert {leaf.dtype for leaf in (data.images, data.style)} == {np.dtype(np.float32)}


def test_each_number_of_the_style_moves_its_own_side_of_the_image():
    side = 40
    plain = render("DejaVu Sans", "L", UPRIGHT, side=side)
    shifted = render("DejaVu Sans", "L", (0, 0, 1.5, 0), side=side)
    np.testing.assert_allclose(
        np.subtract(middle(shifted), middle(plain)), (0, 0.06 * 1.5 * side), atol=0.05
    )
    larger = render("DejaVu Sans", "L", (2, 0, 0, 0), side=side)
    assert abs(np.log(larger.sum() / plain.sum()) / 2 - 0.24) < 0.01  # an area: twice log length
    pale, dark = (render("DejaVu Sans", "L", (0, 0, 0, ink), side=side) for ink in (-2, 2))
    scale = [0.4 + 0.6 / (1 + np.exp(-ink)) for ink in (-2, 0, 2)]
    np.testing.assert_allclose(pale / scale[0], plain / scale[1], atol=1e-9)
    np.testing.assert_allclose(dark / scale[2], plain / scale[1], atol=1e-9)
    # The ink's centre goes round the image's middle, anticlockwise: rows count downwards.
    turned = render("DejaVu Sans", "L", (0, 3, 0, 0), side=side)
    (down, right), angle = middle(plain), np.radians(30)
    due = (
        np.cos(angle) * down - np.sin(angle) * right,
        np.sin(angle) * down + np.cos(angle) * right,
    )
    np.testing.assert_allclose(middle(turned), due, atol=0.15)
    assert (turned > 0.5).any()


def test_style_and_label_are_distributed_as_the_model_says(model, data):
    mean, covariance = model.style_moments()
    correlations = model.correlations()
    for d in range(len(FONTS)):
        own = data.domains == d
        style, codes = data.style[own], model.codes[data.labels[own]]
        shares = np.bincount(data.labels[own], minlength=10) / own.sum()
        np.testing.assert_allclose(shares, model.shares[d], atol=0.03)
        np.testing.assert_allclose(style.mean(0), mean[d], atol=0.06)
        np.testing.assert_allclose(np.cov(style.T), covariance[d], atol=0.06)
        found = [np.corrcoef(style[:, i], codes[:, i])[0, 1] for i in range(len(STYLE))]
        np.testing.assert_allclose(found, correlations[d], atol=0.04)
        # Given the label, nothing is left that ties one number to another.
        rest = style - model.mean[d] - model.tie[d] * codes
        np.testing.assert_allclose(np.corrcoef(rest.T), np.eye(4), atol=0.06)
        np.testing.assert_allclose(rest.std(0), model.sd[d], rtol=0.05)


def test_the_tie_can_be_turned_about_and_undone(model):
    as_trained = model.sample(OTHER, 500)
    for factor in (-1.0, 0.0):
        other = model.tied(factor)
        np.testing.assert_allclose(other.correlations(), factor * model.correlations(), atol=1e-12)
        drawn = other.sample(OTHER, 500)
        # Labels and what is drawn beside the tie are those of training.
        np.testing.assert_array_equal(drawn.labels, as_trained.labels)
        moved = model.tie[drawn.domains] * model.codes[drawn.labels] * (factor - 1)
        np.testing.assert_allclose(drawn.style - as_trained.style, moved, atol=1e-5)


def test_the_parameters_lie_where_the_documentation_says():
    model = glyph_model(KEY, TRAINING_FONTS)
    assert model.codes.shape == (26, 4)
    np.testing.assert_array_equal(model.codes.sum(0), 0)
    np.testing.assert_array_equal(np.abs(model.codes), 1)
    np.testing.assert_allclose(model.shares.sum(1), 1)
    assert model.sd.min() >= 0.3
    assert model.sd.max() <= 0.8
    assert model.tie.min() >= 0.2
    assert model.tie.max() <= 1
    assert abs(model.mean.mean()) < 0.15
    assert abs(model.mean.std() - 0.5) < 0.1
    mean, covariance = model.style_moments()
    variance = np.einsum("dii->di", covariance)
    assert abs(np.sqrt(variance.mean() + mean.var()) - 1) < 0.15  # of a standard deviation of 1


def test_held_out_fonts_share_the_code_and_nothing_else():
    train, new = glyph_model(KEY, draw_fonts(OTHER, 33)), glyph_model(KEY, HELD_OUT_FONTS)
    assert not set(train.fonts) & set(new.fonts)
    np.testing.assert_array_equal(train.codes, new.codes)
    assert not set(train.tie.ravel()) & set(new.tie.ravel())
    assert train.characters == new.characters == LETTERS


def test_draws_as_many_fonts_as_there_are_the_first_the_same():
    every = draw_fonts(KEY, 38)
    assert sorted(every) == sorted(TRAINING_FONTS)
    assert draw_fonts(KEY, 5) == every[:5]
    assert draw_fonts(OTHER, 38) != every


@pytest.mark.parametrize("count", [0, 39])
def test_more_domains_than_fonts_are_refused(count):
    with pytest.raises(ValueError, match=f"38 training fonts, .* from 1 to 38, got {count}"):
        draw_fonts(KEY, count)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"fonts": ()}, "at least 1 fonts are needed, none twice, got 0"),
        ({"fonts": ("STIX", "STIX")}, "none twice, got 'STIX' twice"),
        ({"fonts": ("Comic Sans",)}, "no font is called 'Comic Sans'"),
        ({"characters": "A"}, "at least 2 characters are needed, none twice, got 1"),
        ({"characters": "ABA"}, "none twice, got 'A' twice"),
        ({"characters": "A?"}, "single digits or letters without accents"),
        ({"side": 0}, "side must be at least 8 pixels and noise at least 0, got 0 and 0.1"),
        ({"noise": -0.1}, "noise at least 0, got 16 and -0.1"),
        ({"noise": float("nan")}, "noise at least 0"),
    ],
)
def test_bad_input_is_refused_at_once(given, match):
    with pytest.raises(ValueError, match=match):
        glyph_model(KEY, **({"fonts": FONTS} | given))


def test_refuses_to_draw_nothing(model):
    with pytest.raises(ValueError, match="size must be at least 1 image of each font, got 0"):
        model.sample(KEY, 0)

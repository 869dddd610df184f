"""Fonts: every one has every character, no two alike, and a missing package is named."""

import importlib.util
from string import ascii_letters, ascii_uppercase, digits

import numpy as np
import pytest
from matplotlib.ft2font import FT2Font

from common.data.generated.glyph_fonts import HELD_OUT_FONTS, TRAINING_FONTS, font_file, glyph

FONTS = (*TRAINING_FONTS, *HELD_OUT_FONTS)


def test_there_are_33_training_fonts_and_others_held_out_by_family():
    assert len(set(TRAINING_FONTS)) == len(TRAINING_FONTS) == 38
    assert len(set(HELD_OUT_FONTS)) == len(HELD_OUT_FONTS) == 8
    files = [font_file(name) for name in FONTS]
    assert len({path.read_bytes() for path in files}) == len(FONTS)
    # The family is what the file itself says.
    families = {name: FT2Font(font_file(name)).family_name for name in FONTS}
    held_out = {families[name] for name in HELD_OUT_FONTS}
    assert held_out == {"Arvo", "Space Mono"}
    assert not held_out & {families[name] for name in TRAINING_FONTS}


def test_the_file_of_every_font_is_of_the_style_it_is_named_for():
    for name in FONTS:
        if name.startswith("Computer Modern"):  # all of them call themselves Regular
            continue
        own = FT2Font(font_file(name))
        words = f"{own.family_name} {own.style_name}".replace("STIXGeneral", "STIX").split()
        assert set(words) - {"Book", "Regular"} == set(name.split()), name


@pytest.mark.parametrize("characters", [digits, ascii_uppercase])
def test_every_font_has_every_character_and_no_two_look_alike(characters):
    for name in FONTS:
        listed = FT2Font(font_file(name)).get_charmap()
        assert all(ord(character) in listed for character in digits + ascii_letters), name
        drawn = np.stack([np.asarray(glyph(name, c, height=18)) for c in characters]) / 255.0
        flat = drawn.reshape(len(characters), -1)
        assert flat.sum(1).min() > 10, name  # of 1,296 pixels: an I of the lightest font
        unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        alike = unit @ unit.T - np.eye(len(characters))
        assert alike.max() < 0.97, (name, characters[int(alike.max(0).argmax())])


def test_capitals_are_equally_high_and_in_the_middle():
    for name in FONTS:
        image = np.asarray(glyph(name, "H", height=40)) > 127
        assert image.shape == (80, 80)
        rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
        assert abs(rows[-1] - rows[0] + 1 - 40) <= 2, name
        assert abs(rows.mean() - 39.5) <= 1.5, name
        assert abs((columns[0] + columns[-1]) / 2 - 39.5) <= 1.5, name


def test_names_an_unknown_font_and_a_missing_package(monkeypatch):
    with pytest.raises(ValueError, match="no font is called 'Comic Sans'; the 46 fonts are"):
        font_file("Comic Sans")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match=r"fontpkg-arvo, which is not .*'\.\[fonts\]'"):
        font_file("Arvo")
    with pytest.raises(FileNotFoundError, match=r"matplotlib, which is not .*'\.\[bench\]'"):
        font_file("STIX")


@pytest.mark.parametrize("character", ["", "AB", "é", " ", "-"])
def test_draws_digits_and_plain_letters_alone(character):
    with pytest.raises(ValueError, match="single digits or letters without accents"):
        glyph("STIX", character, height=18)


def test_refuses_a_height_that_shows_nothing():
    with pytest.raises(ValueError, match="height must be at least 4 pixels, got 3"):
        glyph("STIX", "A", height=3)

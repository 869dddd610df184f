"""Fonts to draw characters with: those that come with matplotlib, and four families beside them.

    TRAINING_FONTS, HELD_OUT_FONTS          # names, such as "DejaVu Serif Bold Italic"
    glyph("Arvo", "A", height=32)           # its outline, filled, in the middle of a square

No font of a held-out family is a training font: Arvo and Space Mono are drawn unlike any of those,
and unlike each other. Every font has the ten digits and the letters a to z and A to Z.
"""

import functools
import importlib.util
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont


class _Family(NamedTuple):
    package: str
    folder: str
    """In the package."""
    faces: dict[str, str]
    """The file of each font, by name."""


def _named(stem: str, name: str, **styles: str) -> dict[str, str]:
    """Files of one family: `stem` with each suffix, the font called `name` with the style."""
    return {
        f"{name} {style.replace('_', ' ')}".removesuffix(" Regular"): f"{stem}{suffix}.ttf"
        for style, suffix in styles.items()
    }


_OBLIQUE = {"Regular": "", "Bold": "-Bold", "Oblique": "-Oblique", "Bold_Oblique": "-BoldOblique"}
_ITALIC = {
    "Regular": "-Regular", "Bold": "-Bold", "Italic": "-Italic", "Bold_Italic": "-BoldItalic"
}  # fmt: skip
_MATPLOTLIB = _Family(
    "matplotlib",
    "mpl-data/fonts/ttf",
    {
        **_named("DejaVuSans", "DejaVu Sans", **_OBLIQUE),
        **_named("DejaVuSansMono", "DejaVu Sans Mono", **_OBLIQUE),
        **_named("DejaVuSerif", "DejaVu Serif", **(_ITALIC | {"Regular": ""})),
        **_named(
            "STIXGeneral", "STIX", Regular="", Bold="Bol", Italic="Italic", Bold_Italic="BolIta"
        ),
        "Computer Modern Roman": "cmr10.ttf",
        "Computer Modern Bold": "cmb10.ttf",
        "Computer Modern Sans": "cmss10.ttf",
        "Computer Modern Italic": "cmti10.ttf",
        "Computer Modern Typewriter": "cmtt10.ttf",
    },
)
_CRIMSON = _Family(
    "fontpkg_crimson_text",
    "files",
    _named(
        "CrimsonText", "Crimson Text", **_ITALIC,
        SemiBold="-SemiBold", SemiBold_Italic="-SemiBoldItalic",
    ),
)  # fmt: skip
_TITILLIUM = _Family(
    "fontpkg_titillium_web",
    "files",
    _named(
        "TitilliumWeb", "Titillium Web", **_ITALIC,
        ExtraLight="-ExtraLight", ExtraLight_Italic="-ExtraLightItalic", Light="-Light",
        Light_Italic="-LightItalic", SemiBold="-SemiBold", SemiBold_Italic="-SemiBoldItalic",
        Black="-Black",
    ),
)  # fmt: skip
_ARVO = _Family("fontpkg_arvo", "files", _named("Arvo", "Arvo", **_ITALIC))
_SPACE = _Family("fontpkg_space_mono", "files", _named("SpaceMono", "Space Mono", **_ITALIC))

_TRAINING, _HELD_OUT = (_MATPLOTLIB, _CRIMSON, _TITILLIUM), (_ARVO, _SPACE)
_FAMILY_OF = {name: family for family in (*_TRAINING, *_HELD_OUT) for name in family.faces}

TRAINING_FONTS: tuple[str, ...] = tuple(name for family in _TRAINING for name in family.faces)
"""38 fonts of seven families: DejaVu Sans, Mono and Serif, STIX, Computer Modern, Crimson Text and
Titillium Web."""

HELD_OUT_FONTS: tuple[str, ...] = tuple(name for family in _HELD_OUT for name in family.faces)
"""Eight fonts of two other families: Arvo, with slab serifs, and Space Mono, of equal widths."""


def font_file(name: str) -> Path:
    """Where a font's file is; the package that holds it is not imported.

    Args:
        name: one of `TRAINING_FONTS` or `HELD_OUT_FONTS`.

    Raises:
        ValueError: if no font has this name.
        FileNotFoundError: if its package is not installed; it says which extra brings it.
    """
    if name not in _FAMILY_OF:
        raise ValueError(
            f"no font is called {name!r}; the {len(_FAMILY_OF)} fonts are those of TRAINING_FONTS "
            f"and HELD_OUT_FONTS, such as {TRAINING_FONTS[0]!r} and {HELD_OUT_FONTS[0]!r}."
        )
    family = _FAMILY_OF[name]
    found = importlib.util.find_spec(family.package)
    for place in (found.submodule_search_locations or []) if found else []:
        if (path := Path(place) / family.folder / family.faces[name]).is_file():
            return path
    extra = "bench" if family is _MATPLOTLIB else "fonts"
    raise FileNotFoundError(
        f"the font {name} comes with the package {family.package.replace('_', '-')}, which is not "
        f"installed: pip install '.[{extra}]'."
    )


@functools.lru_cache(maxsize=4096)
def glyph(name: str, character: str, *, height: int) -> Image.Image:
    """A character in black and white, in the middle of a square twice as high as a capital H.

    Args:
        name: of the font.
        character: a digit or an unaccented letter.
        height: of a capital H in every font, in pixels; at least 4.

    Returns:
        Grey levels, 255 where the character is; the middle of its bounding box is that of the
        square. Do not write to it: it is kept.

    Raises:
        ValueError: if the height or the font is unknown, or the character is no digit or letter.
        FileNotFoundError: as `font_file`.
    """
    if height < 4:
        raise ValueError(f"height must be at least 4 pixels, got {height}.")
    check_character(character)
    font = _of_height(str(font_file(name)), height)
    # Where a font says that a character ends is not where its ink does: an italic one overhangs.
    loose = _drawn(font, character, 4 * height, (height, 2.5 * height))
    left, top, right, bottom = loose.getbbox() or (0, 0, 0, 0)
    x, y = height - (left + right) / 2, height - (top + bottom) / 2
    return _drawn(font, character, 2 * height, (height + x, 2.5 * height + y))


def check_character(character: str) -> None:
    """Refuses, with a ValueError, what is no digit or unaccented letter."""
    if not (len(character) == 1 and character.isascii() and character.isalnum()):
        raise ValueError(
            f"characters are single digits or letters without accents, got {character!r}."
        )


def _drawn(
    font: ImageFont.FreeTypeFont, character: str, side: int, origin: tuple[float, float]
) -> Image.Image:
    """A character on a square, the left end of its baseline in one place."""
    image = Image.new("L", (side, side))
    ImageDraw.Draw(image).text(origin, character, fill=255, font=font, anchor="ls")
    return image


@functools.lru_cache(maxsize=256)
def _of_height(path: str, height: int) -> ImageFont.FreeTypeFont:
    """The font at the size at which a capital H is nearest to as high as asked."""
    # The plain layout engine: kerning and ligatures concern no single character, and the other one
    # is not in every build of Pillow.
    large = ImageFont.truetype(path, 1000, layout_engine=ImageFont.Layout.BASIC)
    _, top, _, bottom = large.getbbox("H")
    return large.font_variant(size=1000 * height / (bottom - top))

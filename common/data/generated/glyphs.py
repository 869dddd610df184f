r"""Characters drawn with a font a domain, in a style that goes with the label: differently in each.

    model = glyph_model(keys[0], draw_fonts(keys[1], 8))     # eight of `TRAINING_FONTS`
    train = model.sample(keys[2], 1000)                      # 1,000 images of each
    train.images, train.labels, train.domains, train.style
    new = glyph_model(keys[0], HELD_OUT_FONTS)               # the same world, other fonts
    new.tied(-1).sample(keys[3], 100)                        # style and label go apart

The graph is LaCIM's, D -> C; C -> (S, V); S -> Y; (S, V) -> X:

- s is the character, and the label y is s by its number. Nothing else says what an image shows.
- v is the font and four numbers, the style: `STYLE` says how each of them shapes the image. They
  cause the image and not the label, and they are known, so that it can be measured whether v is
  found.
- d decides p(s,v|d): which characters are frequent, the font, which is the same in all images of
  the domain, and how the style is distributed,

      $v_i | y, d \sim N(\mu_{di} + r_{di} t_{yi}, \sigma_{di}^2)$.

  The code $t_{yi} = \pm 1$ parts the characters into two halves, others for each number, and is
  the same in all domains; how far it is to be relied on, $r_{di} > 0$, is not. So the style
  says much about the label in every domain, and as much in no two.
- $p(x|s,v) = N(f(s,v), noise^2)$ is the same everywhere: f draws the character.

In a domain with $-r$ in place of r, p(y|s) and p(x|s,v) are those of training and the guess from
the style is wrong: a shift of correlation, which LaCIM's assumptions cover. A font that was not
seen in training is a value of v that no training domain had: p(x|s,v) is assumed to hold there too,
but nothing says what it is, and only fonts like it help.
"""

import dataclasses
import math
from collections.abc import Sequence
from string import ascii_uppercase, digits
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from common.data.generated.glyph_fonts import (
    HELD_OUT_FONTS,
    TRAINING_FONTS,
    check_character,
    font_file,
    glyph,
)
from common.seeds import host_generator

DIGITS, LETTERS = digits, ascii_uppercase
"""Ten classes, or 26."""

STYLE = ("size", "rotation", "shift", "ink")
"""The numbers v, of standard deviation about 1 over all domains.

A character is exp(0.12 v) times as large as one of size 0, turned anticlockwise by 10 v degrees,
and 0.06 v of the image's side to the right of its middle; its ink is 0.4 + 0.6 / (1 + exp(-v)).
"""

_GROWTH, _DEGREES, _SHIFT = 0.12, 10.0, 0.06
_PALE, _INK = 0.4, 0.6
_CAPITAL = 0.55  # height of a capital H of size 0, of the image's side
_FINER = 2  # pixels are averages over squares of this side
_MEAN, _SPREAD, _TIE = 0.5, (0.3, 0.8), (0.2, 1.0)
_CONCENTRATION = 5.0  # of the shares of characters: from half to twice their mean, mostly
_EVERY = (*TRAINING_FONTS, *HELD_OUT_FONTS)


class GlyphData(NamedTuple):
    """Images with what they were made of, in random order."""

    images: np.ndarray
    """float32, [n, side, side, 1]: ink from 0 to 1, and Gaussian noise."""
    labels: np.ndarray
    """int32, [n], counted from 0: which of the characters."""
    domains: np.ndarray
    """int32, [n], counted from 0: which of the fonts."""
    style: np.ndarray
    """float32, [n, 4]: v, by `STYLE`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlyphModel:
    """Fonts as domains, with all their parameters."""

    fonts: tuple[str, ...]
    """One a domain."""
    characters: str
    """One a class."""
    side: int
    """Of an image, in pixels."""
    noise: float
    """Standard deviation, of every pixel."""
    codes: np.ndarray
    """t, [classes, 4]: -1 or 1."""
    shares: np.ndarray
    """p(y|d), [domains, classes]."""
    mean: np.ndarray
    """mu, [domains, 4]."""
    sd: np.ndarray
    """sigma, [domains, 4]."""
    tie: np.ndarray
    """r, [domains, 4]: positive, where style and label go together."""

    def tied(self, factor: float) -> "GlyphModel":
        """The same domains, with r times a factor: -1 turns the tie about, 0 unties it."""
        return dataclasses.replace(self, tie=factor * self.tie)

    def style_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """E[v|d], [domains, 4], and Cov[v|d], [domains, 4, 4], for `lacim_jax.domain_diversity`.

        Off the diagonal is what two numbers share by the letter that both go with.
        """
        code_mean = self.shares @ self.codes
        second = np.einsum("dk,ki,kj->dij", self.shares, self.codes, self.codes)
        of_code = second - np.einsum("di,dj->dij", code_mean, code_mean)
        covariance = np.einsum("di,dij,dj->dij", self.tie, of_code, self.tie)
        return (
            self.mean + self.tie * code_mean,
            covariance + self.sd[:, :, None] ** 2 * np.eye(len(STYLE)),
        )

    def correlations(self) -> np.ndarray:
        """The correlation of each number with its code in each domain: [domains, 4]."""
        variance = np.einsum("dii->di", self.style_moments()[1])
        return self.tie * np.sqrt((1 - (self.shares @ self.codes) ** 2) / variance)

    def sample(self, key: jax.Array, size: int) -> GlyphData:
        """Draws `size` images of each domain.

        Args:
            key: a typed PRNG key, scalar; a domain's images depend on it and on the font, and not
                on which other domains there are.
            size: at least 1.

        Raises:
            ValueError: if the size is not positive.
        """
        if size < 1:
            raise ValueError(f"size must be at least 1 image of each font, got {size}.")
        parts = [self._of_domain(key, d, size) for d in range(len(self.fonts))]
        images, labels, domains, style = (np.concatenate(c) for c in zip(*parts, strict=True))
        order = host_generator(key).permutation(len(labels))
        return GlyphData(images[order], labels[order], domains[order], style[order])

    def _of_domain(self, key: jax.Array, d: int, size: int) -> GlyphData:
        rng = host_generator(jax.random.fold_in(key, _EVERY.index(self.fonts[d])))
        labels = rng.choice(len(self.characters), size, p=self.shares[d])
        style = self.mean[d] + self.tie[d] * self.codes[labels]
        style = style + self.sd[d] * rng.normal(size=style.shape)
        images = np.stack(
            [
                render(self.fonts[d], self.characters[y], v, side=self.side)
                for y, v in zip(labels, style, strict=True)
            ]
        )
        images = images[..., None] + self.noise * rng.normal(size=(*images.shape, 1))
        return GlyphData(
            images.astype(np.float32),
            labels.astype(np.int32),
            np.full(size, d, np.int32),
            style.astype(np.float32),
        )


def render(
    font: str, character: str, style: Sequence[float] | np.ndarray, *, side: int
) -> np.ndarray:
    """f(s, v): a character in a font and a style, without noise.

    Args:
        font: its name.
        character: a digit or an unaccented letter.
        style: the four numbers of `STYLE`.
        side: of the image, in pixels.

    Returns:
        float64, [side, side], 0 where there is no ink.
    """
    size, rotation, shift, ink = (float(v) for v in style)
    fine = _FINER * side
    flat = glyph(font, character, height=round(_CAPITAL * fine))
    angle, scale = math.radians(_DEGREES * rotation), math.exp(_GROWTH * size)
    # Of every pixel of the image the place in the upright character: the inverse of what is done
    # to the character. Rows count downwards.
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    x, y = fine / 2 + _SHIFT * fine * shift, fine / 2
    middle = flat.width / 2
    place = (cos, -sin, middle - cos * x + sin * y, sin, cos, middle - sin * x - cos * y)
    drawn = flat.transform(
        (fine, fine), Image.Transform.AFFINE, place, Image.Resampling.BILINEAR
    ).reduce(_FINER)
    return np.asarray(drawn) / 255 * (_PALE + _INK / (1 + math.exp(-ink)))


def draw_fonts(key: jax.Array, count: int) -> tuple[str, ...]:
    """Some of the training fonts, in random order: the first of more are the same fonts.

    Args:
        key: a typed PRNG key, scalar.
        count: from 1 to as many as there are, 38.

    Raises:
        ValueError: if there are not as many.
    """
    if not 1 <= count <= len(TRAINING_FONTS):
        raise ValueError(
            f"there are {len(TRAINING_FONTS)} training fonts, so count must be from 1 to "
            f"{len(TRAINING_FONTS)}, got {count}."
        )
    order = host_generator(key).permutation(len(TRAINING_FONTS))[:count]
    return tuple(TRAINING_FONTS[i] for i in order)


def glyph_model(
    key: jax.Array,
    fonts: Sequence[str],
    *,
    characters: str = LETTERS,
    side: int = 16,
    noise: float = 0.1,
) -> GlyphModel:
    r"""Draws how style and label are distributed in each of several fonts.

    $\mu_{di} \sim N(0, 0.5^2)$, $\sigma_{di} \sim U(0.3, 0.8)$, $r_{di} \sim U(0.2, 1)$, and the
    shares of the characters from a Dirichlet distribution of concentration 5.

    Args:
        key: a typed PRNG key, scalar; what is drawn for a font depends on it and on the font alone.
        fonts: one a domain, by name; no font twice.
        characters: one a class, digits or unaccented letters, at least two, none twice.
        side: of an image, in pixels, at least 8.
        noise: standard deviation of a pixel, at least 0.

    Raises:
        ValueError: if fonts or characters are unknown, too few, or named twice, or a number is out
            of range.
        FileNotFoundError: if the package with a font is not installed; it says which extra brings
            it.

    Example:
        >>> model = glyph_model(jax.random.key(0), ["STIX", "Arvo"], characters="0123456789")
        >>> data = model.sample(jax.random.key(1), 5)
        >>> data.images.shape, data.style.shape, sorted(data.domains.tolist())[4:6]
        ((10, 16, 16, 1), (10, 4), [0, 1])
    """
    fonts = tuple(fonts)
    _check(fonts, characters, side, noise)
    generator, classes = host_generator(key), len(characters)
    half = np.resize([1.0, -1.0], classes)
    codes = np.stack([generator.permutation(half) for _ in STYLE], axis=1)
    keys = [jax.random.fold_in(key, _EVERY.index(font)) for font in fonts]
    shares, mean, sd, tie = (
        np.stack(each) for each in zip(*(_parameters(k, classes) for k in keys), strict=True)
    )
    return GlyphModel(
        fonts=fonts, characters=characters, side=side, noise=noise, codes=codes, shares=shares,
        mean=mean, sd=sd, tie=tie,
    )  # fmt: skip


def _parameters(key: jax.Array, classes: int) -> tuple[np.ndarray, ...]:
    """p(y|d), mu, sigma and r of one domain."""
    rng, numbers = host_generator(key), len(STYLE)
    return (
        rng.dirichlet(np.full(classes, _CONCENTRATION)),
        _MEAN * rng.normal(size=numbers),
        rng.uniform(*_SPREAD, numbers),
        rng.uniform(*_TIE, numbers),
    )


def _check(fonts: Sequence[str], characters: str, side: int, noise: float) -> None:
    """Refuses what no domains can be made of."""
    for font in fonts:
        font_file(font)
    for character in characters:
        check_character(character)
    for kind, given, least in (("font", fonts, 1), ("character", characters, 2)):
        twice = sorted({each for each in given if list(given).count(each) > 1})
        if len(given) < least or twice:
            came = f"{', '.join(map(repr, twice))} twice" if twice else f"{len(given)}"
            raise ValueError(f"at least {least} {kind}s are needed, none twice, got {came}.")
    if side < 8 or not (noise >= 0 and math.isfinite(noise)):
        raise ValueError(
            f"side must be at least 8 pixels and noise at least 0, got {side} and {noise}."
        )

"""Structural causal models that end in an image: the digit is s; colour, place and background v.

    model = rendered_model(keys.data, num_domains=3)
    data = render(other_key, load("mnist5k", "train"), model, 500)
    data.images, data.labels, data.digits, data.v

The graph is D -> C; C -> (S, V); S -> Y; (S, V) -> X: what the domains change is how often C takes
its values, and with it how often which digit comes in which style.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import numpy as np

from common.data import Dataset
from common.seeds import host_generator

Style = Literal["colour", "position", "background", "all"]

_STYLE_DIMS = {"colour": 1, "position": 2, "background": 1, "all": 4}

_DIGITS = 10


class RenderedData(NamedTuple):
    """Images with their latents, domain after domain."""

    images: np.ndarray
    """float32, [n, height, width, 3], 0 to 1."""
    labels: np.ndarray
    """int32, [n]: y, 0 for digits below 5 and 1 for the others, flipped where there is noise."""
    domains: np.ndarray
    """int32, [n], counted from 0."""
    digits: np.ndarray
    """int32, [n], 0 to 9: s. How the digit is written is part of the noise of x."""
    v: np.ndarray
    """float32, [n, v_dim]: colour, place across, place down, background, as far as they vary."""
    c: np.ndarray
    """int32, [n], or float32 where C is continuous."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderedModel:
    r"""One structural causal model of images, all its parameters known.

    - Discrete C, of K values: $p(c|d) = \pi_d$; $p(s|c)$ any distribution over the digits;
      $v \sim N(m_c, diag(t_c^2))$. s and v are independent given c.
    - Continuous C: $c \sim N(m_d, t_d^2)$; $p(s|c) \propto \exp(c \cdot a_s)$ with scores $a_s$
      from -1 for digit 0 to 1 for digit 9; $v \sim N(c \cdot b, 0.3^2)$ with signs b.
    - $y = 1$ if s is 5 or more, flipped with probability `label_noise`.
    """

    style: Style
    digit_shares: np.ndarray | None
    """p(s|c), [values, 10]; None where C is continuous."""
    style_mean: np.ndarray
    """m_c, [values, v_dim]; b, [1, v_dim], where C is continuous."""
    style_sd: np.ndarray
    """t_c, likewise."""
    shares: np.ndarray
    """p(c|d), [num_domains, values]; mean and standard deviation of c, [num_domains, 2], where C is
    continuous."""
    label_noise: float

    @property
    def num_domains(self) -> int:
        """How many domains there are."""
        return len(self.shares)

    @property
    def v_dim(self) -> int:
        """How many numbers v has."""
        return _STYLE_DIMS[self.style]


def rendered_model(
    key: jax.Array,
    *,
    num_domains: int,
    style: Style = "all",
    confounder: Literal["continuous", "discrete"] = "discrete",
    num_values: int = 4,
    label_noise: float = 0.0,
) -> RenderedModel:
    """Draws a structural causal model of images; one with fewer domains has the first of another.

    Args:
        key: a typed PRNG key, scalar.
        num_domains: at least 1.
        style: what v is.
        confounder: of which kind C is.
        num_values: K, of a discrete C; at least 2.
        label_noise: probability of a flipped label.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> rendered_model(jax.random.key(0), num_domains=3, style="colour").shares.shape
        (3, 4)
    """
    if style not in _STYLE_DIMS:
        raise ValueError(f"style must be one of {', '.join(_STYLE_DIMS)}, got {style!r}.")
    if confounder not in ("continuous", "discrete"):
        raise ValueError(f"confounder must be 'continuous' or 'discrete', got {confounder!r}.")
    if num_domains < 1 or num_values < 2 or not 0 <= label_noise <= 1:
        raise ValueError(
            "num_domains must be at least 1, num_values at least 2 and label_noise a probability, "
            f"got {num_domains}, {num_values} and {label_noise:g}."
        )
    keys = jax.random.split(key)
    rng, domain_rng = host_generator(keys[0]), host_generator(keys[1])
    v_dim = _STYLE_DIMS[style]
    if confounder == "continuous":
        signs = rng.choice([-1.0, 1.0], size=(1, v_dim))
        # One domain after the other, so that the first do not depend on how many there are.
        each = [[domain_rng.normal(), domain_rng.uniform(0.5, 1.5)] for _ in range(num_domains)]
        spread = np.full((1, v_dim), 0.3)
        return RenderedModel(
            style=style, digit_shares=None, style_mean=signs, style_sd=spread,
            shares=np.asarray(each), label_noise=label_noise,
        )  # fmt: skip
    return RenderedModel(
        style=style,
        digit_shares=rng.dirichlet(np.full(_DIGITS, 0.5), size=num_values),
        style_mean=rng.normal(size=(num_values, v_dim)),
        style_sd=rng.uniform(0.3, 0.8, size=(num_values, v_dim)),
        shares=domain_rng.dirichlet(np.full(num_values, 0.5), size=num_domains),
        label_noise=label_noise,
    )


def render(key: jax.Array, digits: Dataset, model: RenderedModel, size: int) -> RenderedData:
    r"""Draws latents, and an image for each: one of the digits given, in the style that v tells.

    With $\sigma$ the logistic function: colour 0 is red, 1 green, at $\sigma(v)$ between them; a
    place moves the digit by up to a seventh of the image, $2 \sigma(v) - 1$ of it, across and down;
    the background is blue of brightness $\sigma(v) / 2$. What does not vary is white, central and
    black.

    Args:
        key: a typed PRNG key, scalar.
        digits: images of all ten, uint8 [n, height, width, 1]; each may be drawn more than once.
        model: the causal model.
        size: examples of each domain.

    Returns:
        `num_domains * size` examples.

    Raises:
        ValueError: if size is not positive, or the data set lacks a digit.

    Example:
        >>> from common.data import load
        >>> model = rendered_model(jax.random.key(0), num_domains=2)
        >>> data = render(jax.random.key(1), load("digits8x8", "train"), model, 20)
        >>> data.images.shape, data.v.shape
        ((40, 8, 8, 3), (40, 4))
    """
    if size < 1:
        raise ValueError(f"size, the examples of each domain, must be positive, got {size}.")
    places = [np.flatnonzero(digits.labels == digit) for digit in range(_DIGITS)]
    lacking = [digit for digit, own in enumerate(places) if not own.size]
    if lacking:
        raise ValueError(f"the data set must have every digit, 0 to 9; there is no {lacking}.")
    rng = host_generator(key)
    domains = np.repeat(np.arange(model.num_domains), size)
    n = domains.size
    if model.digit_shares is None:
        c = (model.shares[domains] * np.stack([np.ones(n), rng.normal(size=n)], axis=1)).sum(1)
        scores = np.linspace(-1, 1, _DIGITS)
        logits = c[:, None] * scores
        mean, sd = c[:, None] * model.style_mean, np.broadcast_to(model.style_sd, (n, model.v_dim))
        c = c.astype(np.float32)
    else:
        c = _categorical(rng, model.shares[domains]).astype(np.int32)
        logits = np.log(np.maximum(model.digit_shares[c], 1e-30))
        mean, sd = model.style_mean[c], model.style_sd[c]
    digit = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    v = mean + sd * rng.normal(size=mean.shape)
    chosen = np.asarray([rng.choice(places[k]) for k in digit])
    flipped = rng.uniform(size=n) < model.label_noise
    return RenderedData(
        images=_paint(digits.images[chosen, ..., 0].astype(np.float32) / 255, v, model.style),
        labels=((digit >= 5) ^ flipped).astype(np.int32),
        domains=domains.astype(np.int32),
        digits=digit.astype(np.int32),
        v=v.astype(np.float32),
        c=c,
    )


def _categorical(rng: np.random.Generator, shares: np.ndarray) -> np.ndarray:
    """One draw from each row."""
    return (np.log(np.maximum(shares, 1e-30)) + rng.gumbel(size=shares.shape)).argmax(1)


def _paint(grey: np.ndarray, v: np.ndarray, style: Style) -> np.ndarray:
    """Images [n, height, width, 3] of strokes [n, height, width], 0 to 1."""
    n, side = grey.shape[:2]
    share = 1 / (1 + np.exp(-v))
    colour = np.ones((n, 3))
    background = np.zeros(n)
    if style in ("colour", "all"):
        colour = np.stack([1 - share[:, 0], share[:, 0], np.zeros(n)], axis=1)
    if style in ("position", "all"):
        first = 1 if style == "all" else 0
        reach = side / 7
        grey = _moved(grey, reach * (2 * share[:, first : first + 2] - 1))
    if style in ("background", "all"):
        background = share[:, -1] / 2
    image = grey[..., None] * colour[:, None, None, :]
    image[..., 2] += (1 - grey) * background[:, None, None]
    return image.astype(np.float32)


def _moved(grey: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Moves by [n, 2] pixels, across and down, bilinear: the shift is seen in fractions too."""
    for axis in (0, 1):  # across is the last axis of the image
        whole = np.floor(shift[:, axis]).astype(int)
        rest = (shift[:, axis] - whole)[:, None, None]
        index = np.arange(grey.shape[2 - axis])
        near, far = (
            _taken(grey, index[None] - whole[:, None] - extra, 2 - axis) for extra in (0, 1)
        )
        grey = (1 - rest) * near + rest * far
    return grey


def _taken(grey: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    """The columns or rows [n, side] of each image; black beyond its edge."""
    inside = (index >= 0) & (index < grey.shape[axis])
    expand = (slice(None), None) if axis == 2 else (slice(None), slice(None), None)
    taken = np.take_along_axis(grey, index.clip(0, grey.shape[axis] - 1)[expand], axis)
    return taken * inside[expand]

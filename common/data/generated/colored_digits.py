"""Coloured digits: a two-class problem in which a colour agrees with the label in training.

    domains = colored_domains(keys.data, load("mnist5k", "train"), load("mnist5k", "test"))
    domains.train.images, domains.train.labels, domains.train.domains
    domains.test                                        # there the colour agrees with few labels

The digit decides the label, below 5 or not. The colour agrees with the label more or less often,
depending on the domain, and is easier to see; in the test domain it mostly disagrees. There are two
published versions, which differ in `label_noise`. Without it, the digit is the better predictor;
with a quarter of the labels flipped before the colour is drawn from them, the colour is, and a
classifier that minimises its error on the training domains prefers it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.typing
import numpy as np

from common.data import Dataset, as_float, train_validation_split
from common.seeds import host_generator


class ColoredDigits(NamedTuple):
    """Coloured images of one or several domains."""

    images: jax.Array
    """float32, [n, height, width, 2], 0 to 1: a red and a green channel, one of them black. A blue
    one would be black in every image, and cost a third of the work; `as_rgb` adds it to look at."""
    labels: jax.Array
    """int32, [n]: 0 for digits below 5, 1 for the others, flipped where there is label noise."""
    colors: jax.Array
    """int32, [n]: 0 for red, 1 for green."""
    domains: jax.Array
    """int32, [n], counted from 0."""
    digits: jax.Array
    """int32, [n], 0 to 9: what is drawn, whatever the label says."""


class ColoredDomains(NamedTuple):
    """Training domains with validation images of their own, and the test domain."""

    train: ColoredDigits
    """Domain d has the d-th correlation; domains are equally large up to one image."""
    validation: ColoredDigits
    """Other images, dealt out and coloured in the same way."""
    test: ColoredDigits
    """One domain, its index that after the last training domain's."""


def color_digits(
    key: jax.Array,
    images: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    correlation: jax.typing.ArrayLike,
    label_noise: float = 0.0,
    domains: jax.typing.ArrayLike = 0,
) -> ColoredDigits:
    """Colours digits red or green, the colour agreeing with the label with a given probability.

    The label is whether the digit is 5 or more; it is flipped with probability `label_noise`; the
    colour's index equals the label so obtained with probability `correlation`.

    Args:
        key: a typed PRNG key, scalar.
        images: uint8, [n, height, width, 1].
        labels: the digits, integers, [n], 0 to 9.
        correlation: probability that colour and label agree, 0 to 1; a scalar, or one for each
            image, [n].
        label_noise: probability of a flipped label, 0 to 1.
        domains: recorded as they are; a scalar, or [n].

    Returns:
        The coloured images, in the order given.

    Raises:
        TypeError: if the images are not uint8.
        ValueError: if shapes do not fit, or digits or probabilities are out of range.

    Example:
        >>> images, digits = np.full((4, 28, 28, 1), 255, np.uint8), np.array([0, 4, 5, 9])
        >>> colored = color_digits(jax.random.key(0), images, digits, correlation=1.0)
        >>> colored.labels, colored.colors
        (Array([0, 0, 1, 1], dtype=int32), Array([0, 0, 1, 1], dtype=int32))
        >>> colored.images[0, 0, 0], colored.images[3, 0, 0]
        (Array([1., 0.], dtype=float32), Array([0., 1.], dtype=float32))

    References:
        Arjovsky et al., *Invariant risk minimization*, 2019, section 5.2, where the label is
        flipped with probability 0.25 and the correlations are 0.8 and 0.9, and 0.1 in test.
    """
    grey, digits = as_float(images), jnp.asarray(labels)
    _check(grey, digits, np.asarray(correlation), label_noise)
    n = digits.shape[0]
    flip_key, color_key = jax.random.split(key)
    flipped = jax.random.bernoulli(flip_key, label_noise, (n,))
    agrees = jax.random.bernoulli(color_key, jnp.asarray(correlation, jnp.float32), (n,))
    # Of two classes: `^` flips where its right side is true.
    label = (digits >= 5) ^ flipped
    color = label ^ ~agrees
    channels = jnp.stack([~color, color], axis=-1).astype(grey.dtype)
    return ColoredDigits(
        images=grey * channels[:, None, None, :],
        labels=label.astype(jnp.int32),
        colors=color.astype(jnp.int32),
        domains=jnp.broadcast_to(jnp.asarray(domains, jnp.int32), (n,)),
        digits=digits.astype(jnp.int32),
    )


def colored_domains(
    key: jax.Array,
    train: Dataset,
    test: Dataset,
    *,
    correlations: Sequence[float] = (0.9, 0.8),
    test_correlation: float = 0.1,
    label_noise: float = 0.0,
    validation_fraction: float = 0.1,
) -> ColoredDomains:
    """Training domains that differ in how well the colour predicts, and one in which it misleads.

    Args:
        key: a typed PRNG key, scalar, for instance the stream `data` of `common.seeds`.
        train: digits for the training domains; each image goes to one of them.
        test: other digits, for the test domain.
        correlations: of the training domains, at least one.
        test_correlation: of the test domain.
        label_noise: share of flipped labels, in every domain.
        validation_fraction: share of `train` held out, of every digit alike.

    Returns:
        Training, validation and test images.

    Raises:
        ValueError: if there is no training domain, images are not [n, height, width, 1], or digits
            or probabilities are out of range.
    """
    if not correlations:
        raise ValueError("there must be at least one training domain, got no correlation.")
    keys = jax.random.split(key, 5)
    kept, held_out = train_validation_split(train, keys[0], fraction=validation_fraction)

    def dealt(dataset: Dataset, deal_key: jax.Array, color_key: jax.Array) -> ColoredDigits:
        # As many images for each domain as for any other, up to one.
        turns = np.arange(len(dataset.labels)) % len(correlations)
        domains = host_generator(deal_key).permutation(turns)
        return color_digits(
            color_key,
            dataset.images,
            dataset.labels,
            correlation=np.asarray(correlations, np.float32)[domains],
            label_noise=label_noise,
            domains=domains,
        )

    deal_keys = jax.random.split(keys[1])
    return ColoredDomains(
        train=dealt(kept, deal_keys[0], keys[2]),
        validation=dealt(held_out, deal_keys[1], keys[3]),
        test=color_digits(
            keys[4],
            test.images,
            test.labels,
            correlation=test_correlation,
            label_noise=label_noise,
            domains=len(correlations),
        ),
    )


def without_color(colored: ColoredDigits) -> ColoredDigits:
    """The same digits and labels with both channels alike: what a colour-blind observer sees.

    Training on them gives a ceiling for methods that train on the coloured ones and do not know
    about colours.

    Args:
        colored: coloured digits.

    Returns:
        The same, but for the images; their brightness, summed over channels, is kept.
    """
    grey = colored.images.sum(-1, keepdims=True) / 2
    return colored._replace(images=jnp.broadcast_to(grey, colored.images.shape))


def as_rgb(images: jax.typing.ArrayLike) -> np.ndarray:
    """Red and green images with the blue channel that pictures want.

    Args:
        images: floating-point, [..., 2], 0 to 1.

    Returns:
        [..., 3], blue 0.
    """
    array = np.asarray(images)
    return np.concatenate([array, np.zeros_like(array[..., :1])], axis=-1)


def _check(
    images: jax.Array, digits: jax.Array, correlation: np.ndarray, label_noise: float
) -> None:
    if images.ndim != 4 or images.shape[-1] != 1:
        raise ValueError(
            f"digits to be coloured must have shape [n, height, width, 1], got {images.shape}."
        )
    if digits.shape != images.shape[:1] or not jnp.issubdtype(digits.dtype, jnp.integer):
        raise ValueError(
            f"there must be one integer label per image, [{images.shape[0]}], got "
            f"{digits.dtype}{list(digits.shape)}."
        )
    if int(digits.min()) < 0 or int(digits.max()) > 9:
        raise ValueError(
            "labels must be the digits 0 to 9, from which the two classes are made, got "
            f"{int(digits.min())} to {int(digits.max())}."
        )
    if correlation.shape not in ((), digits.shape):
        raise ValueError(
            f"correlation must be one number, or one per image, [{digits.size}], got shape "
            f"{correlation.shape}."
        )
    for name, value in (("correlation", correlation), ("label_noise", np.asarray(label_noise))):
        if not ((value >= 0) & (value <= 1)).all():
            raise ValueError(f"{name} is a probability, 0 to 1, got {value}.")

"""The weight of the label's term by default: what there is to be explained decides."""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from lacim_jax.model.checks import check_weight, logits_shape
from lacim_jax.model.lacim import Examples, LaCIM, Variables
from lacim_jax.model.likelihoods import CATEGORICAL, Likelihood

LabelWeight = optax.ScalarOrSchedule | Literal["balanced"]
"""What a loss takes as the weight of its label's term."""
LABEL_SHARE = 8.0
"""How much more a share of the label's nats counts than the same share of the image's."""
LEAST_LABEL_WEIGHT = 50.0
"""At which a nat of the label outweighs what its latents cost in divergence."""
_LEAST_NATS = 0.01
"""Taken for the entropy of labels that are all but equal."""


def balanced_weight(model: LaCIM, examples: Examples) -> Float[Array, ""]:
    r"""The weight of the label's term by what there is to be explained in a training set.

    With $R_x$ the nats by which the best parameters that are the same for all images fall short of
    each image's own, and $R_y$ likewise of labels, their entropy,

        $\max(50, 8 R_x / R_y)$.

    Work it out once, from the whole training set, as `fit` does, and give it to `lacim_loss`. A
    weight of each batch by itself would be large where a batch has few classes, and small where
    a rare one is in it: rare classes would be predicted more seldom than they are.

    Args:
        model: whose likelihoods say what there is to be explained.
        examples: the training set; domains are not used.

    Returns:
        At least 50.

    Raises:
        ValueError: if a likelihood does not say it.

    Example:
        >>> from lacim_jax import MLP, MLPDecoder, MLPEncoder
        >>> model = LaCIM(MLPEncoder((8,)), MLPDecoder((8, 8), (8,)), MLP((2,)), num_domains=1)
        >>> labels = jnp.asarray([0, 0, 1, 1])
        >>> images = jnp.tile(labels[:, None, None].astype(jnp.float32), (1, 8, 8))
        >>> round(float(balanced_weight(model, Examples(images, labels, labels))))  # 8 * 64 pixels
        512
    """
    pixels, labels = _unexplained(model.likelihood, model.label_likelihood)
    return _weight(pixels(examples.images), labels(examples.labels))


def weight_of_batch(model: LaCIM, variables: Variables, examples: Examples) -> Float[Array, ""]:
    """The weight where only a batch is known: as if all classes were equally frequent.

    Args:
        model: as in `balanced_weight`.
        variables: its variables, which say how many classes there are.
        examples: a batch; its labels are not looked at.
    """
    (classes,) = logits_shape(model, variables)
    return weight_of_classes(model.likelihood, examples.images, classes)


def weight_of_classes(
    likelihood: Likelihood, images: Float[Array, " batch *image"], classes: int
) -> Float[Array, ""]:
    """The weight of a term that tells apart classes, taken to be equally frequent.

    Args:
        likelihood: of the images; it says what there is to be explained.
        images: of a batch.
        classes: how many there are.
    """
    pixels, _ = _unexplained(likelihood, CATEGORICAL)
    return _weight(pixels(images), math.log(classes))


def check_label_weight(
    weight: LabelWeight,
    likelihood: Likelihood,
    label_likelihood: Likelihood,
    *,
    name: str = "label_weight",
) -> None:
    """Refuses a weight that is none, or one to be balanced where batches do not say how.

    Args:
        weight: a number, a schedule, or "balanced".
        likelihood: of the images.
        label_likelihood: of the labels.
        name: of the argument, for the message.

    Raises:
        ValueError: if the weight is negative, not finite or another word, or is to be balanced and
            a likelihood does not say what there is to be explained, or labels are real numbers, of
            whose spread a batch tells too little.
    """
    if not isinstance(weight, str):
        check_weight(name, weight)
        return
    if weight != "balanced":
        raise ValueError(f'{name} is a number, a schedule or "balanced", got "{weight}".')
    _unexplained(likelihood, label_likelihood)
    if label_likelihood is not CATEGORICAL:
        raise ValueError(
            "a balanced label_weight needs categorical labels, whose number of classes is known, "
            "but got another label likelihood; for real-valued labels give "
            "label_weight=balanced_weight(model, data), data being the whole training set."
        )


def _unexplained(*likelihoods: Likelihood) -> list[Callable[[jax.Array], jax.Array]]:
    """Of images and of labels, the nats that there are to be explained."""
    families = [likelihood.unexplained for likelihood in likelihoods]
    known = [family for family in families if family is not None]
    if len(known) < len(families):
        raise ValueError(
            "a balanced label_weight needs likelihoods that say what there is to be explained, but "
            "one has no `unexplained`; give it, or a number as label_weight."
        )
    return known


def _weight(pixels: jax.Array, labels: ArrayLike) -> Float[Array, ""]:
    nats = jnp.maximum(jnp.asarray(labels, pixels.dtype), _LEAST_NATS)
    return jnp.maximum(LABEL_SHARE * pixels / nats, LEAST_LABEL_WEIGHT)

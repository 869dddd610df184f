"""Checks of a model's input, on the host and before anything is compiled."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.typing import ArrayLike

from lacim_jax.model.lacim import Examples, LaCIM, Variables, apply
from lacim_jax.model.likelihoods import CATEGORICAL


def check_examples(model: LaCIM, variables: Variables, examples: Examples) -> None:
    """Refuses a training set that the model cannot be trained on; call it once, before training.

    Args:
        model: the model to be trained.
        variables: its initial variables.
        examples: the whole training set.

    Raises:
        ValueError: if shapes do not fit, there is no example, a pixel, a label or a domain is out
            of range, or a domain of a model with several has no example.

    Example:
        >>> from lacim_jax import MLP, MLPDecoder, MLPEncoder
        >>> model = LaCIM(MLPEncoder((8,)), MLPDecoder((2, 2)), MLP((2,)), num_domains=2)
        >>> images, labels = jnp.zeros((3, 2, 2)), jnp.asarray([0, 1, 1])
        >>> examples = Examples(images, labels, domains=jnp.asarray([0, 0, 0]))
        >>> variables = jax.jit(model.init)(jax.random.key(0), images, examples.domains)
        >>> check_examples(model, variables, examples)
        Traceback (most recent call last):
            ...
        ValueError: every one of the model's 2 domains needs examples, got some of domains [0] only;
        add the others' data, or use num_domains=1 (Pool-LaCIM), one prior for all.
    """
    check_batch(model, variables, examples)
    present = np.unique(np.asarray(examples.domains))
    if len(present) < model.num_domains:
        raise ValueError(
            f"every one of the model's {model.num_domains} domains needs examples, got some of "
            f"domains {present.tolist()} only; add the others' data, or use num_domains=1 "
            "(Pool-LaCIM), one prior for all."
        )


def check_batch(model: LaCIM, variables: Variables, examples: Examples) -> None:
    """Refuses a batch that the model would misread; a traced batch, of unknown values, passes.

    Args:
        model: the model.
        variables: its variables.
        examples: a batch, in which a domain may be missing.

    Raises:
        ValueError: if shapes do not fit, there is no example, or a pixel, a label or a domain is
            out of range.
    """
    # Under jit there are no values to look at: whoever traces has checked before.
    if any(isinstance(leaf, Tracer) for leaf in examples):
        return
    images, labels, domains = map(np.asarray, examples)
    if not len(images) == len(labels) == len(domains):
        raise ValueError(
            "images, labels and domains must have one entry per example, got "
            f"{len(images)}, {len(labels)} and {len(domains)}."
        )
    check_images(model, variables, images)
    model.label_likelihood.check(logits_shape(model, variables), labels)
    check_domains(model, domains)


def check_held_out(model: LaCIM, variables: Variables, examples: Examples) -> None:
    """Refuses held-out examples that the model would misread; their domains are not looked at.

    Args:
        model: the model.
        variables: its variables.
        examples: images and labels.

    Raises:
        ValueError: if shapes do not fit, there is no example, or a pixel or a label is out of
            range.
    """
    domains = np.zeros(len(examples.images), np.int32)
    check_batch(model, variables, examples._replace(domains=domains))


def check_categorical(model: LaCIM) -> None:
    """Refuses a model whose labels have no probabilities.

    Args:
        model: the model.

    Raises:
        ValueError: if its label likelihood is not categorical.
    """
    if model.label_likelihood is not CATEGORICAL:
        raise ValueError(
            "predictions are probabilities of classes, but the model's label likelihood is not "
            "CATEGORICAL; call infer, and classify(latents.s) through model.apply."
        )


def check_images(model: LaCIM, variables: Variables, images: np.ndarray) -> None:
    """Refuses images that the model has no density for.

    Args:
        model: the model.
        variables: its variables.
        images: [batch, ...].

    Raises:
        ValueError: if there is no image, their shape is not that of the decoder's output, or a
            pixel is out of the likelihood's range.
    """
    if len(images) == 0:
        raise ValueError("there must be at least one example, got none.")
    latents = jnp.zeros((1, model.s_dim + model.v_dim))
    model.likelihood.check(_output_shape(model, variables, "decode", latents), images)


def check_weight(name: str, value: optax.ScalarOrSchedule | ArrayLike) -> None:
    """Refuses a weight that is a number and negative or not finite.

    Args:
        name: of the argument, for the message.
        value: the weight, Python's, NumPy's or jax's; schedules, traced numbers and arrays of
            several pass unchecked.

    Raises:
        ValueError: if it is a number below 0, infinite or NaN, or no number.
    """
    if callable(value) or isinstance(value, Tracer):
        return
    known = isinstance(value, int | float | np.number | np.ndarray | jax.Array)
    if not known or (np.ndim(value) == 0 and not 0 <= float(value) < math.inf):
        raise ValueError(
            f"{name} must be at least 0, a finite number or a schedule, got {value!r}."
        )


def check_chunk_size(size: int) -> None:
    """Refuses a number of images at once that is none.

    Args:
        size: how many.

    Raises:
        ValueError: if it is no whole number, or below 1.
    """
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"chunk_size must be a whole number of images, at least 1, got {size!r}.")


def check_domains(model: LaCIM, domains: np.ndarray) -> None:
    """Refuses domains that the model has no prior for.

    Args:
        model: the model.
        domains: [batch].

    Raises:
        ValueError: if they are not whole numbers below `num_domains`, one for each example.
    """
    remedy = (
        "a domain that was not trained has no prior: use infer or predict, which need no domain"
    )
    check_codes(domains, model.num_domains, remedy)


def check_codes(domains: ArrayLike, num_domains: int, remedy: str) -> None:
    """Refuses domains that are none of those there are; traced ones, of unknown values, pass.

    Args:
        domains: [batch].
        num_domains: how many there are.
        remedy: what to do about it, for the message.

    Raises:
        ValueError: if they are not whole numbers below `num_domains`, one for each example.
    """
    if isinstance(domains, Tracer):
        return
    codes = np.asarray(domains)
    if codes.ndim != 1 or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(
            f"domains must be integers of shape [batch], got {codes.dtype}{list(codes.shape)}."
        )
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= num_domains:
        raise ValueError(
            f"domains must lie between 0 and num_domains - 1 = {num_domains - 1}, got {low} to "
            f"{high}; {remedy}."
        )


def check_compared(domains: ArrayLike, num_domains: int) -> None:
    """Refuses domains that a loss which compares domains does not count.

    Args:
        domains: [batch]; traced ones pass.
        num_domains: how many the loss compares.

    Raises:
        ValueError: if any is out of range.
    """
    check_codes(
        domains,
        num_domains,
        "give the loss as many num_domains as there are, or coded(domains).codes",
    )


def logits_shape(model: LaCIM, variables: Variables) -> tuple[int, ...]:
    """The shape of the classifier's output for one example.

    Args:
        model: the model.
        variables: its variables.
    """
    return _output_shape(model, variables, "classify", jnp.zeros((1, model.s_dim)))


def _output_shape(
    model: LaCIM, variables: Variables, method: str, latents: jax.Array
) -> tuple[int, ...]:
    """Of one example. Nothing is computed, and what modules draw or would change is let be."""

    def output() -> jax.Array:
        rngs = {"dropout": jax.random.key(0)}
        return apply(model, variables, method, latents, rngs=rngs, mutable=True)[0]

    return jax.eval_shape(output).shape[1:]

"""Prediction: search the latents of every image, then classify by s alone."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import PRNGKeyArray

from lacim_jax.inference.latent_inference import Inference, chunks, infer, infer_along
from lacim_jax.inference.search import Search
from lacim_jax.model.checks import check_categorical, check_chunk_size, check_held_out
from lacim_jax.model.lacim import Examples, LaCIM, Latents, Variables, apply


class Prediction(NamedTuple):
    """What is predicted for each of n images, and how far it is to be trusted."""

    probabilities: np.ndarray  # shape=[n, classes], float32: p(y|s) at the latents found
    latents: Latents  # shape=[n, s_dim] and [n, v_dim], float32
    objective_before: np.ndarray  # shape=[n], float32: see Inference
    objective_after: np.ndarray  # shape=[n], float32: low where no latents explain the image
    disagreement: np.ndarray  # shape=[n], float32: across starts, from 0 to log(classes) nats
    steps: int | None = None  # how many the search took, 0 where held-out examples spoke against it


def predict(
    model: LaCIM,
    variables: Variables,
    images: ArrayLike,
    key: PRNGKeyArray,
    *,
    steps: int = 50,
    search: Search = Search(),  # noqa: B008 (immutable)
    held_out: Examples | None = None,
) -> Prediction:
    r"""Predicts the labels of images from a domain that need not have been trained.

    First the latents are searched, $s^*, v^* = \arg\max \log p(x|s,v) + \lambda J(s,v)$, then
    the label is that of the causes alone, $\arg\max_y p(y|s^*)$.

    Args:
        model: the trained model.
        variables: its variables.
        images: x, floating-point, [n, ...]; they may stay on the host.
        key: for the starts; a typed PRNG key, scalar.
        steps: of the optimiser; at least 0.
        search: objective, optimiser, starts and chunks. Its weight λ is 1 by default, for a domain
            like those trained; where s and v go together otherwise, `Search(weight=0.0)` is right.
        held_out: labelled examples of the training domains that the model was not trained on; their
            domains are not used. If the search does not make their labels better, none is made,
            and `steps` of the result is 0. Give them wherever you have them: a search can do harm.

    Returns:
        Probabilities, latents, objectives and the disagreement of the starts.

    Raises:
        ValueError: if there is no image, their shape or a pixel does not suit the model, labels are
            not categorical, a held-out label is none of the model's, or an argument is out of
            range.

    Example:
        >>> import optax
        >>> from lacim_jax import MLP, MLPDecoder, MLPEncoder
        >>> model = LaCIM(MLPEncoder((8,)), MLPDecoder((4, 4, 1)), MLP((2,)), num_domains=2)
        >>> images = jnp.full((5, 4, 4, 1), 0.5)
        >>> variables = jax.jit(model.init)(jax.random.key(0), images, jnp.zeros(5, jnp.int32))
        >>> search = Search(optimiser=optax.sgd(0.01), chunk_size=5)
        >>> prediction = predict(
        ...     model, variables, images, jax.random.key(1), steps=10, search=search
        ... )
        >>> prediction.probabilities.shape
        (5, 2)
        >>> bool((prediction.objective_after >= prediction.objective_before).all())
        True

    References:
        Sun et al., *Recovering latent causal factor for generalization to distributional shifts*,
        NeurIPS 2021, section 4.3.
    """
    # Before a search, which may take minutes.
    check_categorical(model)
    if held_out is not None:
        check_held_out(model, variables, held_out)
    if held_out is not None and steps > 0:
        tried = infer_along(model, variables, held_out.images, key, steps=(0, steps), search=search)
        labels = np.asarray(held_out.labels)
        without, with_search = (
            np.mean(
                predict_from(
                    model, variables, found, chunk_size=search.chunk_size
                ).probabilities.argmax(-1)
                == labels
            )
            for found in tried
        )
        steps = steps if with_search > without else 0
    inference = infer(model, variables, images, key, steps=steps, search=search)
    found = predict_from(model, variables, inference, chunk_size=search.chunk_size)
    return found._replace(steps=steps)


def predict_from(
    model: LaCIM, variables: Variables, inference: Inference, *, chunk_size: int = 128
) -> Prediction:
    r"""The second half of `predict`: from inferred latents to labels.

    The disagreement of an image is the Jensen-Shannon divergence of what its m starts would
    predict, each by itself: $H(\frac{1}{m} \sum_j p_j) - \frac{1}{m} \sum_j H(p_j)$, with
    $p_j = p(y | s_j)$ and H the entropy. It is 0 where all starts lead to the same prediction.

    Args:
        model: the trained model, its label likelihood categorical.
        variables: its variables.
        inference: the latents that `infer` returned.
        chunk_size: images classified at once, at least 1; a data set of any size is one
            compilation.

    Returns:
        The predictions.

    Raises:
        ValueError: if labels are not categorical: they then have no probabilities; or if the chunks
            are of no image.
    """
    check_categorical(model)
    check_chunk_size(chunk_size)
    best, candidates = np.asarray(inference.latents.s), np.asarray(inference.candidates.s)
    both = zip(chunks(best, chunk_size), chunks(candidates, chunk_size), strict=True)
    parts = [jax.device_get(_probabilities(model, variables, *chunk)) for chunk in both]
    probabilities, of_starts = (
        np.concatenate(part)[: len(best)] for part in zip(*parts, strict=True)
    )
    # H of the mean less the mean of H, over the starts.
    disagreement = _entropy(of_starts.mean(axis=1)) - _entropy(of_starts).mean(axis=1)
    return Prediction(
        probabilities=probabilities,
        latents=inference.latents,
        objective_before=inference.objective_before,
        objective_after=inference.objective_after,
        disagreement=np.maximum(disagreement, 0),  # rounding can make it negative
    )


@functools.partial(jax.jit, static_argnames="model")
def _probabilities(
    model: LaCIM, variables: Variables, s: jax.Array, candidates: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # The best latents and those of every start, classified as one batch.
    flat = candidates.reshape(-1, candidates.shape[-1])
    logits = apply(model, variables, "classify", jnp.concatenate([s, flat]))
    probabilities = model.label_likelihood.mean(logits)
    return probabilities[: len(s)], probabilities[len(s) :].reshape(*candidates.shape[:2], -1)


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    # 0 log 0 = 0: the smallest positive number stands in under the logarithm.
    logs = np.log(np.maximum(probabilities, np.finfo(probabilities.dtype).tiny))
    return -(probabilities * logs).sum(axis=-1)

"""Choosing a latent search on held-out data of the training domains, never on test data."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import PRNGKeyArray

from lacim_jax.inference.latent_inference import infer_along
from lacim_jax.inference.prediction import predict_from
from lacim_jax.inference.search import Regulariser, Search, mixture_prior
from lacim_jax.model.checks import check_categorical, check_held_out
from lacim_jax.model.lacim import Examples, LaCIM, Variables


class ChosenSearch(NamedTuple):
    """A search, its number of steps, and all that was tried."""

    search: Search
    steps: int
    accuracy: np.ndarray  # shape=[regularisers, weights, steps], float64: on the held-out examples


def choose_search(
    model: LaCIM,
    variables: Variables,
    held_out: Examples,
    key: PRNGKeyArray,
    *,
    steps: Sequence[int] = (0, 10, 50, 100),
    weights: Sequence[float] = (0.0, 0.1, 1.0),
    regularisers: Sequence[Regulariser] = (mixture_prior,),
    search: Search = Search(),  # noqa: B008 (immutable)
) -> ChosenSearch:
    """Tries every number of steps and every weight on held-out examples of the training domains.

    The domains of the examples are not used: they are predicted as those of a new domain will be.
    What is best for the training domains need not be best elsewhere, but nothing else is known
    before the test. Of equals, the first regulariser, the first weight and the fewest steps win:
    where the search does not help, it is left out.

    Args:
        model: the trained model, its label likelihood categorical.
        variables: its variables.
        held_out: examples that it was not trained on, of the training domains.
        key: for the starts.
        steps: numbers of steps, ascending; 0 is the encoder's best start.
        weights: λ, one at least; a further one costs a search, and no compilation. 0 is what a
            domain of another p(s,v) asks for, see `Search.weight`. On training domains the priors
            hold, and it seldom wins: where you know that p(s,v) changes, set it, and do not choose.
        regularisers: J, one at least.
        search: starts, chunks and optimiser of every trial.

    Returns:
        What to hand to `predict`: `predict(..., steps=chosen.steps, search=chosen.search)`.

    Raises:
        ValueError: if there is nothing to try, the numbers of steps do not ascend, or images or
            labels do not suit the model.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from lacim_jax import MLP, MLPDecoder, MLPEncoder
        >>> model = LaCIM(MLPEncoder((8,)), MLPDecoder((2, 2, 1)), MLP((2,)), num_domains=1)
        >>> images, zeros = jnp.full((3, 2, 2, 1), 0.5), jnp.zeros(3, jnp.int32)
        >>> variables = jax.jit(model.init)(jax.random.key(0), images, zeros)
        >>> chosen = choose_search(
        ...     model, variables, Examples(images, zeros, zeros), jax.random.key(1),
        ...     steps=(0, 3), search=Search(optimiser=optax.sgd(0.01), chunk_size=3),
        ... )
        >>> chosen.accuracy.shape
        (1, 3, 2)
    """
    if not weights or not regularisers:
        raise ValueError("weights and regularisers must each have an entry, got none.")
    check_categorical(model)
    check_held_out(model, variables, held_out)
    labels = np.asarray(held_out.labels)
    tried = [
        [dataclasses.replace(search, regulariser=regulariser, weight=weight) for weight in weights]
        for regulariser in regularisers
    ]

    def accuracies(candidate: Search) -> list[float]:
        along = infer_along(model, variables, held_out.images, key, steps=steps, search=candidate)
        predictions = [predict_from(model, variables, inference) for inference in along]
        return [float(np.mean(p.probabilities.argmax(-1) == labels)) for p in predictions]

    accuracy = np.asarray([[accuracies(candidate) for candidate in row] for row in tried])
    # With the steps' axis first, the first maximum is that of the fewest steps among equals.
    k, i, j = np.argwhere(np.moveaxis(accuracy, -1, 0) == accuracy.max())[0].tolist()
    return ChosenSearch(tried[i][j], steps[k], accuracy)

"""Inference for whole data sets: search the latents of every image, then predict from s alone."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import PRNGKeyArray

from lacim_jax.inference.search import Search, SearchState, begin_search, step_search
from lacim_jax.model.checks import check_images
from lacim_jax.model.lacim import LaCIM, Latents, Variables, apply
from lacim_jax.model.likelihoods import CATEGORICAL


class Inference(NamedTuple):
    """The latents found for each of n images."""

    latents: Latents  # shape=[n, s_dim] and [n, v_dim], float32: from the best start
    objective_before: np.ndarray  # shape=[n], float32: of the best start, before the first step
    objective_after: np.ndarray  # shape=[n], float32: of the latents found; never below it
    candidates: Latents  # shape=[n, starts, s_dim] and [n, starts, v_dim]: the best of each start
    candidate_objectives: np.ndarray  # shape=[n, starts], float32: theirs


class Prediction(NamedTuple):
    """What is predicted for each of n images, and how far it is to be trusted."""

    probabilities: np.ndarray  # shape=[n, classes], float32: p(y|s) at the latents found
    latents: Latents  # shape=[n, s_dim] and [n, v_dim], float32
    objective_before: np.ndarray  # shape=[n], float32: see Inference
    objective_after: np.ndarray  # shape=[n], float32: low where no latents explain the image
    disagreement: np.ndarray  # shape=[n], float32: across starts, from 0 to log(classes) nats


def infer(
    model: LaCIM,
    variables: Variables,
    images: ArrayLike,
    key: PRNGKeyArray,
    *,
    steps: int = 50,
    search: Search = Search(),  # noqa: B008 (immutable)
) -> Inference:
    r"""Searches the latents that explain each image best, its domain and label unknown.

    For each image x by itself, from several starts, by ascent on

        $\log p(x|s,v) + \lambda J(s,v)$,

    of which the best point met on the way is kept, the start included. Images go through in chunks
    of one shape, the last one filled up, so that a data set of any size is one compilation; a
    further call with an equal model and search compiles nothing.

    To the bit, what is found for an image depends neither on the number of images nor on their
    order. The size of the chunks changes the order of sums, and so the last digits. Where a search
    has come to rest, many latents are as good as each other to the last digit of float32, and which
    of them is the best may then differ between chunk sizes; in float64 it does not.

    Args:
        model: the trained model.
        variables: its variables.
        images: x, floating-point, [n, ...]; they may stay on the host.
        key: for the starts; a typed PRNG key, scalar.
        steps: of the optimiser, from each start; at least 0. A number does not cost a compilation.
        search: objective, optimiser, starts and chunks.

    Returns:
        Latents and objectives, on the host.

    Raises:
        ValueError: if there is no image, their shape or a pixel does not suit the model, or an
            argument is out of range.
    """
    (found,) = infer_along(model, variables, images, key, steps=(steps,), search=search)
    return found


def infer_along(
    model: LaCIM,
    variables: Variables,
    images: ArrayLike,
    key: PRNGKeyArray,
    *,
    steps: Sequence[int],
    search: Search = Search(),  # noqa: B008 (immutable)
) -> list[Inference]:
    """What `infer` finds after each of several numbers of steps, for the cost of the largest.

    Args:
        model: as in `infer`, like all else.
        variables: likewise.
        images: likewise.
        key: likewise.
        steps: numbers of steps, ascending; 0 gives the best start.
        search: likewise.

    Returns:
        One result for each number of steps, equal to that of a search of so many.

    Raises:
        ValueError: as `infer` does, or if the numbers do not ascend.
    """
    if not steps or min(steps) < 0 or list(steps) != sorted(steps):
        raise ValueError(f"steps must be at least 0 and ascend, got {steps}.")
    pixels = np.asarray(images)
    check_images(model, variables, pixels)
    shape = (search.draws, model.num_domains, model.s_dim + model.v_dim)
    noise = jax.random.normal(key, shape, jnp.result_type(*jax.tree.leaves(variables["params"])))
    driven = is_driven(model, variables, search)
    parts = [
        list(_search_chunk(model, variables, chunk, noise, steps, search, driven=driven))
        for chunk in _chunks(pixels, search.chunk_size)
    ]
    return [
        jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(pixels)], *results)
        for results in zip(*parts, strict=True)
    ]


def predict(
    model: LaCIM,
    variables: Variables,
    images: ArrayLike,
    key: PRNGKeyArray,
    *,
    steps: int = 50,
    search: Search = Search(),  # noqa: B008 (immutable)
) -> Prediction:
    r"""Predicts the labels of images from a domain that need not have been trained.

    First the latents are searched, $s^*, v^* = \arg\max \log p(x|s,v) + \lambda J(s,v)$, then
    the label is that of the causes alone, $\arg\max_y p(y|s^*)$.

    Args:
        model: as in `infer`, like all else.
        variables: likewise.
        images: likewise.
        key: likewise.
        steps: likewise.
        search: likewise.

    Returns:
        Probabilities, latents, objectives and the disagreement of the starts.

    Raises:
        ValueError: as `infer` does.

    Example:
        >>> import optax
        >>> from lacim_jax import MLP, MLPDecoder, MLPEncoder
        >>> model = LaCIM(MLPEncoder((8,)), MLPDecoder((4, 4, 1)), MLP((2,)), num_domains=2)
        >>> images = jnp.full((5, 4, 4, 1), 0.5)
        >>> variables = jax.jit(model.init)(jax.random.key(0), images, jnp.zeros(5, jnp.int32))
        >>> search = Search(optimiser=optax.sgd(0.01), chunk_size=5)
        >>> found = predict(model, variables, images, jax.random.key(1), steps=10, search=search)
        >>> found.probabilities.shape
        (5, 2)
        >>> bool((found.objective_after >= found.objective_before).all())
        True

    References:
        Sun et al., *Recovering latent causal factor for generalization to distributional shifts*,
        NeurIPS 2021, section 4.3.
    """
    found = infer(model, variables, images, key, steps=steps, search=search)
    return predict_from(model, variables, found, chunk_size=search.chunk_size)


def predict_from(
    model: LaCIM, variables: Variables, found: Inference, *, chunk_size: int = 128
) -> Prediction:
    r"""The second half of `predict`: from latents found to labels.

    The disagreement of an image is the Jensen-Shannon divergence of what its m starts would
    predict, each by itself: $H(\frac{1}{m} \sum_j p_j) - \frac{1}{m} \sum_j H(p_j)$, with
    $p_j = p(y | s_j)$ and H the entropy. It is 0 where all starts lead to the same prediction.

    Args:
        model: the trained model, its label likelihood categorical.
        variables: its variables.
        found: what `infer` returned.
        chunk_size: images answered for at once, as in `Search`: one compilation, however many.

    Returns:
        The predictions.

    Raises:
        ValueError: if labels are not categorical, for then there are no probabilities to give.
    """
    if model.label_likelihood is not CATEGORICAL:
        raise ValueError(
            "predictions are probabilities of classes, but the model's label likelihood is not "
            "CATEGORICAL; call infer, and classify(latents.s) through model.apply."
        )
    parts = [
        jax.device_get(_probabilities(model, variables, *chunk))
        for chunk in zip(
            *(_chunks(np.asarray(s), chunk_size) for s in (found.latents.s, found.candidates.s)),
            strict=True,
        )
    ]
    probabilities, every = (
        np.concatenate(part)[: len(found.latents.s)] for part in zip(*parts, strict=True)
    )
    disagreement = _entropy(every.mean(axis=1)) - _entropy(every).mean(axis=1)
    return Prediction(
        probabilities=probabilities,
        latents=found.latents,
        objective_before=found.objective_before,
        objective_after=found.objective_after,
        disagreement=np.maximum(disagreement, 0),  # rounding can make it negative
    )


def _chunks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Runs of `size` rows, the last one filled up with the last row."""
    for start in range(0, len(rows), size):
        yield rows[np.minimum(np.arange(start, start + size), len(rows) - 1)]


def _search_chunk(
    model: LaCIM,
    variables: Variables,
    images: np.ndarray,
    noise: jax.Array,
    steps: Sequence[int],
    search: Search,
    *,
    driven: bool,
) -> Iterator[Inference]:
    """The search of one chunk, as it stands after each number of steps."""
    given = (model, variables, jnp.asarray(images))
    options = {
        "optimiser": search.optimiser,
        "regulariser": search.regulariser,
        # Traced, so that choosing the weight by validation costs one compilation.
        "weight": jnp.asarray(search.weight, noise.dtype),
    }
    state = _begin(*given, noise, **options)
    done = 0
    for total in steps:
        if driven:
            for _ in range(total - done):
                state = _step(*given, state, **options)
        else:
            state = _steps(*given, state, jnp.asarray(total - done), **options)
        done = total
        yield _best(model, state)


def _take_steps(
    model: LaCIM,
    variables: Variables,
    images: jax.Array,
    state: SearchState,
    count: jax.Array,
    **options: Any,
) -> SearchState:
    # A loop whose length is data, so that every number of steps is the same compilation.
    return jax.lax.fori_loop(
        0, count, lambda _, state: step_search(model, variables, images, state, **options), state
    )


_STATIC = ("model", "optimiser", "regulariser")
_begin = jax.jit(begin_search, static_argnames=_STATIC)
_step = jax.jit(step_search, static_argnames=_STATIC, donate_argnames="state")
_steps = jax.jit(_take_steps, static_argnames=_STATIC, donate_argnames="state")
PROGRAMS = (_begin, _step, _steps)
"""All that is compiled for a search, once for each size of chunk: its beginning, one step where the
loop is driven, all steps where it is not."""


def _best(model: LaCIM, state: SearchState) -> Inference:
    best, objectives, before = jax.device_get(
        (state.best, state.best_objective, state.start_objective)
    )
    rows, first = np.arange(len(best)), objectives.argmax(axis=1)
    return Inference(
        latents=model.split(best[rows, first]),
        objective_before=before.max(axis=1),
        objective_after=objectives[rows, first],
        candidates=model.split(best),
        candidate_objectives=objectives,
    )


@functools.partial(jax.jit, static_argnames="model")
def _probabilities(
    model: LaCIM, variables: Variables, s: jax.Array, candidates: jax.Array
) -> tuple[jax.Array, jax.Array]:
    flat = candidates.reshape(-1, candidates.shape[-1])
    logits = apply(model, variables, "classify", jnp.concatenate([s, flat]))
    every = model.label_likelihood.mean(logits)
    return every[: len(s)], every[len(s) :].reshape(*candidates.shape[:2], -1)


def is_driven(model: LaCIM, variables: Variables, search: Search) -> bool:
    """Whether the steps of a search are called one by one from Python: see `Search.loop`.

    Args:
        model: the trained model.
        variables: its variables.
        search: what is asked for.
    """
    if search.loop != "auto" or jax.default_backend() != "cpu":
        return search.loop == "driven"
    latents = jnp.zeros((1, model.s_dim + model.v_dim))
    decode = jax.make_jaxpr(lambda z: apply(model, variables, "decode", z))
    return "conv_general_dilated" in str(decode(latents))


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    logs = np.log(np.maximum(probabilities, np.finfo(probabilities.dtype).tiny))
    return -(probabilities * logs).sum(axis=-1)

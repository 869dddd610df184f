"""Inference for whole data sets: the latents that explain each image best."""

import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import PRNGKeyArray

from lacim_jax.inference.search import (
    Search,
    SearchState,
    begin_search,
    narrow_search,
    step_search,
)
from lacim_jax.model.checks import check_images
from lacim_jax.model.lacim import LaCIM, Latents, Variables, apply
from lacim_jax.model.loops import slow_in_loops


class Inference(NamedTuple):
    """The latents found for each of n images."""

    latents: Latents  # shape=[n, s_dim] and [n, v_dim], float32: from the best start
    objective_before: np.ndarray  # shape=[n], float32: of the best start, before the first step
    objective_after: np.ndarray  # shape=[n], float32: of the latents found; never below it
    candidates: Latents  # shape=[n, starts, s_dim] and [n, starts, v_dim]: the best of each start,
    # of one that was dropped till then
    candidate_objectives: np.ndarray  # shape=[n, starts], float32: theirs


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

    of which the best point met on the way is kept, the start included. After `search.screening`
    steps only the best `search.keep` starts of an image go on. Images go through in chunks
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
        steps: of the optimiser, those of the screening included; at least 0. A number does not
            cost a compilation.
        search: objective, optimiser, starts and chunks.

    Returns:
        Latents and objectives, on the host.

    Raises:
        ValueError: if there is no image, their shape or a pixel does not suit the model, or an
            argument is out of range.
    """
    (inference,) = infer_along(model, variables, images, key, steps=(steps,), search=search)
    return inference


def infer_along(
    model: LaCIM,
    variables: Variables,
    images: ArrayLike,
    key: PRNGKeyArray,
    *,
    steps: Sequence[int] | np.ndarray,
    search: Search = Search(),  # noqa: B008 (immutable)
) -> list[Inference]:
    """What `infer` finds after each of several numbers of steps, for the cost of the largest.

    Args:
        model: the trained model.
        variables: its variables.
        images: x, floating-point, [n, ...]; they may stay on the host.
        key: for the starts; a typed PRNG key, scalar.
        steps: whole numbers of steps, ascending; 0 gives the best start.
        search: objective, optimiser, starts and chunks.

    Returns:
        One result for each number of steps, equal to what `infer` returns for that number.

    Raises:
        ValueError: if the numbers are not whole or do not ascend, there is no image, their shape or
            a pixel does not suit the model, or an argument is out of range.
    """
    counts = _whole(steps)
    if not counts or min(counts) < 0 or list(counts) != sorted(counts):
        raise ValueError(f"steps must be at least 0 and ascend, got {steps}.")
    pixels = np.asarray(images)
    check_images(model, variables, pixels)
    shape = (search.draws, model.num_domains, model.s_dim + model.v_dim)
    # One noise for all images, so that no search depends on which images stand beside it.
    noise = jax.random.normal(key, shape, jnp.result_type(*jax.tree.leaves(variables["params"])))
    driven = is_driven(model, variables, search)
    parts = [
        list(_search_chunk(model, variables, chunk, noise, counts, search, driven=driven))
        for chunk in chunks(pixels, search.chunk_size)
    ]
    return [
        jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(pixels)], *results)
        for results in zip(*parts, strict=True)
    ]


def _whole(steps: Iterable[Any]) -> tuple[int, ...]:
    """Numbers of steps as Python's, NumPy's included."""
    try:
        return tuple(operator.index(count) for count in steps)
    except TypeError:
        raise ValueError(
            f"steps must be whole numbers, at least 0, got {steps!r}; round them."
        ) from None


def chunks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Runs of `size` rows, the last one filled up with the last row.

    Args:
        rows: [n, ...].
        size: at least 1.
    """
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
    problem = (model, variables, jnp.asarray(images))
    options = {
        "optimiser": search.optimiser,
        "regulariser": search.regulariser,
        # Traced, so that choosing the weight by validation costs one compilation.
        "weight": jnp.asarray(search.weight, noise.dtype),
    }

    def advanced(state: SearchState, count: int) -> SearchState:
        if not driven:
            return _steps(*problem, state, jnp.asarray(count), **options)
        for _ in range(count):
            state = _step(*problem, state, **options)
        return state

    state = _begin(*problem, noise, **options)
    starts = state.best.shape[1]
    halved = search.keep is not None and search.keep < starts
    screened: tuple[Found, np.ndarray] | None = None  # all starts, and which of them go on
    done = 0
    for total in steps:
        if halved and screened is None and total > search.screening:
            state = advanced(state, search.screening - done)
            found = _found(state)
            # The best first; of equals the first start.
            places = np.argsort(-found.objectives, axis=1, kind="stable")[:, : search.keep]
            state, done, screened = _narrow(state, places), search.screening, (found, places)
        state = advanced(state, total - done)
        done = total
        found = _found(state)
        yield _best(model, found if screened is None else _merged(*screened, found))


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
_narrow = jax.jit(narrow_search)
PROGRAMS = (_begin, _step, _steps)
"""All that is compiled for a search, once for each size of chunk: its beginning, one step where the
loop is driven, all steps where it is not."""


class Found(NamedTuple):
    """What the searches of a chunk have found so far, on the host."""

    best: np.ndarray  # shape=[batch, starts, dim]
    objectives: np.ndarray  # shape=[batch, starts]
    before: np.ndarray  # shape=[batch, starts]: where they began


def _found(state: SearchState) -> Found:
    return Found(*jax.device_get((state.best, state.best_objective, state.start_objective)))


def _merged(screened: Found, places: np.ndarray, found: Found) -> Found:
    """All starts: those that went on as they are now, the others as they were left."""
    best, objectives = screened.best.copy(), screened.objectives.copy()
    np.put_along_axis(best, places[..., None], found.best, axis=1)
    np.put_along_axis(objectives, places, found.objectives, axis=1)
    return Found(best, objectives, screened.before)


def _best(model: LaCIM, found: Found) -> Inference:
    """The best start of each image."""
    best, objectives, before = found
    rows, first = np.arange(len(best)), objectives.argmax(axis=1)
    return Inference(
        latents=model.split(best[rows, first]),
        objective_before=before.max(axis=1),
        objective_after=objectives[rows, first],
        candidates=model.split(best),
        candidate_objectives=objectives,
    )


def is_driven(model: LaCIM, variables: Variables, search: Search) -> bool:
    """Whether the steps of a search are called one by one from Python: see `Search.loop`.

    Args:
        model: the trained model.
        variables: its variables.
        search: its `loop` decides, or is "auto".
    """
    if search.loop != "auto" or jax.default_backend() != "cpu":
        return search.loop == "driven"
    # Only the decoder is differentiated at every step, so only its operations count.
    latents = jnp.zeros((1, model.s_dim + model.v_dim))
    decode = jax.make_jaxpr(lambda z: apply(model, variables, "decode", z))
    return slow_in_loops(decode(latents))

"""How much memory a latent search takes, and the most images that a stated memory can hold."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lacim_jax.inference import latent_inference
from lacim_jax.inference.search import Search, begin_search
from lacim_jax.model.checks import check_images
from lacim_jax.model.lacim import LaCIM, Variables


def search_memory(
    model: LaCIM,
    variables: Variables,
    images: ArrayLike,
    *,
    search: Search = Search(),  # noqa: B008 (immutable)
) -> int:
    """The peak memory of a latent search, on the device, as its compiler states it.

    It is that of one chunk: a data set of any size goes through the same two programs, chunk by
    chunk. Nothing is searched.

    Args:
        model: the trained model.
        variables: its variables.
        images: x, floating-point, [n, ...]; their number does not matter.
        search: whose memory is asked for.

    Returns:
        Bytes: of the chunk, the model's variables, the searches' states and intermediate results.

    Raises:
        ValueError: if there is no image, or their shape or a pixel does not suit the model.
    """
    pixels = np.asarray(images)
    check_images(model, variables, pixels)
    return max(map(_peak, _programs(model, variables, pixels, search)))


def search_within(
    memory: int | float,
    model: LaCIM,
    variables: Variables,
    images: ArrayLike,
    *,
    search: Search = Search(),  # noqa: B008 (immutable)
) -> Search:
    """The same search with as large chunks as a memory can hold.

    Large chunks keep an accelerator busy. On CPU they gain little, and are slower where the decoded
    images do not fit the cache: there a chunk of tens of images is as fast as any.

    Args:
        memory: bytes, on the device; of a fraction of a byte no use is made.
        model: the trained model.
        variables: its variables.
        images: x, floating-point, [n, ...]; a chunk is not made larger than their number.
        search: the search, whose `chunk_size` is replaced.

    Returns:
        The search, to be handed to `infer` or `predict`.

    Raises:
        ValueError: if the memory is no finite number or does not hold the search of one image,
            there is no image, or their shape or a pixel does not suit the model.

    Example:
        >>> import optax
        >>> from lacim_jax import MLP, MLPDecoder, MLPEncoder
        >>> model = LaCIM(MLPEncoder((8,)), MLPDecoder((4, 4, 1)), MLP((2,)), num_domains=2)
        >>> images = jnp.full((1000, 4, 4, 1), 0.5)
        >>> variables = model.init(jax.random.key(0), images, jnp.zeros(1000, jnp.int32))
        >>> search = Search(optimiser=optax.sgd(0.1))
        >>> search = search_within(1_000_000_000, model, variables, images, search=search)
        >>> search.chunk_size  # all of them; predict(..., search=search)
        1000
    """
    if not isinstance(memory, int | float | np.number) or not math.isfinite(memory):
        raise ValueError(
            f"memory must be a finite number of bytes, got {memory!r}; 16e9 for 16 GB."
        )
    whole = int(memory)

    def needed(size: int) -> int:
        resized = dataclasses.replace(search, chunk_size=size)
        return search_memory(model, variables, images, search=resized)

    size = most = len(np.asarray(images))
    all_at_once = needed(most)
    if all_at_once > whole:
        least = needed(1)
        if least > whole:
            raise ValueError(
                f"a memory of {whole:,} bytes does not hold one image's search, which takes "
                f"{least:,}; give more, or take fewer draws than {search.draws}."
            )
        # Memory is nearly a line through (1, least) and (most, all_at_once). Compilers pad and
        # fuse differently at each size, so what the line gives is shrunk until it really fits.
        size = 1 + (whole - least) * (most - 1) // (all_at_once - least)
        while needed(size) > whole:
            size = max(int(0.9 * size), 1)
    return dataclasses.replace(search, chunk_size=size)


def _programs(
    model: LaCIM, variables: Variables, images: np.ndarray, search: Search
) -> Iterator[Any]:
    """What `infer` runs on one chunk, lowered: its beginning and its steps."""
    dtype = jnp.result_type(*jax.tree.leaves(variables["params"]))
    pixels = jax.dtypes.canonicalize_dtype(images.dtype)
    chunk = jax.ShapeDtypeStruct((search.chunk_size, *images.shape[1:]), pixels)
    shape = (search.draws, model.num_domains, model.s_dim + model.v_dim)
    noise = jax.ShapeDtypeStruct(shape, dtype)
    rule = {"optimiser": search.optimiser, "regulariser": search.regulariser}
    weight = jax.ShapeDtypeStruct((), dtype)
    begin, step, steps = latent_inference.PROGRAMS
    yield begin.lower(model, variables, chunk, noise, **rule, weight=weight)
    start = functools.partial(begin_search, model, **rule)
    state = jax.eval_shape(
        lambda variables, chunk, noise, weight: start(variables, chunk, noise, weight=weight),
        variables,
        chunk,
        noise,
        weight,
    )
    if latent_inference.is_driven(model, variables, search):
        lowered = step.lower(model, variables, chunk, state, **rule, weight=weight)
    else:
        count = jax.ShapeDtypeStruct((), jnp.int32)
        lowered = steps.lower(model, variables, chunk, state, count, **rule, weight=weight)
    yield lowered


def _peak(lowered: Any) -> int:
    """Bytes of arguments, results and temporaries at once; aliased ones counted once."""
    # Arrays are laid out before machine code is written, so that need not be optimised.
    compiled = lowered.compile(compiler_options={"xla_backend_optimization_level": 0})
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return held - memory.alias_size_in_bytes + memory.temp_size_in_bytes

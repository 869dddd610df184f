"""Convolutions as products of matrices, for many networks side by side on CPU.

A convolution with a kernel for each run is a grouped one, which XLA runs many times slower on CPU
than one after another, and its gradient slower still inside a loop. A product with a matrix for
each run has neither fault. The numbers are the same up to the order of summation.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def convolutions_as_products() -> contextlib.AbstractContextManager[Any]:
    """Within this, on CPU, every `nn.Conv` of two dimensions multiplies patches by its kernel."""
    if jax.default_backend() != "cpu":
        return contextlib.nullcontext()
    return nn.intercept_methods(_intercept)


def _intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    module = context.module
    if not isinstance(module, nn.Conv) or context.method_name != "__call__":
        return call(*args, **kwargs)
    params = module.variables["params"]
    kernel, images = (jnp.asarray(x, module.dtype) for x in (params["kernel"], args[0]))
    strides = _pair(module.strides)
    padding: Any = module.padding
    if not isinstance(padding, str):
        padding = [(p, p) if isinstance(p, int) else p for p in _pair(padding)]
    out = product(images, kernel, strides, padding)
    if not module.use_bias:
        return out
    return out + jnp.asarray(params["bias"], out.dtype)[None, None, None]


def _pair(value: Any) -> tuple[Any, Any]:
    if value is None:
        return 1, 1
    return (value, value) if isinstance(value, int) else tuple(value)


def product(
    images: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Any
) -> jax.Array:
    """A convolution of images with a kernel, as a product of their patches with it as a matrix.

    Args:
        images: [batch, height, width, in].
        kernel: [down, across, in, out].
        strides: down and across.
        padding: "SAME", "VALID", or a pair a dimension.

    Returns:
        [batch, height', width', out].
    """
    size, (down, across) = images.shape[1:3], kernel.shape[:2]
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(size, (down, across), strides, padding)
    padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    ends = [n - k + 1 for n, k in zip(padded.shape[1:3], (down, across), strict=True)]
    patches = [
        padded[:, i : i + ends[0] : strides[0], j : j + ends[1] : strides[1]]
        for i in range(down)
        for j in range(across)
    ]
    rows = jnp.concatenate(patches, axis=-1)  # [batch, height', width', down * across * in]
    flat = rows.reshape(-1, rows.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return flat.reshape(*rows.shape[:3], -1)

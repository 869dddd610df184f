"""Arrays between processes and in files: plain NumPy, and back with what NumPy does not know."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dcasgd_jax._precision import cast_like


def to_host(tree: Any) -> Any:
    """The same tree with NumPy leaves; typed random keys become their numbers."""
    return jax.tree.map(lambda leaf: np.asarray(_numbers(leaf)), tree)


def from_host(template: Any, tree: Any) -> Any:
    """The arrays that `shapes` described, weakly typed where they were, and keys as keys."""
    return jax.tree.map(_array, template, tree)


def shapes(tree: Any) -> Any:
    """Shapes, dtypes and weak types of a pytree of arrays, without the arrays."""
    return jax.eval_shape(lambda: tree)


def host_shapes(template: Any) -> Any:
    """Shapes and dtypes that the leaves `shapes` describes have as NumPy's."""
    return jax.eval_shape(lambda tree: jax.tree.map(_numbers, tree), template)


def _numbers(leaf: Any) -> Any:
    """The numbers of a random key; anything else as it is."""
    is_key = jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _array(template: jax.ShapeDtypeStruct, leaf: np.ndarray) -> jax.Array:
    """One leaf, of the type that its template says."""
    if jnp.issubdtype(template.dtype, jax.dtypes.prng_key):
        kinds = []  # of a key without its numbers, only a function that is traced can ask
        jax.eval_shape(lambda key: kinds.append(jax.random.key_impl(key)), template)
        return jax.random.wrap_key_data(jnp.asarray(leaf), impl=kinds[0])
    if not template.weak_type:
        return jnp.array(leaf)
    zero = 0.0 if jnp.issubdtype(template.dtype, jnp.floating) else 0
    return cast_like(leaf, jnp.full(leaf.shape, zero))

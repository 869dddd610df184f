"""Path norms by one forward pass."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gsgd_jax._precision import working_dtype


def path_norm(
    apply_fn: Callable[..., Any], params: optax.Params, *example_inputs: Any, power: float = 1.0
) -> jax.Array:
    r"""The path norm (Σ_p |v_p|^q)^(1/q), over all paths p from inputs, or biases, to outputs.

    There are as many paths as products of widths, but one forward pass finds the sum: with every
    weight replaced by |w|^q and all inputs 1, every ReLU is switched on, and the outputs add up the
    products along paths. Rescaling does not change it.

    Exact for networks of linear maps, sums and ReLU. The network's own constants are taken as they
    are: those of a difference let paths cancel, and for q other than 1 those of average pooling are
    not raised to q. Of a maximum only the largest argument's paths are counted, and a model that
    divides by a statistic of its activations, as BatchNorm does in training, has no paths in this
    sense: give it running averages.

    Args:
        apply_fn: the network, a function of parameters and inputs.
        params: its parameters; leaves that are no real floating-point numbers are left as they are.
        *example_inputs: one example, with whatever batch axis the network expects, of size 1; only
            shapes and dtypes are used. No integers: an index picks some of the weights, where all
            are to be counted.
        power: q, 1 for absolute and 2 for squared weights.

    Returns:
        Shape [], float32 or wider; differentiable where no weight is zero.

    Raises:
        ValueError: if the power is not positive, or an input is of integers.

    Example:
        >>> params = [jnp.array([[2.0, -3.0]]), jnp.array([[5.0], [7.0]])]
        >>> def network(params, x):
        ...     return jax.nn.relu(x @ params[0]) @ params[1]
        >>> path_norm(network, params, jnp.ones((1, 1)))  # |2 * 5| + |-3 * 7|
        Array(31., dtype=float32)

    References:
        Neyshabur, Tomioka and Srebro, *Norm-based capacity control in neural networks*, COLT 2015.
        Gonon et al., *A path-norm toolkit for modern networks*, ICLR 2024, for the forward pass.
    """
    if not power > 0:
        raise ValueError(f"a path norm's power must be positive, got {power}.")
    sizes = jax.tree.map(lambda leaf: _power(leaf, power), params)
    return jnp.power(path_sum(apply_fn, sizes, *example_inputs), 1 / power)


def path_sum(
    apply_fn: Callable[..., Any], weights: optax.Params, *example_inputs: Any
) -> jax.Array:
    """The sum over all paths of the products of non-negative weights; see `path_norm`.

    Args:
        apply_fn: the network.
        weights: on the tree of its parameters, not negative.
        *example_inputs: as in `path_norm`.

    Returns:
        Shape [].
    """
    dtype = working_dtype(
        leaf for leaf in map(jnp.asarray, jax.tree.leaves(weights)) if _real(leaf)
    )
    for path, x in jax.tree_util.tree_leaves_with_path(example_inputs):
        if jnp.issubdtype(jnp.result_type(x), jnp.integer):
            place = jax.tree_util.keystr(path[1:])
            raise ValueError(
                f"a path norm counts paths from all inputs, but input {path[0].idx}{place} is of "
                f"{jnp.result_type(x)}, which picks weights by index: give one-hot rows, or "
                "embedded ones; what is no input of paths, close over in apply_fn."
            )
    ones = jax.tree.map(
        lambda x: jnp.ones(jnp.shape(x), dtype if _real(jnp.asarray(x)) else jnp.asarray(x).dtype),
        example_inputs,
    )
    outputs = jax.tree.leaves(apply_fn(weights, *ones))
    return jnp.sum(jnp.stack([jnp.sum(output.astype(dtype)) for output in outputs]))


def _real(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _power(leaf: Any, power: float) -> jax.Array:
    """|w|^q in float32 or wider: powers of half-precision weights leave their range."""
    array = jnp.asarray(leaf)
    if not _real(array):
        return array
    size = jnp.abs(array.astype(working_dtype([array])))
    return size if power == 1 else jnp.square(size) if power == 2 else jnp.power(size, power)

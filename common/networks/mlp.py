"""Multilayer perceptrons."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.typing
from jax.nn.initializers import Initializer

from common.networks.inputs import check_images

HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""He initialisation as published, a Gaussian that is not truncated (Flax's own he_normal is)."""


class MLP(nn.Module):
    r"""Fully connected layers with an activation between them.

    $h_0 = x$ flattened, $h_l = \sigma(h_{l-1} W_l + b_l)$, and the logits are
    $h_{L-1} W_L + b_L$.

    Its parameters are `layer_0` to `layer_{L-1}`, each with a `kernel` [in, out] and, with biases,
    a `bias` [out].

    Example:
        >>> network = MLP(widths=(64, 64, 10), use_bias=False)
        >>> variables = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
        >>> jax.tree.map(jnp.shape, variables["params"]["layer_0"])
        {'kernel': (784, 64)}

    References:
        He et al., *Delving deep into rectifiers*, 2015, equation 10, for the initialisation.
    """

    widths: Sequence[int]
    """Of the layers, at least one; the last is the number of outputs."""
    use_bias: bool = True
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    """Between layers; applied to arrays [batch, width]."""
    kernel_init: Initializer = HE_NORMAL
    """Of every layer. The default keeps the scale of ReLU layers; biases start at 0."""
    dtype: jax.typing.DTypeLike = jnp.float32
    """Of the computation: bfloat16 for mixed precision."""
    param_dtype: jax.typing.DTypeLike = jnp.float32
    """Of the parameters and of the logits returned."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Computes the logits.

        Args:
            images: floating-point, [batch, ...]; flattened.
            train: accepted so that all networks are called alike; no layer here uses it.

        Returns:
            Logits [batch, widths[-1]].

        Raises:
            ValueError: if there is no layer or a width is not positive.
            TypeError: if the images are not floating-point.
        """
        del train
        check_images(images, shape="[batch, ...]")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths must be one or more positive numbers, got {self.widths}.")
        hidden = images.reshape(len(images), -1)
        for i, width in enumerate(self.widths):
            if i > 0:
                hidden = self.activation(hidden)
            hidden = nn.Dense(
                width,
                use_bias=self.use_bias,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"layer_{i}",
            )(hidden)
        return hidden.astype(self.param_dtype)

"""Batch normalisation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.typing


class BatchNorm(nn.Module):
    r"""Normalises each channel over batch and space, and keeps running averages for evaluation.

    $y = \gamma (x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta$, with the batch's mean $\mu$ and
    variance $\sigma^2$ (divisor n) in training and their running averages in evaluation.

    It is `flax.linen.BatchNorm`, names included, but for the averages' dtype: Flax keeps float32
    in float64 networks too, which strict dtype promotion refuses.

    References:
        Ioffe and Szegedy, *Batch normalization*, 2015, algorithms 1 and 2.
    """

    momentum: float = 0.9
    """Share of the running averages that a training step keeps."""
    epsilon: float = 1e-5
    param_dtype: jax.typing.DTypeLike = jnp.float32
    """Of parameters, averages and the computation."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalises [..., channels]; in training the collection `batch_stats` must be mutable."""
        channels, dtype = (x.shape[-1],), self.param_dtype
        scale = self.param("scale", nn.initializers.ones, channels, dtype)
        bias = self.param("bias", nn.initializers.zeros, channels, dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, dtype)
        x = x.astype(dtype)
        mean, var = running_mean.value, running_var.value
        if train:
            axes = tuple(range(x.ndim - 1))
            mean = x.mean(axes)
            # One pass over x instead of two; rounding may leave less than nothing.
            var = jnp.maximum((x * x).mean(axes) - mean * mean, 0)
            if not self.is_initializing():
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * var
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        shape = (1,) * (x.ndim - 1) + channels
        return (x - mean.reshape(shape)) * factor.reshape(shape) + bias.reshape(shape)

"""The block that residual and plain networks are made of."""

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.typing

from common.networks.batch_norm import BatchNorm

Shortcut = Literal["zero_pad", "projection"]
"""How a shortcut changes shape: He et al.'s option A, without parameters, or B, a 1x1 kernel."""

Norm = Literal["batch", "group"]
"""Which normalisation follows a convolution."""

_EXPANSION = 4  # output channels of a bottleneck for each inner one
_GROUP = 16  # channels normalised together by GroupNorm, at most


class ConvNorm(nn.Module):
    """A convolution and its normalisation, if there is one."""

    channels: int
    size: int
    """Of the square kernel; odd."""
    stride: int
    norm: Norm | None
    use_bias: bool
    gain: float
    """Factor on the standard deviation of He initialisation."""
    dtype: jax.typing.DTypeLike
    """Of the convolution and the output."""
    param_dtype: jax.typing.DTypeLike
    """Of the parameters and the normalisation."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [batch, height, width, c] to [batch, height/stride, width/stride, channels]."""
        border = (self.size - 1) // 2
        x = nn.Conv(
            self.channels,
            (self.size, self.size),
            strides=self.stride,
            # Not "SAME", which with stride 2 would look one pixel further than the shortcut does.
            padding=((border, border), (border, border)),
            use_bias=self.use_bias,
            kernel_init=nn.initializers.variance_scaling(2.0 * self.gain**2, "fan_in", "normal"),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="conv",
        )(x)
        if self.norm is None:
            return x
        # Means and variances are taken in the parameters' precision whatever `dtype` is.
        x = x.astype(self.param_dtype)
        if self.norm == "batch":
            x = BatchNorm(param_dtype=self.param_dtype, name="norm")(x, train=train)
        else:
            x = nn.GroupNorm(
                num_groups=None,
                group_size=math.gcd(self.channels, _GROUP),
                epsilon=1e-5,
                dtype=self.param_dtype,
                param_dtype=self.param_dtype,
                name="norm",
            )(x)
        return x.astype(self.dtype)


class Block(nn.Module):
    """Convolutions with ReLUs between them, to which the input is added, if there is a shortcut."""

    channels: int
    """Of the 3x3 convolutions."""
    stride: int
    """Of the first 3x3 convolution. In bottlenecks He et al. gave the stride to the 1x1 before it,
    which throws three quarters of its input away; this is the later and now usual form."""
    bottleneck: bool
    shortcut: Shortcut | None
    """None for a plain network."""
    conv_norm: Any
    """`(channels, size, stride, *, gain) -> module`: a convolution and its normalisation."""
    last_gain: float = 1.0
    """Scale of the last convolution's initial kernel."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [batch, height, width, c] to [batch, height/stride, width/stride, c']."""
        if self.bottleneck:
            layers = [(1, self.channels, 1), (3, self.channels, self.stride)]
            layers += [(1, self.channels * _EXPANSION, 1)]
        else:
            layers = [(3, self.channels, self.stride), (3, self.channels, 1)]
        y = x
        for i, (size, channels, stride) in enumerate(layers):
            last = i == len(layers) - 1
            gain = self.last_gain if last else 1.0
            layer = self.conv_norm(channels, size, stride, gain=gain, name=f"layer_{i}")
            y = layer(y, train=train)
            y = y if last else nn.relu(y)
        if self.shortcut is not None:
            y = y + self._carry(x, y.shape[-1], train)
        return nn.relu(y)

    def _carry(self, x: jax.Array, channels: int, train: bool) -> jax.Array:
        """The input in the shape of the output."""
        if self.stride == 1 and x.shape[-1] == channels:
            return x
        if self.shortcut == "projection":
            project = self.conv_norm(channels, 1, self.stride, gain=1.0, name="shortcut")
            return project(x, train=train)
        x = x[:, :: self.stride, :: self.stride]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])))

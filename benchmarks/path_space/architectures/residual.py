"""Convolutional networks with shortcuts."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.path_space.architectures.architecture import (
    Architecture,
    Form,
    images,
    linen,
    repeated,
)
from benchmarks.path_space.architectures.reasons import SIGMOID_GATE


class ConvNorm(nn.Module):
    """A convolution without bias and its norm."""

    channels: int
    form: Form
    size: int = 3
    stride: int = 1
    groups: int = 1

    @nn.compact
    def __call__(self, x):
        """Maps [batch, height, width, in] to [batch, height / stride, width / stride, channels]."""
        kernel = (self.size, self.size)
        x = nn.Conv(self.channels, kernel, self.stride, use_bias=False,
                    feature_group_count=self.groups)(x)  # fmt: skip
        return nn.BatchNorm(False, epsilon=self.form.epsilon)(x)


class _Block(nn.Module):
    """Convolutions of given (channels, size, groups); the input is added before the last ReLU."""

    convolutions: Sequence[tuple[int, int, int]]
    form: Form
    stride: int = 1
    excite: int = 0
    """Hidden units of a squeeze-and-excitation gate; 0 for none."""

    @nn.compact
    def __call__(self, x):
        y, channels = x, self.convolutions[-1][0]
        strided = next(i for i, conv in enumerate(self.convolutions) if conv[1] > 1)
        for i, (width, size, groups) in enumerate(self.convolutions):
            y = nn.relu(y) if i else y
            stride = self.stride if i == strided else 1
            y = ConvNorm(width, self.form, size, stride, groups)(y)
            if self.excite and i == strided:
                y = SqueezeExcite(self.excite)(nn.relu(y))
        if x.shape != y.shape:
            x = ConvNorm(channels, self.form, 1, self.stride)(x)
        return nn.relu(x + y)


class SqueezeExcite(nn.Module):
    """Each channel times a gate that sees the means of all."""

    hidden: int
    gate: Any = nn.sigmoid

    @nn.compact
    def __call__(self, x):
        """Maps [batch, height, width, channels] to the same."""
        y = nn.relu(nn.Dense(self.hidden)(jnp.mean(x, axis=(1, 2), keepdims=True)))
        return x * self.gate(nn.Dense(x.shape[-1])(y))


class _ResNet(nn.Module):
    """A stem, two stages of blocks, and a dense layer on the mean over space."""

    block: Any  # (channels, stride, form, name) -> module
    form: Form
    norm_at_end: bool = False
    stem: int = 3
    widths: tuple[int, int] = (3, 4)

    @nn.compact
    def __call__(self, x):
        x = ConvNorm(self.stem, self.form)(x) if not self.norm_at_end else _conv(x, self.stem)
        x = nn.relu(x) if not self.norm_at_end else x
        for stage, channels in enumerate(self.widths):
            x = self.block(channels, 1 + stage, self.form, None)(x)

            def layer(name, channels=channels):
                return self.block(channels, 1, self.form, name)

            x = repeated(layer, 2, x, self.form, f"stack{stage}")
        if self.norm_at_end:
            x = nn.relu(nn.BatchNorm(False, epsilon=self.form.epsilon)(x))
        return nn.Dense(4)(jnp.mean(x, axis=(1, 2)))


def _conv(x: Any, channels: int, size: int = 3, stride: int = 1) -> Any:
    return nn.Conv(channels, (size, size), stride, use_bias=False)(x)


def _basic(channels: int, stride: int, form: Form, name: str | None) -> nn.Module:
    return _Block(((channels, 3, 1), (channels, 3, 1)), form, stride, name=name)


def _bottleneck(channels: int, stride: int, form: Form, name: str | None) -> nn.Module:
    return _Block(((2, 1, 1), (2, 3, 1), (channels, 1, 1)), form, stride, name=name)


def _grouped(channels: int, stride: int, form: Form, name: str | None) -> nn.Module:
    return _Block(((4, 1, 1), (4, 3, 2), (channels, 1, 1)), form, stride, name=name)


def _regnet_y(channels: int, stride: int, form: Form, name: str | None) -> nn.Module:
    return _Block(((4, 1, 1), (4, 3, 2), (channels, 1, 1)), form, stride, 2, name=name)


class _PreActivation(nn.Module):
    """Norm and ReLU before each convolution; nothing behind the addition."""

    sizes: Sequence[tuple[int, int]]
    form: Form
    stride: int = 1
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x):
        y, channels = x, self.sizes[-1][0]
        strided = next(i for i, (_, size) in enumerate(self.sizes) if size > 1)
        shortcut = x
        for i, (width, size) in enumerate(self.sizes):
            y = nn.relu(nn.BatchNorm(False, epsilon=self.form.epsilon)(y))
            if i == 0 and (self.stride > 1 or x.shape[-1] != channels):
                shortcut = _conv(y, channels, 1, self.stride)
            if i and self.dropout:
                y = nn.Dropout(self.dropout, deterministic=True)(y)
            y = _conv(y, width, size, self.stride if i == strided else 1)
        return shortcut + y


def _preactivated(channels: int, stride: int, form: Form, name: str | None) -> nn.Module:
    return _PreActivation(((channels, 3), (channels, 3)), form, stride, name=name)


def _preactivated_bottleneck(channels: int, stride: int, form: Form, name: str | None) -> nn.Module:
    return _PreActivation(((2, 1), (2, 3), (channels, 1)), form, stride, name=name)


def _wide(channels: int, stride: int, form: Form, name: str | None) -> nn.Module:
    convolutions = ((channels, 3), (channels, 3))
    return _PreActivation(convolutions, form, stride, 0.3, name=name)


class _DenseNet(nn.Module):
    """Every layer sees the features of all before it; between blocks they are halved."""

    form: Form

    @nn.compact
    def __call__(self, x):
        x = _conv(x, 4)
        for block in range(2):
            for _ in range(2):
                y = _conv(self._activated(x), 4, 1)
                x = jnp.concatenate([x, _conv(self._activated(y), 2)], axis=-1)
            if block == 0:
                x = _conv(self._activated(x), x.shape[-1] // 2, 1)
                x = nn.avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(3)(jnp.mean(self._activated(x), axis=(1, 2)))

    def _activated(self, x):
        return nn.relu(nn.BatchNorm(False, epsilon=self.form.epsilon)(x))


class _StandardisedConv(nn.Module):
    """A convolution whose kernels have mean 0 and variance 1/fan-in, times a learnt gain."""

    channels: int
    form: Form
    size: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        shape = (self.size, self.size, x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        gain = self.param("gain", nn.initializers.ones, (self.channels,))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        mean = jnp.mean(kernel, axis=(0, 1, 2), keepdims=True)
        variance = jnp.var(kernel, axis=(0, 1, 2), keepdims=True)
        fan_in = shape[0] * shape[1] * shape[2]
        scale = gain.reshape(1, 1, 1, -1) / jnp.sqrt(variance * fan_in + self.form.epsilon)
        y = jax.lax.conv_general_dilated(
            x, (kernel - mean) * scale, (self.stride, self.stride), "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return y + bias.reshape(1, 1, 1, -1)


class _NormFreeBlock(nn.Module):
    """x + alpha * gain * branch(relu(x) / beta), without activation norms."""

    channels: int
    form: Form
    beta: float = 1.3
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        y = nn.relu(x) * 1.71 / self.beta
        shortcut = x
        if self.stride > 1 or x.shape[-1] != self.channels:
            pooled = nn.avg_pool(y, (2, 2), (2, 2)) if self.stride > 1 else y
            shortcut = _StandardisedConv(self.channels, self.form, 1)(pooled)
        y = nn.relu(_StandardisedConv(4, self.form, 1)(y)) * 1.71
        y = nn.relu(_StandardisedConv(4, self.form, 3, self.stride)(y)) * 1.71
        y = _StandardisedConv(self.channels, self.form, 1)(y)
        y = SqueezeExcite(2)(y) * 2.0
        gain = self.param("skip_gain", nn.initializers.zeros, ())
        return shortcut + 0.2 * gain * y


class _NFNet(nn.Module):
    """Standardised kernels in place of norms."""

    form: Form

    @nn.compact
    def __call__(self, x):
        x = _StandardisedConv(3, self.form)(x)
        for stage, channels in enumerate((4, 6)):
            x = _NormFreeBlock(channels, self.form, 1.0, 1 + stage)(x)

            def layer(name, channels=channels):
                return _NormFreeBlock(channels, self.form, name=name)

            x = repeated(layer, 2, x, self.form, f"stack{stage}")
        return nn.Dense(4)(jnp.mean(nn.relu(x), axis=(1, 2)))


def _row(name: str, source: str, make: Any, *, stack: bool = True, **options: Any) -> Architecture:
    draw = images(8)
    return Architecture(name, source, "flax linen", linen(make, draw), draw, stack=stack, **options)


RESIDUAL = [
    _row("ResNet v1, basic blocks", "He et al., 2015", lambda form: _ResNet(_basic, form)),
    _row("ResNet v1, bottlenecks", "He et al., 2015",
         lambda form: _ResNet(_bottleneck, form)),
    _row("ResNet v2, basic blocks (pre-activation)", "He et al., 2016",
         lambda form: _ResNet(_preactivated, form, norm_at_end=True)),
    _row("ResNet v2, bottlenecks (pre-activation)", "He et al., 2016",
         lambda form: _ResNet(_preactivated_bottleneck, form, norm_at_end=True)),
    _row("WideResNet", "Zagoruyko and Komodakis, 2016",
         lambda form: _ResNet(_wide, form, norm_at_end=True, stem=1, widths=(2, 4))),
    _row("ResNeXt", "Xie et al., 2016", lambda form: _ResNet(_grouped, form)),
    _row("DenseNet-BC", "Huang et al., 2016", _DenseNet, stack=False),
    _row("RegNetX", "Radosavovic et al., 2020", lambda form: _ResNet(_grouped, form, stem=2)),
    _row("RegNetY", "Radosavovic et al., 2020", lambda form: _ResNet(_regnet_y, form, stem=2),
         pins={"logistic": SIGMOID_GATE}),
    _row("NFNet with ReLU", "Brock et al., 2021", _NFNet, pins={"logistic": SIGMOID_GATE}),
]  # fmt: skip

"""Convolutional networks for small devices: depthwise kernels, linear bottlenecks, clipping."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from benchmarks.path_space.architectures.architecture import (
    Architecture,
    Form,
    images,
    linen,
    repeated,
)
from benchmarks.path_space.architectures.reasons import HARD_GATE, RELU6, SIGMOID_GATE
from benchmarks.path_space.architectures.residual import ConvNorm, SqueezeExcite


class _Separable(nn.Module):
    """A depthwise convolution, then a pointwise one, each with norm and activation."""

    channels: int
    form: Form
    activation: Any
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        x = self.activation(ConvNorm(width, self.form, 3, self.stride, width)(x))
        return self.activation(ConvNorm(self.channels, self.form, 1)(x))


class _MobileNetV1(nn.Module):
    """A stack of separable convolutions."""

    form: Form
    activation: Any

    @nn.compact
    def __call__(self, x):
        x = self.activation(ConvNorm(3, self.form)(x))
        x = _Separable(4, self.form, self.activation, 2)(x)
        x = repeated(lambda name: _Separable(4, self.form, self.activation, name=name), 2, x,
                     self.form)  # fmt: skip
        return nn.Dense(3)(jnp.mean(x, axis=(1, 2)))


class _Inverted(nn.Module):
    """Expands, convolves depthwise, gates, and projects to a few channels without activation."""

    channels: int
    form: Form
    activation: Any
    gate: Any = None
    stride: int = 1
    hidden: int = 6

    @nn.compact
    def __call__(self, x):
        y = self.activation(ConvNorm(self.hidden, self.form, 1)(x))
        y = self.activation(ConvNorm(self.hidden, self.form, 3, self.stride, self.hidden)(y))
        if self.gate is not None:
            y = SqueezeExcite(2, self.gate)(y)
        y = ConvNorm(self.channels, self.form, 1)(y)
        return x + y if x.shape == y.shape else y


class _MobileNetV2(nn.Module):
    """A stack of inverted residuals."""

    form: Form
    activation: Any
    gate: Any = None
    first: Any = None
    """Activation of the first stage, where it is another."""

    @nn.compact
    def __call__(self, x):
        x = self.activation(ConvNorm(3, self.form)(x))
        for stage, channels in enumerate((3, 4)):
            activation = self.first if self.first and not stage else self.activation
            make = {"form": self.form, "activation": activation, "gate": self.gate}
            x = _Inverted(channels, stride=1 + stage, **make)(x)

            def layer(name, channels=channels, make=make):
                return _Inverted(channels, name=name, **make)

            x = repeated(layer, 2, x, self.form, f"stack{stage}")
        x = self.activation(ConvNorm(5, self.form, 1)(x))
        return nn.Dense(3)(jnp.mean(x, axis=(1, 2)))


def _shuffled(x: Any, groups: int) -> Any:
    *outer, channels = x.shape
    x = x.reshape(*outer, groups, channels // groups)
    return jnp.swapaxes(x, -1, -2).reshape(*outer, channels)


class _ShuffleUnit(nn.Module):
    """Grouped pointwise convolutions with a shuffle of the channels between."""

    channels: int
    form: Form
    stride: int = 1
    groups: int = 2

    @nn.compact
    def __call__(self, x):
        new = self.channels - (x.shape[-1] if self.stride > 1 else 0)
        y = nn.relu(ConvNorm(4, self.form, 1, groups=self.groups)(x))
        y = ConvNorm(4, self.form, 3, self.stride, 4)(_shuffled(y, self.groups))
        y = ConvNorm(new, self.form, 1, groups=self.groups)(y)
        if self.stride == 1:
            return nn.relu(x + y)
        x = nn.avg_pool(x, (3, 3), (self.stride, self.stride), padding="SAME")
        return nn.relu(jnp.concatenate([x, y], axis=-1))


class _ShuffleNet(nn.Module):
    """Stages of shuffle units."""

    form: Form

    @nn.compact
    def __call__(self, x):
        x = nn.relu(ConvNorm(4, self.form)(x))
        x = _ShuffleUnit(8, self.form, 2)(x)
        x = repeated(lambda name: _ShuffleUnit(8, self.form, name=name), 2, x, self.form)
        return nn.Dense(3)(jnp.mean(x, axis=(1, 2)))


def _row(name: str, source: str, make: Any, *, gain: float = 1.0, **pins: str) -> Architecture:
    draw = images(8)
    return Architecture(name, source, "flax linen", linen(make, draw), draw, pins, gain, stack=True)


MOBILE = [
    _row("MobileNet v1 (ReLU6)", "Howard et al., 2017",
         lambda form: _MobileNetV1(form, nn.relu6), gain=6.0, min=RELU6),
    _row("MobileNet v1 with ReLU", "Howard et al., 2017",
         lambda form: _MobileNetV1(form, nn.relu)),
    _row("MobileNet v2 (ReLU6)", "Sandler et al., 2018",
         lambda form: _MobileNetV2(form, nn.relu6), gain=6.0, min=RELU6),
    _row("MobileNet v2 with ReLU", "Sandler et al., 2018",
         lambda form: _MobileNetV2(form, nn.relu)),
    _row("MobileNet v3 (hard-swish)", "Howard et al., 2019",
         lambda form: _MobileNetV2(form, nn.hard_swish, nn.hard_sigmoid, nn.relu),
         gain=4.0, add=HARD_GATE),
    _row("ShuffleNet", "Zhang et al., 2017", _ShuffleNet),
    _row("EfficientNet with ReLU", "Tan and Le, 2019",
         lambda form: _MobileNetV2(form, nn.relu, nn.sigmoid), logistic=SIGMOID_GATE),
]  # fmt: skip

"""Feed-forward networks on images, without shortcuts."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from benchmarks.path_space.architectures.architecture import (
    Architecture,
    Form,
    images,
    linen,
    repeated,
    rows,
)
from benchmarks.path_space.architectures.reasons import TANH


def _pool(x: Any) -> Any:
    return nn.max_pool(x, (2, 2), (2, 2))


def _flat(x: Any) -> Any:
    return x.reshape(x.shape[0], -1)


class _LeNet(nn.Module):
    """Two convolutions with subsampling, then three dense layers."""

    activation: Any
    subsampling: bool = False

    @nn.compact
    def __call__(self, x):
        for channels in (3, 4):
            x = self.activation(nn.Conv(channels, (3, 3))(x))
            x = nn.avg_pool(x, (2, 2), (2, 2))
            if self.subsampling:  # a factor and a bias for each channel, and once more
                gain = self.param(f"gain_{channels}", nn.initializers.ones, (channels,))
                bias = self.param(f"bias_{channels}", nn.initializers.zeros, (channels,))
                x = x * gain.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1)
                x = self.activation(x)
        x = _flat(x)
        for width in (6, 5):
            x = self.activation(nn.Dense(width)(x))
        return nn.Dense(3)(x)


class _ConvReLU(nn.Module):
    """A convolution, its norm if there is one, and a ReLU."""

    channels: int
    form: Form
    norm: bool = False
    size: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        kernel = (self.size, self.size)
        x = nn.Conv(self.channels, kernel, self.stride, use_bias=not self.norm)(x)
        if self.norm:
            x = nn.BatchNorm(False, epsilon=self.form.epsilon)(x)
        return nn.relu(x)


class _VGG(nn.Module):
    """Stages of equal convolutions with pooling between, and two dense layers."""

    form: Form
    norm: bool = False

    @nn.compact
    def __call__(self, x):
        for stage, channels in enumerate((3, 4)):
            x = _ConvReLU(channels, self.form, self.norm)(x)

            def layer(name, channels=channels):
                return _ConvReLU(channels, self.form, self.norm, name=name)

            x = _pool(repeated(layer, 2, x, self.form, f"stack{stage}"))
        x = nn.relu(nn.Dense(5)(_flat(x)))
        return nn.Dense(3)(x)


class _AllConvolutional(nn.Module):
    """Strided convolutions in place of pooling, 1x1 ones in place of dense layers."""

    @nn.compact
    def __call__(self, x):
        form = Form()
        for channels, size, stride in ((3, 3, 1), (4, 3, 2), (4, 3, 1), (4, 1, 1), (3, 1, 1)):
            x = _ConvReLU(channels, form, size=size, stride=stride)(x)
        return jnp.mean(x, axis=(1, 2))


class _Plain(nn.Module):
    """The residual network without its shortcuts."""

    form: Form

    @nn.compact
    def __call__(self, x):
        x = _ConvReLU(3, self.form, norm=True)(x)
        for stage, channels in enumerate((3, 4)):
            x = _ConvReLU(channels, self.form, norm=True, stride=1 + stage)(x)

            def layer(name, channels=channels):
                return _ConvReLU(channels, self.form, norm=True, name=name)

            x = repeated(layer, 2, x, self.form, f"stack{stage}")
        return nn.Dense(3)(jnp.mean(x, axis=(1, 2)))


class _Fire(nn.Module):
    """Squeezes channels by 1x1 kernels, and expands them by 1x1 and 3x3 ones side by side."""

    squeeze: int
    expand: int

    @nn.compact
    def __call__(self, x):
        form = Form()
        x = _ConvReLU(self.squeeze, form, size=1)(x)
        return jnp.concatenate(
            [_ConvReLU(self.expand, form, size=size)(x) for size in (1, 3)], axis=-1
        )


class _SqueezeNet(nn.Module):
    """Fire modules; the last convolution gives the classes."""

    form: Form

    @nn.compact
    def __call__(self, x):
        x = _pool(_ConvReLU(4, self.form)(x))
        x = repeated(lambda name: _Fire(2, 2, name=name), 2, x, self.form)
        x = nn.relu(nn.Conv(3, (1, 1))(x))
        return jnp.mean(x, axis=(1, 2))


class _Maxout(nn.Module):
    """Units that are the largest of several linear pieces."""

    form: Form

    @nn.compact
    def __call__(self, x):
        def layer(name):
            return _MaxoutLayer(5, pieces=3, name=name)

        x = layer("first")(x)
        return nn.Dense(3)(repeated(layer, 2, x, self.form))


class _MaxoutLayer(nn.Module):
    """max over k of x W_k + b_k."""

    units: int
    pieces: int

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.units * self.pieces)(x)
        return jnp.max(x.reshape(*x.shape[:-1], self.units, self.pieces), axis=-1)


class _PReLU(nn.Module):
    """Convolutions and ReLUs with learnt slopes."""

    @nn.compact
    def __call__(self, x):
        for channels in (3, 4):
            x = _pool(nn.PReLU()(nn.Conv(channels, (3, 3))(x)))
        return nn.Dense(3)(nn.PReLU()(nn.Dense(5)(_flat(x))))


def _linen(name: str, source: str, make: Any, draw: Any, **options: Any) -> Architecture:
    return Architecture(name, source, "flax linen", linen(make, draw), draw, **options)


_IMAGES = images(8)

PLAIN = [
    _linen("LeNet-5", "LeCun et al., 1998", lambda _: _LeNet(nn.tanh, subsampling=True),
           images(8, 1), pins={"tanh": TANH}),
    _linen("LeNet-5 with ReLU", "LeCun et al., 1998; Caffe, 2014", lambda _: _LeNet(nn.relu),
           images(8, 1)),
    _linen("VGG", "Simonyan and Zisserman, 2014", _VGG, _IMAGES, stack=True),
    _linen("VGG with BatchNorm", "Simonyan and Zisserman, 2014",
           lambda form: _VGG(form, norm=True), _IMAGES, stack=True),
    _linen("AllConv", "Springenberg et al., 2014", lambda _: _AllConvolutional(), _IMAGES),
    _linen("plain-N", "He et al., 2015", _Plain, _IMAGES, stack=True),
    _linen("SqueezeNet", "Iandola et al., 2016", _SqueezeNet, _IMAGES, stack=True),
    _linen("maxout", "Goodfellow et al., 2013", _Maxout, rows(6), stack=True),
    _linen("PReLU network", "He et al., 2015", lambda _: _PReLU(), _IMAGES),
]  # fmt: skip

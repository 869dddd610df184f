"""Autoencoders, generators and U-Nets."""

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.path_space.architectures.architecture import (
    Architecture,
    Form,
    function,
    images,
    linen,
    nnx_module,
    rows,
)
from benchmarks.path_space.architectures.reasons import (
    OUTPUT_SIGMOID,
    OUTPUT_TANH,
    VARIANCE,
)


class _Perceptron(nnx.Module):
    """Linear layers with ReLUs between, those of equal width as a stack."""

    def __init__(self, fan_in: int, width: int, fan_out: int, form: Form, rngs: nnx.Rngs):
        self.first = nnx.Linear(fan_in, width, rngs=rngs)

        def linear(rngs):
            return nnx.Linear(width, width, rngs=rngs)

        if form.scanned:
            make = nnx.vmap(linear, in_axes=(nnx.StateAxes({...: 0}),), out_axes=0)
            self.stack = nnx.split_rngs(splits=2)(make)(rngs)
        else:
            self.stack = nnx.List([linear(rngs) for _ in range(2)])
        self.last = nnx.Linear(width, fan_out, rngs=rngs)
        self.scanned = form.scanned

    def __call__(self, x):
        x = jax.nn.relu(self.first(x))
        if self.scanned:
            scan = nnx.scan(
                lambda x, layer: jax.nn.relu(layer(x)), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry
            )
            x = scan(x, self.stack)
        else:
            for layer in cast("nnx.List", self.stack):
                x = jax.nn.relu(layer(x))
        return self.last(x)


class _Autoencoder(nnx.Module):
    """An encoder to a linear code, and a decoder from it to pixels between 0 and 1."""

    def __init__(self, form: Form, rngs: nnx.Rngs):
        self.encoder = _Perceptron(6, 5, 2, form, rngs)
        self.decoder = _Perceptron(2, 5, 6, form, rngs)

    def __call__(self, x):
        return jax.nn.sigmoid(self.decoder(self.encoder(x)))


class _VariationalAutoencoder(nnx.Module):
    """Mean and log-variance of a code, a draw of it, and the decoder's pixels."""

    def __init__(self, form: Form, rngs: nnx.Rngs):
        self.encoder = _Perceptron(6, 5, 4, form, rngs)
        self.decoder = _Perceptron(2, 5, 6, form, rngs)

    def __call__(self, x, noise):
        mean, log_variance = jnp.split(self.encoder(x), 2, axis=-1)
        return self.decoder(mean + jnp.exp(0.5 * log_variance) * noise), mean, log_variance


def _tied(form: Form, params: Any, x: Any) -> Any:
    """The decoder's kernels are the encoder's, transposed; biases are its own."""
    for name in ("outer", "inner"):
        x = jax.nn.relu(x @ params[f"{name}_kernel"] + params[f"{name}_bias"].reshape(1, -1))
    x = jax.nn.relu(x @ params["inner_kernel"].T + params["decoded_bias"].reshape(1, -1))
    return x @ params["outer_kernel"].T + params["last_bias"].reshape(1, -1)


class _Generator(nn.Module):
    """Transposed convolutions with BatchNorm and ReLU; tanh at the end."""

    form: Form

    @nn.compact
    def __call__(self, z):
        x = nn.Dense(2 * 2 * 4, use_bias=False)(z).reshape(-1, 2, 2, 4)
        x = nn.relu(nn.BatchNorm(False, epsilon=self.form.epsilon)(x))
        x = nn.ConvTranspose(3, (4, 4), (2, 2), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(False, epsilon=self.form.epsilon)(x))
        return nn.tanh(nn.ConvTranspose(2, (4, 4), (2, 2))(x))


class _Discriminator(nn.Module):
    """Strided convolutions with BatchNorm, not in the first layer, and leaky ReLU."""

    form: Form

    @nn.compact
    def __call__(self, x):
        x = nn.leaky_relu(nn.Conv(3, (4, 4), 2)(x), 0.2)
        x = nn.Conv(4, (4, 4), 2, use_bias=False)(x)
        x = nn.leaky_relu(nn.BatchNorm(False, epsilon=self.form.epsilon)(x), 0.2)
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


class _UNet(nn.Module):
    """Contracts and expands again; what was contracted is concatenated on the way back."""

    form: Form
    groups: int = 0
    """Of the group norm; 0 for none."""

    @nn.compact
    def __call__(self, x):
        there = []
        for channels in (4, 4):
            x = self._twice(x, channels)
            there.append(x)
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = self._twice(x, 4)
        for before in reversed(there):
            x = nn.ConvTranspose(before.shape[-1], (2, 2), (2, 2))(x)
            x = self._twice(jnp.concatenate([before, x], axis=-1), before.shape[-1])
        return nn.Conv(2, (1, 1))(x)

    def _twice(self, x, channels):
        for _ in range(2):
            x = nn.Conv(channels, (3, 3), use_bias=not self.groups)(x)
            if self.groups:
                x = nn.GroupNorm(self.groups, epsilon=self.form.epsilon)(x)
            x = nn.relu(x)
        return x


_PIXELS = rows(6)
_TIED = {
    "outer_kernel": (6, 5), "outer_bias": (5,), "inner_kernel": (5, 3), "inner_bias": (3,),
    "decoded_bias": (5,), "last_bias": (6,),
}  # fmt: skip

GENERATIVE = [
    Architecture("autoencoder", "Hinton and Salakhutdinov, 2006", "flax nnx",
                 nnx_module(_Autoencoder), _PIXELS, {"logistic": OUTPUT_SIGMOID}, stack=True),
    Architecture("VAE", "Kingma and Welling, 2013", "flax nnx",
                 nnx_module(_VariationalAutoencoder), rows(6, 2), {"exp": VARIANCE}, stack=True),
    Architecture("weight-tied autoencoder", "Vincent et al., 2010", "JAX",
                 function(_tied, _TIED), _PIXELS),
    Architecture("DCGAN generator", "Radford et al., 2015", "flax linen",
                 linen(_Generator, rows(3)), rows(3), {"tanh": OUTPUT_TANH}),
    Architecture("DCGAN discriminator", "Radford et al., 2015", "flax linen",
                 linen(_Discriminator, images(8)), images(8)),
    Architecture("U-Net", "Ronneberger et al., 2015", "flax linen",
                 linen(_UNet, images(8, 2)), images(8, 2)),
    Architecture("U-Net with GroupNorm", "Ho et al., 2020", "flax linen",
                 linen(lambda form: _UNet(form, groups=2), images(8, 2)), images(8, 2)),
]  # fmt: skip
